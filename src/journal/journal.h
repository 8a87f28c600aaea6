// The journal: what happened, in RocksDB. An index and a history, never the truth about
// checkpoints: that is the checkpoint directory, from which a lost journal is rebuilt.
//
// May be included by daemon, tools and control; includes base only. Thread-safe; calls block on the
// disk, so the daemon makes them on its workers.
//
// Column families: meta, jobs, incarnations, progress, checkpoints, events (docs/formats.md,
// "Journal"). Keys are JOB '\0' followed by big-endian integers; values JSON, readable with `ldb`.
// Opened with WAL recovery that tolerates a torn tail; a damaged database is moved aside.
#pragma once

#include "base/clock.h"
#include "base/result.h"
#include "base/units.h"

#include <cstddef>
#include <cstdint>
#include <memory>
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
    bool is_epoch_end = false;  // the last step of `epoch`, which is then complete

    friend bool operator==(const ProgressRecord&, const ProgressRecord&) = default;
};

enum class IncarnationState { kStarting, kRunning, kEnded };

struct RankProcess {
    Rank rank;
    std::int64_t pid = 0;
    std::uint64_t start_ticks = 0;  // field 22 of /proc/PID/stat: tells a reused pid from ours

    friend bool operator==(const RankProcess&, const RankProcess&) = default;
};

struct IncarnationRecord {
    Incarnation incarnation;
    IncarnationState state = IncarnationState::kStarting;
    std::vector<RankProcess> ranks;
    std::optional<Sequence> resumed_from;
    Step resumed_step;
    WallTime started;
    std::optional<WallTime> ended;
    std::string cause;  // why it ended: "finished", "rank 1: killed by SIGKILL", …

    friend bool operator==(const IncarnationRecord&, const IncarnationRecord&) = default;
};

enum class CheckpointState { kCommitted, kQuarantined, kRemoved };

struct CheckpointRecord {
    Sequence sequence;
    Step step;
    Epoch epoch;
    CheckpointState state = CheckpointState::kCommitted;
    std::string reason;  // as in the manifest: cadence, sigterm, final, …
    std::uint64_t bytes = 0;
    WallTime time;       // of the commit
    std::string detail;  // why it was quarantined or removed

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

// Of a job's progress the newest records are kept, and the ends of all epochs. What is older is
// removed now and then, with an append: there may be this many more meanwhile, and one batch.
inline constexpr std::size_t kProgressRecordsKept = 100'000;
inline constexpr std::size_t kProgressRecordsSlack = 10'000;

struct OpenReport {
    // Where a damaged journal was moved to, and why; empty if it was sound.
    std::string moved_aside_to;
    std::string damage;
    bool is_new = false;
};

class Journal {
public:
    // Makes the directory if need be. A journal held by another process is kBusy and left alone; a
    // damaged one is moved to PATH.damaged-TIME and a new one begun.
    [[nodiscard]] static Result<std::unique_ptr<Journal>> open(const std::string& path,
                                                               const Clock& clock,
                                                               OpenReport& report);
    // For the CLI, also while a daemon has it open. kNotFound if there is none.
    [[nodiscard]] static Result<std::unique_ptr<Journal>> open_read_only(const std::string& path);

    ~Journal();
    Journal(const Journal&) = delete;
    Journal& operator=(const Journal&) = delete;

    // After a write that failed (kNoSpace, kIo) later ones fail too. A full disk is looked at again
    // every few seconds; after any other failure only a journal opened anew takes writes. Reading
    // goes on.

    // One write for the batch, synced before it returns.
    Result<void> append_progress(const std::string& job, const std::vector<ProgressRecord>& batch);
    Result<void> put_incarnation(const std::string& job,
                                 const IncarnationRecord& record);                        // synced
    Result<void> put_checkpoint(const std::string& job, const CheckpointRecord& record);  // synced
    // Synced; fills in the number.
    Result<void> append_event(const std::string& job, EventRecord& event);

    // In order of their keys. `progress`: the last `limit` records, in order.
    [[nodiscard]] Result<std::vector<ProgressRecord>> progress(const std::string& job,
                                                               std::size_t limit) const;
    [[nodiscard]] Result<std::vector<IncarnationRecord>> incarnations(const std::string& job) const;
    [[nodiscard]] Result<std::vector<CheckpointRecord>> checkpoints(const std::string& job) const;
    [[nodiscard]] Result<std::vector<EventRecord>> events(const std::string& job,
                                                          std::size_t limit) const;
    [[nodiscard]] Result<std::vector<std::string>> jobs() const;  // names, each put by any write

private:
    struct Database;
    explicit Journal(std::unique_ptr<Database> database);
    std::unique_ptr<Database> database_;
};

}  // namespace pawl::journal
