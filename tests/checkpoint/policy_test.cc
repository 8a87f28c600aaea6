// Retention, cadence and barrier: tables.
#include "checkpoint/barrier.h"
#include "checkpoint/cadence.h"
#include "checkpoint/retention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pawl::checkpoint {
namespace {

std::vector<Sequence> sequences(std::initializer_list<std::uint64_t> numbers) {
    std::vector<Sequence> list;
    for (const std::uint64_t number : numbers)
        list.emplace_back(number);
    return list;
}

std::set<Sequence> verified(std::initializer_list<std::uint64_t> numbers) {
    const auto list = sequences(numbers);
    return {list.begin(), list.end()};
}

TEST(Retention, RemovesTheOldestAndNeverTheNewestOrTheLastVerified) {
    struct Case {
        std::vector<Sequence> committed;
        std::set<Sequence> verified;
        std::uint32_t keep_last;
        std::vector<Sequence> expected;
    };
    const Case cases[] = {
        {sequences({}), verified({}), 3, sequences({})},
        {sequences({1, 2, 3}), verified({3}), 3, sequences({})},
        {sequences({1, 2, 3, 4}), verified({4}), 3, sequences({1})},
        {sequences({4, 2, 3, 1}), verified({4}), 1, sequences({1, 2, 3})},
        {sequences({1, 2, 3, 4}), verified({1}), 1, sequences({2, 3})},
        {sequences({1, 2, 3, 4}), verified({1, 2}), 1, sequences({1, 3})},
        {sequences({1, 2, 3}), verified({}), 1, sequences({})},
        {sequences({1, 2, 3}), verified({3}), 0, sequences({1, 2})},
        {sequences({5, 6}), verified({1}), 1, sequences({})},
    };
    for (const Case& one : cases) {
        EXPECT_EQ(removable(one.committed, one.verified, {.keep_last = one.keep_last}),
                  one.expected);
    }
}

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
