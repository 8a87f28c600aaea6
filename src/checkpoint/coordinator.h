// The coordinator: brings all ranks of one incarnation to a snapshot of one step, without a
// collective.
//
//   none --cadence names a target--> standing request --a rank gets there--> sealing --all-->
//   persist drain, request by hand, final: an urgent request replaces a standing one
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
using CoordinatorAction =
    std::variant<SetControl, ReleaseSlot, Persist, WakeFinishing, AttemptFailed, UrgentSettled>;
using CoordinatorActions = std::vector<CoordinatorAction>;

// A point of the training that a checkpoint holds. The end of an epoch is another one than its last
// step.
struct Moment {
    Step step;
    Epoch epoch;

    friend auto operator<=>(const Moment&, const Moment&) = default;
};

// Where the ranks are, as their pages say.
struct Position {
    Step furthest_step;
    Epoch furthest_epoch;
    bool all_between_steps = false;  // every rank evaluates, all at the furthest step

    friend bool operator==(const Position&, const Position&) = default;
};

class Coordinator {
public:
    static constexpr nanoseconds kFinalRetryDelay = seconds{5};

    // `resumed`: the position that the incarnation begins at; durable, if it was resumed from
    // something.
    Coordinator(std::uint64_t world_size, const CadencePolicy& cadence, const Position& resumed,
                bool is_durable, MonotonicTime now);

    // All ranks are attached: from here on they are asked for snapshots.
    [[nodiscard]] CoordinatorActions begin(MonotonicTime now);
    // From time to time: a new target if one is due.
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

    // A checkpoint as soon as can be: a drain (kSigterm, kNotice) or by hand (kRequest).
    [[nodiscard]] CoordinatorActions request_now(Reason reason, const Position& position,
                                                 MonotonicTime now);
    // Another cadence, from now on. What a rank has sealed already, and what is urgent, goes on.
    [[nodiscard]] CoordinatorActions change_cadence(const CadencePolicy& cadence,
                                                    MonotonicTime now);
    // Ranks leave their loops at their next step.
    [[nodiscard]] CoordinatorActions ask_to_stop();

    [[nodiscard]] std::uint64_t attempts_failed() const { return attempts_failed_; }
    // Whether the final checkpoint of a finished training is durable.
    [[nodiscard]] bool is_final_durable() const { return final_ && durable_ == final_; }

private:
    struct Open {
        Barrier barrier;
        Reason reason = Reason::kCadence;
        SnapshotTarget target;
        std::map<std::string, double> metrics;
    };

    [[nodiscard]] bool is_urgent() const { return open_ && open_->reason != Reason::kCadence; }
    void open(Reason reason, const SnapshotTarget& target, CoordinatorActions& actions);
    void close(CoordinatorActions& actions);
    void aim(MonotonicTime now, CoordinatorActions& actions);
    void apply(const BarrierVerdict& verdict, MonotonicTime now, CoordinatorActions& actions);
    void fail(const std::string& why, MonotonicTime now, CoordinatorActions& actions);
    void open_final(CoordinatorActions& actions);
    void publish(CoordinatorActions& actions) const;
    static void release(const std::vector<Sealed>& sealed, CoordinatorActions& actions);

    std::uint64_t world_size_;
    CadencePolicy cadence_;
    CadenceState state_;
    std::optional<Moment> durable_;
    std::optional<Moment> persisting_;  // the newest one being persisted
    std::map<Rank, Moment> finishing_;
    std::optional<Moment> final_;
    std::optional<Open> open_;
    struct Retry {
        Persist work;
        MonotonicTime due;
    };
    std::optional<Retry> retry_;  // of the final checkpoint
    std::uint64_t last_request_ = 0;
    std::uint64_t attempts_failed_ = 0;
    bool has_begun_ = false;
    bool has_lost_rank_ = false;
    bool should_stop_ = false;
};

}  // namespace pawl::checkpoint
