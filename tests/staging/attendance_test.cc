// Who has attached in time, and what is said of those who may not.
#include "staging/attendance.h"

#include "staging/complaints.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pawl::staging {
namespace {

constexpr MonotonicTime at(int second) {
    return MonotonicTime{seconds{second}};
}

TEST(Attendance, ACommandThatNeverAttachesIsNotWaitedFor) {
    Attendance attendance(4, seconds{10});

    EXPECT_FALSE(attendance.limit().has_value());
    EXPECT_FALSE(attendance.overdue(at(1'000'000)).has_value());
}

TEST(Attendance, OnceOneHasAttachedTheOthersMustWithinTheLimitAndAreNamed) {
    Attendance attendance(4, seconds{10});
    attendance.attached(Rank{2}, at(100));
    attendance.attached(Rank{0}, at(105));

    EXPECT_EQ(attendance.limit(), at(110));
    EXPECT_FALSE(attendance.overdue(at(109)).has_value());
    EXPECT_EQ(attendance.overdue(at(110)),
              "ranks 1, 3 did not attach within 10s of the first that did (2 of 4 are attached)");
    EXPECT_FALSE(attendance.overdue(at(111)).has_value()) << "said twice";
}

TEST(Attendance, WithAllOfThemThereIsNoLimit) {
    Attendance attendance(2, seconds{10});
    attendance.attached(Rank{0}, at(100));
    attendance.attached(Rank{1}, at(101));

    EXPECT_FALSE(attendance.limit().has_value());
}

TEST(Attendance, ARankThatLeftIsMissingAgainAndTheLastOneEndsTheWait) {
    Attendance attendance(2, seconds{10});
    attendance.attached(Rank{0}, at(100));
    attendance.attached(Rank{1}, at(101));

    attendance.left(Rank{1});
    EXPECT_EQ(attendance.limit(), at(110));
    attendance.left(Rank{0});
    EXPECT_FALSE(attendance.limit().has_value());
}

TEST(Attendance, OfManyMissingOnesTheFirstAreNamed) {
    Attendance attendance(1'000, seconds{10});
    attendance.attached(Rank{0}, at(0));

    EXPECT_THAT(attendance.overdue(at(10)).value(),
                testing::HasSubstr("ranks 1, 2, 3, 4, 5, 6, 7, 8 and 991 more"));
}

TEST(Complaints, TheFirstOfAMinuteAreSaidAndTheRestIsCounted) {
    Complaints complaints(3);

    EXPECT_EQ(complaints.about("one", at(0)), "one");
    EXPECT_EQ(complaints.about("two", at(1)), "two");
    EXPECT_EQ(complaints.about("three", at(2)),
              "three (what follows within a minute is only counted)");
    for (int second = 3; second < 60; ++second)
        EXPECT_FALSE(complaints.about("more", at(second)).has_value());
    EXPECT_EQ(complaints.about("next", at(60)), "next (57 more like this were not reported)");
}

}  // namespace
}  // namespace pawl::staging
