// load() and parse() (see config.h): the tables of keys, the defaults, the relations between jobs.
// Touches the configuration file, to read it, and nothing else.
#include "config/config.h"

#include "base/fd.h"
#include "config/yaml_reader.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <array>
#include <cerrno>
#include <exception>
#include <filesystem>
#include <map>
#include <optional>
#include <sstream>
#include <system_error>
#include <utility>

namespace pawl::config {

namespace {

constexpr std::size_t kFileBytesMax = std::size_t{1} << 20;
constexpr nanoseconds kEveryTimeDefault = std::chrono::minutes{10};
static_assert(kEveryTime.contains(kEveryTimeDefault));

constexpr auto kLogLevels = std::to_array<Choice<LogLevel>>({
    {"debug", LogLevel::kDebug},
    {"info", LogLevel::kInfo},
    {"warning", LogLevel::kWarning},
    {"error", LogLevel::kError},
});

constexpr auto kOnNoValidCheckpoint = std::to_array<Choice<OnNoValidCheckpoint>>({
    {"stop", OnNoValidCheckpoint::kStop},
    {"start_fresh", OnNoValidCheckpoint::kStartFresh},
});

constexpr auto kStopFields = std::to_array<Field<StopConfig>>({
    {.name = "grace",
     .read = [](const Value& value,
                StopConfig& stop) { return store(value.duration(kStopGrace), stop.grace); }},
    {.name = "exit_grace",
     .read = [](const Value& value,
                StopConfig& stop) { return store(value.duration(kStopGrace), stop.exit_grace); }},
});

constexpr auto kRestartFields = std::to_array<Field<RestartConfig>>({
    {.name = "max",
     .read = [](const Value& value,
                RestartConfig& restart) { return store(value.number(kRestarts), restart.max); }},
    {.name = "window",
     .read =
         [](const Value& value, RestartConfig& restart) {
             return store(value.duration(kRestartWindow), restart.window);
         }},
    {.name = "delay_initial",
     .read =
         [](const Value& value, RestartConfig& restart) {
             return store(value.duration(kRestartDelay), restart.delay_initial);
         }},
    {.name = "delay_max",
     .read =
         [](const Value& value, RestartConfig& restart) {
             return store(value.duration(kRestartDelay), restart.delay_max);
         }},
    {.name = "same_step_max",
     .read =
         [](const Value& value, RestartConfig& restart) {
             return store(value.number(kSameStepFailures), restart.same_step_max);
         }},
});

constexpr auto kCheckpointFields = std::to_array<Field<CheckpointConfig>>({
    {.name = "directory",
     .read = [](const Value& value,
                CheckpointConfig& checkpoint) { return store(value.path(), checkpoint.directory); },
     .required_as = "a path"},
    {.name = "every",
     .read =
         [](const Value& value, CheckpointConfig& checkpoint) {
             return store(value.duration(kEveryTime), checkpoint.cadence.every_time);
         }},
    {.name = "every_steps",
     .read =
         [](const Value& value, CheckpointConfig& checkpoint) {
             return store(value.number(kEverySteps), checkpoint.cadence.every_steps);
         }},
    {.name = "every_epochs",
     .read =
         [](const Value& value, CheckpointConfig& checkpoint) {
             return store(value.number(kEveryEpochs), checkpoint.cadence.every_epochs);
         }},
    {.name = "keep_last",
     .read =
         [](const Value& value, CheckpointConfig& checkpoint) {
             return store(value.number(kKeepLast), checkpoint.keep_last);
         }},
    {.name = "on_no_valid_checkpoint",
     .read =
         [](const Value& value, CheckpointConfig& checkpoint) {
             return store(value.one_of<OnNoValidCheckpoint>(kOnNoValidCheckpoint),
                          checkpoint.on_no_valid_checkpoint);
         }},
});

constexpr std::string_view kCommandExpected = "a list of words, such as [python3, train.py]";

Result<void> read_environment(const Value& value, JobConfig& job) {
    auto entries = value.entries("a map of variables, such as {OMP_NUM_THREADS: \"2\"}");
    if (!entries) return entries.error();
    for (const Entry& entry : *entries) {
        RETURN_IF_ERROR(store(entry.value.text(), job.environment[entry.name]));
    }
    return {};
}

constexpr auto kJobFields = std::to_array<Field<JobConfig>>({
    {.name = "command",
     .read =
         [](const Value& value, JobConfig& job) {
             return store(value.list_of_text(kCommandExpected), job.command);
         },
     .required_as = kCommandExpected},
    {.name = "working_directory",
     .read = [](const Value& value,
                JobConfig& job) { return store(value.path(), job.working_directory); }},
    {.name = "environment", .read = read_environment},
    {.name = "ranks",
     .read = [](const Value& value,
                JobConfig& job) { return store(value.number(kRanks), job.ranks); }},
    {.name = "output_directory",
     .read = [](const Value& value,
                JobConfig& job) { return store(value.path(), job.output_directory); }},
    {.name = "checkpoint",
     .read = [](const Value& value,
                JobConfig& job) { return read_fields(value, kCheckpointFields, job.checkpoint); },
     .required_as = "a map with at least the key directory"},
    {.name = "restart",
     .read = [](const Value& value,
                JobConfig& job) { return read_fields(value, kRestartFields, job.restart); }},
    {.name = "stop",
     .read = [](const Value& value,
                JobConfig& job) { return read_fields(value, kStopFields, job.stop); }},
});

constexpr std::string_view kJobsExpected = "a map of at least one job, by name";

Result<void> read_jobs(const Value& value, DaemonConfig& daemon) {
    auto entries = value.entries(kJobsExpected);
    if (!entries) return entries.error();
    if (entries->empty()) return value.unexpected(kJobsExpected);
    if (entries->size() > kJobsMax) {
        return value.unexpected(fmt::format("at most {} jobs", kJobsMax));
    }
    for (const Entry& entry : *entries) {
        JobConfig job{.name = entry.name};
        RETURN_IF_ERROR(read_fields(entry.value, kJobFields, job));
        daemon.jobs.push_back(std::move(job));
    }
    return {};
}

constexpr auto kControlFields = std::to_array<Field<ControlConfig>>({
    {.name = "socket",
     .read = [](const Value& value,
                ControlConfig& control) { return store(value.path(), control.socket); }},
});

constexpr auto kDaemonFields = std::to_array<Field<DaemonConfig>>({
    {.name = "state_directory",
     .read = [](const Value& value,
                DaemonConfig& daemon) { return store(value.path(), daemon.state_directory); }},
    {.name = "log_level",
     .read =
         [](const Value& value, DaemonConfig& daemon) {
             return store(value.one_of<LogLevel>(kLogLevels), daemon.log_level);
         }},
    {.name = "control",
     .read =
         [](const Value& value, DaemonConfig& daemon) {
             return read_fields(value, kControlFields, daemon.control);
         }},
    {.name = "jobs", .read = read_jobs, .required_as = kJobsExpected},
});

// What the file left out. Only here, after the whole file: state_directory may stand below jobs.
void complete(DaemonConfig& daemon, const std::string& directory) {
    const std::filesystem::path state(daemon.state_directory);
    if (daemon.control.socket.empty()) daemon.control.socket = (state / "pawld.sock").string();
    for (JobConfig& job : daemon.jobs) {
        if (job.working_directory.empty()) job.working_directory = directory;
        if (job.output_directory.empty())
            job.output_directory = (state / "logs" / job.name).string();
        CadenceConfig& cadence = job.checkpoint.cadence;
        if (cadence == CadenceConfig{}) cadence.every_time = kEveryTimeDefault;
    }
}

Result<void> check_socket(const DaemonConfig& daemon, const Source& source) {
    constexpr std::size_t kSocketBytesMax = sizeof(sockaddr_un::sun_path) - 1;
    const std::string& socket = daemon.control.socket;
    if (socket.size() <= kSocketBytesMax) return {};
    return source.error_for(
        {"control", "socket"},
        fmt::format(
            "expected a path of at most {} bytes, as the kernel allows, found '{}' of {} bytes",
            kSocketBytesMax, socket, socket.size()));
}

// Two jobs in one directory would take each other's checkpoints for their own, or mix their logs.
Result<void> check_directories_differ(const DaemonConfig& daemon, const Source& source) {
    std::map<std::string, std::string> owners;
    const auto claim = [&](const JobConfig& job, const std::string& directory,
                           const KeyPath& key) -> Result<void> {
        const auto [owner, is_new] = owners.emplace(directory, job.name);
        if (is_new) return {};
        const std::string whose = owner->second == job.name
                                      ? "used twice by this job"
                                      : fmt::format("used by job '{}'", owner->second);
        return source.error_for(
            key, fmt::format("expected a directory of its own, found '{}', {}", directory, whose));
    };
    for (const JobConfig& job : daemon.jobs) {
        RETURN_IF_ERROR(
            claim(job, job.checkpoint.directory, {"jobs", job.name, "checkpoint", "directory"}));
        RETURN_IF_ERROR(claim(job, job.output_directory, {"jobs", job.name, "output_directory"}));
    }
    return {};
}

Result<void> check(const DaemonConfig& daemon, const Source& source) {
    RETURN_IF_ERROR(check_socket(daemon, source));
    for (const JobConfig& job : daemon.jobs) {
        if (const std::optional<Problem> problem = first_problem(job)) {
            KeyPath key = {"jobs", job.name};
            key.insert(key.end(), problem->key.begin(), problem->key.end());
            return source.error_for(key, problem->text);
        }
    }
    return check_directories_differ(daemon, source);
}

// yaml-cpp takes some control characters for the end of the file, and would drop what follows.
Result<void> check_text(std::string_view yaml, const Source& source) {
    if (yaml.size() > kFileBytesMax) {
        return source.error_at(
            {}, fmt::format("expected a file of at most {} bytes, found more", kFileBytesMax));
    }
    Position position;
    for (const char character : yaml) {
        const auto byte = static_cast<unsigned char>(character);
        if (byte < ' ' && character != '\t' && character != '\n' && character != '\r') {
            return source.error_at(
                position,
                fmt::format("expected UTF-8 text, found the control character {:#04x}", byte));
        }
        ++position.column;
        if (character == '\n') position = {.line = position.line + 1, .column = 1};
    }
    return {};
}

// Keeps nothing of a document but where it begins.
class DocumentStart final : public YAML::EventHandler {
public:
    void OnDocumentStart(const YAML::Mark& mark) override { mark_ = mark; }
    void OnDocumentEnd() override {}
    void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
    void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
    void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  const std::string&) override {}
    void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                         YAML::EmitterStyle::value) override {}
    void OnSequenceEnd() override {}
    void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                    YAML::EmitterStyle::value) override {}
    void OnMapEnd() override {}

    [[nodiscard]] Position position() const { return position_of(mark_); }

private:
    YAML::Mark mark_;
};

// Not YAML::LoadAll: at a stray ',' between documents yaml-cpp 0.7 takes no token and hands
// out empty documents for ever, until memory ends. YAML::Load would drop what follows the first.
Result<void> check_one_document(const std::string& yaml, const Source& source) {
    std::istringstream stream(yaml);  // the parser takes nothing else
    YAML::Parser parser(stream);
    DocumentStart start;
    if (!parser.HandleNextDocument(start) || !parser.HandleNextDocument(start)) return {};
    return source.error_at(
        start.position(),
        "expected one YAML document, found more after its end (a '---' or a ',' too many?)");
}

Result<DaemonConfig> read_document(const std::string& yaml, Source& source) {
    RETURN_IF_ERROR(check_one_document(yaml, source));
    const YAML::Node root = YAML::Load(yaml);
    if (root.IsNull()) {
        return source.error_at({},
                               "expected a map with at least the key jobs, found an empty file");
    }
    const Value value(source, root, {}, position_of(root.Mark()));
    DaemonConfig daemon;
    RETURN_IF_ERROR(read_fields(value, kDaemonFields, daemon));
    complete(daemon, source.directory());
    RETURN_IF_ERROR(check(daemon, source));
    return daemon;
}

std::string directory_of(const std::string& path) {
    std::error_code code;
    const auto absolute = std::filesystem::absolute(path, code);
    // Without a working directory a relative path has no base; check() then asks for absolute ones.
    if (code) return "";
    return absolute.lexically_normal().parent_path().string();
}

Result<std::string> read_file(const std::string& path) {
    // O_NONBLOCK: a FIFO is refused below, and must not stop us here.
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!fd.is_open()) return error_from_errno("cannot read configuration '{}'", path);
    struct stat status = {};
    if (::fstat(fd.get(), &status) != 0) {
        return error_from_errno("cannot read configuration '{}'", path);
    }
    if (!S_ISREG(status.st_mode)) {
        return make_error(ErrorKind::kInvalidArgument,
                          "cannot read configuration '{}': not a regular file", path);
    }
    // One byte more than allowed, which parse() refuses.
    std::string text(kFileBytesMax + 1, '\0');
    std::size_t bytes = 0;
    while (bytes < text.size()) {
        const ssize_t count = ::read(fd.get(), text.data() + bytes, text.size() - bytes);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return error_from_errno("cannot read configuration '{}'", path);
        if (count == 0) break;
        bytes += static_cast<std::size_t>(count);
    }
    text.resize(bytes);
    return text;
}

}  // namespace

Result<DaemonConfig> load(const std::string& path) {
    auto text = read_file(path);
    if (!text) {
        return std::move(text).error().consequence(
            "Name a file that this user may read; configs/pawld.yaml is an example with every "
            "key.");
    }
    return parse(*text, path);
}

Result<DaemonConfig> parse(std::string_view yaml, const std::string& path) {
    Source source(path, directory_of(path));
    RETURN_IF_ERROR(check_text(yaml, source));
    // Around the reading too: yaml-cpp's nodes may throw whenever they are asked.
    try {
        return read_document(std::string(yaml), source);
    } catch (const YAML::Exception& exception) {
        return source.error_at(position_of(exception.mark),
                               fmt::format("not valid YAML: {}", exception.msg));
    } catch (const std::exception& exception) {
        return make_error(ErrorKind::kInternal, "cannot parse configuration '{}': {}", path,
                          exception.what());
    }
}

}  // namespace pawl::config
