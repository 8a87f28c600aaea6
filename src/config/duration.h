// Durations as the configuration writes them.
#pragma once

#include "base/units.h"

#include <string>

namespace pawl::config {

// The longest that is taken: it keeps sums of a few durations far from overflow.
inline constexpr nanoseconds kDurationMax = std::chrono::hours{24} * 36'500;
static_assert(kDurationMax < nanoseconds::max() / 2);

// Exact to the millisecond, in the form parse_duration() reads: "1h30m", "500ms", "0s".
[[nodiscard]] std::string exact_duration(nanoseconds duration);

}  // namespace pawl::config
