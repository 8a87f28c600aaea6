// What pickle_writer.cc and pickle_reader.cc agree on: opcodes, names, limits and two rules.
// Private to torchfile. Opcodes and their meaning: Python's Lib/pickletools.py.
#pragma once

#include "base/result.h"
#include "torchfile/value.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace pawl::torchfile {

enum class Opcode : std::uint8_t {
    kProto = 0x80,
    kMark = '(',
    kStop = '.',
    kNone = 'N',
    kNewTrue = 0x88,
    kNewFalse = 0x89,
    kBinInt = 'J',
    kBinInt1 = 'K',
    kBinInt2 = 'M',
    kLong1 = 0x8a,
    kBinFloat = 'G',
    kBinUnicode = 'X',
    kShortBinString = 'U',
    kEmptyList = ']',
    kEmptyTuple = ')',
    kEmptyDict = '}',
    kTuple = 't',
    kTuple1 = 0x85,
    kTuple2 = 0x86,
    kTuple3 = 0x87,
    kAppend = 'a',
    kAppends = 'e',
    kSetItem = 's',
    kSetItems = 'u',
    kBinPut = 'q',
    kLongBinPut = 'r',
    kBinGet = 'h',
    kLongBinGet = 'j',
    kGlobal = 'c',
    kReduce = 'R',
    kBuild = 'b',
    kBinPersId = 'Q',
};

inline constexpr std::uint8_t kPickleProtocol = 2;
// Of lists, tuples and dicts within one another. Real files need about ten.
inline constexpr std::size_t kNestingMax = 200;
// Keeps a storage's size in bytes within an int64, whatever its type.
inline constexpr std::uint64_t kStorageElementsMax = std::uint64_t{1} << 58;

// Two keys that Python holds to be the same (1, True and 1.0) have the same identity. Nothing for
// what can't be a key here: None, containers, tensors and NaN, which nobody could look up.
[[nodiscard]] inline std::optional<std::string> identity_of_key(const Value& key) {
    if (const auto* text = key.get_if<std::string>()) return "s" + *text;
    if (const auto* flag = key.get_if<bool>()) return *flag ? "i1" : "i0";
    if (const auto* integer = key.get_if<std::int64_t>()) return fmt::format("i{}", *integer);
    if (const auto* number = key.get_if<double>()) {
        constexpr double kInt64Limit = 9223372036854775808.0;
        if (std::isnan(*number)) return std::nullopt;
        if (std::trunc(*number) == *number && std::abs(*number) < kInt64Limit) {
            return fmt::format("i{}", static_cast<std::int64_t>(*number));
        }
        return fmt::format("f{}", *number);
    }
    return std::nullopt;
}

// Whether every element of the view lies within the storage. Says what is wrong, or nothing.
[[nodiscard]] inline std::optional<std::string> problem_of_view(const Tensor& tensor,
                                                                const Storage& storage) {
    if (tensor.shape.size() != tensor.stride.size()) {
        return fmt::format("a tensor has {} dimensions but {} strides", tensor.shape.size(),
                           tensor.stride.size());
    }
    if (tensor.offset < 0) return fmt::format("a tensor has offset {}", tensor.offset);
    bool is_empty = false;
    bool overflows = false;
    std::int64_t last = tensor.offset;
    for (std::size_t axis = 0; axis < tensor.shape.size(); ++axis) {
        if (tensor.shape[axis] < 0 || tensor.stride[axis] < 0) {
            return fmt::format("a tensor has size {} and stride {} in dimension {}",
                               tensor.shape[axis], tensor.stride[axis], axis);
        }
        if (tensor.shape[axis] == 0) {
            is_empty = true;
            continue;
        }
        std::int64_t reach = 0;
        overflows |= __builtin_mul_overflow(tensor.shape[axis] - 1, tensor.stride[axis], &reach);
        overflows |= __builtin_add_overflow(last, reach, &last);
    }
    // Without elements nothing is ever read; PyTorch writes such views with any offset.
    if (is_empty) return std::nullopt;
    if (overflows || static_cast<std::uint64_t>(last) >= storage.elements) {
        return fmt::format("a tensor reaches beyond its storage '{}' of {} elements", storage.key,
                           storage.elements);
    }
    return std::nullopt;
}

}  // namespace pawl::torchfile
