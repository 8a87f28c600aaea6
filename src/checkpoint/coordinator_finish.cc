// The coordinator at the end of training: all ranks finish at one step, and leave with a durable
// checkpoint of it or with the word that there is none. See coordinator.h. Core: touches nothing.
#include "checkpoint/coordinator.h"

#include <algorithm>

namespace pawl::checkpoint {

bool Coordinator::has_ended(Rank rank) const {
    const auto own = finishing_.find(rank);
    return own != finishing_.end() && durable_ == own->second;
}

CoordinatorActions Coordinator::finishing(Rank rank, const Moment& moment, MonotonicTime now) {
    CoordinatorActions actions;
    // What a rank says first of its end counts.
    if (!finishing_.emplace(rank, moment).second) return actions;
    if (should_stop_) {
        // It may have read the word that woke the others before it came here.
        actions.emplace_back(WakeFinishing{.request = 0});
        return actions;
    }
    if (lost_ || has_left_) {
        answer_finishing(moment, now, actions);
        return actions;
    }
    if (finishing_.size() < world_size_) {
        if (!finish_) finish_ = Finish{.since = now};
        return actions;
    }
    finish_.reset();
    for (const auto& [other, other_moment] : finishing_) {
        if (other_moment == moment) continue;
        give_up_finishing(
            fmt::format("rank {} finished at step {} of epoch {}, rank {} at step {} of epoch {}",
                        rank, moment.step, moment.epoch, other, other_moment.step,
                        other_moment.epoch),
            moment, now, actions);
        return actions;
    }
    final_ = moment;
    if (persisting_ != moment) open_final(now, actions);
    return actions;
}

// Some rank is gone, so there will be no more snapshots: those who have finished end now, well if
// all of them are where the newest checkpoint is.
void Coordinator::answer_finishing(const Moment& moment, MonotonicTime now,
                                   CoordinatorActions& actions) {
    const bool is_durable =
        std::ranges::all_of(finishing_, [this](const auto& one) { return durable_ == one.second; });
    if (!is_durable) {
        return give_up_finishing(
            lost_.value_or("other ranks finished at another step, which is durable, and left"),
            moment, now, actions);
    }
    finish_.reset();
    if (finishing_.size() == world_size_) final_ = moment;
    actions.emplace_back(UrgentSettled{.reason = Reason::kFinal,
                                       .is_durable = true,
                                       .text = fmt::format("step {} is durable", moment.step)});
}

// Ranks in `finish` are woken by WakeFinishing alone, and heed failures of that very request.
void Coordinator::give_up_finishing(const std::string& why, const Moment& moment, MonotonicTime now,
                                    CoordinatorActions& actions) {
    finish_.reset();
    if (is_urgent()) actions.emplace_back(UrgentSettled{.reason = open_->reason, .text = why});
    close(actions);
    open(Reason::kFinal, {.at_step = moment.step}, now, actions);
    actions.emplace_back(WakeFinishing{.request = open_->barrier.request()});
    fail(why, now, actions);
}

void Coordinator::open_final(MonotonicTime now, CoordinatorActions& actions) {
    if (is_urgent()) waits_for_final_ = open_->reason;
    close(actions);
    if (durable_ == final_) {
        waits_for_final_.reset();
        actions.emplace_back(
            UrgentSettled{.reason = Reason::kFinal,
                          .is_durable = true,
                          .text = fmt::format("step {} is durable", final_->step)});
        return;
    }
    open(Reason::kFinal, {.at_step = final_->step}, now, actions);
    actions.emplace_back(WakeFinishing{.request = open_->barrier.request()});
}

void Coordinator::settle_waiting(const std::string& text, CoordinatorActions& actions) {
    if (waits_for_final_)
        actions.emplace_back(UrgentSettled{.reason = *waits_for_final_, .text = text});
    waits_for_final_.reset();
}

}  // namespace pawl::checkpoint
