// The journal: what happened, in RocksDB. An index and a history, never the truth about
// checkpoints: that is the checkpoint directory, from which a lost journal is rebuilt.
//
// May be included by daemon, tools and control; includes base only. Thread-safe; calls block on the
// disk, so the daemon makes them on its workers.
//
// Column families: meta, jobs, incarnations, progress, checkpoints, events (docs/formats.md,
// "Journal"). Keys are JOB '\0' followed by big-endian integers; values JSON, readable with `ldb`.
// Opened with WAL recovery that tolerates a torn tail; a damaged database is moved aside. What is
// kept, and for how long: thinning.h.
#pragma once

#include "base/clock.h"
#include "base/result.h"
#include "base/units.h"
#include "journal/query.h"
#include "journal/record.h"
#include "journal/thinning.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace pawl::journal {

// Of damaged journals that were moved aside, the newest so many are kept.
inline constexpr std::size_t kDamagedJournalsKept = 3;

struct OpenReport {
    // Where a damaged journal was moved to, and why; empty if it was sound.
    std::string moved_aside_to;
    std::string damage;
    std::vector<std::string> pruned;  // damaged journals of before that were removed
    std::string repaired;             // what was begun anew within a journal that is sound
    bool is_new = false;
};

// Whether writes arrive. A change is told once, however many writes fail meanwhile.
struct Health {
    bool is_failing = false;
    std::string why;         // the first failure
    std::uint64_t lost = 0;  // records, since it began to fail
    std::optional<WallTime> since;
    std::string
        moved_aside_to;  // when it works again: where the old journal lies, if it was damaged

    friend bool operator==(const Health&, const Health&) = default;
};

// Of the records of a job those that can't be read; they are passed over wherever they would occur.
struct Unreadable {
    std::uint64_t count = 0;
    std::string first;  // what is wrong with the first of them
};

class Journal {
public:
    // How long a journal that fails is left alone before it is opened anew.
    static constexpr nanoseconds kReopenDelay = seconds{10};

    // Makes the directory if need be. A journal held by another process is kBusy and left alone; a
    // damaged one is moved to PATH.damaged-TIME and a new one begun.
    [[nodiscard]] static Result<std::unique_ptr<Journal>> open(const std::string& path,
                                                               const Clock& clock,
                                                               OpenReport& report);
    // For a daemon that must not wait for its history: a journal that could not be opened. It fails
    // as after a write that failed, and is tried again in the same way.
    [[nodiscard]] static std::unique_ptr<Journal> open_later(const std::string& path,
                                                             const Clock& clock, const Error& why);
    // For the CLI, also while a daemon has it open. kNotFound if there is none.
    [[nodiscard]] static Result<std::unique_ptr<Journal>> open_read_only(const std::string& path);

    ~Journal();
    Journal(const Journal&) = delete;
    Journal& operator=(const Journal&) = delete;

    // After a write that failed (kNoSpace, kIo) later ones fail too, until the journal could be
    // opened anew, which is tried with a write every kReopenDelay. What could not be written
    // meanwhile is lost. Reading goes on where it can.

    // One write for the batch, synced before it returns.
    Result<void> append_progress(const std::string& job, const std::vector<ProgressRecord>& batch);
    Result<void> put_incarnation(const std::string& job,
                                 const IncarnationRecord& record);                        // synced
    Result<void> put_checkpoint(const std::string& job, const CheckpointRecord& record);  // synced
    // Synced; fills in the number.
    Result<void> append_event(const std::string& job, EventRecord& event);

    [[nodiscard]] Health health() const;
    // Called on the thread that writes, when writes begin to fail and when they arrive again. Set
    // before anybody writes.
    void on_health_change(std::function<void(const Health&)> listener);
    // The caller lets records go because they come faster than they can be written: the journal
    // counts as failing until the caller has caught up and a write arrives.
    void count_lost(std::uint64_t records, const std::string& why);
    void caught_up();

    [[nodiscard]] Result<Page<ProgressRecord>> find_progress(const Query& query) const;
    [[nodiscard]] Result<Page<ProgressRecord>> find_epochs(const Query& query) const;
    [[nodiscard]] Result<Page<IncarnationRecord>> find_incarnations(const Query& query) const;
    [[nodiscard]] Result<Page<CheckpointRecord>> find_checkpoints(const Query& query) const;
    [[nodiscard]] Result<Page<EventRecord>> find_events(const Query& query) const;

    // In order of their keys. `progress` and `events`: the last `limit` records, in order.
    [[nodiscard]] Result<std::vector<ProgressRecord>> progress(const std::string& job,
                                                               std::size_t limit) const;
    [[nodiscard]] Result<std::vector<IncarnationRecord>> incarnations(const std::string& job) const;
    [[nodiscard]] Result<std::vector<CheckpointRecord>> checkpoints(const std::string& job) const;
    [[nodiscard]] Result<std::vector<EventRecord>> events(const std::string& job,
                                                          std::size_t limit) const;
    // Nullopt: none of this number, or one that can't be read.
    [[nodiscard]] Result<std::optional<CheckpointRecord>> checkpoint(const std::string& job,
                                                                     Sequence sequence) const;
    // The highest number that was ever given, also to a record that can't be read.
    [[nodiscard]] Result<std::optional<Incarnation>> last_incarnation(const std::string& job) const;
    [[nodiscard]] Result<std::vector<std::string>> jobs() const;  // names, each put by any write
    // Reads all of a job's records.
    [[nodiscard]] Result<Unreadable> count_unreadable(const std::string& job) const;

private:
    struct Database;
    explicit Journal(std::unique_ptr<Database> database);
    std::unique_ptr<Database> database_;
};

}  // namespace pawl::journal
