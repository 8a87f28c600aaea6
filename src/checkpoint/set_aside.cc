// See set_aside.h.
#include "checkpoint/set_aside.h"

#include "base/clock.h"
#include "base/crash_point.h"
#include "checkpoint/pin.h"

#include <nlohmann/json.hpp>

#include <optional>
#include <span>

namespace pawl::checkpoint {
namespace {

using nlohmann::json;

constexpr std::uint64_t kStampBytesMax = std::uint64_t{64} << 10;

// nullopt: there is none, or none that can be understood.
Result<std::optional<WallTime>> time_of_stamp(FileSystem& fs, const std::string& path) {
    const auto text = read_text(fs, join_path(path, kSetAsideName), kStampBytesMax);
    if (!text) {
        if (text.error().kind() == ErrorKind::kUnavailable || text.error().kind() == ErrorKind::kIo)
            return text.error();
        return std::optional<WallTime>{};
    }
    const json stamp = json::parse(*text, nullptr, /*allow_exceptions=*/false);
    if (!stamp.is_object() || !stamp.contains("time") || !stamp["time"].is_string())
        return std::optional<WallTime>{};
    const auto time = parse_time(stamp["time"].get<std::string>());
    return time ? std::optional{*time} : std::optional<WallTime>{};
}

}  // namespace

Result<std::string> move_aside(FileSystem& fs, const std::string& directory,
                               const std::string& name, std::string_view place) {
    const std::string folder = join_path(directory, place);
    RETURN_IF_ERROR(create_directories(fs, folder));
    constexpr int kNamesMax = 1000;
    for (int i = 1; i <= kNamesMax; ++i) {
        const std::string target = join_path(folder, i == 1 ? name : fmt::format("{}.{}", name, i));
        const auto renamed = fs.rename(join_path(directory, name), target);
        if (!renamed && renamed.error().kind() == ErrorKind::kAlreadyExists) continue;
        if (!renamed) return renamed.error();
        crash_point("set aside: renamed");
        RETURN_IF_ERROR(fs.sync_directory(folder));
        RETURN_IF_ERROR(fs.sync_directory(directory));
        return target;
    }
    return make_error(ErrorKind::kAlreadyExists, "'{}' holds {} of this name already", folder,
                      kNamesMax);
}

Result<void> stamp_aside(FileSystem& fs, const std::string& path, WallTime now,
                         const std::string& why) {
    const json stamp = {{"time", format_time(now)}, {"why", why}};
    const std::string text = stamp.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
    const auto file = fs.create_file(join_path(path, kSetAsideName), text.size());
    if (!file && file.error().kind() == ErrorKind::kAlreadyExists) return {};
    if (!file) return file.error();
    RETURN_IF_ERROR((*file)->write_at(0, std::as_bytes(std::span(text))));
    RETURN_IF_ERROR((*file)->sync_data());
    return fs.sync_directory(path);
}

Result<std::vector<Aside>> list_aside(FileSystem& fs, const std::string& directory,
                                      std::string_view place) {
    const std::string folder = join_path(directory, place);
    const auto entries = fs.list_directory(folder);
    if (!entries) {
        if (entries.error().kind() == ErrorKind::kNotFound) return std::vector<Aside>{};
        return entries.error();
    }
    std::vector<Aside> asides;
    for (const DirectoryEntry& entry : *entries) {
        const auto sequence = sequence_in(entry.name);
        if (!sequence || entry.type != FileType::kDirectory) continue;
        asides.push_back(
            {.path = join_path(folder, entry.name), .name = entry.name, .sequence = *sequence});
    }
    return asides;
}

Result<bool> is_expired(FileSystem& fs, const Aside& one, Sequence newest, WallTime now) {
    const auto since = time_of_stamp(fs, one.path);
    if (!since) return since.error();
    if (!since->has_value()) {
        // A torn or foreign stamp makes room for a whole one.
        RETURN_IF_ERROR(fs.remove(join_path(one.path, kSetAsideName)));
        RETURN_IF_ERROR(stamp_aside(fs, one.path, now, "found without a stamp"));
        return false;
    }
    if (now - **since < kSetAsideFor || one.sequence >= newest) return false;
    const auto pinned = is_pinned(fs, one.path);
    if (!pinned) return pinned.error();
    return !*pinned;
}

}  // namespace pawl::checkpoint
