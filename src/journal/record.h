// What the journal keeps: its records, as plain data (docs/formats.md, "Journal").
//
// May be included by daemon, tools and control's clients; includes base only. A field that a pawl
// did not know when it wrote a record is empty when the record is read.
#pragma once

#include "base/units.h"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace pawl::journal {

// One report of a job's progress (of its furthest rank, all being at one step in lockstep
// training).
struct ProgressRecord {
    Incarnation incarnation;
    Step step;
    Epoch epoch;
    double loss = 0;  // NaN if the trainer reports none (JSON null)
    WallTime time;
    bool is_epoch_end = false;              // the last step of `epoch`, which is then complete
    std::map<std::string, double> metrics;  // of an epoch's end, as the trainer named them

    friend bool operator==(const ProgressRecord&, const ProgressRecord&) = default;
};

enum class IncarnationState { kStarting, kRunning, kEnded };

// How a process has ended: one of the two, or neither if it never ran.
struct RankExit {
    std::optional<std::int64_t> code;
    std::optional<std::int64_t> signal;
    std::string text;  // "exited with code 3", "was killed by SIGKILL (9)"

    friend bool operator==(const RankExit&, const RankExit&) = default;
};

struct RankProcess {
    Rank rank;
    std::int64_t pid = 0;
    std::uint64_t start_ticks = 0;  // field 22 of /proc/PID/stat: tells a reused pid from ours
    std::optional<RankExit> exit;
    std::optional<std::uint64_t> output_begin;  // of its file: what it printed stands from here on

    friend bool operator==(const RankProcess&, const RankProcess&) = default;
};

struct IncarnationRecord {
    Incarnation incarnation;
    IncarnationState state = IncarnationState::kStarting;
    std::vector<RankProcess> ranks;
    std::optional<Sequence> resumed_from;
    Step resumed_step;
    std::optional<Step> last_step;  // that the furthest rank had completed, once it has ended
    WallTime started;
    std::optional<WallTime> ended;
    std::string cause;  // why it ended: "finished", "rank 1: killed by SIGKILL", …

    friend bool operator==(const IncarnationRecord&, const IncarnationRecord&) = default;
};

enum class CheckpointState { kCommitted, kQuarantined, kRemoved, kAbandoned };

// One checkpoint's life. What has not happened has no time.
struct CheckpointRecord {
    Sequence sequence;
    Step step;
    Epoch epoch;
    CheckpointState state = CheckpointState::kCommitted;
    std::string reason;  // as in the manifest: cadence, sigterm, final, …
    std::uint64_t bytes = 0;
    WallTime time;          // when its files began to be written, as in the manifest
    std::string detail;     // why it was quarantined, removed or abandoned
    std::string directory;  // the checkpoint directory, as configured; "" in older records

    std::optional<Incarnation> incarnation;
    std::optional<std::uint64_t> request;  // as the trainer protocol numbers it
    std::optional<WallTime> asked;         // the ranks were told when to take the snapshot
    std::optional<WallTime> snapshotted;   // all ranks had sealed theirs
    std::optional<WallTime> durable;       // the rename was synced
    std::optional<WallTime> verified;      // last found whole before something resumed from it
    std::optional<WallTime> scrubbed;      // last found whole by a look in passing
    std::optional<WallTime> pinned;        // since when retention leaves it alone
    std::optional<WallTime> quarantined;
    std::optional<WallTime> removed;
    std::optional<WallTime> abandoned;

    friend bool operator==(const CheckpointRecord&, const CheckpointRecord&) = default;
};

enum class Severity { kInfo, kWarning, kError };

struct EventRecord {
    std::uint64_t number = 0;  // given by append_event; grows within a job
    WallTime time;
    Severity severity = Severity::kInfo;
    std::string kind;  // "started", "rank_exited", "checkpoint_committed", …
    std::string text;  // a sentence for people

    friend bool operator==(const EventRecord&, const EventRecord&) = default;
};

}  // namespace pawl::journal
