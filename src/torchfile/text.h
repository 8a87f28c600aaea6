// Text that comes from a file or goes into one: checked before it is used, made safe before it is
// shown. Private to torchfile.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace pawl::torchfile {

// As Python's strict codec: no overlong form, no surrogate, nothing above U+10FFFF.
[[nodiscard]] inline bool is_valid_utf8(std::string_view text) {
    std::size_t at = 0;
    const auto byte_at = [&text](std::size_t index) {
        return static_cast<std::uint32_t>(static_cast<unsigned char>(text[index]));
    };
    while (at < text.size()) {
        const std::uint32_t first = byte_at(at);
        const std::size_t length = first < 0x80             ? 1
                                   : (first & 0xe0) == 0xc0 ? 2
                                   : (first & 0xf0) == 0xe0 ? 3
                                   : (first & 0xf8) == 0xf0 ? 4
                                                            : 0;
        if (length == 0 || length > text.size() - at) return false;
        std::uint32_t code = length == 1 ? first : first & (0x7fU >> length);
        for (std::size_t index = 1; index < length; ++index) {
            const std::uint32_t next = byte_at(at + index);
            if ((next & 0xc0) != 0x80) return false;
            code = (code << 6) | (next & 0x3f);
        }
        constexpr std::array<std::uint32_t, 5> kLowest{0, 0, 0x80, 0x800, 0x10000};
        if (code < kLowest[length] || code > 0x10ffff) return false;
        if (code >= 0xd800 && code <= 0xdfff) return false;
        at += length;
    }
    return true;
}

// For messages: what a hostile file calls itself must not reach a terminal or a log as it is.
[[nodiscard]] inline std::string printable(std::string_view text) {
    constexpr std::size_t kShownMax = 120;
    std::string shown;
    for (const char character : text.substr(0, kShownMax)) {
        shown += (character >= ' ' && character <= '~') ? character : '?';
    }
    if (text.size() > kShownMax) shown += "...";
    return shown;
}

}  // namespace pawl::torchfile
