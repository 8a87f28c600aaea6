// Durations and sizes: what is taken, what is refused, and that what is written is read again.
#include "config/config.h"
#include "config/duration.h"
#include "config/size.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace pawl::config {

namespace {

using std::chrono::hours;
using std::chrono::minutes;

TEST(Durations, AreReadWithTheirUnits) {
    struct Row {
        std::string_view text;
        nanoseconds duration;
    };
    const std::vector<Row> rows = {
        {"500ms", milliseconds{500}},
        {"30s", seconds{30}},
        {"5m", minutes{5}},
        {"1h30m", minutes{90}},
        {"2d", hours{48}},
        {"0s", seconds{0}},
        {"1m500ms", milliseconds{60'500}},
        {"90m", minutes{90}},
        {"1d2h3m4s5ms", milliseconds{93'784'005}},
        {"36500d", hours{24} * 36'500},
    };

    for (const Row& row : rows) {
        const auto duration = parse_duration(row.text);

        ASSERT_TRUE(duration.has_value()) << row.text << ": " << duration.error().text();
        EXPECT_EQ(duration->count(), row.duration.count()) << row.text;
    }
}

TEST(Durations, WithoutUnitOrOrderAreRefused) {
    for (const std::string_view text :
         {"", "10", "0", "s", "ms", "1.5h", "-5s", "+5s", " 5s", "5s ", "5 s", "30m1h", "1s1s",
          "5S", "5sec", "1h30", "5us", "inf"}) {
        const auto duration = parse_duration(text);

        ASSERT_FALSE(duration.has_value()) << text;
        EXPECT_EQ(duration.error().text(),
                  "expected a duration such as 500ms, 30s, 5m, 1h30m or 2d, found '" +
                      std::string(text) + "'");
    }
}

TEST(Durations, BeyondACenturyAreRefusedAndDoNotOverflow) {
    for (const std::string_view text :
         {"36501d", "36500d1ms", "4294967295d", "4294967296s", "99999999999999999999999h"}) {
        const auto duration = parse_duration(text);

        ASSERT_FALSE(duration.has_value()) << text;
        EXPECT_EQ(duration.error().text(),
                  "expected a duration of at most 36500d, found '" + std::string(text) + "'");
    }
}

TEST(Sizes, AreReadWithTheirUnits) {
    struct Row {
        std::string_view text;
        std::uint64_t bytes;
    };
    const std::vector<Row> rows = {
        {"0B", 0},
        {"1B", 1},
        {"2kB", 2000},
        {"2KiB", 2048},
        {"500MB", 500'000'000},
        {"64MiB", std::uint64_t{64} << 20},
        {"3GB", 3'000'000'000},
        {"10GiB", std::uint64_t{10} << 30},
        {"2TB", 2'000'000'000'000},
        {"1TiB", std::uint64_t{1} << 40},
        {"1048576TiB", std::uint64_t{1} << 60},
    };

    for (const Row& row : rows) {
        const auto bytes = parse_bytes(row.text);

        ASSERT_TRUE(bytes.has_value()) << row.text << ": " << bytes.error().text();
        EXPECT_EQ(*bytes, row.bytes) << row.text;
        EXPECT_EQ(parse_bytes(exact_bytes(*bytes)).value(), row.bytes) << exact_bytes(*bytes);
    }
}

TEST(Sizes, WithoutUnitOrWithAnUnclearOneAreRefused) {
    for (const std::string_view text :
         {"", "10", "0", "B", "10G", "10K", "1.5GiB", "-1B", "+1B", " 1B", "1B ", "1 B", "10gib",
          "10Gib", "1e3B", "1GiB1MiB"}) {
        const auto bytes = parse_bytes(text);

        ASSERT_FALSE(bytes.has_value()) << text;
        EXPECT_EQ(bytes.error().text(), "expected a size such as 64KiB, 500MB or 10GiB, found '" +
                                            std::string(text) + "'");
    }
}

TEST(Sizes, BeyondAnExbibyteAreRefusedAndDoNotOverflow) {
    for (const std::string_view text :
         {"1048577TiB", "18446744073709551615B", "18446744073709551616B", "99999999999999999TB"}) {
        const auto bytes = parse_bytes(text);

        ASSERT_FALSE(bytes.has_value()) << text;
        EXPECT_EQ(bytes.error().text(),
                  "expected a size of at most 1048576TiB, found '" + std::string(text) + "'");
    }
}

TEST(Sizes, AreWrittenInTheShortestExactForm) {
    EXPECT_EQ(exact_bytes(std::uint64_t{10} << 30), "10GiB");
    EXPECT_EQ(exact_bytes(500'000'000), "500MB");
    EXPECT_EQ(exact_bytes(1025), "1025B");
    EXPECT_EQ(exact_bytes(0), "0B");
}

}  // namespace

}  // namespace pawl::config
