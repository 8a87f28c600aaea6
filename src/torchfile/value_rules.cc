// Keys, views and integers, judged as Python and PyTorch would. Pure.
#include "torchfile/value_rules.h"

#include "torchfile/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <type_traits>
#include <vector>

namespace pawl::torchfile {
namespace {

constexpr double kInt64Limit = 9223372036854775808.0;

bool is_negative(const std::string& bytes) {
    return !bytes.empty() && (static_cast<unsigned char>(bytes.back()) & 0x80U) != 0;
}

std::string without_superfluous_bytes(std::string bytes) {
    while (bytes.size() > 1) {
        const char fill = is_negative(bytes) ? '\xff' : '\0';
        const bool says_the_same_without =
            bytes.back() == fill &&
            is_negative(bytes.substr(bytes.size() - 2, 1)) == (fill == '\xff');
        if (!says_the_same_without) break;
        bytes.pop_back();
    }
    return bytes;
}

// A whole number from 2^63 on (or below -2^63), exactly.
std::string twos_complement_of(double number) {
    int exponent = 0;
    const double fraction = std::frexp(std::abs(number), &exponent);  // in [0.5, 1)
    auto mantissa = static_cast<std::uint64_t>(std::ldexp(fraction, 53));
    const auto shift = static_cast<std::size_t>(exponent - 53);
    std::string bytes(shift / 8, '\0');
    // Seven bits of shift and 53 of mantissa fit into 64.
    mantissa <<= shift % 8;
    for (int index = 0; index < 9; ++index, mantissa >>= 8)
        bytes += static_cast<char>(mantissa & 0xff);
    if (number < 0) {
        bool carry = true;
        for (char& byte : bytes) {
            byte = static_cast<char>(~byte);
            if (carry) carry = ++byte == 0;
        }
    }
    return without_superfluous_bytes(std::move(bytes));
}

std::optional<std::string> identity_of(double number) {
    if (std::isnan(number)) return std::nullopt;
    if (std::isinf(number) || std::trunc(number) != number) return fmt::format("f{}", number);
    if (number >= -kInt64Limit && number < kInt64Limit) {
        return fmt::format("i{}", static_cast<std::int64_t>(number));
    }
    return "I" + twos_complement_of(number);
}

// Each part with its length before it, so that no two sequences run into one text.
std::string joined(std::string kind, const std::vector<std::string>& parts) {
    for (const std::string& part : parts)
        kind += fmt::format("{}:{}", part.size(), part);
    return kind;
}

std::optional<std::vector<std::string>> identities_of(const std::vector<Value>& items) {
    std::vector<std::string> identities;
    identities.reserve(items.size());
    for (const Value& item : items) {
        auto identity = identity_of_key(item);
        if (!identity) return std::nullopt;
        identities.push_back(std::move(*identity));
    }
    return identities;
}

std::optional<std::string> identity_of(const Complex& number) {
    if (number.imaginary == 0) return identity_of(number.real);
    // A part that is NaN makes it unequal to itself.
    if (std::isnan(number.real) || std::isnan(number.imaginary)) return std::nullopt;
    const double real = number.real == 0 ? 0.0 : number.real;  // -0.0 == 0.0
    return fmt::format("c{} {}", real, number.imaginary);
}

bool same_bits(double left, double right) {
    return std::bit_cast<std::uint64_t>(left) == std::bit_cast<std::uint64_t>(right);
}

bool all_identical(const std::vector<Value>& left, const std::vector<Value>& right) {
    return std::equal(
        left.begin(), left.end(), right.begin(), right.end(),
        [](const Value& one, const Value& other) { return is_identical(one, other); });
}

bool all_identical(const Items& left, const Items& right) {
    return std::equal(left.begin(), left.end(), right.begin(), right.end(),
                      [](const auto& one, const auto& other) {
                          return is_identical(one.first, other.first) &&
                                 is_identical(one.second, other.second);
                      });
}

// Of what holds neither floats nor other values.
template <class Held>
bool is_identical(const Held& left, const Held& right) {
    return left == right;
}
bool is_identical(double left, double right) {
    return same_bits(left, right);
}
bool is_identical(const Complex& left, const Complex& right) {
    return same_bits(left.real, right.real) && same_bits(left.imaginary, right.imaginary);
}

// torch.Size is a tuple, and equal to one.
std::string identity_of(const Size& size) {
    std::vector<std::string> parts;
    parts.reserve(size.sizes.size());
    for (const std::int64_t one : size.sizes)
        parts.push_back(fmt::format("i{}", one));
    return joined("t", parts);
}

}  // namespace

bool is_identical(const Value& left, const Value& right) {
    return std::visit(
        [&right](const auto& held) {
            const auto* other = right.get_if<std::decay_t<decltype(held)>>();
            return other != nullptr && is_identical(held, *other);
        },
        left.data);
}

bool is_identical(const List& left, const List& right) {
    return all_identical(left.items, right.items);
}

bool is_identical(const Tuple& left, const Tuple& right) {
    return all_identical(left.items, right.items);
}

bool is_identical(const Set& left, const Set& right) {
    return left.is_frozen == right.is_frozen && all_identical(left.items, right.items);
}

bool is_identical(const Dict& left, const Dict& right) {
    return left.is_ordered_dict == right.is_ordered_dict &&
           all_identical(left.items, right.items) &&
           all_identical(left.attributes, right.attributes);
}

bool is_identical(const Tensor& left, const Tensor& right) {
    const auto bare = [](Tensor tensor) {
        tensor.attributes.clear();
        return tensor;
    };
    return all_identical(left.attributes, right.attributes) && bare(left) == bare(right);
}

std::optional<std::string> identity_of_key(const Value& key) {
    if (const auto* text = key.get_if<std::string>()) return "s" + *text;
    if (const auto* flag = key.get_if<bool>()) return *flag ? "i1" : "i0";
    if (const auto* integer = key.get_if<std::int64_t>()) return fmt::format("i{}", *integer);
    if (const auto* number = key.get_if<double>()) return identity_of(*number);
    if (const auto* big = key.get_if<BigInteger>()) return "I" + big->bytes;
    if (const auto* complex = key.get_if<Complex>()) return identity_of(*complex);
    if (const auto* bytes = key.get_if<Bytes>()) {
        if (bytes->is_bytearray) return std::nullopt;
        return "b" + bytes->data;
    }
    if (key.get_if<None>() != nullptr) return "n";
    if (const auto* tuple = key.get_if<Tuple>()) {
        const auto parts = identities_of(tuple->items);
        if (!parts) return std::nullopt;
        return joined("t", *parts);
    }
    if (const auto* set = key.get_if<Set>()) {
        auto parts = identities_of(set->items);
        if (!set->is_frozen || !parts) return std::nullopt;
        std::sort(parts->begin(), parts->end());
        return joined("z", *parts);
    }
    if (const auto* size = key.get_if<Size>()) return identity_of(*size);
    if (const auto* device = key.get_if<Device>()) {
        return fmt::format("d{}:{}", device->type,
                           device->index ? fmt::format("{}", *device->index) : "");
    }
    if (const auto* dtype = key.get_if<DType>()) return fmt::format("y{}", name_of(*dtype));
    return std::nullopt;
}

std::optional<std::string> problem_of_tensor(const Tensor& tensor, const Storage& storage) {
    const DType dtype = dtype_of(tensor, storage);
    const bool is_of_the_storage = record_type_of(dtype) == record_type_of(storage.dtype);
    if (!is_of_the_storage && storage.elements > 0) {
        return fmt::format("a tensor of {} lies in a storage of {}", name_of(dtype),
                           name_of(storage.dtype));
    }
    if (tensor.shape.size() != tensor.stride.size()) {
        return fmt::format("a tensor has {} dimensions but {} strides", tensor.shape.size(),
                           tensor.stride.size());
    }
    if (tensor.is_conjugate && !is_complex(dtype)) {
        return fmt::format("a tensor of {} is conjugated", name_of(dtype));
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
    if (overflows || static_cast<std::uint64_t>(last) >= storage.bytes() / item_bytes_of(dtype)) {
        return fmt::format("a tensor reaches beyond its storage '{}' of {} elements",
                           printable(storage.key), storage.elements);
    }
    return std::nullopt;
}

Value integer_from(std::string bytes) {
    bytes = without_superfluous_bytes(std::move(bytes));
    if (bytes.size() > sizeof(std::int64_t)) return BigInteger{std::move(bytes)};
    std::uint64_t bits = is_negative(bytes) ? ~std::uint64_t{0} : 0;
    for (std::size_t index = 0; index < bytes.size(); ++index) {
        bits &= ~(std::uint64_t{0xff} << (8 * index));
        bits |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[index])) << (8 * index);
    }
    return static_cast<std::int64_t>(bits);
}

bool is_canonical(const BigInteger& integer) {
    return integer.bytes.size() > sizeof(std::int64_t) &&
           without_superfluous_bytes(integer.bytes) == integer.bytes;
}

std::optional<std::size_t> bytes_of_numpy_type(std::string_view type) {
    constexpr std::array<std::string_view, 14> kTypes{"b1", "i1", "i2", "i4", "i8", "u1", "u2",
                                                      "u4", "u8", "f2", "f4", "f8", "c8", "c16"};
    if (std::find(kTypes.begin(), kTypes.end(), type) == kTypes.end()) return std::nullopt;
    return type == "c16" ? 16 : static_cast<std::size_t>(type[1] - '0');
}

}  // namespace pawl::torchfile
