// JobRunner: ranks as processes, from the journal's record of a launch to the last grandchild's
// end.
//
// Order of a launch, so that no process is ever unknown: the incarnation is journalled (synced),
// ranks are spawned with the job's key in their environment, their pids are journalled. A daemon
// that dies in between is followed by one that finds them by key.
#include "base/crash_point.h"
#include "base/invariant.h"
#include "daemon/job.h"

#include <algorithm>

namespace pawl::daemon {
namespace {

constexpr nanoseconds kTickPeriod = milliseconds{100};

std::optional<journal::RankExit> record_of(const std::optional<supervisor::ExitStatus>& exit) {
    if (!exit) return std::nullopt;
    journal::RankExit record{.text = exit->describe()};
    if (exit->cause == supervisor::ExitCause::kSignal) {
        record.signal = exit->number;
    } else if (exit->cause != supervisor::ExitCause::kCouldNotStart) {
        record.code = exit->number;
    }
    return record;
}

// A file that has grown too large makes room at the next start: nothing writes to it then.
void rotate(FileSystem& fs, const std::string& path, std::uint64_t at_bytes) {
    const auto status = fs.status(path);
    if (!status || !status->has_value() || (*status)->bytes < at_bytes) return;
    const std::string old = path + ".1";
    // Without a rotation the file just grows on: no reason not to train.
    static_cast<void>(fs.remove(old));
    static_cast<void>(fs.rename(path, old));
}

}  // namespace

// ---- start ----

void JobRunner::launch(Incarnation number) {
    ++launches_;
    take_pending_config();
    if (launch_ && launch_->coordinator)
        attempts_started_ += launch_->coordinator->attempts_started();
    launch_ = std::make_unique<Launch>(
        Launch{.number = number,
               .attendance = staging::Attendance(config_.ranks, config_.start.attach_timeout),
               .started = services_.clock.wall_now()});
    for (std::uint64_t i = 0; i < config_.ranks; ++i) {
        RankHolder& rank = launch_->ranks.emplace_back();
        rank.rank = Rank{i};
        rank.output_path = join_path(config_.output_directory, fmt::format("rank-{:05}.log", i));
    }
    if (waits_for_verdict()) return choose_then_spawn(number);
    // Both at once: ranks import and build while checkpoints are verified, and wait in `attach`.
    // The policy is taken along: a reload may change the configuration meanwhile.
    checkpoint_worker_.post([this, number, retention = retention_of(config_.checkpoint)] {
        auto choice = std::make_shared<Result<checkpoint::Choice>>(store_.choose());
        // Room that the policy gives back is given before it is needed: a disk that is full of what
        // nobody wants must not keep the next checkpoint from being made.
        if (*choice) {
            for (std::string& warning : store_.apply_retention(retention)) {
                (*choice)->warnings.push_back(std::move(warning));
            }
        }
        services_.loop.post(
            [this, number, choice] { verdict_reached(number, std::move(*choice)); });
    });
    journal_then_spawn(number);
}

void JobRunner::journal_then_spawn(Incarnation number) {
    services_.journal_worker.post(
        [this, number,
         record = journal::IncarnationRecord{.incarnation = number, .started = launch_->started}] {
            // Where it can't be written, ranks are found by their key all the same.
            static_cast<void>(services_.journal.put_incarnation(config_.name, record));
            services_.loop.post([this, number] { spawn_ranks(number); });
        });
}

void JobRunner::spawn_ranks(Incarnation number) {
    if (!launch_ || launch_->number != number || launch_->is_over) return;
    if (launch_->is_killing) return check_gone(number);
    if (is_draining()) return skip_ranks(number);
    crash_point("start: incarnation journalled");
    launch_->is_spawned = true;
    const auto port = free_port();
    const RankEnvironment environment{.job = config_.name,
                                      .job_key = job_key_,
                                      .socket_path = socket_path_,
                                      .incarnation = number,
                                      .world_size = config_.ranks,
                                      .is_distributed = config_.is_distributed,
                                      .master_port = port.value_or(29500),
                                      .restarts_max = config_.restart.max};
    for (RankHolder& rank : launch_->ranks) {
        const auto spawned = spawn_rank(rank, environment);
        crash_point("start: rank spawned");
        if (spawned) continue;
        happened(supervisor::RankExited{.incarnation = number,
                                        .rank = rank.rank,
                                        .status = {.cause = supervisor::ExitCause::kCouldNotStart,
                                                   .detail = spawned.error().text()}});
        return;
    }
    put_incarnation(journal::IncarnationState::kRunning);
    rate_time_ = services_.clock.monotonic_now();
    tick_timer_.start_repeating(kTickPeriod);
    report(ReportLevel::kInfo, "started",
           fmt::format("incarnation {}: {} of '{}' started", number,
                       config_.ranks == 1 ? std::string("one rank")
                                          : fmt::format("{} ranks", config_.ranks),
                       config_.command.front()));
}

// A stop that came while the launch was being journalled asked nobody: nobody is started for it,
// who would train on until the grace is over.
void JobRunner::skip_ranks(Incarnation number) {
    launch_->cause = "stopped before its ranks were started";
    for (std::uint64_t i = 0; i < config_.ranks; ++i) {
        happened(supervisor::RankExited{
            .incarnation = number,
            .rank = Rank{i},
            .status = {.cause = supervisor::ExitCause::kSignal, .number = SIGTERM}});
    }
}

Result<void> JobRunner::spawn_rank(RankHolder& rank, const RankEnvironment& environment) {
    rotate(services_.fs, rank.output_path, config_.output_rotate_at);
    if (const auto output = services_.fs.status(rank.output_path))
        rank.output_begin = *output ? (*output)->bytes : 0;
    std::vector<std::string> base = services_.environment;
    for (const auto& variable : config_.environment) {
        const std::string name = variable.first + "=";
        std::erase_if(base,
                      [&](const std::string& inherited) { return inherited.starts_with(name); });
        base.push_back(name + variable.second);
    }
    auto spawned =
        services_.processes.spawn({.command = command_of(rank.rank),
                                   .environment = environment_of(environment, rank.rank, base),
                                   .working_directory = config_.working_directory,
                                   .output_path = rank.output_path});
    if (!spawned) return spawned.error();
    rank.process = std::move(*spawned);
    rank.exit_watcher =
        std::make_unique<FdWatcher>(services_.loop, rank.process->pidfd.get(),
                                    [this, number = launch_->number, id = rank.rank](int) {
                                        rank_may_have_exited(number, id);
                                    });
    rank.exit_watcher->watch(UV_READABLE);
    return {};
}

void JobRunner::put_incarnation(journal::IncarnationState state) {
    invariant(launch_ != nullptr, "an incarnation that is recorded is launched");
    journal::IncarnationRecord record{
        .incarnation = launch_->number, .state = state, .started = launch_->started};
    for (const RankHolder& rank : launch_->ranks) {
        if (!rank.process) continue;
        record.ranks.push_back({.rank = rank.rank,
                                .pid = rank.process->pid,
                                .start_ticks = rank.process->start_ticks,
                                .exit = record_of(rank.exit),
                                .output_begin = rank.output_begin});
    }
    if (launch_->verdict && launch_->verdict->chosen) {
        record.resumed_from = launch_->verdict->chosen->sequence;
        record.resumed_step = launch_->verdict->chosen->step;
    }
    if (state == journal::IncarnationState::kEnded) {
        record.ended = services_.clock.wall_now();
        record.cause = launch_->cause;
        record.last_step = shown_step_;
    }
    write_journal([record](journal::Journal& journal, const std::string& job) {
        return journal.put_incarnation(job, record);
    });
}

// ---- ends ----

void JobRunner::rank_may_have_exited(Incarnation number, Rank id) {
    if (!launch_ || launch_->number != number) return;
    RankHolder& rank = launch_->ranks.at(id.value);
    if (rank.has_exited) return;
    auto exit = services_.processes.take_exit(*rank.process);
    if (!exit) return;
    rank.has_exited = true;
    rank.exit = *exit;
    rank.exit_watcher.reset();
    // What it said before it ended is heard first: it may have sealed a whole snapshot.
    if (rank.session) server_->hear(*rank.session);
    // The page still says how far it came; that of a liar is not taken.
    static_cast<void>(rank.read_progress(services_.clock.monotonic_now()));
    tick();
    if (exit->cause == supervisor::ExitCause::kCouldNotStart) {
        exit->detail +=
            fmt::format(" ('{}' in '{}')", config_.command.front(), config_.working_directory);
    }
    if (launch_->cause.empty() || launch_->cause == "finished") {
        launch_->cause = exit->cause == supervisor::ExitCause::kFinished
                             ? "finished"
                             : fmt::format("rank {} {}", id, exit->describe());
    }
    if (!launch_->is_killing) {
        happened(supervisor::RankExited{
            .incarnation = number, .rank = id, .status = *exit, .jitter = draw_jitter()});
    }
    // Killed ranks, and grandchildren that outlived theirs.
    check_gone(number);
}

void JobRunner::kill_everything(Incarnation number) {
    invariant(launch_ && launch_->number == number, "only the newest incarnation is killed");
    launch_->is_killing = true;
    for (const RankHolder& rank : launch_->ranks) {
        if (rank.is_running()) services_.processes.send_signal(*rank.process, SIGKILL);
    }
    // Through the loop, because this may be called from within an event that is still being
    // handled.
    services_.loop.post([this, number] { check_gone(number); });
}

// Answers a kill once no rank is left and no process carries the job's key.
void JobRunner::check_gone(Incarnation number) {
    if (!launch_ || launch_->number != number || !launch_->is_killing) return;
    if (processes_running() > 0) return;  // their exits come back here
    const auto found = services_.processes.find(job_key_);
    if (!found) report(ReportLevel::kWarning, "processes", found.error().text());
    kill_and_watch(found ? *found : std::vector<pid_t>{}, [this, number] { check_gone(number); });
    services_.processes.reap_orphans(pids());
    if (!leftovers_.empty()) return;
    if (launch_->cause.empty()) launch_->cause = "stopped";
    put_incarnation(journal::IncarnationState::kEnded);
    tick_timer_.stop();
    launch_->is_over = true;
    launch_->is_killing = false;
    advance_timer_.stop();
    for (RankHolder& rank : launch_->ranks) {
        if (rank.session) server_->close(*rank.session);
        rank.session.reset();
        drop_arenas(rank.take_arenas());
    }
    look_for_the_last_time(number);
}

// Kills each and calls back, through the loop, whenever one of them has ended. leftovers_ holds
// those that were still there.
void JobRunner::kill_and_watch(const std::vector<pid_t>& pids,
                               const std::function<void()>& when_ended) {
    leftovers_.clear();
    for (const pid_t pid : pids) {
        auto pidfd = services_.processes.watch(pid);
        if (!pidfd) continue;
        services_.processes.kill_now(pid);
        Leftover& leftover = leftovers_.emplace_back();
        leftover.pidfd = std::move(*pidfd);
        leftover.watcher = std::make_unique<FdWatcher>(
            services_.loop, leftover.pidfd.get(),
            [this, when_ended](int) { services_.loop.post(when_ended); });
        leftover.watcher->watch(UV_READABLE);
    }
}

std::vector<pid_t> JobRunner::pids() const {
    std::vector<pid_t> pids;
    if (!launch_) return pids;
    for (const RankHolder& rank : launch_->ranks) {
        if (rank.is_running()) pids.push_back(rank.process->pid);
    }
    return pids;
}

// Ranks of a daemon that died: found by key, and by the pids and start times that it journalled.
// They are stopped before anything is started, so two incarnations never run at once.
void JobRunner::stop_leftovers() {
    std::vector<pid_t> found;
    if (auto by_key = services_.processes.find(job_key_)) {
        found = std::move(*by_key);
    } else {
        report(ReportLevel::kWarning, "processes", by_key.error().text());
    }
    const auto incarnations = services_.journal.incarnations(config_.name);
    if (incarnations && !incarnations->empty() &&
        incarnations->back().state != journal::IncarnationState::kEnded) {
        for (const journal::RankProcess& rank : incarnations->back().ranks) {
            const auto pid = static_cast<pid_t>(rank.pid);
            const bool is_same = supervisor::start_ticks_of(pid) == rank.start_ticks;
            if (is_same && std::ranges::find(found, pid) == found.end()) found.push_back(pid);
        }
    }
    kill_and_watch(found, [this] {
        if (is_reclaiming_) stop_leftovers();
    });
    if (!leftovers_.empty()) {
        if (!is_reclaiming_) {
            report(
                ReportLevel::kWarning, "reclaimed",
                fmt::format("a daemon died and left {} of this job running; stopping {} before it "
                            "is resumed",
                            leftovers_.size() == 1 ? std::string("a process")
                                                   : fmt::format("{} processes", leftovers_.size()),
                            leftovers_.size() == 1 ? "it" : "them"));
        }
        is_reclaiming_ = true;
        return;
    }
    is_reclaiming_ = false;
    if (incarnations && !incarnations->empty() &&
        incarnations->back().state != journal::IncarnationState::kEnded) {
        journal::IncarnationRecord ended = incarnations->back();
        ended.state = journal::IncarnationState::kEnded;
        ended.ended = services_.clock.wall_now();
        ended.cause = "its daemon died";
        const auto progress = services_.journal.progress(config_.name, 1);
        if (progress && !progress->empty() && progress->back().incarnation == ended.incarnation)
            ended.last_step = progress->back().step;
        if (const auto written = services_.journal.put_incarnation(config_.name, ended); !written) {
            report(ReportLevel::kWarning, "journal", written.error().text());
        }
    }
    happened(supervisor::Start{});
}

}  // namespace pawl::daemon
