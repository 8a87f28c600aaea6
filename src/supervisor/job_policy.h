// The policy of a job: when its ranks start, restart, drain and stop. Core: no clock, no process,
// no file.
//
//   Idle --Start--> Running --a rank failed--> Killing --gone--> BackingOff --due--> Running
//                     |  \--all finished--> Killing --gone--> Stopped(finished)
//                     \--StopRequested--> Draining: snapshot -> stopping --> Killing --gone-->
//                     Stopped(resumable)
//   Stopped is for good: pawld starts such a job again only when it is started or asked itself.
//
// The shell carries out actions and reports what happened; it may fail to do so, and then says that
// with an event. Events carry their incarnation; what comes late from an old one changes nothing.
// supervisor: its policy includes base only.
#pragma once

#include "base/units.h"

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace pawl::supervisor {

struct JobPolicy {
    std::uint64_t world_size = 1;
    std::uint32_t restarts_max = 10;  // within the window, progress refills it
    nanoseconds restart_window = std::chrono::hours{1};
    nanoseconds delay_initial = seconds{1};
    nanoseconds delay_max = seconds{60};
    std::uint32_t same_step_failures_max = 3;
    nanoseconds grace = seconds{30};
    nanoseconds exit_grace = seconds{5};

    // Before the restart that follows `failures` failures in a row without progress. The first is
    // at once; then it doubles. `jitter` in [0, 1) takes up to half of it away, so that many jobs
    // that failed together do not come back together.
    [[nodiscard]] nanoseconds delay_before(std::uint32_t failures, double jitter) const;
};

enum class ExitCause { kFinished, kError, kSignal, kCouldNotStart };

struct ExitStatus {
    ExitCause cause = ExitCause::kFinished;
    int number = 0;      // exit code, signal, or errno of a start that failed
    std::string detail;  // of a start that failed: what and why

    [[nodiscard]] std::string describe()
        const;                            // "exited with code 3", "was killed by SIGKILL (9)"
    [[nodiscard]] int exit_code() const;  // as a shell would report it
    friend bool operator==(const ExitStatus&, const ExitStatus&) = default;
};

// ---- events ----
struct Start {};
struct ResumeRefused {  // no valid checkpoint though there were some, or the directory can't be
                        // used
    Incarnation incarnation;
    int exit_code = 0;
    std::string why;
};
struct RankExited {
    Incarnation incarnation;
    Rank rank;
    ExitStatus status;
    double jitter = 0;  // in [0, 1), drawn by the shell
};
struct RanksGone {  // after KillRanks: no process of the incarnation is left
    Incarnation incarnation;
};
struct ProgressSeen {
    Incarnation incarnation;
    Step step;  // of the furthest rank
};
struct StopRequested {
    bool has_clients = false;  // every rank is attached, so a snapshot can be asked for
    std::string by;            // "SIGTERM", "pawl stop"
};
struct DrainSettled {  // the snapshot of a drain is durable, or can't be had
    Incarnation incarnation;
    bool is_durable = false;
    std::string text;
};
// Its ranks run, but no checkpoint of theirs can be made any more, or they wait for one that is
// stuck: what they would still do would be lost.
struct RanksUseless {
    Incarnation incarnation;
    std::string why;
    double jitter = 0;  // as in RankExited
};
struct WakeUp {};
using Event = std::variant<Start, ResumeRefused, RankExited, RanksGone, ProgressSeen, StopRequested,
                           DrainSettled, RanksUseless, WakeUp>;

// ---- actions ----
struct StartRanks {  // and choose what they resume from
    Incarnation incarnation;
    friend bool operator==(const StartRanks&, const StartRanks&) = default;
};
struct RequestDrainSnapshot {
    friend bool operator==(const RequestDrainSnapshot&, const RequestDrainSnapshot&) = default;
};
struct AskRanksToStop {  // through the control page
    friend bool operator==(const AskRanksToStop&, const AskRanksToStop&) = default;
};
struct SignalRanks {  // the ranks alone, not their children
    int signal = 0;
    friend bool operator==(const SignalRanks&, const SignalRanks&) = default;
};
struct KillRanks {  // everything that the incarnation left; answered by RanksGone
    Incarnation incarnation;
    friend bool operator==(const KillRanks&, const KillRanks&) = default;
};
struct WakeAt {  // replaces an earlier one
    MonotonicTime time;
    friend bool operator==(const WakeAt&, const WakeAt&) = default;
};
enum class ReportLevel { kInfo, kWarning, kError };
struct Report {
    ReportLevel level = ReportLevel::kInfo;
    std::string kind;
    std::string text;
    friend bool operator==(const Report&, const Report&) = default;
};
struct Conclude {  // the job has stopped: see Stopped
    friend bool operator==(const Conclude&, const Conclude&) = default;
};
using Action = std::variant<StartRanks, RequestDrainSnapshot, AskRanksToStop, SignalRanks,
                            KillRanks, WakeAt, Report, Conclude>;

// ---- states ----
enum class Outcome { kFinished, kResumable, kFailed };
struct Stopped {
    Outcome outcome = Outcome::kFinished;
    int exit_code = 0;
    std::string text;
    friend bool operator==(const Stopped&, const Stopped&) = default;
};
struct Idle {
    friend bool operator==(const Idle&, const Idle&) = default;
};
struct Running {
    std::uint64_t ranks_finished = 0;
    friend bool operator==(const Running&, const Running&) = default;
};
enum class DrainStage { kSnapshot, kStopping };
struct Draining {
    DrainStage stage = DrainStage::kSnapshot;
    MonotonicTime deadline;  // of the stage
    MonotonicTime kill_at;   // of the whole drain
    std::uint64_t ranks_exited = 0;
    std::uint64_t ranks_finished = 0;  // before they were asked to stop
    friend bool operator==(const Draining&, const Draining&) = default;
};
// A failure after which a restart is weighed once everything is gone.
struct Failure {
    std::string text;
    int exit_code = 1;
    double jitter = 0;
    friend bool operator==(const Failure&, const Failure&) = default;
};
struct Killing {
    std::variant<Failure, Stopped> then;
    friend bool operator==(const Killing&, const Killing&) = default;
};
struct BackingOff {
    MonotonicTime due;
    friend bool operator==(const BackingOff&, const BackingOff&) = default;
};
using JobState = std::variant<Idle, Running, Draining, Killing, BackingOff, Stopped>;

struct Job {
    JobState state = Idle{};
    std::optional<Incarnation> incarnation;  // the newest; none before the first launch
    // What the restart rules remember.
    std::vector<MonotonicTime> restarts;      // within the window, since the last progress
    std::uint32_t failures_in_a_row = 0;      // without progress
    std::optional<Step> furthest_step;        // that any incarnation reported
    std::optional<Step> step_of_incarnation;  // furthest step of this one
    std::optional<Step> failed_step;          // at which the last failure was …
    std::uint32_t failures_at_step = 0;       // … and how many in a row

    friend bool operator==(const Job&, const Job&) = default;
};

struct Transition {
    Job job;
    std::vector<Action> actions;
};

[[nodiscard]] Transition next(const Job& job, const Event& event, const JobPolicy& policy,
                              MonotonicTime now);

// One word: "idle", "running", "draining", "stopping", "backing-off", "stopped", "finished",
// "failed".
[[nodiscard]] std::string_view name_of(const JobState& state);

inline constexpr int kExitResumable = 75;          // EX_TEMPFAIL
inline constexpr int kExitNoValidCheckpoint = 65;  // EX_DATAERR
inline constexpr int kExitRanksUseless = 76;       // EX_PROTOCOL
inline constexpr int kExitNotFound = 127;          // as a shell
inline constexpr int kExitNotExecutable = 126;

}  // namespace pawl::supervisor
