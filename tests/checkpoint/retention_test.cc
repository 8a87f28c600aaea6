// Retention: tables for each rule, and what holds of every policy and every history.
#include "checkpoint/retention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace pawl::checkpoint {
namespace {

using testing::IsEmpty;

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

// Checkpoint n is of step 10 n and epoch n / 3, has 100 bytes and the given losses.
std::vector<Candidate> committed(std::initializer_list<std::uint64_t> numbers) {
    std::vector<Candidate> list;
    for (const std::uint64_t number : numbers) {
        list.push_back({.sequence = Sequence{number},
                        .step = Step{10 * number},
                        .epoch = Epoch{number / 3},
                        .bytes = 100});
    }
    return list;
}

std::vector<Candidate> with_losses(std::initializer_list<double> losses) {
    std::vector<Candidate> list;
    std::uint64_t number = 0;
    for (const double loss : losses) {
        list.push_back({.sequence = Sequence{++number}, .metrics = {{"loss", loss}}});
    }
    return list;
}

std::vector<Candidate> pinned(std::vector<Candidate> list, std::uint64_t number) {
    std::ranges::find(list, Sequence{number}, &Candidate::sequence)->is_pinned = true;
    return list;
}

struct Case {
    const char* what;
    std::vector<Candidate> committed;
    std::set<Sequence> verified;
    RetentionPolicy policy;
    std::vector<Sequence> expected;
};

void expect_removable(const std::vector<Case>& cases) {
    for (const Case& one : cases) {
        EXPECT_EQ(plan_retention(one.committed, one.verified, one.policy).removable, one.expected)
            << one.what;
    }
}

TEST(Retention, RemovesTheOldestAndNeverTheNewestOrTheLastVerified) {
    expect_removable({
        {"nothing", committed({}), verified({}), {.keep_last = 3}, sequences({})},
        {"few", committed({1, 2, 3}), verified({3}), {.keep_last = 3}, sequences({})},
        {"one too many", committed({1, 2, 3, 4}), verified({4}), {.keep_last = 3}, sequences({1})},
        {"any order",
         committed({4, 2, 3, 1}),
         verified({4}),
         {.keep_last = 1},
         sequences({1, 2, 3})},
        {"the oldest is the only one verified",
         committed({1, 2, 3, 4}),
         verified({1}),
         {.keep_last = 1},
         sequences({2, 3})},
        {"two verified",
         committed({1, 2, 3, 4}),
         verified({1, 2}),
         {.keep_last = 1},
         sequences({1, 3})},
        {"none verified", committed({1, 2, 3}), verified({}), {.keep_last = 1}, sequences({})},
        {"none to be kept",
         committed({1, 2, 3}),
         verified({3}),
         {.keep_last = 0},
         sequences({1, 2})},
        {"verified and gone", committed({5, 6}), verified({1}), {.keep_last = 1}, sequences({})},
    });
}

TEST(Retention, APinnedOneStaysAndTakesNoPlaceOfTheLast) {
    expect_removable({
        {"old", pinned(committed({1, 2, 3}), 1), verified({3}), {.keep_last = 1}, sequences({2})},
        {"among the last",
         pinned(committed({1, 2, 3, 4}), 3),
         verified({4}),
         {.keep_last = 2},
         sequences({1})},
        {"the newest",
         pinned(committed({1, 2, 3, 4}), 4),
         verified({4}),
         {.keep_last = 2},
         sequences({1})},
    });
}

TEST(Retention, KeepsTheFirstAtOrAfterEachMultipleForEver) {
    expect_removable({
        // Steps 10 … 90; multiples of 30 are 30, 60, 90: sequences 3, 6, 9.
        {"steps",
         committed({1, 2, 3, 4, 5, 6, 7, 8, 9}),
         verified({9}),
         {.keep_last = 1, .every_steps = 30},
         sequences({1, 2, 4, 5, 7, 8})},
        {"multiples that were missed",
         committed({1, 2, 4, 5, 7, 8, 9}),
         verified({9}),
         {.keep_last = 1, .every_steps = 30},
         sequences({1, 2, 5, 8})},
        {"none reached yet",
         committed({1, 2}),
         verified({2}),
         {.keep_last = 1, .every_steps = 30},
         sequences({1})},
        // Epochs 0 0 1 1 1 2 2 2 3.
        {"epochs",
         committed({1, 2, 3, 4, 5, 6, 7, 8, 9}),
         verified({9}),
         {.keep_last = 1, .every_epochs = 1},
         sequences({1, 2, 4, 5, 7, 8})},
        {"every second epoch",
         committed({1, 2, 3, 4, 5, 6, 7, 8, 9}),
         verified({9}),
         {.keep_last = 1, .every_epochs = 2},
         sequences({1, 2, 3, 4, 5, 7, 8})},
        {"both",
         committed({1, 2, 3, 4, 5, 6, 7, 8, 9}),
         verified({9}),
         {.keep_last = 1, .every_steps = 50, .every_epochs = 3},
         sequences({1, 2, 3, 4, 6, 7, 8})},
    });
}

TEST(Retention, KeepsTheBestByAMetricAndOfEqualsTheOldest) {
    const double nan = std::nan("");
    const auto keep_best = [](BestMode mode, std::uint32_t count) {
        return RetentionPolicy{.keep_last = 1,
                               .best = BestRule{.metric = "loss", .mode = mode, .count = count}};
    };
    expect_removable({
        {"least", with_losses({3, 1, 2, 4}), verified({4}), keep_best(BestMode::kMin, 1),
         sequences({1, 3})},
        {"most", with_losses({3, 1, 2, 0}), verified({4}), keep_best(BestMode::kMax, 1),
         sequences({2, 3})},
        {"two", with_losses({3, 1, 2, 4}), verified({4}), keep_best(BestMode::kMin, 2),
         sequences({1})},
        {"equals", with_losses({1, 1, 1, 4}), verified({4}), keep_best(BestMode::kMin, 1),
         sequences({2, 3})},
        {"no number", with_losses({nan, 2, INFINITY, 4}), verified({4}),
         keep_best(BestMode::kMin, 1), sequences({1, 3})},
        {"no such metric", committed({1, 2, 3}), verified({3}), keep_best(BestMode::kMin, 1),
         sequences({1, 2})},
    });
}

TEST(Retention, ALimitOfSizeOverrulesTheLastAloneAndSaysWhenItCannotBeMet) {
    struct LimitCase {
        const char* what;
        std::vector<Candidate> committed;
        RetentionPolicy policy;
        std::vector<Sequence> expected;
        std::uint64_t kept;
        std::uint64_t over;
    };
    const LimitCase cases[] = {
        {"it fits",
         committed({1, 2, 3}),
         {.keep_last = 3, .bytes_max = 300},
         sequences({}),
         300,
         0},
        {"the oldest goes",
         committed({1, 2, 3}),
         {.keep_last = 3, .bytes_max = 299},
         sequences({1}),
         200,
         0},
        {"only the newest",
         committed({1, 2, 3}),
         {.keep_last = 3, .bytes_max = 100},
         sequences({1, 2}),
         100,
         0},
        {"less than one",
         committed({1, 2, 3}),
         {.keep_last = 3, .bytes_max = 1},
         sequences({1, 2}),
         100,
         99},
        {"a pin stays",
         pinned(committed({1, 2, 3}), 1),
         {.keep_last = 3, .bytes_max = 100},
         sequences({2}),
         200,
         100},
        {"a kept step stays",
         committed({1, 2, 3, 4}),
         {.keep_last = 4, .every_steps = 20, .bytes_max = 200},
         sequences({1, 3}),
         200,
         0},
        {"what nobody wants goes before",
         committed({1, 2, 3, 4}),
         {.keep_last = 2, .bytes_max = 200},
         sequences({1, 2}),
         200,
         0},
    };
    for (const LimitCase& one : cases) {
        const auto newest = one.committed.back().sequence;
        const RetentionPlan plan = plan_retention(one.committed, {newest}, one.policy);
        EXPECT_EQ(plan.removable, one.expected) << one.what;
        EXPECT_EQ(plan.bytes_kept, one.kept) << one.what;
        EXPECT_EQ(plan.bytes_over, one.over) << one.what;
    }
}

TEST(Retention, AnUnmetLimitIsSaidEvenWhileNothingIsVerified) {
    const RetentionPlan plan =
        plan_retention(committed({1, 2, 3}), {}, {.keep_last = 1, .bytes_max = 100});

    EXPECT_THAT(plan.removable, IsEmpty());
    EXPECT_EQ(plan.bytes_over, 200u);
}

// ---- of every policy ----

class Draw {
public:
    explicit Draw(std::uint64_t seed) : random_(seed) {}
    std::uint64_t below(std::uint64_t bound) { return random_() % bound; }
    bool coin() { return below(2) == 0; }

    RetentionPolicy policy() {
        RetentionPolicy policy{.keep_last = static_cast<std::uint32_t>(below(5))};
        if (coin()) policy.every_steps = 1 + below(60);
        if (coin()) policy.every_epochs = 1 + below(4);
        if (coin()) {
            policy.best = BestRule{.metric = "loss",
                                   .mode = coin() ? BestMode::kMin : BestMode::kMax,
                                   .count = static_cast<std::uint32_t>(1 + below(3))};
        }
        if (coin()) policy.bytes_max = below(1500);
        return policy;
    }

private:
    std::mt19937_64 random_;
};

// A whole training: each checkpoint is committed and verified, then retention removes for good.
// Now and then somebody pins one.
TEST(Retention, OverAWholeTrainingKeepsWhatItPromises) {
    for (std::uint64_t seed = 1; seed <= 500; ++seed) {
        SCOPED_TRACE(fmt::format("seed {}", seed));
        Draw draw(seed);
        const RetentionPolicy policy = draw.policy();
        std::vector<Candidate> there;
        std::vector<Candidate> all;
        std::set<Sequence> known;
        std::uint64_t step = 0;
        for (std::uint64_t number = 1; number <= 60; ++number) {
            step += 1 + draw.below(20);
            there.push_back({.sequence = Sequence{number},
                             .step = Step{step},
                             .epoch = Epoch{step / 50},
                             .bytes = 50 + draw.below(100),
                             .metrics = {{"loss", static_cast<double>(draw.below(10))}},
                             .is_pinned = draw.below(10) == 0});
            all.push_back(there.back());
            known.insert(Sequence{number});

            const RetentionPlan plan = plan_retention(there, known, policy);
            const auto again = plan_retention(there, known, policy);
            ASSERT_EQ(plan.removable, again.removable);
            ASSERT_TRUE(std::ranges::is_sorted(plan.removable));
            for (const Sequence gone : plan.removable) {
                const auto found = std::ranges::find(there, gone, &Candidate::sequence);
                ASSERT_NE(found, there.end());
                ASSERT_NE(gone, Sequence{number});
                ASSERT_FALSE(found->is_pinned);
                there.erase(found);
            }
            std::uint64_t bytes = 0;
            for (const Candidate& one : there)
                bytes += one.bytes;
            ASSERT_EQ(plan.bytes_kept, bytes);
            ASSERT_EQ(plan.bytes_over, policy.bytes_max && bytes > *policy.bytes_max
                                           ? bytes - *policy.bytes_max
                                           : 0);
            // What is left is left alone.
            ASSERT_THAT(plan_retention(there, known, policy).removable, IsEmpty());
        }
        // Step by step the same as if it had all been there at the end: nothing that a rule wants
        // for ever was let go on the way.
        if (policy.best) continue;  // the best of today may be beaten tomorrow
        RetentionPolicy for_ever = policy;
        for_ever.keep_last = 0;
        const RetentionPlan at_once = plan_retention(all, known, for_ever);
        for (const Candidate& one : all) {
            if (std::ranges::find(at_once.removable, one.sequence) != at_once.removable.end())
                continue;
            EXPECT_NE(std::ranges::find(there, one.sequence, &Candidate::sequence), there.end())
                << "checkpoint " << one.sequence.value;
        }
    }
}

TEST(Retention, NeverRemovesTheNewestVerifiedHoweverFewAreVerified) {
    for (std::uint64_t seed = 1; seed <= 2000; ++seed) {
        Draw draw(seed);
        std::vector<Candidate> there;
        std::set<Sequence> known;
        for (std::uint64_t number = 1; number <= 12; ++number) {
            if (draw.coin()) continue;
            there.push_back({.sequence = Sequence{number}, .step = Step{number}, .bytes = 100});
            if (draw.below(4) == 0) known.insert(Sequence{number});
        }
        const RetentionPlan plan = plan_retention(there, known, draw.policy());

        ASSERT_TRUE(known.empty() ? plan.removable.empty() : true) << "seed " << seed;
        for (const Sequence gone : plan.removable)
            EXPECT_NE(gone, *known.rbegin()) << "seed " << seed;
    }
}

}  // namespace
}  // namespace pawl::checkpoint
