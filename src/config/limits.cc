// See limits.h.
#include "config/limits.h"

#include "config/duration.h"
#include "config/size.h"

namespace pawl::config {

std::string describe(const Numbers& range) {
    return fmt::format("a whole number from {} to {}", range.min, range.max);
}

std::string describe(const Durations& range) {
    return fmt::format("a duration from {} to {}, such as 30s, 5m or 1h30m",
                       exact_duration(range.min), exact_duration(range.max));
}

std::string describe(const Sizes& range) {
    return fmt::format("a size from {} to {}, such as 500MB or 10GiB", exact_bytes(range.min),
                       exact_bytes(range.max));
}

std::string in_quotes(std::string_view text) {
    constexpr std::size_t kBytesMax = 80;
    std::string line(text.substr(0, kBytesMax));
    for (char& character : line) {
        if (static_cast<unsigned char>(character) < ' ') character = ' ';
    }
    return fmt::format("'{}{}'", line, text.size() > kBytesMax ? "..." : "");
}

}  // namespace pawl::config
