// See barrier.h.
#include "checkpoint/barrier.h"

#include "base/invariant.h"

#include <algorithm>

namespace pawl::checkpoint {

Barrier::Barrier(std::uint64_t request, std::uint64_t world_size)
    : request_(request), ranks_(world_size) {
    invariant(world_size > 0, "a job has at least one rank");
}

bool Barrier::has_sealed() const {
    return std::ranges::any_of(ranks_, [](const auto& rank) { return rank.has_value(); });
}

std::vector<Rank> Barrier::missing() const {
    std::vector<Rank> missing;
    for (std::size_t i = 0; i < ranks_.size(); ++i) {
        if (!ranks_[i]) missing.emplace_back(i);
    }
    return missing;
}

BarrierVerdict Barrier::sealed(const Sealed& snapshot) {
    invariant(snapshot.rank.value < ranks_.size(), "a rank is below the world size");
    auto& own = ranks_[snapshot.rank.value];
    if (own) {
        return Failed{
            .why = fmt::format("rank {} sealed two snapshots for one request", snapshot.rank),
            .released = {snapshot}};
    }
    own = snapshot;
    for (const auto& other : ranks_) {
        if (other && other->step != snapshot.step) {
            const std::string why =
                fmt::format("rank {} took its snapshot at step {}, rank {} at step {}", other->rank,
                            other->step, snapshot.rank, snapshot.step);
            return Failed{.why = why, .released = abandon()};
        }
        // One rank saw the request in its evaluation, another just behind it: at the same step, but
        // they would resume at two sides of the epoch's end.
        if (other && other->epoch != snapshot.epoch)
            return passed(snapshot.rank, snapshot.step, snapshot.step);
    }
    if (std::ranges::any_of(ranks_, [](const auto& rank) { return !rank.has_value(); }))
        return Waiting{};
    return Complete{.sealed = abandon()};
}

BarrierVerdict Barrier::passed(Rank rank, Step step, Step furthest) {
    invariant(rank.value < ranks_.size(), "a rank is below the world size");
    // Fast steppers may pass again while the word travels: the lead doubles each time.
    constexpr std::uint64_t kMovesMax = 16;
    if (moves_ == kMovesMax) {
        return Failed{.why = fmt::format("rank {} was past the named step {} times in a row", rank,
                                         kMovesMax),
                      .released = abandon()};
    }
    const std::uint64_t lead = std::uint64_t{1} << moves_++;
    return Moved{.to = Step{std::max(step, furthest).value + lead}, .released = abandon()};
}

BarrierVerdict Barrier::skipped(Rank rank, const std::string& why) {
    return Failed{.why = fmt::format("rank {} took no snapshot: {}", rank, why),
                  .released = abandon()};
}

std::vector<Sealed> Barrier::abandon() {
    std::vector<Sealed> sealed;
    for (auto& rank : ranks_) {
        if (rank) sealed.push_back(*rank);
        rank.reset();
    }
    return sealed;
}

}  // namespace pawl::checkpoint
