// See clock.h.
#include "base/clock.h"

#include <time.h>

#include <algorithm>
#include <array>
#include <cstdio>

namespace pawl {

MonotonicTime SystemClock::monotonic_now() const {
    return std::chrono::time_point_cast<nanoseconds>(std::chrono::steady_clock::now());
}

WallTime SystemClock::wall_now() const {
    return std::chrono::time_point_cast<milliseconds>(std::chrono::system_clock::now());
}

std::string format_time(WallTime time) {
    const auto count = time.time_since_epoch().count();
    auto second = static_cast<time_t>(count / 1000);
    auto millisecond = static_cast<int>(count % 1000);
    if (millisecond < 0) {
        millisecond += 1000;
        --second;
    }
    struct tm parts = {};
    ::gmtime_r(&second, &parts);
    return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", parts.tm_year + 1900,
                       parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec,
                       millisecond);
}

Result<WallTime> parse_time(std::string_view text) {
    const std::string copy(text);
    struct tm parts = {};
    int millisecond = 0;
    int consumed = 0;
    // NOLINTNEXTLINE(cert-err34-c): at most four digits a field can't overflow
    const int fields = std::sscanf(copy.c_str(), "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ%n", &parts.tm_year,
                                   &parts.tm_mon, &parts.tm_mday, &parts.tm_hour, &parts.tm_min,
                                   &parts.tm_sec, &millisecond, &consumed);
    if (fields != 7 || consumed != static_cast<int>(copy.size())) {
        return make_error(ErrorKind::kInvalidArgument,
                          "'{}' is no time of the form 2026-01-31T23:59:59.000Z", text);
    }
    parts.tm_year -= 1900;
    parts.tm_mon -= 1;
    const time_t second = ::timegm(&parts);
    return WallTime{milliseconds{static_cast<std::int64_t>(second) * 1000 + millisecond}};
}

std::string format_duration(nanoseconds duration) {
    if (duration < nanoseconds::zero()) return "-" + format_duration(-duration);
    const auto ms = std::chrono::duration_cast<milliseconds>(duration).count();
    if (ms < 1000) return fmt::format("{}ms", ms);
    if (ms < 10'000) return fmt::format("{}.{}s", ms / 1000, ms % 1000 / 100);
    const auto total = ms / 1000;
    if (total < 60) return fmt::format("{}s", total);
    if (total < 3600) return fmt::format("{}m{:02}s", total / 60, total % 60);
    if (total < 86'400) return fmt::format("{}h{:02}m", total / 3600, total % 3600 / 60);
    return fmt::format("{}d{:02}h", total / 86'400, total % 86'400 / 3600);
}

std::string format_age(WallTime then, WallTime now) {
    // Two processes that look at one moment may differ a little.
    constexpr nanoseconds kSkew = seconds{1};
    if (then > now + kSkew) return fmt::format("dated {} ahead", format_duration(then - now));
    return format_duration(std::max(nanoseconds::zero(), nanoseconds{now - then})) + " ago";
}

std::string format_bytes(std::uint64_t bytes) {
    constexpr std::array kUnits = {"KiB", "MiB", "GiB", "TiB", "PiB"};
    if (bytes < 1024) return fmt::format("{} B", bytes);
    auto amount = static_cast<double>(bytes) / 1024;
    std::size_t unit = 0;
    while (amount >= 1023.95 && unit + 1 < kUnits.size()) {
        amount /= 1024;
        ++unit;
    }
    return fmt::format("{:.1f} {}", amount, kUnits.at(unit));
}

}  // namespace pawl
