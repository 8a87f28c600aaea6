// Strong types for the integers that must not be mixed, and the two kinds of time.
#pragma once

#include <fmt/format.h>

#include <chrono>
#include <compare>
#include <cstdint>

namespace pawl {

// An unsigned count of one thing. Compared and copied; arithmetic is spelled out on `value`.
template <class Tag>
struct Count {
    std::uint64_t value = 0;

    constexpr Count() = default;
    constexpr explicit Count(std::uint64_t initial) : value(initial) {}
    // Clang-tidy 14 takes the comparison with zero for a pointer.
    // NOLINTNEXTLINE(modernize-use-nullptr)
    friend constexpr auto operator<=>(const Count&, const Count&) = default;
    [[nodiscard]] constexpr Count next() const { return Count{value + 1}; }
};

using Step = Count<struct StepTag>;                // optimizer steps completed
using Epoch = Count<struct EpochTag>;              // passes over the data completed
using Sequence = Count<struct SequenceTag>;        // of a job's checkpoints; never reused
using Incarnation = Count<struct IncarnationTag>;  // launches of a job's ranks; never reused
using Rank = Count<struct RankTag>;

// Never goes back and means nothing on another machine or after a boot: deadlines and durations.
using MonotonicTime = std::chrono::time_point<std::chrono::steady_clock, std::chrono::nanoseconds>;
// For people and for records; may jump.
using WallTime = std::chrono::sys_time<std::chrono::milliseconds>;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

}  // namespace pawl

template <class Tag>
struct fmt::formatter<pawl::Count<Tag>> : fmt::formatter<std::uint64_t> {
    template <class Context>
    auto format(const pawl::Count<Tag>& count, Context& context) const {
        return fmt::formatter<std::uint64_t>::format(count.value, context);
    }
};
