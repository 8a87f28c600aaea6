// See job_policy.h.
#include "supervisor/job_policy.h"

#include <string.h>

#include <errno.h>
#include <signal.h>

#include <algorithm>
#include <cmath>

namespace pawl::supervisor {
namespace {

Report info(std::string kind, std::string text) {
    return {.level = ReportLevel::kInfo, .kind = std::move(kind), .text = std::move(text)};
}

Report warning(std::string kind, std::string text) {
    return {.level = ReportLevel::kWarning, .kind = std::move(kind), .text = std::move(text)};
}

Transition unchanged(const Job& job) {
    return {.job = job};
}

Transition stopped(Job job, Stopped outcome) {
    const ReportLevel level =
        outcome.outcome == Outcome::kFailed ? ReportLevel::kError : ReportLevel::kInfo;
    Report report{.level = level, .kind = "stopped", .text = outcome.text};
    if (outcome.outcome == Outcome::kFinished) report.kind = "finished";
    if (outcome.outcome == Outcome::kFailed) report.kind = "failed";
    job.state = std::move(outcome);
    return {.job = std::move(job), .actions = {std::move(report), Conclude{}}};
}

Transition kill_then(Job job, std::variant<Failure, Stopped> then, std::vector<Action> actions) {
    actions.emplace_back(KillRanks{.incarnation = *job.incarnation});
    job.state = Killing{.then = std::move(then)};
    return {.job = std::move(job), .actions = std::move(actions)};
}

Transition launch(Job job) {
    job.incarnation = job.incarnation ? job.incarnation->next() : Incarnation{0};
    job.step_of_incarnation.reset();
    job.state = Running{};
    const StartRanks start{.incarnation = *job.incarnation};
    return {.job = std::move(job), .actions = {start}};
}

const Stopped kFinishedWell{
    .outcome = Outcome::kFinished, .exit_code = 0, .text = "all ranks finished"};

Stopped resumable(std::string text) {
    return {.outcome = Outcome::kResumable, .exit_code = kExitResumable, .text = std::move(text)};
}

// ---- failures ----

// Whether a failed incarnation got further than any before it; then the budget is full again.
void remember_failure(Job& job, MonotonicTime now, const JobPolicy& policy) {
    const bool has_progress = job.step_of_incarnation &&
                              (!job.furthest_step || *job.furthest_step < *job.step_of_incarnation);
    if (has_progress) job.furthest_step = job.step_of_incarnation;
    if (has_progress) {
        job.restarts.clear();
        job.failures_in_a_row = 0;
    }
    if (job.step_of_incarnation) {
        const bool is_same_step = job.failed_step == job.step_of_incarnation;
        job.failures_at_step = is_same_step ? job.failures_at_step + 1 : 1;
        job.failed_step = job.step_of_incarnation;
    }
    std::erase_if(job.restarts,
                  [&](MonotonicTime time) { return time + policy.restart_window <= now; });
}

Transition weigh_restart(Job job, const Failure& failure, const JobPolicy& policy,
                         MonotonicTime now) {
    remember_failure(job, now, policy);
    const auto failed = [&](std::string text) {
        return stopped(
            std::move(job),
            {.outcome = Outcome::kFailed, .exit_code = failure.exit_code, .text = std::move(text)});
    };
    if (job.failures_at_step >= policy.same_step_failures_max) {
        return failed(fmt::format(
            "step {} has failed {} times in a row, the last time because {}. Not restarted: "
            "look at the ranks' output, then start the job again",
            job.failed_step->next(), job.failures_at_step, failure.text));
    }
    if (job.restarts.size() >= policy.restarts_max) {
        return failed(fmt::format(
            "{}. Not restarted: {} restarts brought no progress. Look at the ranks' output, "
            "then start the job again",
            failure.text, job.restarts.size()));
    }
    const MonotonicTime due = now + policy.delay_before(job.failures_in_a_row, failure.jitter);
    ++job.failures_in_a_row;
    job.restarts.push_back(now);
    const Report report = warning(
        "restarting",
        fmt::format("restarting {} (restart {} of at most {} without progress)",
                    due == now ? std::string("now")
                               : fmt::format("in {} ms",
                                             std::chrono::ceil<milliseconds>(due - now).count()),
                    job.restarts.size(), policy.restarts_max));
    if (due == now) {
        Transition transition = launch(std::move(job));
        transition.actions.insert(transition.actions.begin(), report);
        return transition;
    }
    job.state = BackingOff{.due = due};
    return {.job = std::move(job), .actions = {report, WakeAt{.time = due}}};
}

Transition rank_failed(Job job, const RankExited& exit) {
    const std::string text = fmt::format("rank {} {}", exit.rank, exit.status.describe());
    if (exit.status.cause == ExitCause::kCouldNotStart) {
        return kill_then(
            std::move(job),
            Stopped{
                .outcome = Outcome::kFailed, .exit_code = exit.status.exit_code(), .text = text},
            {});
    }
    Failure failure{.text = text, .exit_code = exit.status.exit_code(), .jitter = exit.jitter};
    return kill_then(std::move(job), std::move(failure), {warning("rank_exited", text)});
}

// ---- running ----

Transition on(const Running& running, const RankExited& exit, Job job, const JobPolicy& policy,
              MonotonicTime) {
    if (exit.status.cause != ExitCause::kFinished) return rank_failed(std::move(job), exit);
    const std::uint64_t finished = running.ranks_finished + 1;
    if (finished < policy.world_size) {
        job.state = Running{.ranks_finished = finished};
        return {.job = std::move(job)};
    }
    return kill_then(std::move(job), kFinishedWell, {});
}

// A drain ends by itself, with or without them.
Transition on(const Running&, const RanksUseless& useless, Job job, const JobPolicy&,
              MonotonicTime) {
    Failure failure{.text = useless.why, .exit_code = kExitRanksUseless, .jitter = useless.jitter};
    return kill_then(std::move(job), std::move(failure), {warning("ranks_useless", useless.why)});
}

Transition on(const Running&, const ResumeRefused& refused, Job job, const JobPolicy&,
              MonotonicTime) {
    return kill_then(
        std::move(job),
        Stopped{.outcome = Outcome::kFailed, .exit_code = refused.exit_code, .text = refused.why},
        {});
}

Transition on(const Running& running, const StopRequested& stop, Job job, const JobPolicy& policy,
              MonotonicTime now) {
    Draining draining{.kill_at = now + policy.grace,
                      .ranks_exited = running.ranks_finished,
                      .ranks_finished = running.ranks_finished};
    std::vector<Action> actions;
    if (stop.has_clients) {
        draining.stage = DrainStage::kSnapshot;
        draining.deadline = draining.kill_at - policy.exit_grace;
        actions.emplace_back(
            info("draining", fmt::format("{}: asking for a last checkpoint", stop.by)));
        actions.emplace_back(RequestDrainSnapshot{});
    } else {
        draining.stage = DrainStage::kStopping;
        draining.deadline = draining.kill_at;
        actions.emplace_back(
            info("draining", fmt::format("{}: stopping ranks that are not attached", stop.by)));
        actions.emplace_back(SignalRanks{.signal = SIGTERM});
    }
    actions.emplace_back(WakeAt{.time = draining.deadline});
    job.state = draining;
    return {.job = std::move(job), .actions = std::move(actions)};
}

// ---- draining ----

Transition stop_ranks(Draining draining, Job job, const JobPolicy& policy, MonotonicTime now,
                      std::vector<Action> actions) {
    draining.stage = DrainStage::kStopping;
    draining.deadline = std::min(draining.kill_at, now + policy.exit_grace);
    actions.emplace_back(AskRanksToStop{});
    actions.emplace_back(WakeAt{.time = draining.deadline});
    job.state = draining;
    return {.job = std::move(job), .actions = std::move(actions)};
}

Transition on(const Draining& draining, const DrainSettled& settled, Job job,
              const JobPolicy& policy, MonotonicTime now) {
    if (draining.stage != DrainStage::kSnapshot) return unchanged(job);
    const Report report =
        settled.is_durable ? info("drained", settled.text) : warning("drained", settled.text);
    return stop_ranks(draining, std::move(job), policy, now, {report});
}

Transition on(const Draining& draining, const WakeUp&, Job job, const JobPolicy& policy,
              MonotonicTime now) {
    if (now < draining.deadline)
        return {.job = job, .actions = {WakeAt{.time = draining.deadline}}};
    if (draining.stage == DrainStage::kSnapshot) {
        return stop_ranks(
            draining, std::move(job), policy, now,
            {warning("drained", "no snapshot in time; the newest durable checkpoint stands")});
    }
    return kill_then(std::move(job),
                     resumable("stopped; ranks that did not leave in time were killed"), {});
}

Transition on(Draining draining, const RankExited& exit, Job job, const JobPolicy& policy,
              MonotonicTime) {
    ++draining.ranks_exited;
    const bool is_finished = exit.status.cause == ExitCause::kFinished;
    if (is_finished && draining.stage == DrainStage::kSnapshot) ++draining.ranks_finished;
    if (!is_finished && draining.stage == DrainStage::kSnapshot) {
        const std::string text =
            fmt::format("rank {} {} while draining", exit.rank, exit.status.describe());
        return kill_then(std::move(job), resumable("stopped; the newest durable checkpoint stands"),
                         {warning("rank_exited", text)});
    }
    if (draining.ranks_finished == policy.world_size)
        return kill_then(std::move(job), kFinishedWell, {});
    if (draining.ranks_exited >= policy.world_size) {
        return kill_then(std::move(job), resumable("stopped, to be resumed"), {});
    }
    job.state = draining;
    return {.job = std::move(job)};
}

Transition on(const Draining& draining, const StopRequested& stop, Job job, const JobPolicy& policy,
              MonotonicTime now) {
    if (draining.stage == DrainStage::kSnapshot) {
        return stop_ranks(
            draining, std::move(job), policy, now,
            {warning("draining",
                     fmt::format("{} again: stopping without a last checkpoint", stop.by)),
             SignalRanks{.signal = SIGTERM}});
    }
    return kill_then(std::move(job), resumable("stopped at once, as asked"),
                     {warning("draining", fmt::format("{} again: killing what is left", stop.by))});
}

Transition on(const Draining&, const ResumeRefused& refused, Job job, const JobPolicy& policy,
              MonotonicTime now) {
    return on(Running{}, refused, std::move(job), policy, now);
}

// ---- the rest ----

Transition on(const Killing& killing, const RanksGone&, Job job, const JobPolicy& policy,
              MonotonicTime now) {
    if (const auto* outcome = std::get_if<Stopped>(&killing.then))
        return stopped(std::move(job), *outcome);
    return weigh_restart(std::move(job), std::get<Failure>(killing.then), policy, now);
}

Transition on(const Killing& killing, const StopRequested&, Job job, const JobPolicy&,
              MonotonicTime) {
    if (const auto* failure = std::get_if<Failure>(&killing.then)) {
        job.state = Killing{.then = resumable(fmt::format("stopped after {}", failure->text))};
    }
    return {.job = std::move(job)};
}

Transition on(const Killing& killing, const ResumeRefused& refused, Job job, const JobPolicy&,
              MonotonicTime) {
    if (std::holds_alternative<Failure>(killing.then)) {
        job.state = Killing{.then = Stopped{.outcome = Outcome::kFailed,
                                            .exit_code = refused.exit_code,
                                            .text = refused.why}};
    }
    return {.job = std::move(job)};
}

Transition on(const Idle&, const Start&, Job job, const JobPolicy&, MonotonicTime) {
    return launch(std::move(job));
}

Transition on(const Idle&, const StopRequested&, Job job, const JobPolicy&, MonotonicTime) {
    return stopped(std::move(job), resumable("stopped before it was started"));
}

Transition on(const BackingOff& waiting, const WakeUp&, Job job, const JobPolicy&,
              MonotonicTime now) {
    if (now < waiting.due) return {.job = job, .actions = {WakeAt{.time = waiting.due}}};
    return launch(std::move(job));
}

Transition on(const BackingOff&, const StopRequested&, Job job, const JobPolicy&, MonotonicTime) {
    return stopped(std::move(job), resumable("stopped while waiting to restart"));
}

// Any other pair means nothing: the state is kept.
template <class State, class Event>
Transition on(const State&, const Event&, Job job, const JobPolicy&, MonotonicTime) {
    return {.job = std::move(job)};
}

template <class Event>
constexpr bool kHasIncarnation = requires(const Event& event) {
    event.incarnation;
};

Transition progress_seen(Job job, const ProgressSeen& progress) {
    job.step_of_incarnation =
        std::max(job.step_of_incarnation.value_or(progress.step), progress.step);
    return {.job = std::move(job)};
}

}  // namespace

nanoseconds JobPolicy::delay_before(std::uint32_t failures, double jitter) const {
    if (failures == 0) return nanoseconds::zero();
    const double doubled =
        static_cast<double>(delay_initial.count()) * std::exp2(std::min<double>(failures - 1, 60));
    const double limited = std::min(doubled, static_cast<double>(delay_max.count()));
    return nanoseconds{static_cast<std::int64_t>(limited * (1 - jitter / 2))};
}

std::string ExitStatus::describe() const {
    switch (cause) {
        case ExitCause::kFinished:
            return "finished";
        case ExitCause::kError:
            return fmt::format("exited with code {}", number);
        case ExitCause::kSignal: {
            const char* name = ::sigabbrev_np(number);
            return fmt::format("was killed by SIG{} ({})", name != nullptr ? name : "?", number);
        }
        case ExitCause::kCouldNotStart:
            return fmt::format("could not be started: {}", detail);
    }
    return "ended";
}

int ExitStatus::exit_code() const {
    switch (cause) {
        case ExitCause::kFinished:
            return 0;
        case ExitCause::kError:
            return number;
        case ExitCause::kSignal:
            return 128 + number;
        case ExitCause::kCouldNotStart:
            return number == ENOENT ? kExitNotFound : kExitNotExecutable;
    }
    return 1;
}

Transition next(const Job& job, const Event& event, const JobPolicy& policy, MonotonicTime now) {
    return std::visit(
        [&](const auto& happened) -> Transition {
            using Happened = std::decay_t<decltype(happened)>;
            if constexpr (kHasIncarnation<Happened>) {
                if (happened.incarnation != job.incarnation) return unchanged(job);
            }
            if constexpr (std::is_same_v<Happened, ProgressSeen>) {
                return progress_seen(job, happened);
            } else {
                return std::visit(
                    [&](const auto& state) { return on(state, happened, job, policy, now); },
                    job.state);
            }
        },
        event);
}

std::string_view name_of(const JobState& state) {
    struct Name {
        std::string_view operator()(const Idle&) const { return "idle"; }
        std::string_view operator()(const Running&) const { return "running"; }
        std::string_view operator()(const Draining&) const { return "draining"; }
        std::string_view operator()(const Killing&) const { return "stopping"; }
        std::string_view operator()(const BackingOff&) const { return "backing-off"; }
        std::string_view operator()(const Stopped& stopped_state) const {
            switch (stopped_state.outcome) {
                case Outcome::kFinished:
                    return "finished";
                case Outcome::kResumable:
                    return "stopped";
                case Outcome::kFailed:
                    return "failed";
            }
            return "stopped";
        }
    };
    return std::visit(Name{}, state);
}

}  // namespace pawl::supervisor
