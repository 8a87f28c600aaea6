// See loader.h. Reads through the Surroundings alone.
#include "config/loader.h"

#include "config/document.h"
#include "config/job_check.h"

#include <sys/un.h>

#include <filesystem>
#include <map>
#include <system_error>
#include <utility>

namespace pawl::config {

namespace {

constexpr std::size_t kFilesMax = 256;
constexpr std::size_t kIncludeDepthMax = 8;
constexpr std::string_view kJobsExpected = "a map of at least one job, by name";
constexpr std::string_view kIncludeExpected = "a path or a list of paths, such as jobs.d/*.yaml";

std::string directory_of(const std::string& path) {
    std::error_code code;
    const auto absolute = std::filesystem::absolute(path, code);
    // Without a working directory a relative path has no base; check() then asks for absolute ones.
    if (code) return "";
    return absolute.lexically_normal().parent_path().string();
}

bool is_pattern(const std::string& path) {
    return path.find_first_of("*?[") != std::string::npos;
}

}  // namespace

Result<Loaded> Loader::load(const FileText& main, const std::string& path) {
    const File& file = files_.emplace_back(
        File{.source = Source(reading_, path, directory_of(path)), .identity = main.identity});
    reading_.begin_with(file.source);
    RETURN_IF_ERROR(read_file(main, file));
    if (jobs_.empty() && !has_includes_) {
        return file.source.error_at({},
                                    fmt::format("key 'jobs': missing; expected {}", kJobsExpected));
    }
    RETURN_IF_ERROR(read_jobs());
    complete();
    RETURN_IF_ERROR(check());
    Loaded loaded{.config = std::move(daemon_)};
    for (const File& each : files_)
        loaded.files.push_back(each.source.file());
    return loaded;
}

// ---- files ----

Result<void> Loader::read_file(const FileText& text, const File& file) {
    return guarded(file.source, [&]() -> Result<void> {
        const auto root = read_document(text.text, file.source);
        if (!root) return root.error();
        if (root->IsNull()) {
            // Of a file that is included, everything may be commented out.
            if (file.parent != nullptr) return {};
            return file.source.error_at(
                {}, "expected a map with at least the key jobs, found an empty file");
        }
        return read_root(Value(file.source, *root, {}, position_of(root->Mark())), file);
    });
}

Result<void> Loader::read_root(const Value& root, const File& file) {
    const auto entries = root.entries(map_of(daemon_fields()));
    if (!entries) return entries.error();
    std::optional<Value> included;
    for (const Entry& entry : *entries) {
        const auto field = field_of(root, entry, daemon_fields());
        if (!field) return field.error();
        const Field<DaemonConfig>& known = **field;
        if (known.type.kind == Kind::kFiles) {
            included = entry.value;
        } else if (known.type.kind == Kind::kJob) {
            if (defaults_) {
                return file.source.error_at(
                    entry.position,
                    fmt::format("key 'defaults': written in two files, first in {}",
                                Place{&defaults_->source(), defaults_->position()}.text()));
            }
            defaults_ = entry.value;
        } else if (known.type.kind == Kind::kJobs) {
            RETURN_IF_ERROR(take_jobs(entry.value));
        } else if (file.parent != nullptr) {
            return file.source.error_at(
                entry.position,
                fmt::format("key '{}': expected only include, defaults and jobs in a file that is "
                            "included (at {}); the rest belongs in '{}'",
                            entry.name, file.included_at, files_.front().source.file()));
        } else if (known.type.kind == Kind::kMap) {
            RETURN_IF_ERROR(read_fields(entry.value, known.children, daemon_));
        } else {
            RETURN_IF_ERROR(known.read(entry.value, known.type, daemon_));
        }
    }
    return included ? include(*included, file) : Result<void>{};
}

Result<void> Loader::take_jobs(const Value& jobs) {
    const auto entries = jobs.entries(kJobsExpected);
    if (!entries) return entries.error();
    if (entries->empty()) return jobs.unexpected(kJobsExpected);
    if (jobs_.size() + entries->size() > kJobsMax) {
        return jobs.error(fmt::format("expected at most {} jobs, found {}", kJobsMax,
                                      jobs_.size() + entries->size()));
    }
    for (const Entry& entry : *entries) {
        for (const Entry& other : jobs_) {
            if (other.name != entry.name) continue;
            return entry.value.source().error_at(
                entry.position,
                fmt::format("key {}: written twice, first in {}", in_text({"jobs", entry.name}),
                            Place{&other.value.source(), other.position}.text()));
        }
    }
    jobs_.insert(jobs_.end(), entries->begin(), entries->end());
    return {};
}

Result<void> Loader::include(const Value& written, const File& file) {
    has_includes_ = true;
    std::vector<Value> items = {written};
    if (written.is_list()) {
        auto listed = written.items(kIncludeExpected);
        if (!listed) return listed.error();
        items = *std::move(listed);
    }
    for (const Value& item : items) {
        if (const auto is_text = item.text(kIncludeExpected); !is_text) return is_text.error();
        const auto path = item.path();
        if (!path) return path.error();
        if (!is_pattern(*path)) {
            RETURN_IF_ERROR(include_path(item, *path, file));
            continue;
        }
        const auto found = reading_.surroundings().find(*path);
        if (!found) return item.error(found.error().text());
        for (const std::string& one : *found)
            RETURN_IF_ERROR(include_path(item, one, file));
    }
    return {};
}

Result<void> Loader::include_path(const Value& written, const std::string& path, const File& file) {
    if (file.depth == kIncludeDepthMax) {
        return written.error(fmt::format(
            "expected includes at most {} deep, found '{}' deeper still", kIncludeDepthMax, path));
    }
    if (files_.size() == kFilesMax) {
        return written.error(
            fmt::format("expected at most {} files, found '{}' beyond them", kFilesMax, path));
    }
    const auto text = reading_.surroundings().read(path);
    if (!text) return written.error(text.error().text());
    for (const File* around = &file; around != nullptr; around = around->parent) {
        if (around->identity != text->identity) continue;
        return written.error(fmt::format(
            "expected another file, found '{}', which {}", path,
            around == &file ? "includes itself here"
                            : "is being included already, at " +
                                  (around->included_at.empty() ? "the top" : around->included_at)));
    }
    for (const File& other : files_) {
        if (other.identity != text->identity) continue;
        return written.error(fmt::format(
            "expected another file, found '{}', included already at {}", path, other.included_at));
    }
    const Place at{&file.source, written.position()};
    const File& next =
        files_.emplace_back(File{.source = Source(reading_, path, directory_of(path)),
                                 .identity = text->identity,
                                 .included_at = at.text(),
                                 .depth = file.depth + 1,
                                 .parent = &file});
    return read_file(*text, next);
}

// ---- jobs ----

Result<void> Loader::read_jobs() {
    for (const Entry& entry : jobs_) {
        RETURN_IF_ERROR(
            guarded(entry.value.source(), [&]() -> Result<void> { return read_job(entry); }));
    }
    if (!jobs_.empty() || !defaults_) return {};
    // Nobody takes them yet; what is wrong with them is said now, not when a job comes.
    reading_.enter_job("none");
    JobConfig nobody;
    return guarded(defaults_->source(),
                   [&]() -> Result<void> { return read_fields(*defaults_, job_fields(), nobody); });
}

Result<void> Loader::read_job(const Entry& entry) {
    JobConfig job{.name = entry.name};
    reading_.enter_job(job.name);
    if (defaults_) RETURN_IF_ERROR(read_fields(*defaults_, job_fields(), job));
    RETURN_IF_ERROR(read_fields(entry.value, job_fields(), job));
    RETURN_IF_ERROR(check_required(job, job_fields(), {"jobs", job.name}));
    daemon_.jobs.push_back(std::move(job));
    job_directories_.push_back(entry.value.source().directory());
    return {};
}

Result<void> Loader::check_required(const JobConfig& job, std::span<const Field<JobConfig>> fields,
                                    const KeyPath& above) const {
    for (const Field<JobConfig>& field : fields) {
        KeyPath key = above;
        key.emplace_back(field.key.name);
        if (!field.key.required_as.empty() && !reading_.is_written(key))
            return reading_.missing(key, field.key.required_as);
        if (reading_.is_written(key)) RETURN_IF_ERROR(check_required(job, field.children, key));
    }
    return {};
}

// What the files left out. Only here, after all of them: state_directory may stand below jobs.
void Loader::complete() {
    const std::filesystem::path state(daemon_.state_directory);
    if (daemon_.control.socket.empty()) daemon_.control.socket = (state / "pawld.sock").string();
    for (std::size_t i = 0; i < daemon_.jobs.size(); ++i) {
        JobConfig& job = daemon_.jobs[i];
        if (job.working_directory.empty()) job.working_directory = job_directories_[i];
        if (job.output_directory.empty())
            job.output_directory = (state / "logs" / job.name).string();
        CadenceConfig& cadence = job.checkpoint.cadence;
        if (cadence == CadenceConfig{}) cadence.every_time = kEveryTimeDefault;
    }
}

Result<void> Loader::check() const {
    constexpr std::size_t kSocketBytesMax = sizeof(sockaddr_un::sun_path) - 1;
    const std::string& socket = daemon_.control.socket;
    if (socket.size() > kSocketBytesMax) {
        return reading_.error_for(
            {"control", "socket"},
            fmt::format(
                "expected a path of at most {} bytes, as the kernel allows, found '{}' of {} bytes",
                kSocketBytesMax, socket, socket.size()));
    }
    for (const JobConfig& job : daemon_.jobs) {
        if (const std::optional<Problem> problem = first_problem(job)) {
            KeyPath key = {"jobs", job.name};
            key.insert(key.end(), problem->key.begin(), problem->key.end());
            return reading_.error_for(key, problem->text);
        }
    }
    return check_directories_differ();
}

// Two jobs in one directory would take each other's checkpoints for their own, or mix their logs.
Result<void> Loader::check_directories_differ() const {
    std::map<std::string, std::string> owners;
    const auto claim = [&](const JobConfig& job, const std::string& directory,
                           const KeyPath& key) -> Result<void> {
        const auto [owner, is_new] = owners.emplace(directory, job.name);
        if (is_new) return {};
        const std::string whose = owner->second == job.name
                                      ? "used twice by this job"
                                      : fmt::format("used by job '{}'", owner->second);
        return reading_.error_for(
            key, fmt::format("expected a directory of its own, found '{}', {}", directory, whose));
    };
    for (const JobConfig& job : daemon_.jobs) {
        RETURN_IF_ERROR(
            claim(job, job.checkpoint.directory, {"jobs", job.name, "checkpoint", "directory"}));
        RETURN_IF_ERROR(claim(job, job.output_directory, {"jobs", job.name, "output_directory"}));
    }
    return {};
}

}  // namespace pawl::config
