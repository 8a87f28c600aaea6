// The job's budget of restarts, counted by someone who does not read the policy's own books.
#include "supervisor/job_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <signal.h>

#include <random>

namespace pawl::supervisor {
namespace {

template <class Wanted>
const Wanted* find(const std::vector<Action>& actions) {
    for (const Action& action : actions) {
        if (const auto* wanted = std::get_if<Wanted>(&action)) return wanted;
    }
    return nullptr;
}

constexpr MonotonicTime at(std::int64_t second) {
    return MonotonicTime{seconds{second}};
}

RankExited exit_of(const Job& job, ExitStatus status) {
    return {.incarnation = *job.incarnation, .status = std::move(status)};
}

const ExitStatus kKilled{.cause = ExitCause::kSignal, .number = SIGKILL};

// A run reaches `step` and is killed; `second` is the time.
Job crash_at(Job job, std::uint64_t step, const JobPolicy& policy, MonotonicTime now) {
    const Incarnation incarnation = *job.incarnation;
    job = next(job, ProgressSeen{.incarnation = incarnation, .step = Step{step}}, policy, now).job;
    job = next(job, exit_of(job, kKilled), policy, now).job;
    return next(job, RanksGone{.incarnation = incarnation}, policy, now).job;
}

// Progress is a step beyond all that were reached before. A job that fails now at its furthest step
// and now before it makes none, and must come to the end of its budget.
TEST(JobPolicyBudget, ReachingTheFurthestStepAgainIsNoProgress) {
    const JobPolicy policy{.restarts_max = 5, .delay_initial = {}, .delay_max = {}};
    Job job = next(Job{}, Start{}, policy, at(0)).job;
    int crashes = 0;

    for (; crashes < 100 && std::holds_alternative<Running>(job.state); ++crashes)
        job = crash_at(job, crashes % 2 == 0 ? 100 : 95, policy, at(crashes));

    EXPECT_EQ(name_of(job.state), "failed") << "still restarting after " << crashes << " crashes";
    EXPECT_EQ(crashes, 6) << "the first, and one for each restart of the budget";
}

TEST(JobPolicyBudget, ADrainWhoseCheckpointFailedStopsTheRanksWithAWarning) {
    const JobPolicy policy;
    Job job = next(Job{}, Start{}, policy, at(0)).job;
    job = next(job, StopRequested{.has_clients = true, .by = "SIGTERM"}, policy, at(1)).job;

    const auto [after, actions] = next(
        job, DrainSettled{.incarnation = Incarnation{0}, .is_durable = false, .text = "disk full"},
        policy, at(2));

    ASSERT_NE(find<Report>(actions), nullptr);
    EXPECT_EQ(find<Report>(actions)->level, ReportLevel::kWarning);
    EXPECT_EQ(find<Report>(actions)->text, "disk full");
    EXPECT_NE(find<AskRanksToStop>(actions), nullptr);
    EXPECT_EQ(find<KillRanks>(actions), nullptr);
}

TEST(JobPolicyBudget, AWakeUpThatIsEarlyOrNotAwaitedStartsNothing) {
    const JobPolicy policy{.delay_initial = seconds{10}};
    Job job = next(Job{}, Start{}, policy, at(0)).job;
    EXPECT_TRUE(next(job, WakeUp{}, policy, at(99)).actions.empty()) << "running";
    job = crash_at(job, 1, policy, at(100));  // at once
    job = crash_at(job, 1, policy, at(100));  // after 10 s
    ASSERT_EQ(name_of(job.state), "backing-off");

    const auto early = next(job, WakeUp{}, policy, at(109));
    const auto due = next(job, WakeUp{}, policy, at(110));

    EXPECT_EQ(find<StartRanks>(early.actions), nullptr);
    EXPECT_EQ(find<WakeAt>(early.actions)->time, at(110));
    EXPECT_NE(find<StartRanks>(due.actions), nullptr);
}

// Counts starts, ends and progress by the events and actions alone.
class Auditor {
public:
    Auditor(std::uint64_t seed, const JobPolicy& policy) : random_(seed), policy_(policy) {}

    // The events it took until the job stopped.
    int run() {
        tell(Start{});
        int events = 1;
        for (; !testing::Test::HasFatalFailure() && !std::holds_alternative<Stopped>(job_.state);
             ++events) {
            tell(draw());
        }
        return events;
    }

private:
    Event draw() {
        now_ += milliseconds{random_() % 20};
        const Incarnation current = *job_.incarnation;
        const bool is_late = random_() % 8 == 0 && current.value > 0;
        const Incarnation about = is_late ? Incarnation{current.value - 1} : current;
        if (random_() % 2000 == 0) return StopRequested{.has_clients = random_() % 2 == 0};
        switch (random_() % 4) {
            case 0:
                return WakeUp{};
            case 1:
                if (!is_late && !is_alive_) return WakeUp{};  // the dead report nothing
                return ProgressSeen{.incarnation = about, .step = Step{random_() % kSteps}};
            case 2:
                // The shell says "gone" only of what it was asked to kill.
                if (!is_late && !is_killing_) return WakeUp{};
                return RanksGone{.incarnation = about};
            default:
                return RankExited{.incarnation = about, .status = kKilled, .jitter = 0.5};
        }
    }

    void tell(const Event& event) {
        if (const auto* progress = std::get_if<ProgressSeen>(&event)) {
            if (progress->incarnation == job_.incarnation &&
                (!furthest_ || progress->step > *furthest_)) {
                furthest_ = progress->step;
                restarts_ = 0;
            }
        }
        if (const auto* gone = std::get_if<RanksGone>(&event)) {
            if (gone->incarnation == job_.incarnation) is_alive_ = false;
        }
        auto [job, actions] = next(job_, event, policy_, now_);
        job_ = std::move(job);
        for (const Action& action : actions) {
            if (std::holds_alternative<KillRanks>(action)) is_killing_ = true;
            if (!std::holds_alternative<StartRanks>(action)) continue;
            ASSERT_FALSE(is_alive_) << "started before the last incarnation was gone";
            if (job_.incarnation != Incarnation{0}) ++restarts_;
            ASSERT_LE(restarts_, policy_.restarts_max) << "restarts since the last progress";
            is_alive_ = true;
            is_killing_ = false;
        }
    }

    static constexpr std::uint64_t kSteps = 30;  // few, so that runs come back to where they were
    std::mt19937_64 random_;
    JobPolicy policy_;
    Job job_;
    MonotonicTime now_;
    std::optional<Step> furthest_;
    std::uint32_t restarts_ = 0;
    bool is_alive_ = false;
    bool is_killing_ = false;
};

TEST(JobPolicyBudget, HoldsOverAHundredThousandEventsWhateverTheyAre) {
    const JobPolicy policy{.restarts_max = 5,
                           .restart_window = std::chrono::hours{1'000},
                           .delay_initial = milliseconds{1},
                           .delay_max = milliseconds{10},
                           .same_step_failures_max = 1'000};
    int events = 0;
    for (std::uint64_t seed = 1; events < 100'000; ++seed) {
        SCOPED_TRACE(fmt::format("seed {}", seed));
        events += Auditor(seed, policy).run();
        if (HasFatalFailure()) return;
    }
}

}  // namespace
}  // namespace pawl::supervisor
