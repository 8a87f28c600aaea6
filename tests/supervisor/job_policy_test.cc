// The job's policy: stories, and a hundred thousand random events against a model of the shell.
#include "supervisor/job_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <errno.h>
#include <signal.h>

#include <random>

namespace pawl::supervisor {
namespace {

using testing::HasSubstr;

constexpr MonotonicTime at(double second) {
    return MonotonicTime{nanoseconds{static_cast<std::int64_t>(second * 1e9)}};
}

ExitStatus killed(int signal) {
    return {.cause = ExitCause::kSignal, .number = signal};
}
ExitStatus failed(int code) {
    return {.cause = ExitCause::kError, .number = code};
}

template <class Wanted>
const Wanted* find(const std::vector<Action>& actions) {
    for (const Action& action : actions) {
        if (const auto* wanted = std::get_if<Wanted>(&action)) return wanted;
    }
    return nullptr;
}

// A job that is told a story, event by event.
struct Story {
    JobPolicy policy;
    Job job;
    std::vector<Action> actions;  // of the last event

    explicit Story(JobPolicy given = {}) : policy(given) {}

    Story& tell(const Event& event, double second = 0) {
        auto [next_job, next_actions] = next(job, event, policy, at(second));
        job = std::move(next_job);
        actions = std::move(next_actions);
        return *this;
    }
    Story& start() { return tell(Start{}); }
    Story& progress(std::uint64_t step) {
        return tell(ProgressSeen{.incarnation = *job.incarnation, .step = Step{step}});
    }
    Story& exit(const ExitStatus& status, double second = 0, std::uint64_t rank = 0) {
        return tell(
            RankExited{.incarnation = *job.incarnation, .rank = Rank{rank}, .status = status},
            second);
    }
    Story& gone(double second = 0) {
        return tell(RanksGone{.incarnation = *job.incarnation}, second);
    }
    Story& crash(double second = 0) { return exit(killed(SIGKILL), second).gone(second); }
    Story& stop(bool has_clients, double second = 0) {
        return tell(StopRequested{.has_clients = has_clients, .by = "SIGTERM"}, second);
    }
    [[nodiscard]] std::string_view state() const { return name_of(job.state); }
    [[nodiscard]] const Stopped& stopped() const { return std::get<Stopped>(job.state); }
};

TEST(JobPolicy, StartsWithIncarnationZeroAndCountsUp) {
    Story story;

    story.start();
    const auto first = find<StartRanks>(story.actions)->incarnation;
    story.crash();
    const auto second = find<StartRanks>(story.actions)->incarnation;

    EXPECT_EQ(first, Incarnation{0});
    EXPECT_EQ(second, Incarnation{1});
}

TEST(JobPolicy, GoesOnCountingWhereTheJournalEnds) {
    Story story;
    story.job.incarnation = Incarnation{7};

    story.start();

    EXPECT_EQ(find<StartRanks>(story.actions)->incarnation, Incarnation{8});
}

TEST(JobPolicy, AFailedRankTakesAllOthersDownBeforeAnythingIsStarted) {
    Story story({.world_size = 2});

    story.start().exit(failed(3), 0, 1);

    EXPECT_EQ(story.state(), "stopping");
    EXPECT_NE(find<KillRanks>(story.actions), nullptr);
    EXPECT_EQ(find<StartRanks>(story.actions), nullptr);
    story.exit(killed(SIGKILL), 0, 0);
    EXPECT_EQ(find<StartRanks>(story.actions), nullptr);
    story.gone();
    EXPECT_NE(find<StartRanks>(story.actions), nullptr);
}

TEST(JobPolicy, RestartsAtOnceThenWaitsTwiceAsLongEachTime) {
    Story story({.restarts_max = 10, .delay_initial = seconds{1}, .delay_max = seconds{5}});
    story.start();
    std::vector<double> delays;
    for (int i = 0; i < 6; ++i) {
        story.crash();
        const auto* wake = find<WakeAt>(story.actions);
        delays.push_back(
            wake == nullptr ? 0 : std::chrono::duration<double>(wake->time - at(0)).count());
        if (wake != nullptr) story.tell(WakeUp{}, delays.back());
    }

    EXPECT_THAT(delays, testing::ElementsAre(0, 1, 2, 4, 5, 5));
}

TEST(JobPolicy, JitterTakesUpToHalfOfTheDelayAway) {
    const JobPolicy policy{.delay_initial = seconds{8}, .delay_max = seconds{60}};

    EXPECT_EQ(policy.delay_before(0, 0.5), nanoseconds::zero());
    EXPECT_EQ(policy.delay_before(1, 0), seconds{8});
    EXPECT_EQ(policy.delay_before(1, 0.5), seconds{6});
    EXPECT_EQ(policy.delay_before(2, 0.5), seconds{12});
    EXPECT_EQ(policy.delay_before(4'000'000'000, 0), seconds{60});
}

TEST(JobPolicy, StopsWhenTheBudgetIsSpentWithTheRanksOwnCode) {
    Story story({.restarts_max = 2, .delay_initial = nanoseconds{0}, .delay_max = nanoseconds{0}});
    story.start();
    for (int i = 0; i < 3; ++i)
        story.exit(failed(9)).gone();

    EXPECT_EQ(story.state(), "failed");
    EXPECT_EQ(story.stopped().exit_code, 9);
    EXPECT_THAT(story.stopped().text, HasSubstr("rank 0 exited with code 9"));
    EXPECT_THAT(story.stopped().text, HasSubstr("2 restarts brought no progress"));
    EXPECT_NE(find<Conclude>(story.actions), nullptr);
}

TEST(JobPolicy, RestartsThatAreOlderThanTheWindowNoLongerCount) {
    Story story(
        {.restarts_max = 1, .restart_window = seconds{100}, .delay_initial = nanoseconds{0}});
    story.start().crash(0);

    story.crash(100);

    EXPECT_EQ(story.state(), "running");
}

TEST(JobPolicy, ProgressRefillsTheBudgetAndTheNextRestartIsAtOnce) {
    Story story({.restarts_max = 1});
    story.start();
    for (std::uint64_t step = 10; step < 200; step += 10) {
        story.progress(step).crash();

        ASSERT_EQ(story.state(), "running") << "step " << step;
    }
}

TEST(JobPolicy, TheSameStepFailingThreeTimesInARowStopsTheJobWithTheEvidence) {
    Story story({.delay_initial = nanoseconds{0}, .same_step_failures_max = 3});
    story.start();
    for (int i = 0; i < 3; ++i)
        story.progress(41).exit(killed(SIGSEGV)).gone();

    EXPECT_EQ(story.state(), "failed");
    EXPECT_THAT(story.stopped().text, HasSubstr("step 42 has failed 3 times in a row, the last "
                                                "time because rank 0 was killed by SIGSEGV"));
    EXPECT_EQ(story.stopped().exit_code, 128 + SIGSEGV);
}

TEST(JobPolicy, FailuresAtDifferentStepsAreNoPoisonStep) {
    Story story({.delay_initial = nanoseconds{0}, .delay_max = nanoseconds{0}});
    story.start();
    for (const std::uint64_t step : {41U, 40U, 41U, 40U, 41U, 40U})
        story.progress(step).crash();

    EXPECT_EQ(story.state(), "running");
}

TEST(JobPolicy, ACommandThatCannotBeStartedIsNotTriedAgain) {
    struct Case {
        int code;
        int expected;
    };
    for (const Case& one : {Case{ENOENT, 127}, Case{EACCES, 126}}) {
        Story story;
        story.start();

        story.exit({.cause = ExitCause::kCouldNotStart, .number = one.code, .detail = "why"})
            .gone();

        EXPECT_EQ(story.state(), "failed");
        EXPECT_EQ(story.stopped().exit_code, one.expected);
    }
}

TEST(JobPolicy, FinishesWhenTheLastRankHas) {
    Story story({.world_size = 2});

    story.start().exit({}, 0, 1);
    EXPECT_EQ(story.state(), "running");
    story.exit({}, 0, 0).gone();

    EXPECT_EQ(story.state(), "finished");
    EXPECT_EQ(story.stopped().exit_code, 0);
}

TEST(JobPolicy, StopsWithoutARestartWhenNothingValidIsLeftToResumeFrom) {
    Story story;
    story.start();

    story
        .tell(ResumeRefused{
            .incarnation = Incarnation{0}, .exit_code = 65, .why = "no valid checkpoint"})
        .gone();

    EXPECT_EQ(story.state(), "failed");
    EXPECT_EQ(story.stopped().exit_code, 65);
    EXPECT_EQ(story.stopped().text, "no valid checkpoint");
}

// ---- drains ----

JobPolicy drain_policy() {
    return {.grace = seconds{30}, .exit_grace = seconds{5}};
}

TEST(JobPolicy, ADrainAsksForASnapshotThenAsksRanksToLeaveThenIsResumable) {
    Story story(drain_policy());
    story.start().stop(true, 100);
    EXPECT_EQ(story.state(), "draining");
    EXPECT_NE(find<RequestDrainSnapshot>(story.actions), nullptr);
    EXPECT_EQ(find<WakeAt>(story.actions)->time, at(125));

    story.tell(DrainSettled{.incarnation = Incarnation{0}, .is_durable = true, .text = "safe"},
               101);
    EXPECT_NE(find<AskRanksToStop>(story.actions), nullptr);
    EXPECT_EQ(find<WakeAt>(story.actions)->time, at(106));
    story.exit({}, 102).gone();

    EXPECT_EQ(story.state(), "stopped");
    EXPECT_EQ(story.stopped().exit_code, kExitResumable);
}

TEST(JobPolicy, ADrainWithoutASnapshotInTimeStopsAllTheSame) {
    Story story(drain_policy());
    story.start().stop(true, 100);

    story.tell(WakeUp{}, 124.9);
    EXPECT_EQ(find<AskRanksToStop>(story.actions), nullptr) << "too early";
    story.tell(WakeUp{}, 125);
    EXPECT_NE(find<AskRanksToStop>(story.actions), nullptr);
    story.tell(WakeUp{}, 130);
    EXPECT_NE(find<KillRanks>(story.actions), nullptr);
    story.gone();

    EXPECT_EQ(story.stopped().exit_code, kExitResumable);
}

TEST(JobPolicy, ASecondSignalSkipsTheCheckpointAThirdKills) {
    Story story(drain_policy());
    story.start().stop(true, 100);

    story.stop(true, 101);
    EXPECT_EQ(find<SignalRanks>(story.actions)->signal, SIGTERM);
    EXPECT_NE(find<AskRanksToStop>(story.actions), nullptr);
    story.stop(true, 102);
    EXPECT_NE(find<KillRanks>(story.actions), nullptr);
}

TEST(JobPolicy, RanksThatAreNotAttachedGetSigtermThemselves) {
    Story story(drain_policy());

    story.start().stop(false, 100);

    EXPECT_EQ(find<SignalRanks>(story.actions)->signal, SIGTERM);
    EXPECT_EQ(find<RequestDrainSnapshot>(story.actions), nullptr);
    EXPECT_EQ(find<WakeAt>(story.actions)->time, at(130));
    story.exit(killed(SIGTERM), 101).gone();
    EXPECT_EQ(story.stopped().exit_code, kExitResumable);
}

TEST(JobPolicy, ARankThatDiesWhileItsSnapshotIsAwaitedEndsTheDrain) {
    Story story(drain_policy());
    story.start().stop(true, 100);

    story.exit(killed(SIGKILL), 101);

    EXPECT_NE(find<KillRanks>(story.actions), nullptr);
    story.gone();
    EXPECT_EQ(story.stopped().exit_code, kExitResumable);
}

TEST(JobPolicy, ARunThatFinishesWhileItsSnapshotIsAwaitedHasFinished) {
    Story story(drain_policy());
    story.start().stop(true, 100);

    story.exit({}, 101).gone();

    EXPECT_EQ(story.state(), "finished");
}

TEST(JobPolicy, AStopWhileWaitingOrKillingStartsNothingAnyMore) {
    Story waiting({.delay_initial = seconds{10}});
    waiting.start().crash().crash();
    ASSERT_EQ(waiting.state(), "backing-off");
    waiting.stop(false);
    EXPECT_EQ(waiting.stopped().exit_code, kExitResumable);

    Story killing;
    killing.start().exit(killed(SIGKILL)).stop(false).gone();
    EXPECT_EQ(killing.stopped().exit_code, kExitResumable);
    EXPECT_EQ(find<StartRanks>(killing.actions), nullptr);
}

TEST(JobPolicy, EventsOfAnOldIncarnationChangeNothing) {
    Story story;
    story.start().crash();
    ASSERT_EQ(story.job.incarnation, Incarnation{1});
    const Job before = story.job;

    for (const Event& event :
         {Event{RankExited{.incarnation = Incarnation{0}, .status = failed(1)}},
          Event{RanksGone{Incarnation{0}}},
          Event{ProgressSeen{.incarnation = Incarnation{0}, .step = Step{99}}},
          Event{DrainSettled{.incarnation = Incarnation{0}}},
          Event{ResumeRefused{.incarnation = Incarnation{0}, .exit_code = 65}}}) {
        story.tell(event);

        EXPECT_EQ(story.job, before);
        EXPECT_TRUE(story.actions.empty());
    }
}

// ---- a model of the shell, and chance ----

// Carries actions out as the shell does, and checks at each what must never happen.
class Model {
public:
    explicit Model(std::uint64_t seed) : random_(seed) {}

    void run(int events) {
        tell(Start{});
        for (int i = 0; i < events && !std::holds_alternative<Stopped>(job_.state); ++i)
            tell(draw());
    }
    [[nodiscard]] bool has_stopped() const { return std::holds_alternative<Stopped>(job_.state); }
    // After the end no event may start anything.
    void haunt(int events) {
        for (int i = 0; i < events; ++i)
            tell(draw());
    }

private:
    Event draw() {
        now_ += std::chrono::milliseconds{random_() % 500};
        const Incarnation incarnation = job_.incarnation.value_or(Incarnation{0});
        // Sometimes late, from an incarnation that is over.
        const Incarnation about = random_() % 8 == 0 && incarnation.value > 0
                                      ? Incarnation{incarnation.value - 1}
                                      : incarnation;
        switch (random_() % 100) {
            case 0:
                return StopRequested{.has_clients = random_() % 2 == 0, .by = "SIGTERM"};
            case 1:
                return ResumeRefused{.incarnation = about, .exit_code = 65, .why = "none"};
            case 2:
                return DrainSettled{.incarnation = about, .is_durable = random_() % 2 == 0};
            default:
                break;
        }
        switch (random_() % 4) {
            case 0:
                return WakeUp{};
            case 1:
                return ProgressSeen{.incarnation = about, .step = Step{step_ += random_() % 3}};
            case 2: {
                if (about == incarnation && is_killing_) is_alive_ = false;
                if (about == incarnation && is_alive_) return WakeUp{};  // gone means gone
                return RanksGone{.incarnation = about};
            }
            default: {
                ExitStatus status = random_() % 50 == 0 ? ExitStatus{} : killed(SIGKILL);
                return RankExited{.incarnation = about,
                                  .rank = Rank{random_() % 2},
                                  .status = status,
                                  .jitter = 0.5};
            }
        }
    }

    void tell(const Event& event) {
        const bool had_stopped = has_stopped();
        auto [job, actions] = next(job_, event, policy_, now_);
        job_ = std::move(job);
        for (const Action& action : actions) {
            if (const auto* start = std::get_if<StartRanks>(&action)) {
                ASSERT_FALSE(is_alive_) << "two incarnations at once";
                ASSERT_FALSE(had_stopped) << "started after the end";
                ASSERT_EQ(start->incarnation, job_.incarnation);
                is_alive_ = true;
                is_killing_ = false;
            }
            if (std::holds_alternative<KillRanks>(action)) is_killing_ = true;
        }
        ASSERT_LE(job_.restarts.size(), policy_.restarts_max);
    }

    std::mt19937_64 random_;
    JobPolicy policy_{.world_size = 2, .restarts_max = 5};
    Job job_;
    MonotonicTime now_;
    std::uint64_t step_ = 0;
    bool is_alive_ = false;
    bool is_killing_ = false;
};

TEST(JobPolicy, NeverRunsTwoIncarnationsNorBreaksItsBudgetWhateverHappens) {
    constexpr std::uint64_t kSeeds = 500;
    int stopped = 0;
    for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
        SCOPED_TRACE(fmt::format("seed {}", seed));
        Model model(seed);
        model.run(200);
        if (HasFatalFailure()) return;
        if (model.has_stopped()) {
            ++stopped;
            model.haunt(50);
            if (HasFatalFailure()) return;
        }
    }

    EXPECT_GT(stopped, 100) << "the model ends often enough to say something of ends";
}

TEST(JobPolicy, RanksWhoseWorkWouldBeLostAreRestartedByTheSameRulesAsAfterACrash) {
    const JobPolicy policy;
    const Job job = next(Job{}, Start{}, policy, MonotonicTime{}).job;
    const RanksUseless useless{.incarnation = Incarnation{0}, .why = "rank 1 did not attach"};

    const auto killed = next(job, useless, policy, MonotonicTime{});
    const auto again =
        next(killed.job, RanksGone{.incarnation = Incarnation{0}}, policy, MonotonicTime{});

    EXPECT_EQ(name_of(killed.job.state), "stopping");
    EXPECT_TRUE(std::ranges::any_of(killed.actions, [](const Action& action) {
        return std::holds_alternative<KillRanks>(action);
    }));
    EXPECT_EQ(again.job.incarnation, Incarnation{1});
    EXPECT_EQ(name_of(again.job.state), "running");
}

TEST(JobPolicy, UselessRanksOfAnOldIncarnationOrOfADrainChangeNothing) {
    const JobPolicy policy;
    const Job job = next(Job{}, Start{}, policy, MonotonicTime{}).job;
    const Job draining =
        next(job, StopRequested{.has_clients = true, .by = "SIGTERM"}, policy, MonotonicTime{}).job;

    const RanksUseless late{.incarnation = Incarnation{7}, .why = "late"};
    const RanksUseless now{.incarnation = Incarnation{0}, .why = "rank 1 is gone"};

    EXPECT_EQ(next(job, late, policy, MonotonicTime{}).job, job);
    EXPECT_EQ(next(draining, now, policy, MonotonicTime{}).job, draining);
}

}  // namespace
}  // namespace pawl::supervisor
