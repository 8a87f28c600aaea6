// The coordinator among ranks that step, lag, evaluate, skip, lie, hang and die as a seed has it,
// on simulated time. What must hold is checked by someone who does not read the coordinator's
// books: he counts slots, answers and promises by actions and messages alone.
//
// A rank behaves as src/client/attached.cc does. The shell behaves as daemon/job_snapshot.cc does.
#include "checkpoint/coordinator.h"

#include <gtest/gtest.h>

#include <array>
#include <deque>
#include <functional>
#include <random>
#include <set>

namespace pawl::checkpoint {
namespace {

using staging::Phase;

constexpr nanoseconds kTimeout = seconds{5};
constexpr nanoseconds kTick = milliseconds{100};
constexpr nanoseconds kPersistMax = seconds{3};
constexpr nanoseconds kActive = seconds{60};  // requests and faults come within it
// Whatever waits is over by then: an attempt, the final one behind it, a retry, and their writes.
constexpr nanoseconds kQuiet = 3 * Coordinator::kPatience * kTimeout + seconds{60};

enum class Doing {
    kStepping,
    kEvaluating,
    kCopying,
    kAwaitingSlot,
    kFinishing,
    kAwaitingEnd,
    kHanging,
    kGone
};

struct SimulatedRank {
    Doing doing = Doing::kStepping;
    RankPlace place;
    MonotonicTime next;  // when it does its next thing
    nanoseconds step_time{};
    std::uint64_t answered = 0;
    std::uint64_t final_request = 0;
    std::array<bool, 2> owns_slot = {true, true};
    std::size_t slot = 0;
    bool is_at_epoch_end = false;  // its evaluation is over
    bool is_liar = false;
    int polls = 0;               // of its evaluation
    bool has_left_loop = false;  // training is complete
};

class Simulation {
public:
    explicit Simulation(std::uint64_t seed)
        : random_(seed),
          world_size_(1 + random_() % 4),
          last_step_(20 + random_() % 60),
          is_calm_(random_() % 3 == 0),
          coordinator_(world_size_, policy(), {}, false, now_) {
        for (std::uint64_t i = 0; i < world_size_; ++i) {
            SimulatedRank rank;
            rank.step_time = milliseconds{50 + random_() % 400};
            if (is_calm_) rank.step_time = milliseconds{100 + 20 * i};
            rank.is_liar = !is_calm_ && one_in(12);
            rank.place.heard = now_;
            ranks_.push_back(rank);
        }
        act(coordinator_.begin(now_));
    }

    void run() {
        const MonotonicTime end = now_ + kActive + kQuiet;
        while (now_ < end && !is_over_ && !testing::Test::HasFailure()) {
            now_ += kTick;
            deliver();
            for (std::uint64_t i = 0; i < world_size_; ++i)
                live(Rank{i});
            if (now_ < MonotonicTime{kActive}) trouble();
            if (all_attached_) act(coordinator_.moved(position(), now_));
            check_wake_up();
            check_promises();
        }
        check_end();
    }

    std::uint64_t durable = 0;
    std::uint64_t failed = 0;
    std::uint64_t stuck = 0;
    std::uint64_t settled = 0;
    std::uint64_t ended_early = 0;  // the last step was durable before all had finished

private:
    [[nodiscard]] CoordinatorPolicy policy() {
        CoordinatorPolicy policy{.attempt_timeout = kTimeout};
        if (!one_in(3)) policy.cadence.every_steps = 3 + random_() % 10;
        if (one_in(3)) policy.cadence.every_time = seconds{1 + random_() % 10};
        if (one_in(3)) policy.cadence.every_epochs = 1;
        return policy;
    }
    bool one_in(std::uint64_t n) { return random_() % n == 0; }
    SimulatedRank& rank_at(Rank rank) { return ranks_.at(rank.value); }

    Position position() {
        Position where{.all_between_steps = true};
        for (const SimulatedRank& rank : ranks_) {
            where.furthest_step = std::max(where.furthest_step, rank.place.step);
            where.furthest_epoch = std::max(where.furthest_epoch, rank.place.epoch);
            where.ranks.push_back(rank.place);
        }
        for (const SimulatedRank& rank : ranks_) {
            where.all_between_steps = where.all_between_steps &&
                                      rank.place.phase == Phase::kEvaluation &&
                                      rank.place.step == where.furthest_step;
        }
        return where;
    }

    // ---- the ranks ----

    void say(Rank rank, std::function<CoordinatorActions()> message) {
        messages_.push_back({now_ + milliseconds{random_() % 200}, rank, std::move(message)});
    }

    // Messages of one rank keep their order; those of different ranks overtake each other.
    void deliver() {
        std::set<std::uint64_t> held;
        for (auto message = messages_.begin(); message != messages_.end();) {
            const bool is_due = message->due <= now_ && !held.contains(message->rank.value);
            if (!is_due) {
                held.insert(message->rank.value);
                ++message;
                continue;
            }
            const auto tell = std::move(message->tell);
            message = messages_.erase(message);
            act(tell());
        }
    }

    void heard(SimulatedRank& rank, Phase phase) {
        rank.place.phase = phase;
        rank.place.heard = now_;
    }

    void live(Rank id) {
        SimulatedRank& rank = rank_at(id);
        if (now_ < rank.next) return;
        switch (rank.doing) {
            case Doing::kStepping:
                return step(id);
            case Doing::kEvaluating:
                heard(rank, Phase::kEvaluation);
                rank.next = now_ + milliseconds{200};
                if (look(id, /*is_epoch_end=*/false)) return;
                if (is_calm_ ? ++rank.polls % 5 == 0 : one_in(30)) end_epoch(id);
                return;
            case Doing::kCopying:
                return seal(id);
            case Doing::kAwaitingSlot:
                if (control_.should_stop) return leave(id);  // its socket is closed by the kill
                if (rank.owns_slot[0] || rank.owns_slot[1]) begin_copy(id);
                return;
            default:
                return;  // woken by a message, or never
        }
    }

    void step(Rank id) {
        SimulatedRank& rank = rank_at(id);
        rank.next = now_ + rank.step_time;
        if (control_.should_stop) return leave(id);
        if (rank.has_left_loop) return finish(id);
        rank.place.step = rank.place.step.next();
        rank.is_at_epoch_end = false;
        heard(rank, Phase::kTraining);
        if (look(id, false)) return;
        after_step(id);
    }

    void after_step(Rank id) {
        SimulatedRank& rank = rank_at(id);
        if (rank.is_at_epoch_end) {
            rank.doing = Doing::kStepping;
        } else if (rank.place.step.value % 20 == 0 || rank.place.step.value == last_step_) {
            rank.doing = Doing::kEvaluating;
        } else {
            rank.doing = Doing::kStepping;
        }
    }

    void end_epoch(Rank id) {
        SimulatedRank& rank = rank_at(id);
        rank.place.epoch = rank.place.epoch.next();
        rank.doing = Doing::kStepping;
        rank.is_at_epoch_end = true;
        rank.has_left_loop = rank.place.step.value >= last_step_;
        heard(rank, Phase::kTraining);
        look(id, true);
    }

    // As AttachedRun::wanted(). True if it takes a snapshot now.
    bool look(Rank id, bool is_epoch_end) {
        SimulatedRank& rank = rank_at(id);
        const staging::Control control = control_;
        if (control.request == 0 || control.request == rank.answered) return false;
        bool is_due = is_epoch_end && control.at_epoch && rank.place.epoch >= *control.at_epoch;
        if (control.at_step) {
            is_due = is_due || rank.place.step == *control.at_step;
            if (!is_due && rank.place.step > *control.at_step) {
                rank.answered = control.request;
                say(id, [this, id, control, step = rank.place.step] {
                    return coordinator_.passed(control.request, id, step, now_);
                });
            }
        }
        if (is_due) take_snapshot(id, control.is_urgent);
        return is_due;
    }

    void take_snapshot(Rank id, bool is_urgent) {
        SimulatedRank& rank = rank_at(id);
        rank.answered =
            rank.has_left_loop && rank.final_request != 0 ? rank.final_request : control_.request;
        heard(rank, Phase::kSaving);
        const bool has_slot = rank.owns_slot[0] || rank.owns_slot[1];
        if (one_in(20) || (!has_slot && !is_urgent)) return skip(id, "no slot");
        rank.doing = Doing::kAwaitingSlot;
        if (has_slot) begin_copy(id);
    }

    void begin_copy(Rank id) {
        SimulatedRank& rank = rank_at(id);
        rank.slot = rank.owns_slot[0] ? 0 : 1;
        rank.doing = Doing::kCopying;
        rank.next = now_ + milliseconds{random_() % 500};
    }

    void skip(Rank id, const std::string& why) {
        SimulatedRank& rank = rank_at(id);
        say(id, [this, id, request = rank.answered, why] {
            return coordinator_.skipped(request, id, why, now_);
        });
        after_snapshot(id);
    }

    void seal(Rank id) {
        SimulatedRank& rank = rank_at(id);
        Sealed sealed{.rank = id,
                      .slot = static_cast<std::uint32_t>(rank.slot),
                      .step = rank.place.step,
                      .epoch = rank.place.epoch,
                      .bytes = 1};
        if (rank.is_liar && one_in(4)) sealed.step = Step{random_() % 100};
        std::uint64_t request = rank.answered;
        if (rank.is_liar && one_in(4)) request = random_() % 50;
        rank.owns_slot.at(rank.slot) = false;
        say(id, [this, request, sealed] {
            held_.insert({sealed.rank.value, sealed.slot});
            return coordinator_.sealed(request, sealed, {}, now_);
        });
        after_snapshot(id);
    }

    void after_snapshot(Rank id) {
        SimulatedRank& rank = rank_at(id);
        rank.next = now_ + rank.step_time;
        if (rank.final_request != 0) {
            rank.doing = Doing::kAwaitingEnd;
            if (control_.should_stop) leave(id);  // the word came while it copied
        } else if (rank.has_left_loop || rank.place.phase == Phase::kStarting) {
            rank.doing = Doing::kStepping;
        } else {
            heard(rank, Phase::kTraining);
            after_step(id);
        }
    }

    void finish(Rank id) {
        SimulatedRank& rank = rank_at(id);
        heard(rank, Phase::kFinished);
        rank.doing = Doing::kFinishing;
        Moment moment{.step = rank.place.step, .epoch = rank.place.epoch};
        if (rank.is_liar && one_in(2)) moment.step = moment.step.next();
        say(id, [this, id, moment] { return coordinator_.finishing(id, moment, now_); });
    }

    void leave(Rank id) {
        SimulatedRank& rank = rank_at(id);
        if (rank.doing == Doing::kGone) return;
        rank.doing = Doing::kGone;
        say(id, [this, id] {
            all_attached_ = false;
            return coordinator_.lost(id, "it hung up", now_);
        });
    }

    // What reaches a rank that waits for messages.
    void wake_finishing(std::uint64_t request) {
        for (std::uint64_t i = 0; i < world_size_; ++i) {
            SimulatedRank& rank = ranks_[i];
            const bool waits = rank.doing == Doing::kFinishing || rank.doing == Doing::kAwaitingEnd;
            if (waits && control_.should_stop) {
                leave(Rank{i});
            } else if (rank.doing == Doing::kFinishing) {
                rank.final_request = request;
                take_snapshot(Rank{i}, /*is_urgent=*/true);
            }
        }
    }

    // ---- trouble ----

    void trouble() {
        if (is_calm_) return;
        if (one_in(150)) request(Reason::kRequest);
        if (one_in(600)) request(Reason::kSigterm);
        if (one_in(1500)) act(coordinator_.ask_to_stop());
        const Rank victim{random_() % world_size_};
        if (one_in(700) && rank_at(victim).doing != Doing::kGone)
            rank_at(victim).doing = Doing::kHanging;
        if (one_in(900)) leave(victim);
    }

    void request(Reason reason) {
        if (!all_attached_) return;  // refused by the shell
        if (!asked_) asked_ = now_;
        act(coordinator_.request_now(reason, position(), now_));
    }

    // ---- the shell ----

    void act(const CoordinatorActions& actions) {
        for (const CoordinatorAction& action : actions)
            std::visit([this](const auto& one) { carry_out(one); }, action);
    }
    void carry_out(const SetControl& set) {
        control_ = set.control;
        if (control_.should_stop) wake_finishing(0);
    }
    void carry_out(const ReleaseSlot& release) {
        const Held held{release.rank.value, release.slot};
        EXPECT_TRUE(held_.contains(held)) << "a slot is given back that nobody sealed";
        EXPECT_FALSE(persisting_.contains(held)) << "a slot is given back while it is written";
        held_.erase(held);
        rank_at(release.rank).owns_slot.at(release.slot) = true;
    }
    void carry_out(const Persist& work) {
        ASSERT_EQ(work.sealed.size(), world_size_);
        for (std::uint64_t i = 0; i < world_size_; ++i) {
            const Sealed& sealed = work.sealed[i];
            EXPECT_EQ(sealed.rank, Rank{i});
            EXPECT_EQ(sealed.step, work.sealed[0].step) << "halves of two moments";
            EXPECT_EQ(sealed.epoch, work.sealed[0].epoch) << "halves of two moments";
            const Held held{i, sealed.slot};
            EXPECT_TRUE(held_.contains(held)) << "a slot is written that was given back";
            EXPECT_TRUE(persisting_.insert(held).second) << "a slot is written twice at once";
        }
        const bool is_durable = !one_in(6);
        const auto took = nanoseconds{
            static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(kPersistMax.count()))};
        // One worker: writes end in their order.
        worker_free_ = std::max(worker_free_, now_) + took;
        Write write{.due = worker_free_, .work = work, .is_durable = is_durable};
        // Whoever asks from now on asks for another one.
        const bool is_asked_for =
            work.reason == Reason::kRequest || work.reason == Reason::kSigterm;
        if (is_asked_for) std::swap(write.asked, asked_);
        writes_.push_back(write);
    }
    void carry_out(const WakeFinishing& wake) { wake_finishing(wake.request); }
    void carry_out(const AttemptFailed& failure) {
        ++failed;
        if (failure.retry_in) return;
        for (std::uint64_t i = 0; i < world_size_; ++i) {
            const SimulatedRank& rank = ranks_[i];
            const bool is_told = rank.final_request != 0 && rank.final_request == failure.request;
            // Also in the middle of its last copy: it finds the word when it waits.
            if (is_told) told_.insert(i);
            const Moment moment{.step = rank.place.step, .epoch = rank.place.epoch};
            EXPECT_FALSE(is_told && !rank.is_liar && durable_.contains(moment))
                << "rank " << i << " is told that there is no checkpoint of step "
                << moment.step.value;
        }
        end_those_told();
    }
    void carry_out(const UrgentSettled& answer) {
        ++settled;
        if (answer.reason == Reason::kFinal && answer.is_durable) {
            if (written_ == nullptr) ++ended_early;
            tell_durable();
        }
        if (answer.reason == Reason::kFinal && !answer.is_durable) {
            return;  // to the ranks; who asked for another is told by an answer of his own
        }
        const bool is_of_write = written_ != nullptr && written_->asked.has_value();
        std::optional<MonotonicTime>& asked = is_of_write ? written_->asked : asked_;
        if (answer.reason != Reason::kFinal) {
            EXPECT_TRUE(asked.has_value()) << "an answer that nobody waits for: " << answer.text;
        }
        asked.reset();
    }
    void carry_out(const StillWaiting& waiting) { EXPECT_FALSE(waiting.text.empty()); }
    void carry_out(const Stuck&) {
        ++stuck;
        is_over_ = true;  // everything is killed
    }

    // SnapshotDurable, to ranks that wait for it.
    void tell_durable() {
        for (std::uint64_t i = 0; i < world_size_; ++i) {
            const SimulatedRank& rank = ranks_[i];
            const bool waits = rank.doing == Doing::kAwaitingEnd || rank.doing == Doing::kFinishing;
            if (waits && durable_.contains({.step = rank.place.step, .epoch = rank.place.epoch}))
                leave(Rank{i});
        }
    }

    void end_those_told() {
        for (const std::uint64_t i : std::set<std::uint64_t>(told_)) {
            if (ranks_[i].doing == Doing::kAwaitingEnd) leave(Rank{i});
        }
    }

    void finish_writes() {
        while (!writes_.empty() && writes_.front().due <= now_) {
            Write write = writes_.front();
            writes_.pop_front();
            for (const Sealed& sealed : write.work.sealed)
                persisting_.erase({sealed.rank.value, sealed.slot});
            if (write.is_durable) {
                ++durable;
                durable_.insert(
                    {.step = write.work.sealed[0].step, .epoch = write.work.sealed[0].epoch});
                tell_durable();
            }
            written_ = &write;
            act(coordinator_.persisted(write.work, write.is_durable, "disk full", now_));
            written_ = nullptr;
            EXPECT_FALSE(write.asked.has_value()) << "written, and nobody is told";
        }
    }

    // ---- what must hold ----

    void check_wake_up() {
        finish_writes();
        end_those_told();
        if (!all_attached_) return;
        const auto wake = coordinator_.wake_at();
        if (!wake || *wake > now_) return;
        // What was due is done now, so that a timer never fires for nothing.
        act(coordinator_.moved(position(), now_));
        const auto again = coordinator_.wake_at();
        EXPECT_TRUE(!again || *again > now_) << "it wants to be woken in the past";
    }
    void check_promises() {
        if (!asked_ || is_over_) return;
        EXPECT_LT(now_, *asked_ + kQuiet) << "an urgent request waits";
    }
    void check_end() {
        if (is_over_ || testing::Test::HasFailure()) return;
        EXPECT_FALSE(asked_.has_value()) << "an urgent request has no answer";
        for (const Held& held : held_) {
            const bool is_needed =
                persisting_.contains(held) || coordinator_.attempt() || coordinator_.wake_at();
            EXPECT_TRUE(is_needed)
                << "slot " << held.second << " of rank " << held.first << " never comes back";
        }
        for (std::uint64_t i = 0; i < world_size_; ++i) {
            const bool waits =
                ranks_[i].doing == Doing::kFinishing || ranks_[i].doing == Doing::kAwaitingEnd;
            // A final checkpoint that can't be written is tried for as long as it takes.
            const bool is_tried_again = all_attached_ && coordinator_.wake_at();
            EXPECT_FALSE(waits && !is_tried_again) << "rank " << i << " waits for ever";
        }
    }

    using Held = std::pair<std::uint64_t, std::uint32_t>;
    struct Message {
        MonotonicTime due;
        Rank rank;
        std::function<CoordinatorActions()> tell;
    };
    struct Write {
        MonotonicTime due;
        Persist work;
        bool is_durable = false;
        std::optional<MonotonicTime> asked;  // when somebody asked for it
    };

    std::mt19937_64 random_;
    MonotonicTime now_;
    std::uint64_t world_size_;
    std::uint64_t last_step_;
    bool is_calm_;  // no trouble, and all ranks at one pace: how training mostly is
    Coordinator coordinator_;
    std::vector<SimulatedRank> ranks_;
    staging::Control control_;
    std::deque<Message> messages_;
    std::deque<Write> writes_;
    MonotonicTime worker_free_;
    std::set<Held> held_;        // sealed, and not given back
    std::set<Held> persisting_;  // of held_
    std::set<std::uint64_t> told_;
    std::set<Moment> durable_;
    std::optional<MonotonicTime> asked_;  // when somebody asked, and has no answer
    Write* written_ = nullptr;            // whose end is being told
    bool all_attached_ = true;
    bool is_over_ = false;
};

TEST(CoordinatorSimulation, NothingWaitsForEverAndNoCheckpointIsHalves) {
    std::uint64_t durable = 0;
    std::uint64_t failed = 0;
    std::uint64_t stuck = 0;
    std::uint64_t settled = 0;
    std::uint64_t ended_early = 0;
    for (std::uint64_t seed = 1; seed <= 3'000; ++seed) {
        SCOPED_TRACE(fmt::format("seed {}", seed));
        Simulation simulation(seed);
        simulation.run();
        if (HasFailure()) return;
        durable += simulation.durable;
        failed += simulation.failed;
        stuck += simulation.stuck;
        settled += simulation.settled;
        ended_early += simulation.ended_early;
    }
    // The simulation reaches what it is about.
    EXPECT_GT(durable, 1'000u);
    EXPECT_GT(failed, 1'000u);
    EXPECT_GT(stuck, 20u);
    EXPECT_GT(settled, 500u);
    EXPECT_GT(ended_early, 0u);  // rare: a write must end between the last step and the last rank
}

}  // namespace
}  // namespace pawl::checkpoint
