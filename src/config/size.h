// Sizes as the configuration writes them: "10GiB" (of 1024), "500MB" (of 1000).
#pragma once

#include "base/result.h"

#include <cstdint>
#include <string>
#include <string_view>

namespace pawl::config {

inline constexpr std::uint64_t kSizeMax = std::uint64_t{1} << 60;

// A whole number and a unit: B, kB, MB, GB, TB, KiB, MiB, GiB, TiB. Anything else is refused: no
// fractions (1536MiB, not 1.5GiB), no bare number, no "10G", of which half the world thinks 2^30.
[[nodiscard]] Result<std::uint64_t> parse_bytes(std::string_view text);

// The shortest text that parse_bytes() reads as just this: "10GiB", "500MB", "0B".
[[nodiscard]] std::string exact_bytes(std::uint64_t bytes);

}  // namespace pawl::config
