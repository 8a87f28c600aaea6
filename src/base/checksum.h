// CRC-32 (zip's) and XXH3-128 (the manifest's), at the speed of memory.
#pragma once

#include "base/result.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace pawl {

// IEEE 802.3 polynomial, reflected, as in zip, gzip and PNG. `previous` is the CRC of what came
// before.
[[nodiscard]] std::uint32_t crc32(std::span<const std::byte> bytes, std::uint32_t previous = 0);

struct Digest {
    // Canonical (big-endian) byte order, as `xxhsum -H128` prints it.
    std::array<std::uint8_t, 16> bytes{};

    [[nodiscard]] std::string hex() const;
    [[nodiscard]] static Result<Digest> from_hex(std::string_view text);
    friend bool operator==(const Digest&, const Digest&) = default;
};

// The vector path (AVX-512, AVX2 or SSE2) is chosen once, at run time, by what the processor has.
[[nodiscard]] Digest xxh3_128(std::span<const std::byte> bytes);

}  // namespace pawl
