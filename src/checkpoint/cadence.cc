// See cadence.h.
#include "checkpoint/cadence.h"

#include <algorithm>
#include <cmath>

namespace pawl::checkpoint {
namespace {

std::uint64_t next_multiple(std::uint64_t value, std::uint64_t interval) {
    return (value / interval + 1) * interval;
}

}  // namespace

SnapshotTarget next_target(const CadencePolicy& policy, const CadenceState& state,
                           MonotonicTime now) {
    SnapshotTarget target;
    if (policy.every_steps) {
        target.at_step = Step{next_multiple(state.furthest_step.value, *policy.every_steps)};
    }
    if (policy.every_epochs) {
        target.at_epoch = Epoch{next_multiple(state.furthest_epoch.value, *policy.every_epochs)};
    }
    if (const auto due = time_due(policy, state); due && now >= *due) {
        // The furthest step plus one is never behind a multiple that lies ahead of the furthest
        // step.
        target.at_step = state.furthest_step.next();
    }
    return target;
}

std::optional<MonotonicTime> time_due(const CadencePolicy& policy, const CadenceState& state) {
    if (!policy.every_time) return std::nullopt;
    return state.last_time + *policy.every_time;
}

nanoseconds mean_time_between_failures(const FailureHistory& history) {
    const double observed = static_cast<double>(std::max(history.observed, nanoseconds{}).count()) +
                            static_cast<double>(kFailurePrior.count());
    return nanoseconds{
        static_cast<std::int64_t>(observed / (static_cast<double>(history.failures) + 1))};
}

nanoseconds checkpoint_cost(std::optional<nanoseconds> before, nanoseconds stall,
                            nanoseconds write) {
    const auto measured =
        std::max(stall, nanoseconds{}) +
        nanoseconds{static_cast<std::int64_t>(
            kWriteShare * static_cast<double>(std::max(write, nanoseconds{}).count()))};
    return before ? *before / 2 + measured / 2 : measured;
}

nanoseconds automatic_interval(std::optional<nanoseconds> cost, const FailureHistory& history) {
    if (!cost) return kAutomaticFirst;
    const auto between = static_cast<double>(mean_time_between_failures(history).count());
    const double young = std::sqrt(2 * static_cast<double>(cost->count()) * between);
    const auto interval = nanoseconds{
        static_cast<std::int64_t>(std::min(young, static_cast<double>(kAutomaticMax.count())))};
    return std::max({interval, kAutomaticMin, 2 * *cost});
}

}  // namespace pawl::checkpoint
