// parse_duration() (see config.h) and its counterpart. Touches nothing.
#include "config/duration.h"

#include "config/config.h"

#include <array>
#include <charconv>
#include <cstdint>
#include <system_error>

namespace pawl::config {

namespace {

struct Unit {
    std::string_view suffix;
    std::int64_t nanoseconds;
};

// From the longest to the shortest: a text names each at most once, in this order.
constexpr std::array kUnits = {
    Unit{"d", 86'400'000'000'000}, Unit{"h", 3'600'000'000'000}, Unit{"m", 60'000'000'000},
    Unit{"s", 1'000'000'000},      Unit{"ms", 1'000'000},
};

Error bad_duration(std::string_view text) {
    return make_error(ErrorKind::kInvalidArgument,
                      "expected a duration such as 500ms, 30s, 5m, 1h30m or 2d, found '{}'", text);
}

// Up to the next digit: "m" of "m30s", so that "m" and "ms" are never taken for one another.
std::string_view leading_letters(std::string_view text) {
    return text.substr(0, text.find_first_of("0123456789"));
}

}  // namespace

Result<nanoseconds> parse_duration(std::string_view text) {
    if (text.empty()) return bad_duration(text);
    std::int64_t total = 0;
    std::size_t units_used = 0;
    std::string_view rest = text;
    while (!rest.empty()) {
        std::uint32_t amount = 0;
        const auto [end, code] = std::from_chars(rest.data(), rest.data() + rest.size(), amount);
        if (code == std::errc::invalid_argument) return bad_duration(text);
        rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
        const std::string_view suffix = leading_letters(rest);
        while (units_used < kUnits.size() && kUnits.at(units_used).suffix != suffix)
            ++units_used;
        if (units_used == kUnits.size()) return bad_duration(text);
        const std::int64_t unit = kUnits.at(units_used++).nanoseconds;
        if (code == std::errc::result_out_of_range ||
            amount > (kDurationMax.count() - total) / unit) {
            return make_error(ErrorKind::kInvalidArgument,
                              "expected a duration of at most {}, found '{}'",
                              exact_duration(kDurationMax), text);
        }
        total += amount * unit;
        rest.remove_prefix(suffix.size());
    }
    return nanoseconds{total};
}

std::string exact_duration(nanoseconds duration) {
    std::string text;
    std::int64_t rest = duration.count();
    for (const Unit& unit : kUnits) {
        if (rest >= unit.nanoseconds)
            text += fmt::format("{}{}", rest / unit.nanoseconds, unit.suffix);
        rest %= unit.nanoseconds;
    }
    return text.empty() ? "0s" : text;
}

}  // namespace pawl::config
