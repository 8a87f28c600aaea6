// See journal.h. What lies between the callers and the store: numbering, the names of jobs, the
// removal of old progress, and what becomes of a damaged journal.
#include "journal/journal.h"

#include "base/file_system.h"
#include "journal/records.h"
#include "journal/store.h"

#include <algorithm>
#include <limits>
#include <map>
#include <mutex>
#include <set>
#include <utility>

namespace pawl::journal {
namespace {

constexpr std::size_t kNoLimit = std::numeric_limits<std::size_t>::max();

// A bound on what one append removes, whatever has piled up. It is above what comes in between two
// removals, so that they catch up.
constexpr std::size_t kProgressRemovedAtOnceMax = 2 * kProgressRecordsSlack;

// A writer beside a reader may remove a file between the reader's look at the list and its open.
constexpr int kReadOnlyAttemptsMax = 3;

Family family_of(const ProgressRecord& /*record*/) {
    return Family::kProgress;
}
Family family_of(const IncarnationRecord& /*record*/) {
    return Family::kIncarnations;
}
Family family_of(const CheckpointRecord& /*record*/) {
    return Family::kCheckpoints;
}
Family family_of(const EventRecord& /*record*/) {
    return Family::kEvents;
}

template <class Record>
Change change_to(const std::string& job, const Record& record) {
    return {.family = family_of(record), .key = key_of(job, record), .value = encode(record)};
}

// The last `limit` records of the job, in order.
template <class Record>
Result<std::vector<Record>> last_records(const Store& store, const std::string& job,
                                         std::size_t limit) {
    const Family family = family_of(Record{});
    std::vector<Record> records;
    const auto take = [&records, &job, limit](std::string_view key,
                                              std::string_view value) -> Result<bool> {
        if (records.size() == limit) return false;
        Result<Record> record = decode<Record>(value);
        if (!record) return record.error();
        // Checked on both paths: written under the key that its own numbers give, and found there.
        if (key_of(job, *record) != key) {
            return make_error(ErrorKind::kCorrupt, "a record lies under another one's key: {}",
                              value);
        }
        records.push_back(std::move(*record));
        return true;
    };
    Result<void> visited = store.visit_backwards(family, keys_of(job), take);
    if (!visited) {
        return std::move(visited).error().while_doing("read '{}' of job '{}' from the journal",
                                                      name_of(family), job);
    }
    std::reverse(records.begin(), records.end());
    return records;
}

std::string without_trailing_slashes(std::string path) {
    while (path.size() > 1 && path.back() == '/')
        path.pop_back();
    return path;
}

// The store, whatever was there before; `report` says what that was.
Result<std::unique_ptr<Store>> open_or_begin_anew(const std::string& path, WallTime now,
                                                  OpenReport& report) {
    const std::unique_ptr<FileSystem> fs = make_posix_file_system();
    RETURN_IF_ERROR(create_directories(*fs, path));
    // Damage is no answer to this question; Store::open meets it again.
    const Result<bool> existed = holds_database(*fs, path);
    report = {.is_new = existed && !*existed};
    auto store = Store::open(path);
    if (store || store.error().kind() != ErrorKind::kCorrupt) return store;

    const std::string damage = store.error().text();
    Result<std::string> target = move_aside(*fs, path, now);
    if (!target) return std::move(target).error().while_doing("move it aside ({})", damage);
    report = {.moved_aside_to = *target, .damage = damage, .is_new = true};
    RETURN_IF_ERROR(create_directories(*fs, path));
    return Store::open(path);
}

}  // namespace

struct Journal::Database {
    std::unique_ptr<Store> store;
    const Clock* clock = nullptr;  // nullptr: opened read-only

    // Guards what follows, and makes the order of numbers the order of writes.
    std::mutex appending;
    std::set<std::string> known_jobs;
    std::map<std::string, std::uint64_t> last_event_number;
    std::map<std::string, std::size_t> progress_since_removal;

    Result<void> check_writable(const std::string& job) const;
    template <class Record>
    Result<void> put(const std::string& job, const Record& record);
    // These with `appending` held.
    Result<void> write(const std::string& job, std::vector<Change> changes);
    Result<std::uint64_t> next_event_number(const std::string& job);
    Result<std::vector<Change>> removal_of_old_progress(const std::string& job) const;
};

Journal::Journal(std::unique_ptr<Database> database) : database_(std::move(database)) {
}
Journal::~Journal() = default;

Result<std::unique_ptr<Journal>> Journal::open(const std::string& given_path, const Clock& clock,
                                               OpenReport& report) {
    const std::string path = without_trailing_slashes(given_path);
    auto store = open_or_begin_anew(path, clock.wall_now(), report);
    if (!store) return std::move(store).error().while_doing("open the journal '{}'", path);
    Result<std::vector<std::string>> jobs = (*store)->keys(Family::kJobs);
    if (!jobs) return std::move(jobs).error().while_doing("open the journal '{}'", path);
    auto database = std::make_unique<Database>();
    database->store = std::move(*store);
    database->clock = &clock;
    database->known_jobs.insert(jobs->begin(), jobs->end());
    return std::unique_ptr<Journal>(new Journal(std::move(database)));
}

Result<std::unique_ptr<Journal>> Journal::open_read_only(const std::string& path) {
    const std::unique_ptr<FileSystem> fs = make_posix_file_system();
    const auto current = fs->status(join_path(path, "CURRENT"));
    if (!current && current.error().kind() != ErrorKind::kNotFound) return current.error();
    if (!current || !*current) {
        return make_error(ErrorKind::kNotFound, "there is no journal in '{}'", path);
    }
    auto store = Store::open_read_only(path);
    for (int attempt = 1; attempt < kReadOnlyAttemptsMax; ++attempt) {
        if (store || store.error().kind() != ErrorKind::kCorrupt) break;
        store = Store::open_read_only(path);
    }
    if (!store) return std::move(store).error().while_doing("read the journal '{}'", path);
    auto database = std::make_unique<Database>();
    database->store = std::move(*store);
    return std::unique_ptr<Journal>(new Journal(std::move(database)));
}

Result<void> Journal::append_progress(const std::string& job,
                                      const std::vector<ProgressRecord>& batch) {
    RETURN_IF_ERROR(database_->check_writable(job));
    if (batch.empty()) return {};
    const std::lock_guard lock(database_->appending);
    // How many records there are is not known at first: the first append looks.
    const auto counted = database_->progress_since_removal.find(job);
    const bool is_first = counted == database_->progress_since_removal.end();
    const std::size_t since = (is_first ? 0 : counted->second) + batch.size();
    const bool is_due = is_first || since >= kProgressRecordsSlack;

    std::vector<Change> changes;
    if (is_due) {
        Result<std::vector<Change>> removal = database_->removal_of_old_progress(job);
        if (!removal) return std::move(removal).error();
        changes = std::move(*removal);
    }
    for (const ProgressRecord& record : batch)
        changes.push_back(change_to(job, record));
    RETURN_IF_ERROR(database_->write(job, std::move(changes)));
    database_->progress_since_removal[job] = is_due ? batch.size() : since;
    return {};
}

Result<void> Journal::put_incarnation(const std::string& job, const IncarnationRecord& record) {
    return database_->put(job, record);
}

Result<void> Journal::put_checkpoint(const std::string& job, const CheckpointRecord& record) {
    return database_->put(job, record);
}

Result<void> Journal::append_event(const std::string& job, EventRecord& event) {
    RETURN_IF_ERROR(database_->check_writable(job));
    const std::lock_guard lock(database_->appending);
    const Result<std::uint64_t> number = database_->next_event_number(job);
    if (!number) return number.error();
    EventRecord numbered = event;
    numbered.number = *number;
    RETURN_IF_ERROR(database_->write(job, {change_to(job, numbered)}));
    database_->last_event_number[job] = *number;
    event.number = *number;
    return {};
}

Result<std::vector<ProgressRecord>> Journal::progress(const std::string& job,
                                                      std::size_t limit) const {
    return last_records<ProgressRecord>(*database_->store, job, limit);
}

Result<std::vector<IncarnationRecord>> Journal::incarnations(const std::string& job) const {
    return last_records<IncarnationRecord>(*database_->store, job, kNoLimit);
}

Result<std::vector<CheckpointRecord>> Journal::checkpoints(const std::string& job) const {
    return last_records<CheckpointRecord>(*database_->store, job, kNoLimit);
}

Result<std::vector<EventRecord>> Journal::events(const std::string& job, std::size_t limit) const {
    return last_records<EventRecord>(*database_->store, job, limit);
}

Result<std::vector<std::string>> Journal::jobs() const {
    Result<std::vector<std::string>> names = database_->store->keys(Family::kJobs);
    if (!names) return std::move(names).error().while_doing("read the journal's jobs");
    return names;
}

Result<void> Journal::Database::check_writable(const std::string& job) const {
    RETURN_IF_ERROR(check_job_name(job));
    if (clock != nullptr) return {};
    return make_error(ErrorKind::kInvalidArgument, "the journal was opened read-only");
}

template <class Record>
Result<void> Journal::Database::put(const std::string& job, const Record& record) {
    RETURN_IF_ERROR(check_writable(job));
    const std::lock_guard lock(appending);
    return write(job, {change_to(job, record)});
}

// Adds the job's name, if it is new, to the same atomic write.
Result<void> Journal::Database::write(const std::string& job, std::vector<Change> changes) {
    if (known_jobs.count(job) == 0) {
        changes.push_back(
            {.family = Family::kJobs, .key = job, .value = encode_job(clock->wall_now())});
    }
    if (auto written = store->write_synced(changes); !written) {
        return std::move(written).error().while_doing("write to the journal for job '{}'", job);
    }
    known_jobs.insert(job);
    return {};
}

Result<std::uint64_t> Journal::Database::next_event_number(const std::string& job) {
    if (const auto known = last_event_number.find(job); known != last_event_number.end()) {
        return known->second + 1;
    }
    const Result<std::vector<EventRecord>> last = last_records<EventRecord>(*store, job, 1);
    if (!last) return last.error();
    return last->empty() ? 1 : last->back().number + 1;
}

// Ends of epochs stay for good; of the rest the newest kProgressRecordsKept do.
Result<std::vector<Change>> Journal::Database::removal_of_old_progress(
    const std::string& job) const {
    std::size_t seen = 0;
    std::vector<Change> changes;
    const auto look_at = [&seen, &changes](std::string_view key,
                                           std::string_view /*value*/) -> Result<bool> {
        if (is_epoch_end(key) || ++seen <= kProgressRecordsKept) return true;
        changes.push_back({.family = Family::kProgress, .key = std::string(key), .value = {}});
        return changes.size() < kProgressRemovedAtOnceMax;
    };
    Result<void> visited = store->visit_backwards(Family::kProgress, keys_of(job), look_at);
    if (!visited)
        return std::move(visited).error().while_doing("look for old progress of '{}'", job);
    return changes;
}

}  // namespace pawl::journal
