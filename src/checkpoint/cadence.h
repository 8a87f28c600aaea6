// Cadence: when the next checkpoint is due. Core: knows no clock.
#pragma once

#include "base/units.h"

#include <optional>

namespace pawl::checkpoint {

struct CadencePolicy {
    std::optional<std::uint64_t> every_steps;
    std::optional<std::uint64_t> every_epochs;
    std::optional<nanoseconds> every_time;
};

// A snapshot that ranks take by themselves when they get there: at the end of the step that makes
// `at_step` completed steps, or of the epoch that makes `at_epoch` completed epochs, whichever is
// first.
struct SnapshotTarget {
    std::optional<Step> at_step;
    std::optional<Epoch> at_epoch;

    friend bool operator==(const SnapshotTarget&, const SnapshotTarget&) = default;
};

struct CadenceState {
    Step furthest_step;  // completed by the furthest rank
    Epoch furthest_epoch;
    MonotonicTime last_time;  // of the last snapshot asked for, or of the start
};

// Steps and epochs are named in advance as multiples of the interval, so that all ranks agree
// without a race. Time cannot be: when it is due, the step just ahead of the furthest rank is
// named.
[[nodiscard]] SnapshotTarget next_target(const CadencePolicy& policy, const CadenceState& state,
                                         MonotonicTime now);

// When next_target may change by time alone.
[[nodiscard]] std::optional<MonotonicTime> time_due(const CadencePolicy& policy,
                                                    const CadenceState& state);

}  // namespace pawl::checkpoint
