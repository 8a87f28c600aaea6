// What a job may be: the limits of its numbers, and the checks of a complete JobConfig.
//
// Knows no YAML: the same checks serve the file and the command line.
#pragma once

#include "config/config.h"

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pawl::config {

// {"jobs", "lm", "ranks"}: no joined text, since a job's name may hold dots.
using KeyPath = std::vector<std::string>;

template <class T>
struct Range {
    T min;
    T max;

    [[nodiscard]] constexpr bool contains(T value) const { return min <= value && value <= max; }
};
using Numbers = Range<std::uint64_t>;
using Durations = Range<nanoseconds>;

inline constexpr nanoseconds kDay = std::chrono::hours{24};
inline constexpr std::size_t kJobsMax = 256;
inline constexpr std::size_t kJobNameBytesMax = 64;
inline constexpr Numbers kRanks{1, 1024};
inline constexpr Numbers kEverySteps{1, 1'000'000'000'000};
inline constexpr Numbers kEveryEpochs{1, 1'000'000};
inline constexpr Durations kEveryTime{seconds{1}, 365 * kDay};
inline constexpr Numbers kKeepLast{1, 10'000};
inline constexpr Numbers kRestarts{0, 10'000};
inline constexpr Durations kRestartWindow{seconds{1}, 365 * kDay};
inline constexpr Durations kRestartDelay{milliseconds{1}, kDay};
inline constexpr Numbers kSameStepFailures{2, 1'000};
inline constexpr Durations kStopGrace{milliseconds{1}, kDay};

// "a whole number from 1 to 1024", "a duration from 1s to 365d, such as 30s, 5m or 1h30m".
[[nodiscard]] std::string describe(const Numbers& range);
[[nodiscard]] std::string describe(const Durations& range);

// A text from outside, for a message: in quotes, short, on one line.
[[nodiscard]] std::string in_quotes(std::string_view text);

struct Problem {
    KeyPath key;       // within the job; empty: its name
    std::string text;  // "expected …, found …"
};

[[nodiscard]] std::optional<Problem> first_problem(const JobConfig& job);

}  // namespace pawl::config
