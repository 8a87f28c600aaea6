// See cadence.h.
#include "checkpoint/cadence.h"

#include <algorithm>

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

}  // namespace pawl::checkpoint
