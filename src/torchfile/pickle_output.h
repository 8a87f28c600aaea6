// Opcodes, numbers and names of a pickle, appended one after another. Private to torchfile.
//
// Strings and globals are written once and fetched from the memo after that, so a key that occurs
// in a thousand dicts costs two bytes.
#pragma once

#include "torchfile/pickle_format.h"

#include <fmt/format.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace pawl::torchfile {

class PickleOutput {
public:
    void put(Opcode opcode) { bytes_.push_back(static_cast<std::byte>(opcode)); }

    void put_little_endian(std::uint64_t value, std::size_t bytes) {
        for (std::size_t index = 0; index < bytes; ++index) {
            bytes_.push_back(static_cast<std::byte>((value >> (8 * index)) & 0xff));
        }
    }

    void put_text(std::string_view text) {
        const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
        bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    }

    void put_flag(bool flag) { put(flag ? Opcode::kNewTrue : Opcode::kNewFalse); }

    void put_integer(std::int64_t integer) {
        const auto bits = static_cast<std::uint64_t>(integer);
        if (integer >= 0 && integer <= 0xff) {
            put(Opcode::kBinInt1);
            put_little_endian(bits, 1);
        } else if (integer >= 0 && integer <= 0xffff) {
            put(Opcode::kBinInt2);
            put_little_endian(bits, 2);
        } else if (integer >= std::numeric_limits<std::int32_t>::min() &&
                   integer <= std::numeric_limits<std::int32_t>::max()) {
            put(Opcode::kBinInt);
            put_little_endian(bits, 4);
        } else {
            put(Opcode::kLong1);
            put_little_endian(sizeof bits, 1);
            put_little_endian(bits, sizeof bits);
        }
    }

    // Two's complement.
    void put_long(std::string_view bytes) {
        const bool is_short = bytes.size() <= 0xff;
        put(is_short ? Opcode::kLong1 : Opcode::kLong4);
        put_little_endian(bytes.size(), is_short ? 1 : 4);
        put_text(bytes);
    }

    void put_float(double number) {
        put(Opcode::kBinFloat);
        const auto bits = std::bit_cast<std::uint64_t>(number);
        for (int shift = 56; shift >= 0; shift -= 8)
            put_little_endian((bits >> shift) & 0xff, 1);
    }

    // At most 4 GiB - 1 of what is_valid_str() takes.
    void put_string(std::string_view text) {
        if (fetch_named(text)) return;
        put(Opcode::kBinUnicode);
        put_little_endian(text.size(), 4);
        put_text(text);
        memo_.emplace(std::string(text), memoise());
    }

    void put_global(std::string_view module, std::string_view name) {
        // The byte 0xff is in no string of a document, so none has the same name.
        std::string memo_name = fmt::format("{}\n{}\n", module, name) + '\xff';
        if (fetch_named(memo_name)) return;
        put(Opcode::kGlobal);
        put_text(fmt::format("{}\n{}\n", module, name));
        memo_.emplace(std::move(memo_name), memoise());
    }

    // Tuples of one to three items need no mark.
    void begin_tuple(std::size_t items) {
        if (items > 3) put(Opcode::kMark);
    }

    void end_tuple(std::size_t items) {
        switch (items) {
            case 0:
                return put(Opcode::kEmptyTuple);
            case 1:
                return put(Opcode::kTuple1);
            case 2:
                return put(Opcode::kTuple2);
            case 3:
                return put(Opcode::kTuple3);
            default:
                return put(Opcode::kTuple);
        }
    }

    void put_integers(const std::vector<std::int64_t>& integers) {
        begin_tuple(integers.size());
        for (const std::int64_t integer : integers)
            put_integer(integer);
        end_tuple(integers.size());
    }

    // Gives what was put last a number in the memo.
    std::uint32_t memoise() {
        put_memo(Opcode::kBinPut, Opcode::kLongBinPut, memo_entries_);
        return memo_entries_++;
    }

    void fetch(std::uint32_t memo_index) {
        put_memo(Opcode::kBinGet, Opcode::kLongBinGet, memo_index);
    }

    [[nodiscard]] std::vector<std::byte> take() && { return std::move(bytes_); }

private:
    bool fetch_named(std::string_view name) {
        const auto found = memo_.find(std::string(name));
        if (found == memo_.end()) return false;
        fetch(found->second);
        return true;
    }

    void put_memo(Opcode of_one_byte, Opcode of_four_bytes, std::uint32_t index) {
        const bool is_short = index <= 0xff;
        put(is_short ? of_one_byte : of_four_bytes);
        put_little_endian(index, is_short ? 1 : 4);
    }

    std::vector<std::byte> bytes_;
    std::unordered_map<std::string, std::uint32_t> memo_;
    std::uint32_t memo_entries_ = 0;
};

}  // namespace pawl::torchfile
