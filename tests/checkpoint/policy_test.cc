// Cadence and barrier: tables. Retention: retention_test.cc.
#include "checkpoint/barrier.h"
#include "checkpoint/cadence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pawl::checkpoint {
namespace {

constexpr MonotonicTime at(int second) {
    return MonotonicTime{seconds{second}};
}

TEST(Cadence, NamesTheNextMultipleOrTheStepJustAheadWhenTimeIsDue) {
    struct Case {
        CadencePolicy policy;
        CadenceState state;
        int now;
        SnapshotTarget expected;
    };
    const Case cases[] = {
        {{}, {.furthest_step = Step{5}}, 99, {}},
        {{.every_steps = 10}, {.furthest_step = Step{0}}, 0, {.at_step = Step{10}}},
        {{.every_steps = 10}, {.furthest_step = Step{9}}, 0, {.at_step = Step{10}}},
        {{.every_steps = 10}, {.furthest_step = Step{10}}, 0, {.at_step = Step{20}}},
        {{.every_steps = 1}, {.furthest_step = Step{7}}, 0, {.at_step = Step{8}}},
        {{.every_epochs = 2}, {.furthest_epoch = Epoch{1}}, 0, {.at_epoch = Epoch{2}}},
        {{.every_epochs = 2}, {.furthest_epoch = Epoch{2}}, 0, {.at_epoch = Epoch{4}}},
        {{.every_time = seconds{60}}, {.furthest_step = Step{7}, .last_time = at(0)}, 59, {}},
        {{.every_time = seconds{60}},
         {.furthest_step = Step{7}, .last_time = at(0)},
         60,
         {.at_step = Step{8}}},
        {{.every_steps = 100, .every_time = seconds{60}},
         {.furthest_step = Step{7}, .last_time = at(0)},
         61,
         {.at_step = Step{8}}},
        {{.every_steps = 100, .every_epochs = 1},
         {.furthest_step = Step{7}},
         0,
         {.at_step = Step{100}, .at_epoch = Epoch{1}}},
    };
    for (const Case& one : cases) {
        EXPECT_EQ(next_target(one.policy, one.state, at(one.now)), one.expected);
    }
}

TEST(AutomaticCadence, IsYoungsIntervalWithinItsBounds) {
    using std::chrono::hours;
    struct Case {
        const char* what;
        std::optional<nanoseconds> cost;
        FailureHistory history;
        nanoseconds expected;
    };
    const Case cases[] = {
        {"nothing measured yet", std::nullopt, {}, seconds{60}},
        {"free: the shortest", nanoseconds{}, {}, seconds{10}},
        // sqrt(2 * 0.5 s * 86400 s)
        {"no history: a failure a day", milliseconds{500}, {}, nanoseconds{293'938'769'133}},
        // (24 h + 24 h) / (3 + 1) = 12 h: sqrt(2 * 10 s * 43200 s)
        {"three failures in a day", seconds{10}, {3, hours{24}}, nanoseconds{929'516'003'091}},
        {"months without a failure: the longest", seconds{60}, {0, hours{24 * 90}}, hours{1}},
        // 24 h / 10000 = 8.64 s: sqrt(2 * 30 s * 8.64 s) = 22.8 s is less than twice the cost
        {"failures without end", seconds{30}, {9999, hours{0}}, seconds{60}},
        {"dearer than the longest interval", hours{1}, {}, hours{2}},
        {"a clock that was set back",
         milliseconds{500},
         {0, -hours{24}},
         nanoseconds{293'938'769'133}},
    };
    for (const Case& one : cases) {
        const nanoseconds found = automatic_interval(one.cost, one.history);
        EXPECT_NEAR(static_cast<double>(found.count()), static_cast<double>(one.expected.count()),
                    1e6)
            << one.what;
    }
}

TEST(AutomaticCadence, GrowsWithTheCostAndWithTheTimeBetweenFailures) {
    nanoseconds before{};
    for (int cost_ms = 1; cost_ms < 100'000; cost_ms = cost_ms * 3 + 1) {
        const nanoseconds found = automatic_interval(milliseconds{cost_ms}, {});
        EXPECT_GE(found, before) << cost_ms << " ms";
        before = found;
    }
    for (std::uint64_t failures = 1; failures < 1'000'000; failures = failures * 3 + 1) {
        const nanoseconds found =
            automatic_interval(seconds{1}, {failures, std::chrono::hours{100}});
        EXPECT_LE(found, before) << failures << " failures";
        before = found;
    }
}

TEST(AutomaticCadence, ACostIsTheStallAndATenthOfTheWriteHalfOfItNew) {
    EXPECT_EQ(checkpoint_cost(std::nullopt, seconds{2}, seconds{10}), seconds{3});
    EXPECT_EQ(checkpoint_cost(seconds{1}, seconds{2}, seconds{10}), seconds{2});
    EXPECT_EQ(checkpoint_cost(std::nullopt, -seconds{2}, -seconds{10}), seconds{0});
}

Sealed sealed(std::uint64_t rank, std::uint64_t step) {
    return {.rank = Rank{rank}, .slot = 1, .step = Step{step}, .bytes = 100};
}

TEST(Barrier, IsCompleteWhenAllRanksHaveSealedOneStep) {
    Barrier barrier(1, 3);

    EXPECT_EQ(barrier.sealed(sealed(2, 10)), BarrierVerdict{Waiting{}});
    EXPECT_EQ(barrier.sealed(sealed(0, 10)), BarrierVerdict{Waiting{}});
    const Complete complete{.sealed = {sealed(0, 10), sealed(1, 10), sealed(2, 10)}};
    EXPECT_EQ(barrier.sealed(sealed(1, 10)), BarrierVerdict{complete});
}

TEST(Barrier, MovesAheadOfARankThatHadPassedTwiceAsFarEachTime) {
    Barrier barrier(1, 2);
    std::ignore = barrier.sealed(sealed(0, 10));

    const Moved first{.to = Step{12}, .released = {sealed(0, 10)}};
    EXPECT_EQ(barrier.passed(Rank{1}, Step{11}, Step{11}), BarrierVerdict{first});
    const Moved second{.to = Step{15}};
    EXPECT_EQ(barrier.passed(Rank{1}, Step{13}, Step{13}), BarrierVerdict{second});
    const Moved third{.to = Step{24}};
    EXPECT_EQ(barrier.passed(Rank{0}, Step{16}, Step{20}), BarrierVerdict{third});
}

TEST(Barrier, GivesUpOnARankThatIsAlwaysPast) {
    Barrier barrier(1, 1);
    BarrierVerdict verdict = Waiting{};
    int moves = 0;
    while (moves < 100 && !std::holds_alternative<Failed>(verdict)) {
        verdict = barrier.passed(Rank{0}, Step{1}, Step{1});
        ++moves;
    }

    EXPECT_EQ(moves, 17);
}

TEST(Barrier, FailsWhenRanksSealDifferentStepsAndGivesAllBack) {
    Barrier barrier(1, 2);
    std::ignore = barrier.sealed(sealed(0, 10));

    const BarrierVerdict verdict = barrier.sealed(sealed(1, 11));

    const auto* failed = std::get_if<Failed>(&verdict);
    ASSERT_NE(failed, nullptr);
    EXPECT_EQ(failed->why, "rank 0 took its snapshot at step 10, rank 1 at step 11");
    EXPECT_EQ(failed->released.size(), 2u);
}

TEST(Barrier, ASecondSealOfOneRankFailsAndGivesThatSlotBack) {
    Barrier barrier(1, 2);
    std::ignore = barrier.sealed(sealed(0, 10));

    const BarrierVerdict verdict = barrier.sealed(sealed(0, 10));

    ASSERT_TRUE(std::holds_alternative<Failed>(verdict));
    EXPECT_EQ(std::get<Failed>(verdict).released.size(), 1u);
    EXPECT_EQ(barrier.abandon().size(), 1u);
}

}  // namespace
}  // namespace pawl::checkpoint
