// The checks of a complete job (see job_check.h), and check_job() of config.h. Touches nothing.
#include "config/job_check.h"

#include "config/arguments.h"
#include "config/keys.h"

#include <algorithm>
#include <array>
#include <utility>

namespace pawl::config {

namespace {

constexpr std::string_view kDigits = "0123456789";
constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

// What pawl itself tells each rank; a value from the file would be wrong for all ranks but one.
constexpr std::array<std::string_view, 4> kRankVariables = {"RANK", "WORLD_SIZE", "LOCAL_RANK",
                                                            "LOCAL_WORLD_SIZE"};

KeyPath split(const std::string& path) {
    KeyPath key;
    for (std::size_t begin = 0; begin <= path.size();) {
        const std::size_t end = std::min(path.find('.', begin), path.size());
        key.push_back(path.substr(begin, end - begin));
        begin = end + 1;
    }
    return key;
}

bool consists_of(std::string_view text, std::initializer_list<std::string_view> allowed) {
    return std::all_of(text.begin(), text.end(), [&allowed](char character) {
        return std::any_of(allowed.begin(), allowed.end(),
                           [character](std::string_view characters) {
                               return characters.find(character) != std::string_view::npos;
                           });
    });
}

std::optional<Problem> name_problem(const JobConfig& job) {
    const std::string& name = job.name;
    if (!name.empty() && name.size() <= kJobNameBytesMax && name.front() != '.' &&
        name.front() != '-' && consists_of(name, {kLetters, kDigits, "._-"})) {
        return std::nullopt;
    }
    return Problem{{},
                   fmt::format("expected a job's name of 1 to {} letters, digits, '.', '_' or '-', "
                               "not beginning with '.' or '-', found {}",
                               kJobNameBytesMax, in_quotes(name))};
}

std::optional<Problem> command_problem(const JobConfig& job) {
    if (job.command.empty()) {
        return Problem{{"command"}, "expected a list of at least one word, found an empty list"};
    }
    if (job.command.front().empty()) {
        return Problem{{"command"}, "expected a program as the first word, found ''"};
    }
    return std::nullopt;
}

std::optional<Problem> arguments_problem(const JobConfig& job) {
    const std::array<std::pair<std::string, const std::vector<std::string>*>, 2> lists = {{
        {"on_resume", &job.on_resume},
        {"on_fresh", &job.on_fresh},
    }};
    for (const auto& [key, words] : lists) {
        const auto when = key == "on_resume" ? Start::kResumed : Start::kFresh;
        if (std::string problem = placeholder_problem(*words, when); !problem.empty())
            return Problem{{key}, std::move(problem)};
    }
    return std::nullopt;
}

std::optional<Problem> adopt_problem(const JobConfig& job) {
    for (const std::string& path : job.checkpoint.adopt) {
        const std::size_t slash = path.find_last_of('/');
        const std::string last = slash == std::string::npos ? path : path.substr(slash + 1);
        // "--" is the command's beginning: the option before it has no value. "./--" is a file.
        const bool is_file = !last.empty() && last != "." && last != ".." && path != "--" &&
                             path.front() != '~' && path.find('\0') == std::string::npos;
        if (is_file) continue;
        return Problem{{"checkpoint", "adopt"},
                       fmt::format("expected the path of a file that the script saves, such as "
                                   "checkpoint.pth or runs/*.pth, found {}",
                                   in_quotes(path))};
    }
    return std::nullopt;
}

std::optional<Problem> environment_problem(const JobConfig& job) {
    for (const auto& [name, value] : job.environment) {
        const bool is_name = !name.empty() &&
                             kDigits.find(name.front()) == std::string_view::npos &&
                             consists_of(name, {kLetters, kDigits, "_"});
        if (!is_name) {
            return Problem{{"environment", name},
                           fmt::format("expected a variable's name of letters, digits and '_', not "
                                       "beginning with a digit, found {}",
                                       in_quotes(name))};
        }
        const bool is_pawls =
            name.rfind("PAWL_", 0) == 0 ||
            std::find(kRankVariables.begin(), kRankVariables.end(), name) != kRankVariables.end();
        if (is_pawls) {
            return Problem{
                {"environment", name},
                fmt::format("expected a variable that pawl does not set itself, found {}",
                            in_quotes(name))};
        }
    }
    return std::nullopt;
}

std::optional<Problem> paths_problem(const JobConfig& job) {
    const std::array<std::pair<KeyPath, const std::string*>, 3> paths = {{
        {{"working_directory"}, &job.working_directory},
        {{"output_directory"}, &job.output_directory},
        {{"checkpoint", "directory"}, &job.checkpoint.directory},
    }};
    for (const auto& [key, path] : paths) {
        if (path->empty() || path->front() != '/') {
            return Problem{key,
                           fmt::format("expected an absolute path, found {}", in_quotes(*path))};
        }
    }
    return std::nullopt;
}

// Numbers, durations and sizes: as the table of keys has them.
std::optional<Problem> ranges_problem(const JobConfig& job) {
    std::optional<Problem> first;
    for_each_field(job_fields(), [&](const Field<JobConfig>& field, const std::string& path) {
        if (first || field.problem == nullptr) return;
        if (auto text = field.problem(field.type, job)) first = Problem{split(path), *text};
    });
    return first;
}

std::optional<Problem> relations_problem(const JobConfig& job) {
    struct Row {
        KeyPath key;
        nanoseconds value;
        std::string_view bound_name;
        nanoseconds bound;
    };
    const std::array rows = {
        Row{{"restart", "delay_initial"},
            job.restart.delay_initial,
            "delay_max",
            job.restart.delay_max},
        Row{{"stop", "exit_grace"}, job.stop.exit_grace, "grace", job.stop.grace},
    };
    for (const Row& row : rows) {
        if (row.value > row.bound) {
            return Problem{
                row.key, fmt::format("expected at most {}, which is {}, found '{}'", row.bound_name,
                                     exact_duration(row.bound), exact_duration(row.value))};
        }
    }
    return std::nullopt;
}

}  // namespace

std::optional<Problem> first_problem(const JobConfig& job) {
    constexpr std::array kChecks = {name_problem,        command_problem,  arguments_problem,
                                    environment_problem, paths_problem,    adopt_problem,
                                    ranges_problem,      relations_problem};
    for (const auto check : kChecks) {
        if (std::optional<Problem> problem = check(job)) return problem;
    }
    return std::nullopt;
}

Result<void> check_job(const JobConfig& job) {
    const std::optional<Problem> problem = first_problem(job);
    if (!problem) return {};
    const std::string key =
        problem->key.empty() ? "" : fmt::format("key '{}': ", fmt::join(problem->key, "."));
    return make_error(ErrorKind::kInvalidArgument, "job {}: {}{}", in_quotes(job.name), key,
                      problem->text);
}

}  // namespace pawl::config
