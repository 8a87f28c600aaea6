// See run_command.h.
#include "tools/run_command.h"

#include "base/file_system.h"
#include "checkpoint/store.h"
#include "config/arguments.h"
#include "config/config.h"
#include "config/size.h"
#include "daemon/daemon.h"
#include "tools/terminal.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <string_view>
#include <tuple>

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

Result<config::KeepBestConfig> parse_keep_best(const std::string& text) {
    const auto malformed = [&text] {
        return make_error(ErrorKind::kInvalidArgument,
                          "cannot understand --keep-best '{}': expected METRIC:min or METRIC:max, "
                          "and how many if not one: loss:min:3",
                          text);
    };
    config::KeepBestConfig best;
    const auto colon = text.find(':');
    if (colon == std::string::npos || colon == 0) return malformed();
    best.metric = text.substr(0, colon);
    std::string_view rest = std::string_view(text).substr(colon + 1);
    const std::string_view mode = rest.substr(0, rest.find(':'));
    if (mode != "min" && mode != "max") return malformed();
    best.mode = mode == "min" ? config::BestMode::kMin : config::BestMode::kMax;
    rest.remove_prefix(mode.size());
    if (rest.empty()) return best;
    rest.remove_prefix(1);
    const auto [end, code] = std::from_chars(rest.data(), rest.data() + rest.size(), best.count);
    if (code != std::errc{} || end != rest.data() + rest.size()) return malformed();
    return best;
}

Result<void> set_retention(const RunOptions& options, config::CheckpointConfig& checkpoint) {
    checkpoint.keep_last = options.keep_last;
    checkpoint.keep_every_steps = options.keep_every_steps;
    if (options.keep_best) {
        auto best = parse_keep_best(*options.keep_best);
        if (!best) return best.error();
        checkpoint.keep_best = std::move(*best);
    }
    if (options.keep_bytes) {
        const auto bytes = config::parse_bytes(*options.keep_bytes);
        if (!bytes) {
            return Error(bytes.error())
                .while_doing("understand --keep-bytes '{}'", *options.keep_bytes);
        }
        checkpoint.keep_bytes = *bytes;
    }
    return {};
}

Result<config::JobConfig> job_of(const RunOptions& options, const std::string& state) {
    config::JobConfig job{.name = options.name,
                          .command = options.command,
                          .ranks = options.ranks.value_or(1),
                          .is_distributed = options.ranks.has_value()};
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
    job.checkpoint.cadence.is_automatic = options.every == "auto";
    if (options.every && !job.checkpoint.cadence.is_automatic) {
        const auto every = config::parse_duration(*options.every);
        if (!every)
            return Error(every.error()).while_doing("understand --every '{}'", *options.every);
        job.checkpoint.cadence.every_time = *every;
    }
    if (job.checkpoint.cadence == config::CadenceConfig{}) {
        job.checkpoint.cadence.every_time = std::chrono::minutes{10};
    }
    RETURN_IF_ERROR(set_retention(options, job.checkpoint));
    job.checkpoint.adopt = options.adopt;
    for (const auto& [option, text, words] :
         {std::tuple{"--on-resume", &options.on_resume, &job.on_resume},
          std::tuple{"--on-fresh", &options.on_fresh, &job.on_fresh}}) {
        auto split = config::split_words(*text);
        if (!split) return Error(split.error()).while_doing("understand {} '{}'", option, *text);
        *words = *std::move(split);
    }
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

// A script that was run without pawl before has its checkpoints elsewhere, and would begin anew.
void tell_of_standalone_checkpoints(const RunOptions& options, const config::JobConfig& job,
                                    daemon::Reporter& reporter) {
    if (!options.checkpoint_directory.empty()) return;
    const auto fs = make_posix_file_system();
    const auto here = checkpoint::list_checkpoints(*fs, job.checkpoint.directory);
    if (here && !here->empty()) return;
    const std::string standalone = join_path(job.working_directory, "checkpoints");
    const auto there = checkpoint::list_checkpoints(*fs, standalone);
    if (!there || there->empty()) return;
    reporter.event(
        "", daemon::ReportLevel::kWarning,
        fmt::format("this begins at step 0, and 'checkpoints' holds checkpoints that were made "
                    "without 'pawl run', the newest of step {}. To go on from it, stop this and "
                    "say: pawl run --checkpoint-dir checkpoints …",
                    there->front().name.step));
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
    tell_of_standalone_checkpoints(options, config.jobs.front(), reporter);
    return daemon::run_daemon(
        {.config = std::move(config), .lifetime = daemon::Lifetime::kUntilJobsEnd}, reporter);
}

}  // namespace pawl::tools
