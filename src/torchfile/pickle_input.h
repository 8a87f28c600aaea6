// The bytes of a pickle, taken one after another and never beyond their end. Private to torchfile.
#pragma once

#include "base/result.h"
#include "torchfile/text.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

namespace pawl::torchfile {

class PickleInput {
public:
    explicit PickleInput(std::span<const std::byte> bytes) : bytes_(bytes) {}

    [[nodiscard]] std::size_t position() const { return position_; }
    [[nodiscard]] std::size_t bytes_left() const { return bytes_.size() - position_; }

    Result<std::span<const std::byte>> take(std::uint64_t bytes) {
        if (bytes > bytes_left()) {
            return make_error(ErrorKind::kCorrupt,
                              "it ends too early: {} bytes are to follow, {} do", bytes,
                              bytes_left());
        }
        const auto taken = bytes_.subspan(position_, bytes);
        position_ += bytes;
        return taken;
    }

    // Little-endian, of up to 8 bytes.
    Result<std::uint64_t> take_integer(std::size_t bytes) {
        auto taken = take(bytes);
        if (!taken) return std::move(taken).error();
        std::uint64_t integer = 0;
        for (std::size_t index = 0; index < bytes; ++index) {
            integer |= std::to_integer<std::uint64_t>((*taken)[index]) << (8 * index);
        }
        return integer;
    }

    // After a length of its own.
    Result<std::string> take_bytes(std::size_t bytes_of_length) {
        auto length = take_integer(bytes_of_length);
        if (!length) return std::move(length).error();
        auto taken = take(*length);
        if (!taken) return std::move(taken).error();
        return std::string(reinterpret_cast<const char*>(taken->data()), taken->size());
    }

    Result<std::string> take_text(std::size_t bytes_of_length) {
        auto text = take_bytes(bytes_of_length);
        if (text && !is_valid_str(*text)) {
            return make_error(ErrorKind::kCorrupt, "a string is not valid UTF-8");
        }
        return text;
    }

    // Up to the next newline, which is taken too. Names of modules and classes.
    Result<std::string> take_line() {
        const auto rest = bytes_.subspan(position_);
        const void* const found =
            rest.empty() ? nullptr : std::memchr(rest.data(), '\n', rest.size());
        if (found == nullptr) return make_error(ErrorKind::kCorrupt, "it ends within a name");
        const auto length =
            static_cast<std::size_t>(static_cast<const std::byte*>(found) - rest.data());
        if (length > kLineBytesMax) {
            return make_error(ErrorKind::kCorrupt, "a name has {} bytes", length);
        }
        std::string line(reinterpret_cast<const char*>(rest.data()), length);
        position_ += length + 1;
        return line;
    }

private:
    static constexpr std::size_t kLineBytesMax = 1024;

    std::span<const std::byte> bytes_;
    std::size_t position_ = 0;
};

}  // namespace pawl::torchfile
