// What stands behind a Journal: its store, what writers must remember, and whether writes arrive.
//
// Of this room only; journal.cc writes and opens, journal_read.cc reads.
#pragma once

#include "journal/journal.h"
#include "journal/records.h"
#include "journal/store.h"

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <shared_mutex>
#include <string>
#include <vector>

namespace pawl::journal {

inline Family family_of(const ProgressRecord& /*record*/) {
    return Family::kProgress;
}
inline Family family_of(const IncarnationRecord& /*record*/) {
    return Family::kIncarnations;
}
inline Family family_of(const CheckpointRecord& /*record*/) {
    return Family::kCheckpoints;
}
inline Family family_of(const EventRecord& /*record*/) {
    return Family::kEvents;
}

// Checked on both paths: a record is written under the key that its own numbers give, and found
// there.
template <class Record>
Result<Record> record_at(const std::string& job, std::string_view key, std::string_view value) {
    Result<Record> record = decode<Record>(value);
    if (record && key_of(job, *record) != key) {
        return make_error(ErrorKind::kCorrupt, "a record lies under another one's key: {}", value);
    }
    return record;
}

struct Journal::Database {
    std::string path;
    const Clock* clock = nullptr;  // nullptr: opened read-only

    // Shared: the store is used; alone: it is exchanged. Null while it can't be opened.
    mutable std::shared_mutex store_mutex;
    std::unique_ptr<Store> store;

    // Guards what follows, and makes the order of numbers the order of writes.
    std::mutex appending;
    std::set<std::string> known_jobs;
    struct Written {  // of one job, since it was last looked through for what is old
        bool was_looked_through = false;
        std::size_t count = 0;
    };
    std::map<std::string, std::uint64_t> last_event_number;
    std::map<std::string, Written> progress_written;
    std::map<std::string, Written> checkpoints_written;
    std::map<std::string, Written> incarnations_written;
    std::map<std::string, Written> events_written;
    std::map<std::string, std::string> thinned_to;  // progress up to this key was, lately
    std::map<std::string, std::size_t> thinnings;
    MonotonicTime reopen_due;

    mutable std::mutex health_mutex;  // guards what follows
    Health health;
    bool is_overloaded = false;
    std::function<void(const Health&)> listener;

    // Carries out a write of so many records, minds what it says about the health, and opens the
    // journal anew if that is due.
    Result<void> attempt(const std::string& job, std::size_t records,
                         const std::function<Result<void>()>& write);
    void failed(const Error& error, std::uint64_t records);
    void worked();

    // These with `appending` held, and the store in place.
    void reopen_if_due();
    Result<void> write(const std::string& job, std::vector<Change> changes);
    Result<std::uint64_t> next_event_number(const std::string& job) const;
    Result<std::vector<Change>> removal_of_old_progress(const std::string& job);
    Result<std::vector<Change>> removal_of_old_checkpoints(const std::string& job) const;

    // For readers, who hold store_mutex.
    [[nodiscard]] Result<void> check_open() const;
    // The key of the last record of a family, of whatever value.
    [[nodiscard]] Result<std::optional<std::string>> last_key(Family family,
                                                              const std::string& job) const;
};

}  // namespace pawl::journal
