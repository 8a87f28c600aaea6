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

// ---- every: auto ----
//
// Young's interval, sqrt(2 * cost * mean time between failures): what checkpoints cost then equals
// what failures are expected to cost, and their sum is least. Bounded, because both are guesses.

inline constexpr nanoseconds kAutomaticMin = seconds{10};
inline constexpr nanoseconds kAutomaticMax = std::chrono::hours{1};
// Until something is measured: soon, so that something is.
inline constexpr nanoseconds kAutomaticFirst = seconds{60};
// Before there is any history: one failure in a day. Counts as much as a day that was seen.
inline constexpr nanoseconds kFailurePrior = std::chrono::hours{24};
// Writing goes on beside training and slows it down: so much of its time counts as lost.
inline constexpr double kWriteShare = 0.1;
static_assert(kAutomaticMin < kAutomaticFirst && kAutomaticFirst < kAutomaticMax);

struct FailureHistory {
    std::uint64_t failures = 0;
    nanoseconds observed{};  // how long incarnations ran, together

    friend bool operator==(const FailureHistory&, const FailureHistory&) = default;
};

[[nodiscard]] nanoseconds mean_time_between_failures(const FailureHistory& history);

// `stall`: the longest that a rank stood still for the snapshot. `before`: the estimate so far, of
// which half is kept, so that one slow disk write does not turn everything over.
[[nodiscard]] nanoseconds checkpoint_cost(std::optional<nanoseconds> before, nanoseconds stall,
                                          nanoseconds write);

// Never shorter than twice the cost, whatever fails how often.
[[nodiscard]] nanoseconds automatic_interval(std::optional<nanoseconds> cost,
                                             const FailureHistory& history);

}  // namespace pawl::checkpoint
