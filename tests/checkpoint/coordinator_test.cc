// The coordinator: stories of ranks on their way to one step.
#include "checkpoint/coordinator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pawl::checkpoint {
namespace {

using testing::IsEmpty;

constexpr MonotonicTime at(int second) {
    return MonotonicTime{seconds{second}};
}

Position position(std::uint64_t step, bool is_between = false) {
    return {.furthest_step = Step{step}, .all_between_steps = is_between};
}

Sealed sealed(std::uint64_t rank, std::uint64_t step, std::uint64_t epoch = 0) {
    return {.rank = Rank{rank}, .slot = 0, .step = Step{step}, .epoch = Epoch{epoch}, .bytes = 100};
}

template <class Wanted>
const Wanted* find(const CoordinatorActions& actions) {
    for (const CoordinatorAction& action : actions) {
        if (const auto* wanted = std::get_if<Wanted>(&action)) return wanted;
    }
    return nullptr;
}

template <class Wanted>
std::size_t count(const CoordinatorActions& actions) {
    return static_cast<std::size_t>(std::ranges::count_if(
        actions, [](const auto& action) { return std::holds_alternative<Wanted>(action); }));
}

// The last control that the ranks were given.
staging::Control control_of(const CoordinatorActions& actions) {
    staging::Control control;
    for (const CoordinatorAction& action : actions) {
        if (const auto* set = std::get_if<SetControl>(&action)) control = set->control;
    }
    return control;
}

Coordinator every_ten_steps(std::uint64_t world_size) {
    return {world_size, {.cadence = {.every_steps = 10}}, {}, /*is_durable=*/false, at(0)};
}

TEST(Coordinator, NamesTheFirstMultipleAndTheNextOneOnceItIsSealed) {
    Coordinator coordinator = every_ten_steps(1);

    const auto first = control_of(coordinator.begin(at(0)));
    const auto actions = coordinator.sealed(first.request, sealed(0, 10), {{"loss", 1.0}}, at(1));

    EXPECT_EQ(first.at_step, Step{10});
    ASSERT_NE(find<Persist>(actions), nullptr);
    EXPECT_EQ(find<Persist>(actions)->reason, Reason::kCadence);
    EXPECT_EQ(find<Persist>(actions)->metrics.at("loss"), 1.0);
    EXPECT_EQ(control_of(actions).at_step, Step{20});
    EXPECT_GT(control_of(actions).request, first.request);
}

TEST(Coordinator, GivesSlotsBackOnceTheCheckpointIsDurable) {
    Coordinator coordinator = every_ten_steps(2);
    const auto request = control_of(coordinator.begin(at(0))).request;
    std::ignore = coordinator.sealed(request, sealed(0, 10), {}, at(1));
    const auto complete = coordinator.sealed(request, sealed(1, 10), {}, at(1));
    ASSERT_NE(find<Persist>(complete), nullptr);

    const auto actions = coordinator.persisted(*find<Persist>(complete), true, "durable", at(2));

    EXPECT_EQ(count<ReleaseSlot>(actions), 2u);
    EXPECT_EQ(find<AttemptFailed>(actions), nullptr);
}

TEST(Coordinator, ByTimeNamesTheStepJustAheadOfTheFurthestRank) {
    Coordinator coordinator(2, {.cadence = {.every_time = seconds{60}}}, position(100), true,
                            at(0));
    const auto begun = coordinator.begin(at(0));

    const auto early = coordinator.moved(position(150), at(59));
    const auto due = coordinator.moved(position(151), at(60));

    EXPECT_THAT(begun, IsEmpty());
    EXPECT_THAT(early, IsEmpty());
    EXPECT_EQ(control_of(due).at_step, Step{152});
    EXPECT_FALSE(control_of(due).is_urgent);
    EXPECT_THAT(coordinator.moved(position(153), at(61)), IsEmpty())
        << "a step that was named stays named";
}

TEST(Coordinator, MovesTheStepWhenARankHadPassedItAndGivesBackWhatOthersSealed) {
    Coordinator coordinator(2, {.cadence = {.every_time = seconds{60}}}, {}, false, at(0));
    std::ignore = coordinator.begin(at(0));
    const auto first = control_of(coordinator.moved(position(50), at(60)));
    std::ignore = coordinator.sealed(first.request, sealed(0, 51), {}, at(61));

    const auto actions = coordinator.passed(first.request, Rank{1}, Step{52}, at(61));

    EXPECT_EQ(count<ReleaseSlot>(actions), 1u);
    EXPECT_EQ(control_of(actions).at_step, Step{53});
    EXPECT_NE(control_of(actions).request, first.request);
    EXPECT_EQ(find<AttemptFailed>(actions), nullptr);
}

TEST(Coordinator, ALateAnswerToAnOldRequestChangesNothingButGivesItsSlotBack) {
    Coordinator coordinator = every_ten_steps(1);
    const auto first = control_of(coordinator.begin(at(0)));
    std::ignore = coordinator.request_now(Reason::kRequest, position(4), at(1));

    const auto late = coordinator.sealed(first.request, sealed(0, 10), {}, at(2));

    ASSERT_EQ(late.size(), 1u);
    EXPECT_NE(find<ReleaseSlot>(late), nullptr);
    EXPECT_THAT(coordinator.skipped(first.request, Rank{0}, "no slot", at(2)), IsEmpty());
    EXPECT_THAT(coordinator.passed(first.request, Rank{0}, Step{11}, at(2)), IsEmpty());
}

TEST(Coordinator, ASkippedSnapshotFailsTheAttemptAndTheNextIsPlanned) {
    Coordinator coordinator = every_ten_steps(2);
    const auto first = control_of(coordinator.begin(at(0)));
    std::ignore = coordinator.sealed(first.request, sealed(0, 10), {}, at(1));

    const auto actions = coordinator.skipped(first.request, Rank{1}, "no slot", at(1));

    ASSERT_NE(find<AttemptFailed>(actions), nullptr);
    EXPECT_EQ(find<AttemptFailed>(actions)->why, "rank 1 took no snapshot: no slot");
    EXPECT_EQ(count<ReleaseSlot>(actions), 1u);
    EXPECT_TRUE(control_of(actions).at_step.has_value());
    EXPECT_EQ(coordinator.attempts_failed(), 1u);
}

TEST(Coordinator, ADrainReplacesAStandingRequestAndIsSettledWhenItIsDurable) {
    Coordinator coordinator = every_ten_steps(1);
    std::ignore = coordinator.begin(at(0));

    const auto asked = coordinator.request_now(Reason::kSigterm, position(4), at(1));
    const auto control = control_of(asked);
    const auto complete = coordinator.sealed(control.request, sealed(0, 5), {}, at(2));
    const auto settled = coordinator.persisted(*find<Persist>(complete), true, "durable", at(3));

    EXPECT_EQ(control.at_step, Step{5});
    EXPECT_TRUE(control.is_urgent);
    EXPECT_EQ(find<Persist>(complete)->reason, Reason::kSigterm);
    ASSERT_NE(find<UrgentSettled>(settled), nullptr);
    EXPECT_TRUE(find<UrgentSettled>(settled)->is_durable);
}

TEST(Coordinator, ADrainInTheMiddleOfASealingTakesItsSlotsBack) {
    Coordinator coordinator = every_ten_steps(2);
    const auto first = control_of(coordinator.begin(at(0)));
    std::ignore = coordinator.sealed(first.request, sealed(0, 10), {}, at(1));

    const auto asked = coordinator.request_now(Reason::kSigterm, position(10), at(1));

    EXPECT_EQ(count<ReleaseSlot>(asked), 1u);
    EXPECT_EQ(control_of(asked).at_step, Step{11});
}

TEST(Coordinator, ADrainInAnEvaluationNamesTheStepWhereAllAre) {
    Coordinator coordinator = every_ten_steps(2);
    std::ignore = coordinator.begin(at(0));

    const auto asked =
        coordinator.request_now(Reason::kSigterm, position(50, /*is_between=*/true), at(1));

    EXPECT_EQ(control_of(asked).at_step, Step{50});
}

TEST(Coordinator, ADrainWhereTheStateIsDurableAlreadyIsSettledAtOnce) {
    Coordinator coordinator(1, {.cadence = {.every_steps = 10}}, position(50), /*is_durable=*/true,
                            at(0));
    std::ignore = coordinator.begin(at(0));

    const auto asked =
        coordinator.request_now(Reason::kSigterm, position(50, /*is_between=*/true), at(1));

    ASSERT_NE(find<UrgentSettled>(asked), nullptr);
    EXPECT_TRUE(find<UrgentSettled>(asked)->is_durable);
    EXPECT_EQ(find<SetControl>(asked), nullptr);
}

TEST(Coordinator, WhatATrainerAsksForIsSavedAgainWhereTheStateIsDurableAlready) {
    Coordinator coordinator(1, {.cadence = {.every_steps = 10}}, position(50), /*is_durable=*/true,
                            at(0));
    std::ignore = coordinator.begin(at(0));

    const auto asked = coordinator.request_now(Reason::kRequest, position(50, /*is_between=*/true),
                                               at(1), Coordinator::IfDurable::kSaveAgain);

    EXPECT_EQ(find<UrgentSettled>(asked), nullptr);
    EXPECT_EQ(control_of(asked).at_step, Step{50});
}

TEST(Coordinator, ADrainWhoseCheckpointCouldNotBeWrittenIsSettledAsNotDurable) {
    Coordinator coordinator = every_ten_steps(1);
    std::ignore = coordinator.begin(at(0));
    const auto control = control_of(coordinator.request_now(Reason::kSigterm, position(4), at(1)));
    const auto complete = coordinator.sealed(control.request, sealed(0, 5), {}, at(2));

    const auto settled = coordinator.persisted(*find<Persist>(complete), false, "disk full", at(3));

    ASSERT_NE(find<UrgentSettled>(settled), nullptr);
    EXPECT_FALSE(find<UrgentSettled>(settled)->is_durable);
    EXPECT_NE(find<AttemptFailed>(settled), nullptr);
}

TEST(Coordinator, AsksForNothingMoreOnceRanksAreToStop) {
    Coordinator coordinator = every_ten_steps(1);
    std::ignore = coordinator.begin(at(0));

    const auto actions = coordinator.ask_to_stop();

    EXPECT_TRUE(control_of(actions).should_stop);
    EXPECT_EQ(control_of(actions).request, 0u);
    EXPECT_THAT(coordinator.moved(position(100), at(100)), IsEmpty());
}

TEST(Coordinator, ALostRankFailsWhatIsUnderWayAndNothingIsAskedAnyMore) {
    Coordinator coordinator = every_ten_steps(2);
    const auto first = control_of(coordinator.begin(at(0)));
    std::ignore = coordinator.sealed(first.request, sealed(0, 10), {}, at(1));

    const auto actions = coordinator.lost(Rank{1}, "it hung up", at(1));

    EXPECT_NE(find<AttemptFailed>(actions), nullptr);
    EXPECT_EQ(count<ReleaseSlot>(actions), 1u);
    EXPECT_THAT(coordinator.moved(position(100), at(100)), IsEmpty());
}

TEST(Coordinator, ALostRankBeforeAnySealIsNoFailedAttempt) {
    Coordinator coordinator = every_ten_steps(2);
    std::ignore = coordinator.begin(at(0));

    EXPECT_EQ(find<AttemptFailed>(coordinator.lost(Rank{1}, "it hung up", at(1))), nullptr);
}

constexpr Moment moment(std::uint64_t step, std::uint64_t epoch) {
    return {.step = Step{step}, .epoch = Epoch{epoch}};
}

TEST(Coordinator, TakesAFinalSnapshotWhenAllRanksHaveFinished) {
    Coordinator coordinator = every_ten_steps(2);
    std::ignore = coordinator.begin(at(0));

    const auto one = coordinator.finishing(Rank{0}, moment(25, 1), at(1));
    const auto both = coordinator.finishing(Rank{1}, moment(25, 1), at(2));

    EXPECT_THAT(one, IsEmpty());
    EXPECT_EQ(control_of(both).at_step, Step{25});
    ASSERT_NE(find<WakeFinishing>(both), nullptr);
    EXPECT_EQ(find<WakeFinishing>(both)->request, control_of(both).request);
    EXPECT_FALSE(coordinator.is_final_durable());
}

TEST(Coordinator, NeedsNoFinalSnapshotOfAMomentThatIsDurable) {
    Coordinator coordinator = every_ten_steps(1);
    const auto control = control_of(coordinator.begin(at(0)));
    const auto complete = coordinator.sealed(control.request, sealed(0, 10, 1), {}, at(1));
    std::ignore = coordinator.persisted(*find<Persist>(complete), true, "", at(2));

    const auto actions = coordinator.finishing(Rank{0}, moment(10, 1), at(3));

    ASSERT_NE(find<UrgentSettled>(actions), nullptr);
    EXPECT_EQ(find<UrgentSettled>(actions)->reason, Reason::kFinal);
    EXPECT_EQ(find<WakeFinishing>(actions), nullptr);
    EXPECT_TRUE(coordinator.is_final_durable());
}

TEST(Coordinator, TheEndOfAnEpochIsAnotherMomentThanItsLastStep) {
    Coordinator coordinator = every_ten_steps(1);
    const auto control = control_of(coordinator.begin(at(0)));
    const auto complete = coordinator.sealed(control.request, sealed(0, 10, 0), {}, at(1));
    std::ignore = coordinator.persisted(*find<Persist>(complete), true, "", at(2));

    const auto actions = coordinator.finishing(Rank{0}, moment(10, 1), at(3));

    EXPECT_NE(find<WakeFinishing>(actions), nullptr);
}

TEST(Coordinator, WaitsForAFinalMomentThatIsBeingPersisted) {
    Coordinator coordinator = every_ten_steps(1);
    const auto control = control_of(coordinator.begin(at(0)));
    const auto complete = coordinator.sealed(control.request, sealed(0, 10, 1), {}, at(1));

    const auto actions = coordinator.finishing(Rank{0}, moment(10, 1), at(2));
    const auto done = coordinator.persisted(*find<Persist>(complete), true, "", at(3));

    EXPECT_THAT(actions, IsEmpty());
    EXPECT_TRUE(coordinator.is_final_durable());
    EXPECT_NE(find<UrgentSettled>(done), nullptr);
}

TEST(Coordinator, RanksThatFinishAtDifferentStepsFailTheFinalCheckpoint) {
    Coordinator coordinator = every_ten_steps(2);
    std::ignore = coordinator.begin(at(0));
    std::ignore = coordinator.finishing(Rank{0}, moment(25, 1), at(1));

    const auto actions = coordinator.finishing(Rank{1}, moment(26, 1), at(2));

    ASSERT_NE(find<AttemptFailed>(actions), nullptr);
    EXPECT_THAT(find<AttemptFailed>(actions)->why,
                testing::HasSubstr("rank 1 finished at step 26"));
}

TEST(Coordinator, AFinalCheckpointThatFailedIsKeptInMemoryAndWrittenAgain) {
    Coordinator coordinator = every_ten_steps(1);
    std::ignore = coordinator.begin(at(0));
    const auto final_request =
        control_of(coordinator.finishing(Rank{0}, moment(25, 1), at(1))).request;
    const auto complete = coordinator.sealed(final_request, sealed(0, 25, 1), {}, at(2));

    const auto failed = coordinator.persisted(*find<Persist>(complete), false, "disk full", at(3));
    const auto early = coordinator.moved(position(25), at(4));
    const auto due = coordinator.moved(position(25), at(3) + Coordinator::kFinalRetryDelay);

    ASSERT_NE(find<AttemptFailed>(failed), nullptr);
    EXPECT_EQ(find<AttemptFailed>(failed)->retry_in, Coordinator::kFinalRetryDelay);
    EXPECT_EQ(count<ReleaseSlot>(failed), 0u);
    EXPECT_THAT(early, IsEmpty());
    ASSERT_NE(find<Persist>(due), nullptr);
    EXPECT_EQ(find<Persist>(due)->sealed, find<Persist>(complete)->sealed);
}

TEST(Coordinator, ADrainDoesNotWaitForAFinalCheckpointThatCannotBeWritten) {
    Coordinator coordinator = every_ten_steps(1);
    std::ignore = coordinator.begin(at(0));
    const auto final_request =
        control_of(coordinator.finishing(Rank{0}, moment(25, 1), at(1))).request;
    const auto complete = coordinator.sealed(final_request, sealed(0, 25, 1), {}, at(2));
    EXPECT_THAT(coordinator.request_now(Reason::kSigterm, position(25), at(2)), IsEmpty())
        << "it is on its way";
    std::ignore = coordinator.persisted(*find<Persist>(complete), false, "disk full", at(3));

    const auto asked = coordinator.request_now(Reason::kSigterm, position(25), at(4));

    ASSERT_NE(find<UrgentSettled>(asked), nullptr);
    EXPECT_FALSE(find<UrgentSettled>(asked)->is_durable);
}

TEST(Coordinator, ANewCadenceNamesItsOwnStepAtOnce) {
    Coordinator coordinator(1, {.cadence = {.every_steps = 1000}}, {}, /*is_durable=*/false, at(0));
    const auto far = control_of(coordinator.begin(at(0)));
    std::ignore = coordinator.moved(position(7), at(1));

    const auto actions = coordinator.change_cadence({.every_steps = 10}, at(2));

    EXPECT_EQ(far.at_step, Step{1000});
    EXPECT_EQ(control_of(actions).at_step, Step{10});
    EXPECT_GT(control_of(actions).request, far.request);
    EXPECT_EQ(count<AttemptFailed>(actions), 0u);
}

TEST(Coordinator, ACadenceByTimeAloneTakesBackTheStepThatWasNamed) {
    Coordinator coordinator = every_ten_steps(1);
    std::ignore = coordinator.begin(at(0));

    const auto actions = coordinator.change_cadence({.every_time = seconds{60}}, at(1));
    const auto before = coordinator.moved(position(20), at(59));
    const auto due = coordinator.moved(position(21), at(60));

    ASSERT_NE(find<SetControl>(actions), nullptr);
    EXPECT_EQ(control_of(actions).at_step, std::nullopt);
    EXPECT_THAT(before, IsEmpty());
    EXPECT_EQ(control_of(due).at_step, Step{22});
}

TEST(Coordinator, ANewCadenceLeavesASnapshotThatIsUnderWayAlone) {
    Coordinator coordinator = every_ten_steps(2);
    const auto request = control_of(coordinator.begin(at(0))).request;
    std::ignore = coordinator.sealed(request, sealed(0, 10), {}, at(1));

    const auto changed = coordinator.change_cadence({.every_steps = 15}, at(1));
    const auto complete = coordinator.sealed(request, sealed(1, 10), {}, at(2));

    EXPECT_THAT(changed, IsEmpty());
    EXPECT_NE(find<Persist>(complete), nullptr);
    EXPECT_EQ(control_of(complete).at_step, Step{15});
}

TEST(Coordinator, ANewCadenceDoesNotTouchAnUrgentRequestOrAnIncarnationThatIsLost) {
    Coordinator draining = every_ten_steps(1);
    std::ignore = draining.begin(at(0));
    std::ignore = draining.request_now(Reason::kSigterm, position(5), at(1));
    Coordinator lost = every_ten_steps(1);
    std::ignore = lost.begin(at(0));
    std::ignore = lost.lost(Rank{0}, "it hung up", at(1));

    EXPECT_THAT(draining.change_cadence({.every_steps = 3}, at(2)), IsEmpty());
    EXPECT_THAT(lost.change_cadence({.every_steps = 3}, at(2)), IsEmpty());
    EXPECT_THAT(lost.moved(position(9), at(3)), IsEmpty());
}

}  // namespace
}  // namespace pawl::checkpoint
