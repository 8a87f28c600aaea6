// See checkpoint_commands.h: list, show, verify.
#include "tools/checkpoint_commands.h"

#include "base/clock.h"
#include "checkpoint/pin.h"
#include "control/server.h"
#include "control/status.h"
#include "tools/output.h"
#include "torchfile/archive.h"

#include <algorithm>

namespace pawl::tools {
namespace {

using nlohmann::json;

json json_of(const checkpoint::Manifest& manifest, const std::string& path) {
    json files = json::array();
    for (const checkpoint::FileEntry& file : manifest.files) {
        files.push_back(
            {{"name", file.name}, {"bytes", file.bytes}, {"chunks", file.chunks.size()}});
    }
    json metrics = json::object();
    for (const auto& [name, value] : manifest.metrics)
        metrics[name] = number_or_null(value);
    return {{"sequence", manifest.sequence.value},
            {"parent", manifest.parent ? json(manifest.parent->value) : json(nullptr)},
            {"step", manifest.step.value},
            {"epoch", manifest.epoch.value},
            {"job", manifest.job},
            {"world_size", manifest.world_size},
            {"incarnation", manifest.incarnation.value},
            {"reason", std::string(to_string(manifest.reason))},
            {"time", format_time(manifest.time)},
            {"bytes", manifest.total_bytes()},
            {"metrics", metrics},
            {"pawl_version", manifest.pawl_version},
            {"framework", manifest.framework},
            {"files", files},
            {"path", path}};
}

Result<std::vector<checkpoint::Listed>> all_checkpoints(FileSystem& fs, const Place& place) {
    const std::string directory = checkpoint_directory_in_use(place);
    auto listed = checkpoint::list_checkpoints(fs, directory);
    if (!listed) {
        return Error(listed.error())
            .while_doing("list checkpoints")
            .consequence("Name their directory with --checkpoint-dir");
    }
    return listed;
}

std::string line_of(const checkpoint::Manifest& manifest, bool is_pinned, WallTime now) {
    return fmt::format(
        "{:>8}  {:>9}  {:>5}  {:>9}  {:<8}  {:>11}  {}{}\n", manifest.sequence, manifest.step,
        manifest.epoch, format_bytes(manifest.total_bytes()), to_string(manifest.reason),
        format_age(manifest.time, now),
        manifest.world_size == 1 ? "1 rank" : fmt::format("{} ranks", manifest.world_size),
        is_pinned ? ", pinned" : "");
}

}  // namespace

std::string checkpoint_directory_in_use(const Place& place) {
    if (!place.checkpoint_directory.empty()) return place.checkpoint_directory;
    const auto response = control::call(socket_of(place), control::Method::kGet, "/v1/status");
    const auto status = response ? control::status_from_json(response->body)
                                 : Result<control::DaemonStatus>(response.error());
    for (const control::JobStatus& job :
         status ? status->jobs : std::vector<control::JobStatus>{}) {
        const bool is_meant = place.job.empty() ? status->jobs.size() == 1 : job.name == place.job;
        if (is_meant) return job.checkpoint_directory;
    }
    return checkpoint_directory_of(place);
}

Result<checkpoint::Listed> find_checkpoint(FileSystem& fs, const Place& place,
                                           const std::string& name) {
    if (name.find('/') != std::string::npos) return checkpoint::Listed{.path = name};
    const auto listed = all_checkpoints(fs, place);
    if (!listed) return listed.error();
    for (const checkpoint::Listed& one : *listed) {
        if (checkpoint::is_named(one.name, name) || name == "latest") return one;
    }
    return make_error(ErrorKind::kNotFound,
                      "there is no checkpoint '{}' in '{}'; see them with: pawl checkpoints list",
                      name, checkpoint_directory_in_use(place));
}

Result<int> list_checkpoints(const Place& place, Format format) {
    const auto fs = make_posix_file_system();
    const auto listed = all_checkpoints(*fs, place);
    if (!listed) return listed.error();
    const WallTime now = SystemClock().wall_now();
    json array = json::array();
    std::string text = fmt::format("{:>8}  {:>9}  {:>5}  {:>9}  {:<8}  {:>11}\n", "sequence",
                                   "step", "epoch", "size", "reason", "written");
    for (const checkpoint::Listed& one : *listed) {
        const auto manifest = checkpoint::read_manifest_of(*fs, one.path);
        if (manifest) {
            const auto pinned = checkpoint::is_pinned(*fs, one.path);
            array.push_back(json_of(*manifest, one.path));
            array.back()["pinned"] = pinned && *pinned;
            text += line_of(*manifest, pinned && *pinned, now);
        } else {
            array.push_back({{"sequence", one.name.sequence.value},
                             {"path", one.path},
                             {"error", manifest.error().text()}});
            text += fmt::format("{:>8}  {:>9}  {}\n", one.name.sequence, one.name.step,
                                manifest.error().text());
        }
    }
    if (format == Format::kJson) {
        print_json(array);
    } else if (listed->empty()) {
        print(fmt::format("no checkpoints in '{}'\n", checkpoint_directory_in_use(place)));
    } else {
        print(text);
    }
    return 0;
}

Result<int> show_checkpoint(const Place& place, const std::string& name, Format format) {
    const auto fs = make_posix_file_system();
    const auto found = find_checkpoint(*fs, place, name);
    if (!found) return found.error();
    const auto manifest = checkpoint::read_manifest_of(*fs, found->path);
    if (!manifest) return Error(manifest.error()).while_doing("show checkpoint '{}'", found->path);
    json object = json_of(*manifest, found->path);
    std::string text = fmt::format(
        "{}\n  job {}, step {}, epoch {}, {} ({})\n  written {} by incarnation {}, {}{}\n",
        found->path, manifest->job, manifest->step, manifest->epoch,
        format_bytes(manifest->total_bytes()), to_string(manifest->reason),
        format_time(manifest->time), manifest->incarnation,
        manifest->parent ? fmt::format("resumed from checkpoint {}", *manifest->parent)
                         : "begun at step 0",
        manifest->framework.empty() ? "" : ", " + manifest->framework);
    for (const auto& [metric, value] : manifest->metrics)
        text += fmt::format("  {} {:.6g}\n", metric, value);
    for (std::size_t i = 0; i < manifest->files.size(); ++i) {
        const checkpoint::FileEntry& file = manifest->files[i];
        text += fmt::format("  {}: {}, {} chunks\n", file.name, format_bytes(file.bytes),
                            file.chunks.size());
        const auto source = fs->open_file(join_path(found->path, file.name));
        if (!source) return source.error();
        const auto archive = torchfile::read_archive(**source);
        if (!archive) return Error(archive.error()).while_doing("read '{}'", file.name);
        const auto paths = torchfile::storage_paths(archive->document);
        json records = json::array();
        for (std::size_t k = 0; k < paths.size(); ++k) {
            const torchfile::Storage& storage = archive->document.storages[k];
            text += fmt::format("    data/{:<5} {:<9} {:>10}  {}\n", storage.key,
                                torchfile::name_of(storage.dtype), format_bytes(storage.bytes()),
                                paths[k]);
            records.push_back({{"record", "data/" + storage.key},
                               {"dtype", std::string(torchfile::name_of(storage.dtype))},
                               {"bytes", storage.bytes()},
                               {"tensor", paths[k]}});
        }
        object["files"][i]["records"] = std::move(records);
    }
    if (format == Format::kJson) {
        print_json(object);
    } else {
        print(text);
    }
    return 0;
}

Result<int> verify_checkpoints(const Place& place, const std::string& name, Format format) {
    const auto fs = make_posix_file_system();
    std::vector<checkpoint::Listed> wanted;
    if (name.empty()) {
        auto listed = all_checkpoints(*fs, place);
        if (!listed) return listed.error();
        wanted = std::move(*listed);
    } else {
        auto found = find_checkpoint(*fs, place, name);
        if (!found) return found.error();
        wanted.push_back(std::move(*found));
    }
    bool all_valid = true;
    json array = json::array();
    for (const checkpoint::Listed& one : wanted) {
        const auto verification = checkpoint::verify(*fs, one.path);
        if (!verification) return verification.error();
        all_valid = all_valid && verification->is_valid();
        json damages = json::array();
        std::string text = fmt::format(
            "{}: {}\n", one.path.substr(one.path.find_last_of('/') + 1),
            verification->is_valid()
                ? fmt::format("valid, {} verified", format_bytes(verification->bytes_read))
                : "DAMAGED");
        for (const checkpoint::Damage& damage : verification->damages) {
            text += "  " + damage.describe() + "\n";
            damages.push_back({{"file", damage.file},
                               {"chunk", damage.chunk ? json(*damage.chunk) : json(nullptr)},
                               {"record", damage.record},
                               {"tensor", damage.tensor},
                               {"text", damage.text}});
        }
        for (const std::string& extra : verification->extra_names)
            text += fmt::format("  {}: is not part of it, and no damage\n", extra);
        array.push_back({{"path", one.path},
                         {"valid", verification->is_valid()},
                         {"damages", damages},
                         {"extra", verification->extra_names}});
        if (format == Format::kText) print(text);
    }
    if (format == Format::kJson) print_json(array);
    if (wanted.empty() && format == Format::kText) {
        print(fmt::format("no checkpoints in '{}'\n", checkpoint_directory_in_use(place)));
    }
    return all_valid ? 0 : kExitDamaged;
}

}  // namespace pawl::tools
