// Attendance: have all ranks of an incarnation attached in time? Core: the shell says who came.
//
// A command may have no client of pawl at all. Only once a rank has attached are the others
// awaited: then a checkpoint needs them all.
#pragma once

#include "base/units.h"

#include <optional>
#include <set>
#include <string>

namespace pawl::staging {

class Attendance {
public:
    Attendance(std::uint64_t world_size, nanoseconds timeout)
        : world_size_(world_size), timeout_(timeout) {}

    void attached(Rank rank, MonotonicTime now);
    // Before it was told what to resume from: it may attach again.
    void left(Rank rank);

    // When the wait for the others is over; nullopt while there is nothing to wait for.
    [[nodiscard]] std::optional<MonotonicTime> limit() const;
    // Who has not come, in words, once the limit has passed. Said once.
    [[nodiscard]] std::optional<std::string> overdue(MonotonicTime now);

private:
    std::uint64_t world_size_;
    nanoseconds timeout_;
    std::set<Rank> attached_;
    std::optional<MonotonicTime> since_;  // the first has attached
    bool is_over_ = false;
};

}  // namespace pawl::staging
