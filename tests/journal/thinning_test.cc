// Which progress records stay, decided without a journal.
#include "journal/thinning.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace pawl::journal {
namespace {

using Kind = ProgressThinning::Kind;
using std::chrono::hours;
using std::chrono::minutes;
using testing::ElementsAre;
using testing::IsEmpty;

// In the middle of an hour, so that an age in minutes stays within it.
constexpr WallTime kNewest{hours{498'752} + minutes{30}};

bool stays(ProgressThinning& thinning, Kind kind, WallTime time) {
    return thinning.keeps_any(kind) || thinning.keeps(kind, time);
}

// One that has seen as many as are kept whatever their time is, all of them now.
ProgressThinning after_the_newest() {
    ProgressThinning thinning;
    for (std::size_t i = 0; i < kProgressRecordsKept; ++i)
        EXPECT_TRUE(stays(thinning, Kind::kStep, kNewest));
    for (std::size_t i = 0; i < kEpochEndsKept; ++i)
        EXPECT_TRUE(stays(thinning, Kind::kEpochEnd, kNewest));
    return thinning;
}

TEST(ProgressThinning, KeepsOfOlderRecordsTheLastOfEachMinuteThenOfEachHour) {
    struct Case {
        const char* name;
        Kind kind;
        std::vector<milliseconds> ages;  // newest first
        std::vector<bool> stay;
    };
    const milliseconds old = kProgressMinutesKept;
    for (const Case& one : {
             Case{"seconds of one minute",
                  Kind::kStep,
                  {seconds{1}, seconds{2}, seconds{59}},
                  {true, false, false}},
             Case{"minutes",
                  Kind::kStep,
                  {seconds{1}, seconds{61}, seconds{62}, seconds{121}},
                  {true, true, false, true}},
             Case{"the last within the days of minutes",
                  Kind::kStep,
                  {milliseconds{0}, old - minutes{2}, old - minutes{1}},
                  {true, true, true}},
             Case{"minutes of one hour, too old for minutes",
                  Kind::kStep,
                  {milliseconds{0}, old + minutes{1}, old + minutes{2}, old + minutes{3}},
                  {true, true, false, false}},
             Case{"hours, too old for minutes",
                  Kind::kStep,
                  {milliseconds{0}, old + minutes{1}, old + minutes{61}, old + minutes{121}},
                  {true, true, true, true}},
             Case{"ends of epochs have hours only",
                  Kind::kEpochEnd,
                  {seconds{1}, minutes{1}, minutes{2}, hours{1}},
                  {true, false, false, true}},
             Case{"a clock that was ahead",
                  Kind::kStep,
                  {hours{0}, -hours{1}, hours{0}},
                  {true, true, true}},
         }) {
        SCOPED_TRACE(one.name);
        ProgressThinning thinning = after_the_newest();

        std::vector<bool> stay;
        for (const milliseconds age : one.ages)
            stay.push_back(stays(thinning, one.kind, kNewest - age));

        EXPECT_EQ(stay, one.stay);
    }
}

TEST(ProgressThinning, EndsOfEpochsAndStepsTakeNoRoomFromEachOther) {
    ProgressThinning thinning;
    for (std::size_t i = 0; i < kProgressRecordsKept; ++i)
        ASSERT_TRUE(thinning.keeps_any(Kind::kStep));

    EXPECT_FALSE(thinning.keeps_any(Kind::kStep));
    EXPECT_TRUE(thinning.keeps_any(Kind::kEpochEnd));
}

// A year of one record a second, thinned as it grows.
TEST(ProgressThinning, AYearOfOneRecordASecondStaysBoundedAndEveryPassAgreesWithTheLast) {
    constexpr std::int64_t kDay = std::int64_t{24} * 3600;
    std::vector<std::int64_t> kept;  // seconds since the beginning, oldest first
    std::size_t most = 0;
    const auto thin = [](const std::vector<std::int64_t>& before) {
        ProgressThinning thinning;
        std::vector<std::int64_t> after;
        for (auto at = before.rbegin(); at != before.rend(); ++at) {
            if (stays(thinning, Kind::kStep, WallTime{seconds{*at}})) after.push_back(*at);
        }
        std::reverse(after.begin(), after.end());
        return after;
    };

    for (std::int64_t day = 0; day < 365; ++day) {
        for (std::int64_t second = day * kDay; second < (day + 1) * kDay; ++second)
            kept.push_back(second);
        kept = thin(kept);
        most = std::max(most, kept.size());
    }

    const auto minutes_kept = static_cast<std::size_t>(minutes(kProgressMinutesKept).count());
    EXPECT_LE(most, kProgressRecordsKept + minutes_kept + 365 * 24 + 2);
    EXPECT_EQ(kept.back(), 365 * kDay - 1);
    EXPECT_EQ(thin(kept), kept);
    std::int64_t widest = 0;
    for (std::size_t i = 1; i < kept.size(); ++i)
        widest = std::max(widest, kept[i] - kept[i - 1]);
    EXPECT_LE(widest, 2 * 3600);
}

}  // namespace
}  // namespace pawl::journal
