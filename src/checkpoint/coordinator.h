// The coordinator: brings all ranks of one incarnation to a snapshot of one step, without a
// collective.
//
//   none --cadence names a target--> standing request --a rank gets there--> attempt --all seal-->
//   persist --durable--> slots go back
//
// Drain, request by hand, final: an urgent request replaces a standing one and is an attempt at
// once. An attempt ends within a limit: see attempt_limit(). Every urgent request gets one answer:
// UrgentSettled, its own or that of the more urgent one which was under way already.
//
// Core: it decides what the control pages say, which slots go back, and when a checkpoint is
// written. The shell reads pages, moves messages and runs the store. One urgent request at a time;
// what is being persisted goes on beside it.
#pragma once

#include "checkpoint/barrier.h"
#include "checkpoint/cadence.h"
#include "checkpoint/manifest.h"
#include "staging/pages.h"

#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace pawl::checkpoint {

// ---- what the shell does ----
struct SetControl {  // in every rank's control page
    staging::Control control;
    friend bool operator==(const SetControl&, const SetControl&) = default;
};
struct ReleaseSlot {
    Rank rank;
    std::uint32_t slot = 0;
    friend bool operator==(const ReleaseSlot&, const ReleaseSlot&) = default;
};
struct Persist {  // answered by persisted()
    std::uint64_t request = 0;
    Reason reason = Reason::kCadence;
    std::vector<Sealed> sealed;  // one a rank, by rank
    std::map<std::string, double> metrics;
    friend bool operator==(const Persist&, const Persist&) = default;
};
struct WakeFinishing {  // ranks that wait in `finish` take the snapshot of this request
    std::uint64_t request = 0;
    friend bool operator==(const WakeFinishing&, const WakeFinishing&) = default;
};
struct AttemptFailed {  // no checkpoint came of this request; nothing durable was lost
    std::uint64_t request = 0;
    std::string why;
    // Of a final checkpoint: its snapshot is kept in memory, and written again after this time.
    std::optional<nanoseconds> retry_in;
    friend bool operator==(const AttemptFailed&, const AttemptFailed&) = default;
};
struct UrgentSettled {  // an urgent request has its answer
    Reason reason = Reason::kRequest;
    bool is_durable = false;
    std::string text;
    friend bool operator==(const UrgentSettled&, const UrgentSettled&) = default;
};
// Somebody is waited for longer than is usual. Said once an attempt, and once of an end of
// training.
struct StillWaiting {
    std::string text;
    friend bool operator==(const StillWaiting&, const StillWaiting&) = default;
};
// The training can't come to its end: a rank that the others wait for gives no sign of life.
struct Stuck {
    std::string why;
    friend bool operator==(const Stuck&, const Stuck&) = default;
};
using CoordinatorAction = std::variant<SetControl, ReleaseSlot, Persist, WakeFinishing,
                                       AttemptFailed, UrgentSettled, StillWaiting, Stuck>;
using CoordinatorActions = std::vector<CoordinatorAction>;

// A point of the training that a checkpoint holds. The end of an epoch is another one than its last
// step.
struct Moment {
    Step step;
    Epoch epoch;

    // NOLINTNEXTLINE(modernize-use-nullptr): as in base/units.h
    friend auto operator<=>(const Moment&, const Moment&) = default;
};

// Where a rank is, as its page says.
struct RankPlace {
    Step step;
    Epoch epoch;
    staging::Phase phase = staging::Phase::kStarting;
    MonotonicTime heard;  // when the page was last seen to change: a step, or a poll

    friend bool operator==(const RankPlace&, const RankPlace&) = default;
};

// Where the ranks are.
struct Position {
    Step furthest_step;
    Epoch furthest_epoch;
    bool all_between_steps = false;  // every rank evaluates, all at the furthest step
    std::vector<RankPlace> ranks;    // by rank; empty: not known

    friend bool operator==(const Position&, const Position&) = default;
};

struct CoordinatorPolicy {
    CadencePolicy cadence;
    nanoseconds attempt_timeout = std::chrono::minutes{5};
};

// An attempt that is under way, for people.
struct AttemptView {
    std::uint64_t request = 0;
    Reason reason = Reason::kCadence;
    SnapshotTarget target;
    std::vector<Rank> missing;  // have not sealed
    friend bool operator==(const AttemptView&, const AttemptView&) = default;
};

class Coordinator {
public:
    static constexpr nanoseconds kFinalRetryDelay = seconds{5};
    // Signs of life move the limit of an attempt, up to so many times the timeout in all. A rank
    // that gives none is waited for so long at the end of training.
    static constexpr int kPatience = 6;

    // `resumed`: the position that the incarnation begins at; durable, if it was resumed from
    // something.
    Coordinator(std::uint64_t world_size, const CoordinatorPolicy& policy, const Position& resumed,
                bool is_durable, MonotonicTime now);

    // All ranks are attached: from here on they are asked for snapshots.
    [[nodiscard]] CoordinatorActions begin(MonotonicTime now);
    // From time to time, and at wake_at(): a new target if one is due, the end of an attempt whose
    // time is up.
    [[nodiscard]] CoordinatorActions moved(const Position& position, MonotonicTime now);

    [[nodiscard]] CoordinatorActions sealed(std::uint64_t request, const Sealed& snapshot,
                                            const std::map<std::string, double>& metrics,
                                            MonotonicTime now);
    [[nodiscard]] CoordinatorActions passed(std::uint64_t request, Rank rank, Step step,
                                            MonotonicTime now);
    [[nodiscard]] CoordinatorActions skipped(std::uint64_t request, Rank rank,
                                             const std::string& why, MonotonicTime now);
    // A rank's connection is gone: no snapshot of this incarnation can be complete any more.
    [[nodiscard]] CoordinatorActions lost(Rank rank, const std::string& why, MonotonicTime now);
    [[nodiscard]] CoordinatorActions finishing(Rank rank, const Moment& moment, MonotonicTime now);
    // A Persist is done: durable, or not, and why.
    [[nodiscard]] CoordinatorActions persisted(const Persist& done, bool is_durable,
                                               const std::string& text, MonotonicTime now);

    // A checkpoint as soon as can be: a drain (kSigterm, kNotice) or by hand (kRequest). Where all
    // ranks are between two steps it is of that state. If it is durable already that settles the
    // request, unless a trainer asks: it may have changed what no step has.
    enum class IfDurable { kSettle, kSaveAgain };
    [[nodiscard]] CoordinatorActions request_now(Reason reason, const Position& position,
                                                 MonotonicTime now,
                                                 IfDurable if_durable = IfDurable::kSettle);
    // Another cadence, from now on. What a rank has sealed already, and what is urgent, goes on.
    [[nodiscard]] CoordinatorActions change_cadence(const CadencePolicy& cadence,
                                                    MonotonicTime now);
    // Ranks leave their loops at their next step.
    [[nodiscard]] CoordinatorActions ask_to_stop();

    // When moved() should be called though nothing has happened.
    [[nodiscard]] std::optional<MonotonicTime> wake_at() const;

    [[nodiscard]] std::uint64_t attempts_started() const { return attempts_started_; }
    [[nodiscard]] std::uint64_t attempts_failed() const { return attempts_failed_; }
    [[nodiscard]] std::optional<AttemptView> attempt() const;
    // Whether the rank has finished and what it finished with is durable: it may go.
    [[nodiscard]] bool has_ended(Rank rank) const;
    // Whether the final checkpoint of a finished training is durable.
    [[nodiscard]] bool is_final_durable() const { return final_ && durable_ == final_; }

private:
    struct Open {
        Barrier barrier;
        Reason reason = Reason::kCadence;
        SnapshotTarget target;
        std::map<std::string, double> metrics;
        std::optional<MonotonicTime> since;  // that it is an attempt; a standing request is none
        bool has_warned = false;
    };
    // Some ranks have finished, others have not.
    struct Finish {
        MonotonicTime since;
        bool has_warned = false;
    };
    struct Retry {
        Persist work;
        MonotonicTime due;
    };

    [[nodiscard]] bool is_urgent() const { return open_ && open_->reason != Reason::kCadence; }
    void open(Reason reason, const SnapshotTarget& target, MonotonicTime now,
              CoordinatorActions& actions);
    void close(CoordinatorActions& actions);
    void aim(MonotonicTime now, CoordinatorActions& actions);
    void apply(const BarrierVerdict& verdict, MonotonicTime now, CoordinatorActions& actions);
    void fail(const std::string& why, MonotonicTime now, CoordinatorActions& actions);
    void give_up_finishing(const std::string& why, const Moment& moment, MonotonicTime now,
                           CoordinatorActions& actions);
    void answer_finishing(const Moment& moment, MonotonicTime now, CoordinatorActions& actions);
    void open_final(MonotonicTime now, CoordinatorActions& actions);
    void settle_waiting(const std::string& text, CoordinatorActions& actions);
    void publish(CoordinatorActions& actions) const;
    static void release(const std::vector<Sealed>& sealed, CoordinatorActions& actions);

    void watch_attempt(MonotonicTime now, CoordinatorActions& actions);
    void watch_finish(MonotonicTime now, CoordinatorActions& actions);
    [[nodiscard]] std::vector<Rank> unfinished() const;
    [[nodiscard]] MonotonicTime last_heard(const std::vector<Rank>& ranks,
                                           MonotonicTime since) const;
    [[nodiscard]] std::string describe(const std::vector<Rank>& ranks, MonotonicTime now) const;
    // From the first seal, or from an urgent request on: `attempt_timeout` without a sign of life
    // of any rank that is missing, and kPatience times that in all. So neither an evaluation that
    // polls nor a rank that is far behind ends an attempt, and nothing waits for ever.
    [[nodiscard]] MonotonicTime attempt_limit() const;

    std::uint64_t world_size_;
    CoordinatorPolicy policy_;
    CadenceState state_;
    std::optional<Moment> durable_;
    std::optional<Moment> persisting_;  // the newest one being persisted
    std::map<Rank, Moment> finishing_;
    std::optional<Finish> finish_;
    std::optional<Moment> final_;
    std::optional<Reason> waits_for_final_;  // an urgent request that the final checkpoint answers
    std::optional<Open> open_;
    std::optional<Retry> retry_;       // of the final checkpoint
    std::optional<std::string> lost_;  // which rank is gone, and why
    bool has_left_ = false;            // a rank that had ended is gone
    std::vector<RankPlace> places_;
    std::uint64_t last_request_ = 0;
    std::uint64_t attempts_started_ = 0;
    std::uint64_t attempts_failed_ = 0;
    bool has_begun_ = false;
    bool should_stop_ = false;
};

}  // namespace pawl::checkpoint
