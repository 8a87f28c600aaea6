// What a value may be: ranges, and how messages say them. Knows no YAML and no key.
#pragma once

#include "base/units.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pawl::config {

// {"jobs", "lm", "ranks"}: no joined text, since a job's name may hold dots.
using KeyPath = std::vector<std::string>;

template <class T, class Tag = void>
struct Range {
    T min;
    T max;

    [[nodiscard]] constexpr bool contains(T value) const { return min <= value && value <= max; }
};
using Numbers = Range<std::uint64_t>;
using Sizes = Range<std::uint64_t, struct SizeTag>;  // in bytes
using Durations = Range<nanoseconds>;

// "a whole number from 1 to 1024", "a duration from 1s to 365d, such as 30s, 5m or 1h30m",
// "a size from 64KiB to 1TiB, such as 500MB or 10GiB".
[[nodiscard]] std::string describe(const Numbers& range);
[[nodiscard]] std::string describe(const Durations& range);
[[nodiscard]] std::string describe(const Sizes& range);

// A text from outside, for a message: in quotes, short, on one line.
[[nodiscard]] std::string in_quotes(std::string_view text);

}  // namespace pawl::config
