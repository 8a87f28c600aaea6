// Which keys are equal, and how integers are kept.
#include "torchfile/value_rules.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace pawl::torchfile {
namespace {

using namespace std::string_literals;

Value two_to_the(int power) {
    std::string bytes(static_cast<std::size_t>(power / 8), '\0');
    bytes += static_cast<char>(1 << (power % 8));
    return integer_from(bytes + '\0');
}

TEST(Keys, AreTheSameWherePythonHoldsThemToBeEqual) {
    const std::vector<std::vector<Value>> rows = {
        {1, true, 1.0, Complex{.real = 1, .imaginary = 0}},
        {0, false, 0.0, -0.0, Complex{.real = -0.0, .imaginary = -0.0}},
        {-7, -7.0},
        {two_to_the(63), 9223372036854775808.0},
        {integer_from("\0\0\0\0\0\0\0\x80"s), -9223372036854775808.0},
        {two_to_the(64), 18446744073709551616.0},
        {two_to_the(100), std::ldexp(1.0, 100)},
        {two_to_the(1023), std::ldexp(1.0, 1023)},
        {integer_from(std::string(12, '\0') + "\xf0"s), -std::ldexp(1.0, 100)},
        {integer_from("\0\0\0\0\0\0\0\xff\xfe\xff"s), -std::ldexp(257.0, 56)},
        {std::numeric_limits<double>::infinity(), Complex{.real = INFINITY, .imaginary = 0}},
        {"1"},
        {Bytes{.data = "1"}},
        {None{}},
        {"None"},
        {Tuple{{1, 2}}, Tuple{{true, 2.0}}, Size{{1, 2}}},
        {Tuple{{12}}},
        {Tuple{{Tuple{{1}}, 2}}},
        {Set{.items = {1, 2}, .is_frozen = true}, Set{.items = {2, 1.0}, .is_frozen = true}},
        {Device{.type = "cuda", .index = std::nullopt}},
        {Device{.type = "cuda", .index = 0}},
        {DType::kInt8},
        {Complex{.real = 0, .imaginary = 1}, Complex{.real = -0.0, .imaginary = 1}},
    };
    for (std::size_t left = 0; left < rows.size(); ++left) {
        for (std::size_t right = 0; right < rows.size(); ++right) {
            for (const Value& one : rows[left]) {
                for (const Value& other : rows[right]) {
                    ASSERT_TRUE(identity_of_key(one)) << left;
                    EXPECT_EQ(identity_of_key(one) == identity_of_key(other), left == right)
                        << left << " " << right << " " << *identity_of_key(one);
                }
            }
        }
    }
}

TEST(Keys, AreNotWhatPythonCannotHash) {
    const Value rows[] = {List{},
                          Dict{},
                          Set{},
                          Bytes{.data = "", .is_bytearray = true},
                          Tensor{},
                          std::nan(""),
                          Complex{.real = 0, .imaginary = std::nan("")},
                          Tuple{{1, List{}}}};
    for (const Value& row : rows)
        EXPECT_FALSE(identity_of_key(row)) << row.type_name();
}

TEST(Integers, AreKeptInTheirShortestForm) {
    const struct {
        std::string bytes;
        Value integer;
    } rows[] = {
        {"", 0},
        {"\0"s, 0},
        {"\xff", -1},
        {"\x80", -128},
        {"\x80\0"s, 128},
        {"\xff\xff\xff", -1},
        {"\0\0\0\0\0\0\0\x80"s, std::numeric_limits<std::int64_t>::min()},
        {"\xff\xff\xff\xff\xff\xff\xff\x7f\0\0"s, std::numeric_limits<std::int64_t>::max()},
        {"\0\0\0\0\0\0\0\x80\0\0"s, BigInteger{"\0\0\0\0\0\0\0\x80\0"s}},
        {"\0\0\0\0\0\0\0\0\xff\xff"s, BigInteger{"\0\0\0\0\0\0\0\0\xff"s}},
    };
    for (const auto& row : rows) {
        const Value made = integer_from(row.bytes);

        EXPECT_EQ(made, row.integer);
        const auto* big = made.get_if<BigInteger>();
        EXPECT_TRUE(big == nullptr || is_canonical(*big));
    }
    EXPECT_FALSE(is_canonical(BigInteger{"\1"}));
    EXPECT_FALSE(is_canonical(BigInteger{"\0\0\0\0\0\0\0\x80\0\0"s}));
}

}  // namespace
}  // namespace pawl::torchfile
