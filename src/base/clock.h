// The Clock seam, and times as people read them.
#pragma once

#include "base/result.h"
#include "base/units.h"

#include <string>
#include <string_view>

namespace pawl {

// Thread-safe.
class Clock {
public:
    virtual ~Clock() = default;
    [[nodiscard]] virtual MonotonicTime monotonic_now() const = 0;
    [[nodiscard]] virtual WallTime wall_now() const = 0;
};

class SystemClock final : public Clock {
public:
    [[nodiscard]] MonotonicTime monotonic_now() const override;
    [[nodiscard]] WallTime wall_now() const override;
};

// "2026-11-24T08:25:58.123Z", as in manifests and journal records (RFC 3339, UTC).
[[nodiscard]] std::string format_time(WallTime time);
[[nodiscard]] Result<WallTime> parse_time(std::string_view text);

// For people: "850ms", "12s", "3m05s", "2h10m", "5d03h".
[[nodiscard]] std::string format_duration(nanoseconds duration);
// For people: "3m05s ago"; "dated 1d00h ahead" if the clock was set back since.
[[nodiscard]] std::string format_age(WallTime then, WallTime now);
// For people, with binary units: "512 B", "3.1 MiB".
[[nodiscard]] std::string format_bytes(std::uint64_t bytes);

}  // namespace pawl
