// The coordinator's limits of time: attempts that a rank does not come to, ends of training that it
// does not reach. See coordinator.h. Core: touches nothing.
#include "base/clock.h"
#include "checkpoint/coordinator.h"

#include <algorithm>

namespace pawl::checkpoint {
namespace {

constexpr std::size_t kRanksNamed = 4;

bool has_place(const std::vector<RankPlace>& places, Rank rank) {
    return rank.value < places.size();
}

}  // namespace

std::optional<AttemptView> Coordinator::attempt() const {
    if (!open_ || !open_->since) return std::nullopt;
    return AttemptView{.request = open_->barrier.request(),
                       .reason = open_->reason,
                       .target = open_->target,
                       .missing = open_->barrier.missing()};
}

std::optional<MonotonicTime> Coordinator::wake_at() const {
    std::optional<MonotonicTime> earliest;
    const auto consider = [&earliest](MonotonicTime time) {
        earliest = std::min(earliest.value_or(time), time);
    };
    if (retry_) consider(retry_->due);
    if (open_ && open_->since) {
        consider(attempt_limit());
        if (!open_->has_warned) {
            consider(last_heard(open_->barrier.missing(), *open_->since) +
                     policy_.attempt_timeout / 2);
        }
    }
    if (finish_) {
        const int timeouts = finish_->has_warned ? kPatience : 1;
        consider(last_heard(unfinished(), finish_->since) + timeouts * policy_.attempt_timeout);
    }
    return earliest;
}

MonotonicTime Coordinator::attempt_limit() const {
    const MonotonicTime heard = last_heard(open_->barrier.missing(), *open_->since);
    return std::min(heard + policy_.attempt_timeout,
                    *open_->since + kPatience * policy_.attempt_timeout);
}

void Coordinator::watch_attempt(MonotonicTime now, CoordinatorActions& actions) {
    if (!open_ || !open_->since) return;
    const std::vector<Rank> missing = open_->barrier.missing();
    const std::uint64_t sealed = world_size_ - missing.size();
    if (now >= attempt_limit()) {
        const std::string why = fmt::format(
            "{} took no snapshot within {}; {} of {} ranks had sealed theirs",
            describe(missing, now), format_duration(now - *open_->since), sealed, world_size_);
        const bool is_final = open_->reason == Reason::kFinal;
        fail(why, now, actions);
        // The others are told and may leave, but who gives no sign of life does not.
        if (is_final) actions.emplace_back(Stuck{.why = why});
        return;
    }
    const MonotonicTime heard = last_heard(missing, *open_->since);
    if (open_->has_warned || now < heard + policy_.attempt_timeout / 2) return;
    open_->has_warned = true;
    actions.emplace_back(
        StillWaiting{.text = fmt::format("a checkpoint waits for {}; {} of {} ranks have sealed "
                                         "their snapshots. It is given up in {}",
                                         describe(missing, now), sealed, world_size_,
                                         format_duration(attempt_limit() - now))});
}

// One that trains or evaluates on is waited for as long as it does.
void Coordinator::watch_finish(MonotonicTime now, CoordinatorActions& actions) {
    if (!finish_) return;
    const std::vector<Rank> missing = unfinished();
    const MonotonicTime heard = last_heard(missing, finish_->since);
    const std::string text = fmt::format("{} of {} ranks have finished and wait for {}",
                                         finishing_.size(), world_size_, describe(missing, now));
    const nanoseconds patience = kPatience * policy_.attempt_timeout;
    if (now >= heard + patience) {
        finish_.reset();
        actions.emplace_back(Stuck{.why = text});
    } else if (!finish_->has_warned && now >= heard + policy_.attempt_timeout) {
        finish_->has_warned = true;
        actions.emplace_back(
            StillWaiting{.text = fmt::format("{}. Without a sign of life all are restarted in {}",
                                             text, format_duration(heard + patience - now))});
    }
}

std::vector<Rank> Coordinator::unfinished() const {
    std::vector<Rank> unfinished;
    for (std::uint64_t i = 0; i < world_size_; ++i) {
        if (!finishing_.contains(Rank{i})) unfinished.emplace_back(i);
    }
    return unfinished;
}

// Of any of them: the others may well be waiting for the one that is at work.
MonotonicTime Coordinator::last_heard(const std::vector<Rank>& ranks, MonotonicTime since) const {
    for (const Rank rank : ranks) {
        if (has_place(places_, rank)) since = std::max(since, places_[rank.value].heard);
    }
    return since;
}

std::string Coordinator::describe(const std::vector<Rank>& ranks, MonotonicTime now) const {
    std::string text;
    for (std::size_t i = 0; i < ranks.size(); ++i) {
        if (i > 0) text += ", ";
        if (i == kRanksNamed) return text + fmt::format("{} more", ranks.size() - kRanksNamed);
        const Rank rank = ranks[i];
        text += fmt::format("rank {}", rank);
        if (!has_place(places_, rank)) continue;
        const RankPlace& place = places_[rank.value];
        text += fmt::format(" (at step {} of epoch {}, {}", place.step, place.epoch,
                            staging::name_of(place.phase));
        if (place.heard != MonotonicTime{})
            text += fmt::format(", last heard of {} ago", format_duration(now - place.heard));
        text += ")";
    }
    return text;
}

}  // namespace pawl::checkpoint
