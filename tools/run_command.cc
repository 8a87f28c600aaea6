// See run_command.h.
#include "tools/run_command.h"

#include "base/file_system.h"
#include "config/config.h"
#include "daemon/daemon.h"
#include "tools/terminal.h"

#include <algorithm>
#include <filesystem>

namespace pawl::tools {
namespace {

Result<std::string> absolute(const std::string& path) {
    std::error_code code;
    const auto whole = std::filesystem::absolute(path, code);
    if (code) return error_from_code(code.value(), fmt::format("find out what '{}' is", path));
    std::string text = whole.lexically_normal().string();
    while (text.size() > 1 && text.ends_with('/'))
        text.pop_back();
    return text;
}

Result<config::JobConfig> job_of(const RunOptions& options, const std::string& state) {
    config::JobConfig job{.name = options.name, .command = options.command, .ranks = options.ranks};
    const auto here = absolute(".");
    if (!here) return here.error();
    job.working_directory = *here;
    job.output_directory = join_path(state, "logs");
    const std::string checkpoints = options.checkpoint_directory.empty()
                                        ? join_path(state, "checkpoints")
                                        : options.checkpoint_directory;
    const auto directory = absolute(checkpoints);
    if (!directory) return directory.error();
    job.checkpoint.directory = *directory;
    job.checkpoint.cadence.every_steps = options.every_steps;
    job.checkpoint.cadence.every_epochs = options.every_epochs;
    if (options.every) {
        const auto every = config::parse_duration(*options.every);
        if (!every)
            return Error(every.error()).while_doing("understand --every '{}'", *options.every);
        job.checkpoint.cadence.every_time = *every;
    }
    if (job.checkpoint.cadence == config::CadenceConfig{}) {
        job.checkpoint.cadence.every_time = std::chrono::minutes{10};
    }
    job.checkpoint.keep_last = options.keep_last;
    if (options.starts_fresh)
        job.checkpoint.on_no_valid_checkpoint = config::OnNoValidCheckpoint::kStartFresh;
    job.restart.max = options.restarts_max;
    const auto grace = config::parse_duration(options.grace);
    if (!grace) return Error(grace.error()).while_doing("understand --grace '{}'", options.grace);
    job.stop.grace = *grace;
    job.stop.exit_grace = std::min(job.stop.exit_grace, *grace / 2);
    RETURN_IF_ERROR(config::check_job(job));
    return job;
}

}  // namespace

Result<int> run(const RunOptions& options) {
    const auto state = absolute(options.state_directory);
    if (!state) return state.error();
    auto job = job_of(options, *state);
    if (!job) return job.error();
    config::DaemonConfig config;
    config.state_directory = *state;
    config.control.socket = join_path(*state, "pawld.sock");
    config.jobs.push_back(std::move(*job));
    const std::string output = join_path(config.jobs.front().output_directory, "rank-00000.log");
    TerminalReporter reporter({.output_path = options.is_quiet ? "" : output});
    return daemon::run_daemon(
        {.config = std::move(config), .lifetime = daemon::Lifetime::kUntilJobsEnd}, reporter);
}

}  // namespace pawl::tools
