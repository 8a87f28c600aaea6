// See journal.h. Opening and writing: numbering, the names of jobs, the removal of what is old, and
// what becomes of a journal that is damaged or fails. Reading: journal_read.cc.
#include "journal/journal.h"

#include "base/file_system.h"
#include "journal/damage.h"
#include "journal/database.h"

#include <algorithm>
#include <utility>

namespace pawl::journal {
namespace {

// A bound on what one append removes, whatever has piled up. It is above what comes in between two
// removals, so that they catch up.
constexpr std::size_t kProgressRemovedAtOnceMax = 2 * kProgressRecordsSlack;
// So often all progress is looked through; else only what has got old since the last look.
constexpr std::size_t kThinningsBetweenFullOnes = 16;

// A writer beside a reader may remove a file between the reader's look at the list and its open.
constexpr int kReadOnlyAttemptsMax = 3;

template <class Record>
Change change_to(const std::string& job, const Record& record) {
    return {.family = family_of(record), .key = key_of(job, record), .value = encode(record)};
}

// Of numbered records the newest `kept` stay.
template <class Record>
Change removal_of_numbers_below(const std::string& job, const Record& first_kept) {
    return {.family = family_of(first_kept),
            .key = keys_of(job).begin,
            .value = {},
            .range_end = key_of(job, first_kept)};
}

// Whether it is time to look for what is old; the first write does, since nobody knows what is
// there.
template <class Written>
bool is_due(Written& written, std::size_t more, std::size_t slack) {
    written.count += more;
    if (written.was_looked_through && written.count < slack) return false;
    written = {.was_looked_through = true, .count = 0};
    return true;
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
    if (store) report.repaired = (*store)->repaired();
    if (store || store.error().kind() != ErrorKind::kCorrupt) return store;

    const std::string damage = store.error().text();
    Result<std::string> target = move_aside(*fs, path, now);
    if (!target) return std::move(target).error().while_doing("move it aside ({})", damage);
    report = {.moved_aside_to = *target, .damage = damage, .is_new = true};
    // What can't be removed takes room, and is no reason to have no journal.
    if (auto pruned = prune_damaged(*fs, path, kDamagedJournalsKept)) report.pruned = *pruned;
    RETURN_IF_ERROR(create_directories(*fs, path));
    return Store::open(path);
}

Error closed() {
    return make_error(ErrorKind::kIo, "the journal is closed: it could not be opened anew yet");
}

}  // namespace

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
    database->path = path;
    database->store = std::move(*store);
    database->clock = &clock;
    database->known_jobs.insert(jobs->begin(), jobs->end());
    return std::unique_ptr<Journal>(new Journal(std::move(database)));
}

std::unique_ptr<Journal> Journal::open_later(const std::string& path, const Clock& clock,
                                             const Error& why) {
    auto database = std::make_unique<Database>();
    database->path = without_trailing_slashes(path);
    database->clock = &clock;
    database->health = {.is_failing = true, .why = why.text(), .since = clock.wall_now()};
    database->reopen_due = clock.monotonic_now() + kReopenDelay;
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
    database->path = path;
    database->store = std::move(*store);
    return std::unique_ptr<Journal>(new Journal(std::move(database)));
}

// ---- writes ----

Result<void> Journal::append_progress(const std::string& job,
                                      const std::vector<ProgressRecord>& batch) {
    if (batch.empty()) return {};
    return database_->attempt(job, batch.size(), [&]() -> Result<void> {
        std::vector<Change> changes;
        Database::Written written = database_->progress_written[job];
        if (is_due(written, batch.size(), kProgressRecordsSlack)) {
            auto removal = database_->removal_of_old_progress(job);
            if (!removal) return removal.error();
            changes = std::move(*removal);
        }
        for (const ProgressRecord& record : batch)
            changes.push_back(change_to(job, record));
        RETURN_IF_ERROR(database_->write(job, std::move(changes)));
        database_->progress_written[job] = written;
        return {};
    });
}

Result<void> Journal::put_incarnation(const std::string& job, const IncarnationRecord& record) {
    return database_->attempt(job, 1, [&]() -> Result<void> {
        std::vector<Change> changes = {change_to(job, record)};
        Database::Written written = database_->incarnations_written[job];
        const bool has_old = record.incarnation.value >= kIncarnationsKept;
        if (is_due(written, 1, kIncarnationsSlack) && has_old) {
            changes.push_back(removal_of_numbers_below(
                job, IncarnationRecord{.incarnation = Incarnation{record.incarnation.value + 1 -
                                                                  kIncarnationsKept}}));
        }
        RETURN_IF_ERROR(database_->write(job, std::move(changes)));
        database_->incarnations_written[job] = written;
        return {};
    });
}

Result<void> Journal::put_checkpoint(const std::string& job, const CheckpointRecord& record) {
    return database_->attempt(job, 1, [&]() -> Result<void> {
        std::vector<Change> changes;
        Database::Written written = database_->checkpoints_written[job];
        if (is_due(written, 1, kCheckpointsSlack)) {
            auto removal = database_->removal_of_old_checkpoints(job);
            if (!removal) return removal.error();
            changes = std::move(*removal);
        }
        changes.push_back(change_to(job, record));
        RETURN_IF_ERROR(database_->write(job, std::move(changes)));
        database_->checkpoints_written[job] = written;
        return {};
    });
}

Result<void> Journal::append_event(const std::string& job, EventRecord& event) {
    return database_->attempt(job, 1, [&]() -> Result<void> {
        const Result<std::uint64_t> number = database_->next_event_number(job);
        if (!number) return number.error();
        EventRecord numbered = event;
        numbered.number = *number;
        std::vector<Change> changes = {change_to(job, numbered)};
        Database::Written written = database_->events_written[job];
        if (is_due(written, 1, kEventsSlack) && *number > kEventsKept) {
            changes.push_back(
                removal_of_numbers_below(job, EventRecord{.number = *number + 1 - kEventsKept}));
        }
        RETURN_IF_ERROR(database_->write(job, std::move(changes)));
        database_->events_written[job] = written;
        database_->last_event_number[job] = *number;
        event.number = *number;
        return {};
    });
}

// ---- health ----

Health Journal::health() const {
    const std::lock_guard lock(database_->health_mutex);
    return database_->health;
}

void Journal::on_health_change(std::function<void(const Health&)> listener) {
    const std::lock_guard lock(database_->health_mutex);
    database_->listener = std::move(listener);
}

void Journal::count_lost(std::uint64_t records, const std::string& why) {
    database_->failed(make_error(ErrorKind::kTimeout, "{}", why), records);
    const std::lock_guard lock(database_->health_mutex);
    database_->is_overloaded = true;
}

void Journal::caught_up() {
    const std::lock_guard lock(database_->health_mutex);
    database_->is_overloaded = false;
}

Result<void> Journal::Database::attempt(const std::string& job, std::size_t records,
                                        const std::function<Result<void>()>& write) {
    RETURN_IF_ERROR(check_job_name(job));
    if (clock == nullptr) {
        return make_error(ErrorKind::kInvalidArgument, "the journal was opened read-only");
    }
    const std::lock_guard lock(appending);
    reopen_if_due();
    Result<void> written = closed();
    {
        const std::shared_lock held(store_mutex);
        if (store) written = write();
    }
    if (written) {
        worked();
    } else {
        failed(written.error(), records);
    }
    return written;
}

void Journal::Database::failed(const Error& error, std::uint64_t records) {
    const std::lock_guard lock(health_mutex);
    health.lost += records;
    if (health.is_failing) return;
    health.is_failing = true;
    health.why = error.text();
    health.since = clock->wall_now();
    health.moved_aside_to.clear();
    if (listener) listener(health);
}

void Journal::Database::worked() {
    const std::lock_guard lock(health_mutex);
    if (!health.is_failing || is_overloaded) return;
    health.is_failing = false;
    if (listener) listener(health);
    health = {};
}

// After a failure RocksDB refuses all writes until it is opened anew. Where that fails too, what is
// there can still be read.
void Journal::Database::reopen_if_due() {
    bool is_closed = false;
    {
        const std::shared_lock held(store_mutex);
        is_closed = store == nullptr;
        if (store && !store->needs_reopening()) return;
    }
    const MonotonicTime now = clock->monotonic_now();
    if (!is_closed && reopen_due == MonotonicTime()) reopen_due = now + kReopenDelay;
    if (now < reopen_due) return;
    reopen_due = now + kReopenDelay;

    const std::unique_lock alone(store_mutex);
    store.reset();  // it holds the lock
    OpenReport report;
    auto opened = open_or_begin_anew(path, clock->wall_now(), report);
    if (!opened) {
        if (auto readable = Store::open_read_only(path)) store = std::move(*readable);
        return;
    }
    store = std::move(*opened);
    reopen_due = {};
    known_jobs.clear();
    last_event_number.clear();
    progress_written.clear();
    checkpoints_written.clear();
    incarnations_written.clear();
    events_written.clear();
    thinned_to.clear();
    if (report.moved_aside_to.empty()) return;
    const std::lock_guard lock(health_mutex);
    health.moved_aside_to = report.moved_aside_to;
}

// ---- with `appending` held ----

// Adds the job's name, if it is new, to the same atomic write.
Result<void> Journal::Database::write(const std::string& job, std::vector<Change> changes) {
    if (known_jobs.count(job) == 0) {
        const auto known = store->get(Family::kJobs, job);
        if (known && !*known) {
            changes.push_back(
                {.family = Family::kJobs, .key = job, .value = encode_job(clock->wall_now())});
        }
    }
    if (auto written = store->write_synced(changes); !written) {
        return std::move(written).error().while_doing("write to the journal for job '{}'", job);
    }
    known_jobs.insert(job);
    return {};
}

Result<std::uint64_t> Journal::Database::next_event_number(const std::string& job) const {
    if (const auto known = last_event_number.find(job); known != last_event_number.end()) {
        return known->second + 1;
    }
    const auto last = last_key(Family::kEvents, job);
    if (!last) return last.error();
    const auto number = *last ? number_in(**last) : std::nullopt;
    return number.value_or(0) + 1;
}

// See thinning.h. Only what got old since the last time is looked at, except now and then.
Result<std::vector<Change>> Journal::Database::removal_of_old_progress(const std::string& job) {
    using Kind = ProgressThinning::Kind;
    const bool is_full = thinnings[job]++ % kThinningsBetweenFullOnes == 0;
    const std::string stop = is_full ? std::string() : thinned_to[job];
    ProgressThinning thinning;
    std::string newest_old;
    std::vector<Change> changes;
    const auto look_at = [&](std::string_view key, std::string_view value) -> Result<bool> {
        const Kind kind = is_epoch_end(key) ? Kind::kEpochEnd : Kind::kStep;
        if (thinning.keeps_any(kind)) return true;
        if (key <= std::string_view(stop)) return false;
        if (newest_old.empty()) newest_old = key;
        const auto record = decode<ProgressRecord>(value);
        if (record && thinning.keeps(kind, record->time)) return true;
        changes.push_back({.family = Family::kProgress, .key = std::string(key), .value = {}});
        return changes.size() < kProgressRemovedAtOnceMax;
    };
    Result<void> visited = store->visit_backwards(Family::kProgress, keys_of(job), look_at);
    if (!visited)
        return std::move(visited).error().while_doing("look for old progress of '{}'", job);
    const bool was_cut_short = changes.size() >= kProgressRemovedAtOnceMax;
    if (was_cut_short) {
        thinnings[job] = 0;  // the next one goes on below
    } else if (!newest_old.empty()) {
        thinned_to[job] = newest_old;
    }
    return changes;
}

Result<std::vector<Change>> Journal::Database::removal_of_old_checkpoints(
    const std::string& job) const {
    std::size_t removed = 0;
    std::vector<Change> changes;
    const auto look_at = [&](std::string_view key, std::string_view value) -> Result<bool> {
        const auto record = decode<CheckpointRecord>(value);
        const bool is_gone = !record || record->state == CheckpointState::kRemoved;
        if (!is_gone || ++removed <= kRemovedCheckpointsKept) return true;
        changes.push_back({.family = Family::kCheckpoints, .key = std::string(key), .value = {}});
        return true;
    };
    Result<void> visited = store->visit_backwards(Family::kCheckpoints, keys_of(job), look_at);
    if (!visited)
        return std::move(visited).error().while_doing("look for old checkpoints of '{}'", job);
    return changes;
}

}  // namespace pawl::journal
