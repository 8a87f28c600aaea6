// See coordinator.h. The end of training: coordinator_finish.cc; limits of time:
// coordinator_limits.cc.
#include "checkpoint/coordinator.h"

#include "base/invariant.h"

#include <algorithm>

namespace pawl::checkpoint {
namespace {

Moment moment_of(const std::vector<Sealed>& sealed) {
    return {.step = sealed.front().step, .epoch = sealed.front().epoch};
}

bool is_wanted(const SnapshotTarget& target, const Sealed& snapshot) {
    return target.at_step == snapshot.step ||
           (target.at_epoch && snapshot.epoch >= *target.at_epoch);
}

std::string name_of(const SnapshotTarget& target) {
    if (!target.at_epoch) return fmt::format("step {}", *target.at_step);
    if (!target.at_step) return fmt::format("epoch {}", *target.at_epoch);
    return fmt::format("step {} or epoch {}", *target.at_step, *target.at_epoch);
}

}  // namespace

Coordinator::Coordinator(std::uint64_t world_size, const CoordinatorPolicy& policy,
                         const Position& resumed, bool is_durable, MonotonicTime now)
    : world_size_(world_size),
      policy_(policy),
      state_{.furthest_step = resumed.furthest_step,
             .furthest_epoch = resumed.furthest_epoch,
             .last_time = now} {
    if (is_durable)
        durable_ = Moment{.step = resumed.furthest_step, .epoch = resumed.furthest_epoch};
}

CoordinatorActions Coordinator::begin(MonotonicTime now) {
    CoordinatorActions actions;
    if (lost_ || has_left_) return actions;
    has_begun_ = true;
    state_.last_time = now;
    aim(now, actions);
    return actions;
}

CoordinatorActions Coordinator::moved(const Position& position, MonotonicTime now) {
    CoordinatorActions actions;
    state_.furthest_step = std::max(state_.furthest_step, position.furthest_step);
    state_.furthest_epoch = std::max(state_.furthest_epoch, position.furthest_epoch);
    if (!position.ranks.empty()) places_ = position.ranks;
    if (retry_ && now >= retry_->due) {
        actions.emplace_back(std::move(retry_->work));
        retry_.reset();
        return actions;
    }
    watch_attempt(now, actions);
    watch_finish(now, actions);
    // Time may have made a nearer target due. What a rank has sealed already is waited for.
    if (has_begun_ && (!open_ || (!is_urgent() && !open_->barrier.has_sealed()))) aim(now, actions);
    return actions;
}

// ---- requests ----

void Coordinator::open(Reason reason, const SnapshotTarget& target, MonotonicTime now,
                       CoordinatorActions& actions) {
    open_.emplace(
        Open{.barrier = Barrier(++last_request_, world_size_), .reason = reason, .target = target});
    if (is_urgent()) {
        open_->since = now;
        ++attempts_started_;
    }
    publish(actions);
}

void Coordinator::close(CoordinatorActions& actions) {
    if (open_) release(open_->barrier.abandon(), actions);
    open_.reset();
}

void Coordinator::publish(CoordinatorActions& actions) const {
    staging::Control control{.should_stop = should_stop_};
    if (open_) {
        control.request = open_->barrier.request();
        control.at_step = open_->target.at_step;
        control.at_epoch = open_->target.at_epoch;
        control.is_urgent = is_urgent();
    }
    actions.emplace_back(SetControl{.control = control});
}

// The standing request of the cadence, if it differs from the one that stands.
void Coordinator::aim(MonotonicTime now, CoordinatorActions& actions) {
    if (should_stop_ || final_) return;
    const SnapshotTarget target = next_target(policy_.cadence, state_, now);
    if (open_) {
        // A step that was named stays named until it was reached: ranks may be on their way to it.
        const bool is_behind =
            open_->target.at_step && *open_->target.at_step <= state_.furthest_step;
        const bool is_nearer =
            target.at_step && (!open_->target.at_step || *target.at_step < *open_->target.at_step);
        if (is_behind || !is_nearer) return;
    }
    if (!target.at_step && !target.at_epoch) return;
    close(actions);
    open(Reason::kCadence, target, now, actions);
}

CoordinatorActions Coordinator::request_now(Reason reason, const Position& position,
                                            MonotonicTime now, IfDurable if_durable) {
    CoordinatorActions actions;
    state_.furthest_step = std::max(state_.furthest_step, position.furthest_step);
    if (!position.ranks.empty()) places_ = position.ranks;
    const auto refuse = [&](const std::string& why) {
        actions.emplace_back(UrgentSettled{.reason = reason, .text = why});
        return actions;
    };
    if (should_stop_) return refuse("the ranks have been asked to leave");
    if (lost_) return refuse(*lost_);
    if (has_left_ && !final_) return refuse("some ranks have finished and left");
    if (final_) {
        // The final checkpoint is on its way and as good, unless it can't be written just now.
        if (retry_) return refuse("the final checkpoint could not be written yet");
        const bool is_over = !persisting_ && !open_;
        if (is_over && durable_ != final_) return refuse("there was no final checkpoint");
        if (is_over) {
            actions.emplace_back(
                UrgentSettled{.reason = reason,
                              .is_durable = true,
                              .text = fmt::format("step {} is durable already", final_->step)});
        } else if (!waits_for_final_ || reason != Reason::kRequest) {
            waits_for_final_ = reason;
        }
        return actions;
    }
    // What a drain is waiting for answers a request by hand as well.
    if (is_urgent() && (reason == Reason::kRequest || reason == open_->reason)) return actions;
    const bool is_here = position.all_between_steps;
    if (is_here && if_durable == IfDurable::kSettle &&
        durable_ == Moment{.step = position.furthest_step, .epoch = position.furthest_epoch}) {
        actions.emplace_back(
            UrgentSettled{.reason = reason,
                          .is_durable = true,
                          .text = fmt::format("step {} is durable already", durable_->step)});
        return actions;
    }
    close(actions);
    state_.last_time = now;
    open(reason, {.at_step = is_here ? position.furthest_step : state_.furthest_step.next()}, now,
         actions);
    return actions;
}

CoordinatorActions Coordinator::change_cadence(const CadencePolicy& cadence, MonotonicTime now) {
    CoordinatorActions actions;
    if (lost_ || has_left_) return actions;
    policy_.cadence = cadence;
    if (!has_begun_ || is_urgent() || (open_ && open_->barrier.has_sealed())) return actions;
    // The step that the old cadence named may lie far ahead, or not be wanted any more.
    close(actions);
    aim(now, actions);
    if (!open_) publish(actions);
    return actions;
}

CoordinatorActions Coordinator::ask_to_stop() {
    CoordinatorActions actions;
    const std::string text = "the ranks are asked to leave";
    should_stop_ = true;
    finish_.reset();
    if (is_urgent()) actions.emplace_back(UrgentSettled{.reason = open_->reason, .text = text});
    settle_waiting(text, actions);
    close(actions);
    publish(actions);
    return actions;
}

// ---- answers ----

CoordinatorActions Coordinator::sealed(std::uint64_t request, const Sealed& snapshot,
                                       const std::map<std::string, double>& metrics,
                                       MonotonicTime now) {
    CoordinatorActions actions;
    if (!open_ || open_->barrier.request() != request) {
        // For a request that was given up meanwhile.
        release({snapshot}, actions);
        return actions;
    }
    if (!open_->since) {
        open_->since = now;
        ++attempts_started_;
    }
    const bool is_end = open_->reason != Reason::kFinal ||
                        final_ == Moment{.step = snapshot.step, .epoch = snapshot.epoch};
    if (!is_wanted(open_->target, snapshot) || !is_end) {
        release({snapshot}, actions);
        fail(fmt::format("rank {} took its snapshot at step {} of epoch {}, asked for was {}",
                         snapshot.rank, snapshot.step, snapshot.epoch, name_of(open_->target)),
             now, actions);
        return actions;
    }
    if (snapshot.rank == Rank{0}) open_->metrics = metrics;
    apply(open_->barrier.sealed(snapshot), now, actions);
    return actions;
}

CoordinatorActions Coordinator::passed(std::uint64_t request, Rank rank, Step step,
                                       MonotonicTime now) {
    CoordinatorActions actions;
    state_.furthest_step = std::max(state_.furthest_step, step);
    if (!open_ || open_->barrier.request() != request) return actions;
    if (open_->reason == Reason::kFinal) {
        // There is no later step: all ranks have said that this is their last.
        fail(fmt::format("rank {} had finished at step {} and says it is at step {}", rank,
                         final_->step, step),
             now, actions);
        return actions;
    }
    apply(open_->barrier.passed(rank, step, state_.furthest_step), now, actions);
    return actions;
}

CoordinatorActions Coordinator::skipped(std::uint64_t request, Rank rank, const std::string& why,
                                        MonotonicTime now) {
    CoordinatorActions actions;
    if (!open_ || open_->barrier.request() != request) return actions;
    apply(open_->barrier.skipped(rank, why), now, actions);
    return actions;
}

CoordinatorActions Coordinator::lost(Rank rank, const std::string& why, MonotonicTime now) {
    CoordinatorActions actions;
    has_begun_ = false;
    policy_.cadence = {};
    // Its last step was durable before the others had finished: they may still end so.
    has_left_ = has_left_ || has_ended(rank);
    if (!has_ended(rank) && !lost_) lost_ = fmt::format("rank {} took no snapshot: {}", rank, why);
    if (retry_ && lost_) {
        const std::uint64_t request = retry_->work.request;
        release(retry_->work.sealed, actions);
        retry_.reset();
        actions.emplace_back(AttemptFailed{.request = request, .why = *lost_});
        actions.emplace_back(UrgentSettled{.reason = Reason::kFinal, .text = *lost_});
    }
    // A standing request that nobody has answered is no attempt yet.
    if (open_ && !is_urgent() && !open_->barrier.has_sealed()) close(actions);
    if (open_) apply(open_->barrier.skipped(rank, why), now, actions);
    // Ranks that have finished wait for one that won't: they are told.
    if (finish_) answer_finishing(finishing_.begin()->second, now, actions);
    return actions;
}

void Coordinator::apply(const BarrierVerdict& verdict, MonotonicTime now,
                        CoordinatorActions& actions) {
    if (const auto* moved = std::get_if<Moved>(&verdict)) {
        release(moved->released, actions);
        open_->barrier.move_to_request(++last_request_);
        open_->target = {.at_step = moved->to};
        publish(actions);
    } else if (const auto* failed = std::get_if<Failed>(&verdict)) {
        release(failed->released, actions);
        fail(failed->why, now, actions);
    } else if (const auto* complete = std::get_if<Complete>(&verdict)) {
        const Moment moment = moment_of(complete->sealed);
        persisting_ = moment;
        state_.last_time = now;
        state_.furthest_step = std::max(state_.furthest_step, moment.step);
        state_.furthest_epoch = std::max(state_.furthest_epoch, moment.epoch);
        actions.emplace_back(Persist{.request = open_->barrier.request(),
                                     .reason = open_->reason,
                                     .sealed = complete->sealed,
                                     .metrics = std::move(open_->metrics)});
        open_.reset();
        aim(now, actions);
    }
}

void Coordinator::fail(const std::string& why, MonotonicTime now, CoordinatorActions& actions) {
    invariant(open_.has_value(), "an attempt that fails is open");
    ++attempts_failed_;
    const Reason reason = open_->reason;
    actions.emplace_back(AttemptFailed{.request = open_->barrier.request(), .why = why});
    close(actions);
    if (reason != Reason::kCadence) {
        actions.emplace_back(UrgentSettled{.reason = reason, .text = why});
    }
    if (reason == Reason::kFinal) settle_waiting(why, actions);
    // By time it would be due at once again: a failed attempt counts as one.
    state_.last_time = now;
    aim(now, actions);
}

CoordinatorActions Coordinator::persisted(const Persist& done, bool is_durable,
                                          const std::string& text, MonotonicTime now) {
    CoordinatorActions actions;
    if (!is_durable && done.reason == Reason::kFinal && has_begun_) {
        // The training is over: its end is worth waiting for, until somebody makes room or stops
        // the job.
        ++attempts_failed_;
        retry_ = Retry{.work = done, .due = now + kFinalRetryDelay};
        actions.emplace_back(
            AttemptFailed{.request = done.request, .why = text, .retry_in = kFinalRetryDelay});
        settle_waiting(text, actions);
        return actions;
    }
    release(done.sealed, actions);
    const Moment moment = moment_of(done.sealed);
    // finishing() asked for nothing because this was on its way.
    const bool is_awaited_as_final = final_ == moment && persisting_ == moment;
    if (persisting_ == moment) persisting_.reset();
    if (is_durable) {
        durable_ = std::max(durable_.value_or(moment), moment);
    } else {
        ++attempts_failed_;
        actions.emplace_back(AttemptFailed{.request = done.request, .why = text});
    }
    if (done.reason != Reason::kCadence) {
        actions.emplace_back(
            UrgentSettled{.reason = done.reason, .is_durable = is_durable, .text = text});
    }
    if (done.reason == Reason::kFinal) {
        // Durable, its own answer is enough: the ranks end by themselves.
        if (!is_durable) settle_waiting(text, actions);
        waits_for_final_.reset();
    }
    if (is_awaited_as_final && done.reason != Reason::kFinal && !should_stop_) {
        if (lost_ && !is_durable) {
            give_up_finishing(*lost_, moment, now, actions);
        } else {
            open_final(now, actions);
        }
    }
    if (has_begun_ && !open_) aim(now, actions);
    return actions;
}

void Coordinator::release(const std::vector<Sealed>& sealed, CoordinatorActions& actions) {
    for (const Sealed& snapshot : sealed) {
        actions.emplace_back(ReleaseSlot{.rank = snapshot.rank, .slot = snapshot.slot});
    }
}

}  // namespace pawl::checkpoint
