// Decoding of UTF-8, strict and as Python pickles it, and what messages show. Pure.
#include "torchfile/text.h"

#include <fmt/format.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>

namespace pawl::torchfile {
namespace {

struct Character {
    std::uint32_t code = 0;
    std::size_t bytes = 0;

    [[nodiscard]] bool is_surrogate() const { return code >= 0xd800 && code <= 0xdfff; }
};

// The character at `at`, surrogates included; nothing if the bytes there are none.
std::optional<Character> character_at(std::string_view text, std::size_t at) {
    const auto byte_at = [&text](std::size_t index) {
        return static_cast<std::uint32_t>(static_cast<unsigned char>(text[index]));
    };
    const std::uint32_t first = byte_at(at);
    const std::size_t length = first < 0x80             ? 1
                               : (first & 0xe0) == 0xc0 ? 2
                               : (first & 0xf0) == 0xe0 ? 3
                               : (first & 0xf8) == 0xf0 ? 4
                                                        : 0;
    if (length == 0 || length > text.size() - at) return std::nullopt;
    std::uint32_t code = length == 1 ? first : first & (0x7fU >> length);
    for (std::size_t index = 1; index < length; ++index) {
        const std::uint32_t next = byte_at(at + index);
        if ((next & 0xc0) != 0x80) return std::nullopt;
        code = (code << 6) | (next & 0x3f);
    }
    constexpr std::array<std::uint32_t, 5> kLowest{0, 0, 0x80, 0x800, 0x10000};
    if (code < kLowest[length] || code > 0x10ffff) return std::nullopt;
    return Character{.code = code, .bytes = length};
}

}  // namespace

bool is_valid_utf8(std::string_view text) {
    for (std::size_t at = 0; at < text.size();) {
        const auto character = character_at(text, at);
        if (!character || character->is_surrogate()) return false;
        at += character->bytes;
    }
    return true;
}

bool is_valid_str(std::string_view text) {
    for (std::size_t at = 0; at < text.size();) {
        const auto character = character_at(text, at);
        if (!character) return false;
        at += character->bytes;
    }
    return true;
}

std::string printable(std::string_view text) {
    constexpr std::size_t kShownMax = 120;
    std::string shown;
    for (const char character : text.substr(0, kShownMax)) {
        shown += (character >= ' ' && character <= '~') ? character : '?';
    }
    if (text.size() > kShownMax) shown += "...";
    return shown;
}

std::string escaped(std::string_view text) {
    std::string shown;
    for (std::size_t at = 0; at < text.size();) {
        const auto character = character_at(text, at);
        if (!character) {
            fmt::format_to(std::back_inserter(shown), "\\x{:02x}",
                           static_cast<unsigned char>(text[at]));
            ++at;
            continue;
        }
        // C0, DEL and C1: a terminal obeys them.
        const bool is_control =
            character->code < 0x20 || (character->code >= 0x7f && character->code < 0xa0);
        if (character->code == '\n') {
            shown += "\\n";
        } else if (is_control) {
            fmt::format_to(std::back_inserter(shown), "\\x{:02x}", character->code);
        } else if (character->is_surrogate()) {
            fmt::format_to(std::back_inserter(shown), "\\u{:04x}", character->code);
        } else {
            shown += text.substr(at, character->bytes);
        }
        at += character->bytes;
    }
    return shown;
}

}  // namespace pawl::torchfile
