// What makes a value one that Python could hold: which keys are equal, which views lie within their
// storage, how large integers are kept. The same for what is read and what is written. Private to
// torchfile. Pure.
#pragma once

#include "torchfile/value.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace pawl::torchfile {

// Keeps a storage's size in bytes within an int64, whatever its type.
inline constexpr std::uint64_t kStorageElementsMax = std::uint64_t{1} << 58;

// Two keys that Python holds to be the same (1, True, 1.0, 1+0j) have the same identity. Nothing
// for what can't be a key here: lists, dicts, sets, bytearrays, tensors, and NaN, which nobody
// could look up.
[[nodiscard]] std::optional<std::string> identity_of_key(const Value& key);

// Whether every element of the view lies within the storage and both agree on what its bytes are.
// Says what is wrong, or nothing.
[[nodiscard]] std::optional<std::string> problem_of_tensor(const Tensor& tensor,
                                                           const Storage& storage);

// Equal to the last bit: NaN is NaN, and -0.0 is not 0.0. Object numbers do not count.
[[nodiscard]] bool is_identical(const Value& left, const Value& right);
[[nodiscard]] bool is_identical(const List& left, const List& right);
[[nodiscard]] bool is_identical(const Tuple& left, const Tuple& right);
[[nodiscard]] bool is_identical(const Set& left, const Set& right);
[[nodiscard]] bool is_identical(const Dict& left, const Dict& right);
[[nodiscard]] bool is_identical(const Tensor& left, const Tensor& right);

// An int from its two's complement, little-endian: an std::int64_t where it fits, a BigInteger
// without superfluous bytes else. No bytes: 0, as Python has it.
[[nodiscard]] Value integer_from(std::string bytes);

// Whether integer_from() could have made it.
[[nodiscard]] bool is_canonical(const BigInteger& integer);

// Bytes of one NumPy scalar of this type; nothing for types that are not known.
[[nodiscard]] std::optional<std::size_t> bytes_of_numpy_type(std::string_view type);

}  // namespace pawl::torchfile
