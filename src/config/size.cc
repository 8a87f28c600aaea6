// See size.h. Touches nothing.
#include "config/size.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <system_error>

namespace pawl::config {

namespace {

struct Unit {
    std::string_view suffix;
    std::uint64_t bytes;
};

constexpr std::array kUnits = {
    Unit{"TiB", std::uint64_t{1} << 40},
    Unit{"GiB", std::uint64_t{1} << 30},
    Unit{"MiB", std::uint64_t{1} << 20},
    Unit{"KiB", std::uint64_t{1} << 10},
    Unit{"TB", 1'000'000'000'000},
    Unit{"GB", 1'000'000'000},
    Unit{"MB", 1'000'000},
    Unit{"kB", 1'000},
    Unit{"B", 1},
};

}  // namespace

Result<std::uint64_t> parse_bytes(std::string_view text) {
    std::uint64_t amount = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), amount);
    const std::string_view suffix = text.substr(static_cast<std::size_t>(end - text.data()));
    const auto unit = std::find_if(kUnits.begin(), kUnits.end(),
                                   [suffix](const Unit& each) { return each.suffix == suffix; });
    if (code == std::errc::invalid_argument || unit == kUnits.end()) {
        return make_error(ErrorKind::kInvalidArgument,
                          "expected a size such as 64KiB, 500MB or 10GiB, found '{}'", text);
    }
    if (code == std::errc::result_out_of_range || amount > kSizeMax / unit->bytes) {
        return make_error(ErrorKind::kInvalidArgument, "expected a size of at most {}, found '{}'",
                          exact_bytes(kSizeMax), text);
    }
    return amount * unit->bytes;
}

std::string exact_bytes(std::uint64_t bytes) {
    std::string shortest = fmt::format("{}B", bytes);
    for (const Unit& unit : kUnits) {
        if (bytes == 0 || bytes % unit.bytes != 0) continue;
        std::string text = fmt::format("{}{}", bytes / unit.bytes, unit.suffix);
        if (text.size() < shortest.size()) shortest = std::move(text);
    }
    return shortest;
}

}  // namespace pawl::config
