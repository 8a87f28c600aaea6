// The coordinator's limits of time: who is waited for, how long, and what is said of it.
#include "checkpoint/coordinator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pawl::checkpoint {
namespace {

using staging::Phase;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr MonotonicTime at(int second) {
    return MonotonicTime{seconds{second}};
}

Sealed sealed(std::uint64_t rank, std::uint64_t step, std::uint64_t epoch = 0) {
    return {.rank = Rank{rank}, .slot = 0, .step = Step{step}, .epoch = Epoch{epoch}, .bytes = 100};
}

RankPlace place(std::uint64_t step, MonotonicTime heard, Phase phase = Phase::kTraining) {
    return {.step = Step{step}, .epoch = Epoch{0}, .phase = phase, .heard = heard};
}

Position places(std::vector<RankPlace> ranks) {
    Position position;
    for (const RankPlace& rank : ranks)
        position.furthest_step = std::max(position.furthest_step, rank.step);
    position.ranks = std::move(ranks);
    return position;
}

template <class Wanted>
std::vector<Wanted> all(const CoordinatorActions& actions) {
    std::vector<Wanted> found;
    for (const CoordinatorAction& action : actions) {
        if (const auto* wanted = std::get_if<Wanted>(&action)) found.push_back(*wanted);
    }
    return found;
}

std::uint64_t request_of(const CoordinatorActions& actions) {
    const auto controls = all<SetControl>(actions);
    return controls.empty() ? 0 : controls.back().control.request;
}

// Two ranks, every ten steps, a limit of ten seconds.
struct Two {
    Coordinator coordinator{2,
                            {.cadence = {.every_steps = 10}, .attempt_timeout = seconds{10}},
                            {},
                            /*is_durable=*/false,
                            at(0)};
    std::uint64_t request = request_of(coordinator.begin(at(0)));

    CoordinatorActions moved(int second, std::vector<RankPlace> ranks) {
        return coordinator.moved(places(std::move(ranks)), at(second));
    }
};

TEST(CoordinatorLimits, ARankThatDoesNotComeEndsTheAttemptAndTheOthersSlotsGoBack) {
    Two two;
    std::ignore = two.coordinator.sealed(two.request, sealed(0, 10), {}, at(100));

    const auto early = two.moved(109, {place(12, at(109)), place(9, at(95))});
    const auto late = two.moved(110, {place(12, at(110)), place(9, at(95))});

    EXPECT_THAT(all<AttemptFailed>(early), IsEmpty());
    ASSERT_EQ(all<AttemptFailed>(late).size(), 1u);
    EXPECT_EQ(all<AttemptFailed>(late)[0].why,
              "rank 1 (at step 9 of epoch 0, training, last heard of 15s ago) took no snapshot "
              "within 10s; 1 of 2 ranks had sealed theirs");
    EXPECT_EQ(all<ReleaseSlot>(late), (std::vector{ReleaseSlot{.rank = Rank{0}, .slot = 0}}));
    EXPECT_EQ(all<SetControl>(late).back().control.at_step, Step{20}) << "the next, as planned";
    EXPECT_THAT(all<Stuck>(late), IsEmpty()) << "training goes on";
}

TEST(CoordinatorLimits, AStandingRequestThatNobodyHasAnsweredIsNoAttemptAndHasNoLimit) {
    Two two;

    const auto actions = two.moved(10'000, {place(3, at(1)), place(3, at(1))});

    EXPECT_THAT(actions, IsEmpty());
    EXPECT_FALSE(two.coordinator.wake_at().has_value());
    EXPECT_EQ(two.coordinator.attempts_started(), 0u);
}

TEST(CoordinatorLimits, AnEvaluationThatPollsMovesTheLimit) {
    Two two;
    std::ignore = two.coordinator.sealed(two.request, sealed(0, 10), {}, at(100));

    for (int second = 101; second < 155; ++second) {
        const auto actions =
            two.moved(second, {place(12, at(100)), place(9, at(second), Phase::kEvaluation)});
        ASSERT_THAT(actions, IsEmpty()) << "second " << second;
    }

    EXPECT_EQ(all<Persist>(two.coordinator.sealed(two.request, sealed(1, 10), {}, at(155))).size(),
              1u);
}

TEST(CoordinatorLimits, SignsOfLifeAloneDoNotMoveTheLimitForEver) {
    Two two;
    std::ignore = two.coordinator.sealed(two.request, sealed(0, 10), {}, at(100));
    int given_up = 0;

    for (int second = 101; second < 300 && given_up == 0; ++second) {
        const auto actions =
            two.moved(second, {place(12, at(100)), place(9, at(second), Phase::kEvaluation)});
        if (!all<AttemptFailed>(actions).empty()) given_up = second;
    }

    EXPECT_EQ(given_up, 100 + Coordinator::kPatience * 10);
}

TEST(CoordinatorLimits, ARankAtWorkSpeaksForOneThatWaitsForIt) {
    Coordinator coordinator(3, {.cadence = {.every_steps = 10}, .attempt_timeout = seconds{10}}, {},
                            false, at(0));
    const auto request = request_of(coordinator.begin(at(0)));
    std::ignore = coordinator.sealed(request, sealed(0, 10), {}, at(100));

    // Rank 2 is silent in a collective that rank 1 will join after its evaluation.
    const auto actions = coordinator.moved(
        places({place(10, at(100)), place(9, at(109), Phase::kEvaluation), place(9, at(50))}),
        at(112));

    EXPECT_THAT(all<AttemptFailed>(actions), IsEmpty());
}

TEST(CoordinatorLimits, AnUrgentRequestIsMeasuredFromTheRequestAndAnsweredOnce) {
    Two two;
    std::ignore = two.coordinator.request_now(Reason::kRequest,
                                              places({place(3, at(1)), place(3, at(1))}), at(100));

    EXPECT_EQ(two.coordinator.attempts_started(), 1u);
    const auto warned = two.moved(105, {place(3, at(1)), place(3, at(1))});
    EXPECT_EQ(two.coordinator.wake_at(), at(110));
    const auto ended = two.moved(110, {place(3, at(1)), place(3, at(1))});
    const auto after = two.moved(200, {place(3, at(1)), place(3, at(1))});

    ASSERT_EQ(all<StillWaiting>(warned).size(), 1u);
    EXPECT_THAT(all<StillWaiting>(warned)[0].text, HasSubstr("It is given up in 5.0s"));
    ASSERT_EQ(all<UrgentSettled>(ended).size(), 1u);
    EXPECT_FALSE(all<UrgentSettled>(ended)[0].is_durable);
    EXPECT_THAT(all<UrgentSettled>(ended)[0].text, HasSubstr("0 of 2 ranks had sealed theirs"));
    EXPECT_THAT(after, IsEmpty());
}

TEST(CoordinatorLimits, AMovedTargetKeepsTheClockThatRuns) {
    Two two;
    auto request = request_of(two.coordinator.request_now(
        Reason::kRequest, places({place(3, at(99)), place(3, at(99))}), at(100)));
    request = request_of(two.coordinator.passed(request, Rank{1}, Step{5}, at(108)));

    const auto ended = two.moved(110, {place(4, at(99)), place(5, at(99))});

    EXPECT_EQ(all<AttemptFailed>(ended).size(), 1u);
}

TEST(CoordinatorLimits, WhoIsMissingIsSeenWhileItIsWaitedFor) {
    Two two;
    EXPECT_FALSE(two.coordinator.attempt().has_value());

    std::ignore = two.coordinator.sealed(two.request, sealed(0, 10), {}, at(100));

    ASSERT_TRUE(two.coordinator.attempt().has_value());
    EXPECT_EQ(two.coordinator.attempt()->missing, std::vector{Rank{1}});
    EXPECT_EQ(two.coordinator.attempt()->target.at_step, Step{10});
}

// ---- the end of training ----

constexpr Moment moment(std::uint64_t step, std::uint64_t epoch = 0) {
    return {.step = Step{step}, .epoch = Epoch{epoch}};
}

TEST(CoordinatorLimits, ARankThatNeverFinishesIsWaitedForThenSaidThenGivenUp) {
    Two two;
    std::ignore = two.coordinator.finishing(Rank{0}, moment(25), at(100));
    const std::vector ranks = {place(25, at(100), Phase::kFinished), place(20, at(90))};

    const auto quiet = two.moved(109, ranks);
    EXPECT_EQ(two.coordinator.wake_at(), at(110));
    const auto warned = two.moved(110, ranks);
    EXPECT_EQ(two.coordinator.wake_at(), at(160));
    const auto later = two.moved(159, ranks);
    const auto over = two.moved(160, ranks);

    EXPECT_THAT(quiet, IsEmpty());
    ASSERT_EQ(all<StillWaiting>(warned).size(), 1u);
    EXPECT_EQ(all<StillWaiting>(warned)[0].text,
              "1 of 2 ranks have finished and wait for rank 1 (at step 20 of epoch 0, training, "
              "last heard of 20s ago). Without a sign of life all are restarted in 50s");
    EXPECT_THAT(later, IsEmpty());
    ASSERT_EQ(all<Stuck>(over).size(), 1u);
}

TEST(CoordinatorLimits, ARankThatTrainsOnIsWaitedForAtTheEndAsLongAsItDoes) {
    Two two;
    std::ignore = two.coordinator.finishing(Rank{0}, moment(1'000), at(100));

    for (int second = 100; second < 1'000; second += 5) {
        const auto actions =
            two.moved(second, {place(1'000, at(100), Phase::kFinished), place(5, at(second))});
        ASSERT_THAT(all<Stuck>(actions), IsEmpty());
        ASSERT_THAT(all<StillWaiting>(actions), IsEmpty());
    }
}

TEST(CoordinatorLimits, AFinalSnapshotThatNeverComesIsToldToWhoWaitsAndEndsTheIncarnation) {
    Two two;
    std::ignore = two.coordinator.finishing(Rank{0}, moment(25), at(100));
    const auto both = two.coordinator.finishing(Rank{1}, moment(25), at(100));
    const auto request = all<WakeFinishing>(both).at(0).request;
    std::ignore = two.coordinator.sealed(request, sealed(0, 25), {}, at(101));

    const auto over = two.moved(110, {place(25, at(100)), place(25, at(100))});

    ASSERT_EQ(all<AttemptFailed>(over).size(), 1u);
    EXPECT_EQ(all<AttemptFailed>(over)[0].request, request);
    EXPECT_EQ(all<Stuck>(over).size(), 1u);
    EXPECT_EQ(all<ReleaseSlot>(over).size(), 1u);
}

TEST(CoordinatorLimits, RanksThatWaitAtTheEndForOneThatIsGoneAreTold) {
    Two two;
    std::ignore = two.coordinator.finishing(Rank{0}, moment(25), at(100));

    const auto actions = two.coordinator.lost(Rank{1}, "it hung up", at(101));

    const auto woken = all<WakeFinishing>(actions);
    ASSERT_EQ(woken.size(), 1u) << "rank 0 waits in finish for ever";
    ASSERT_EQ(all<AttemptFailed>(actions).size(), 1u);
    EXPECT_EQ(all<AttemptFailed>(actions)[0].request, woken[0].request);
}

TEST(CoordinatorLimits, ARankWhoseLastStepIsDurableMayLeaveBeforeTheOthersFinish) {
    Two two;
    std::ignore = two.coordinator.sealed(two.request, sealed(0, 10), {}, at(1));
    const auto complete = two.coordinator.sealed(two.request, sealed(1, 10), {}, at(1));
    std::ignore = two.coordinator.finishing(Rank{0}, moment(10), at(2));
    std::ignore = two.coordinator.persisted(all<Persist>(complete).at(0), true, "", at(3));

    const auto left = two.coordinator.lost(Rank{0}, "it hung up", at(4));
    const auto other = two.coordinator.finishing(Rank{1}, moment(10), at(5));

    EXPECT_THAT(all<AttemptFailed>(left), IsEmpty()) << all<AttemptFailed>(left)[0].why;
    EXPECT_THAT(all<AttemptFailed>(other), IsEmpty()) << all<AttemptFailed>(other)[0].why;
    ASSERT_EQ(all<UrgentSettled>(other).size(), 1u);
    EXPECT_TRUE(all<UrgentSettled>(other)[0].is_durable);
    EXPECT_TRUE(two.coordinator.is_final_durable());
}

TEST(CoordinatorLimits, ARankThatFinishesAfterAnotherIsGoneIsToldAtOnce) {
    Two two;
    std::ignore = two.coordinator.lost(Rank{1}, "it hung up", at(100));

    const auto actions = two.coordinator.finishing(Rank{0}, moment(25), at(101));

    EXPECT_EQ(all<WakeFinishing>(actions).size(), 1u);
    ASSERT_EQ(all<AttemptFailed>(actions).size(), 1u);
    EXPECT_EQ(all<AttemptFailed>(actions)[0].why, "rank 1 took no snapshot: it hung up");
}

TEST(CoordinatorLimits, AFinalCheckpointThatWaitedForRoomIsGivenUpWithItsRank) {
    Two two;
    std::ignore = two.coordinator.finishing(Rank{0}, moment(25), at(100));
    const auto both = two.coordinator.finishing(Rank{1}, moment(25), at(100));
    const auto request = all<WakeFinishing>(both).at(0).request;
    std::ignore = two.coordinator.sealed(request, sealed(0, 25), {}, at(101));
    const auto complete = two.coordinator.sealed(request, sealed(1, 25), {}, at(101));
    std::ignore =
        two.coordinator.persisted(all<Persist>(complete).at(0), false, "disk full", at(102));

    const auto actions = two.coordinator.lost(Rank{1}, "it hung up", at(103));

    ASSERT_EQ(all<AttemptFailed>(actions).size(), 1u) << "rank 0 waits for ever";
    EXPECT_EQ(all<AttemptFailed>(actions)[0].request, request);
    EXPECT_EQ(all<ReleaseSlot>(actions).size(), 2u);
}

// ---- what ranks say that can't be ----

TEST(CoordinatorLimits, ASnapshotOfAnotherStepThanAskedForFailsTheAttempt) {
    Two two;

    const auto actions =
        two.coordinator.sealed(two.request, sealed(0, std::uint64_t{1} << 52), {}, at(1));

    ASSERT_EQ(all<AttemptFailed>(actions).size(), 1u);
    EXPECT_EQ(
        all<AttemptFailed>(actions)[0].why,
        "rank 0 took its snapshot at step 4503599627370496 of epoch 0, asked for was step 10");
    EXPECT_EQ(all<ReleaseSlot>(actions).size(), 1u);
}

TEST(CoordinatorLimits, TwoSidesOfAnEpochsEndMakeNoCheckpointAndALaterStepIsNamed) {
    Two two;
    std::ignore = two.coordinator.sealed(two.request, sealed(0, 10, 0), {}, at(1));

    const auto actions = two.coordinator.sealed(two.request, sealed(1, 10, 1), {}, at(1));

    EXPECT_THAT(all<Persist>(actions), IsEmpty());
    EXPECT_EQ(all<ReleaseSlot>(actions).size(), 2u);
    EXPECT_EQ(all<SetControl>(actions).back().control.at_step, Step{11});
    EXPECT_THAT(all<AttemptFailed>(actions), IsEmpty());
}

TEST(CoordinatorLimits, ARankThatHadFinishedHasNoLaterStep) {
    Two two;
    std::ignore = two.coordinator.finishing(Rank{0}, moment(25), at(100));
    const auto both = two.coordinator.finishing(Rank{1}, moment(25), at(100));
    const auto request = all<WakeFinishing>(both).at(0).request;

    const auto actions = two.coordinator.passed(request, Rank{1}, Step{30}, at(101));

    ASSERT_EQ(all<AttemptFailed>(actions).size(), 1u) << "a step is named that nobody reaches";
    EXPECT_EQ(all<AttemptFailed>(actions)[0].request, request);
}

TEST(CoordinatorLimits, OfTwoEndsThatARankNamesTheFirstCounts) {
    Two two;
    std::ignore = two.coordinator.finishing(Rank{0}, moment(25), at(100));
    std::ignore = two.coordinator.finishing(Rank{0}, moment(26), at(100));

    const auto both = two.coordinator.finishing(Rank{1}, moment(25), at(100));

    EXPECT_EQ(all<SetControl>(both).back().control.at_step, Step{25});
}

TEST(CoordinatorLimits, ARankThatFinishesWhenAllAreToLeaveIsWokenAtOnce) {
    Two two;
    std::ignore = two.coordinator.ask_to_stop();

    const auto actions = two.coordinator.finishing(Rank{0}, moment(25), at(100));

    ASSERT_EQ(all<WakeFinishing>(actions).size(), 1u);
    EXPECT_EQ(all<WakeFinishing>(actions)[0].request, 0u);
}

TEST(CoordinatorLimits, ADrainThatMeetsTheFinalCheckpointIsAnsweredWhenThatCannotBeWritten) {
    Two two;
    std::ignore = two.coordinator.finishing(Rank{0}, moment(25), at(100));
    const auto both = two.coordinator.finishing(Rank{1}, moment(25), at(100));
    const auto request = all<WakeFinishing>(both).at(0).request;
    std::ignore = two.coordinator.sealed(request, sealed(0, 25), {}, at(101));
    const auto complete = two.coordinator.sealed(request, sealed(1, 25), {}, at(101));
    std::ignore = two.coordinator.request_now(Reason::kSigterm, places({}), at(102));

    const auto actions =
        two.coordinator.persisted(all<Persist>(complete).at(0), false, "disk full", at(103));

    ASSERT_EQ(all<UrgentSettled>(actions).size(), 1u);
    EXPECT_EQ(all<UrgentSettled>(actions)[0].reason, Reason::kSigterm);
}

}  // namespace
}  // namespace pawl::checkpoint
