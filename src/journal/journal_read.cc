// See journal.h: reading. A record that can't be read is passed over and counted.
#include "journal/database.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace pawl::journal {
namespace {

constexpr std::size_t kNoLimit = std::numeric_limits<std::size_t>::max();

enum class Only { kAll, kEpochEnds };

KeyShape shape_of(Family family) {
    return family == Family::kProgress ? KeyShape::kProgress : KeyShape::kNumber;
}

// Gathers wanted records into a page, in the order in which they are met.
template <class Record>
class Gathering {
public:
    Gathering(const Query& query, Only only) : query_(query), only_(only) {}

    // False once the page is full and more is there.
    bool take(std::string_view key, std::string_view value) {
        if (only_ == Only::kEpochEnds && !is_epoch_end(key)) return true;
        Result<Record> record = record_at<Record>(query_.job, key, value);
        if (!record) {
            if (page_.unreadable++ == 0) {
                page_.damage = fmt::format("record {}: {}", cursor_of(key), record.error().text());
            }
            return true;
        }
        if (!is_wanted(query_, *record)) return true;
        if (page_.records.size() == query_.limit) {
            page_.has_more = true;
            return false;
        }
        last_taken_ = key;
        page_.records.push_back(std::move(*record));
        return true;
    }
    [[nodiscard]] const std::string& last_taken() const { return last_taken_; }
    [[nodiscard]] Page<Record>& page() { return page_; }

private:
    const Query& query_;
    Only only_;
    Page<Record> page_;
    std::string last_taken_;
};

template <class Record>
Result<Page<Record>> find(const Store& store, const Query& query, Only only) {
    RETURN_IF_ERROR(check_job_name(query.job));
    const Family family = family_of(Record{});
    Gathering<Record> gathering(query, only);
    KeyRange range = keys_of(query.job);
    std::string newest;  // key of the family: where whoever has seen everything goes on
    const auto visitor = [&](std::string_view key, std::string_view value) -> Result<bool> {
        if (newest.empty() || key > std::string_view(newest)) newest = key;
        return gathering.take(key, value);
    };
    Result<void> visited;
    if (query.after) {
        auto begin = key_after(query.job, *query.after, shape_of(family));
        if (!begin) return begin.error();
        range.begin = std::move(*begin);
        visited = store.visit(family, range, visitor);
    } else {
        visited = store.visit_backwards(family, range, visitor);
    }
    if (!visited) {
        return std::move(visited).error().while_doing("read '{}' of job '{}' from the journal",
                                                      name_of(family), query.job);
    }
    Page<Record>& page = gathering.page();
    if (!query.after) std::reverse(page.records.begin(), page.records.end());
    // With more to come, behind the last one that was given; else behind all that were looked at,
    // so that those which are not wanted are not looked at again.
    const bool goes_on_inside = query.after && page.has_more;
    const std::string& last = goes_on_inside ? gathering.last_taken() : newest;
    page.next = !last.empty() ? cursor_of(last) : query.after.value_or(std::string(kStartCursor));
    if (goes_on_inside && last.empty()) page.next = *query.after;  // a limit of none
    return std::move(page);
}

template <class Record>
Result<std::vector<Record>> last_records(const Store& store, const std::string& job,
                                         std::size_t limit) {
    auto page = find<Record>(store, {.job = job, .limit = limit}, Only::kAll);
    if (!page) return page.error();
    return std::move(page->records);
}

template <class Record>
Result<void> count_unreadable_of(const Store& store, const std::string& job, Unreadable& count) {
    // A page of none that asks for nothing in particular reads every record.
    auto page = find<Record>(
        store, {.job = job, .until = WallTime::min(), .after = std::string(kStartCursor)},
        Only::kAll);
    if (!page) return page.error();
    if (count.count == 0) count.first = page->damage;
    count.count += page->unreadable;
    return {};
}

}  // namespace

Result<void> Journal::Database::check_open() const {
    if (store) return {};
    return make_error(ErrorKind::kIo, "the journal is closed: it could not be opened yet");
}

Result<std::optional<std::string>> Journal::Database::last_key(Family family,
                                                               const std::string& job) const {
    std::optional<std::string> last;
    const auto take = [&last](std::string_view key, std::string_view) -> Result<bool> {
        last = key;
        return false;
    };
    RETURN_IF_ERROR(store->visit_backwards(family, keys_of(job), take));
    return last;
}

Result<Page<ProgressRecord>> Journal::find_progress(const Query& query) const {
    const std::shared_lock held(database_->store_mutex);
    RETURN_IF_ERROR(database_->check_open());
    return find<ProgressRecord>(*database_->store, query, Only::kAll);
}

Result<Page<ProgressRecord>> Journal::find_epochs(const Query& query) const {
    const std::shared_lock held(database_->store_mutex);
    RETURN_IF_ERROR(database_->check_open());
    return find<ProgressRecord>(*database_->store, query, Only::kEpochEnds);
}

Result<Page<IncarnationRecord>> Journal::find_incarnations(const Query& query) const {
    const std::shared_lock held(database_->store_mutex);
    RETURN_IF_ERROR(database_->check_open());
    return find<IncarnationRecord>(*database_->store, query, Only::kAll);
}

Result<Page<CheckpointRecord>> Journal::find_checkpoints(const Query& query) const {
    const std::shared_lock held(database_->store_mutex);
    RETURN_IF_ERROR(database_->check_open());
    return find<CheckpointRecord>(*database_->store, query, Only::kAll);
}

Result<Page<EventRecord>> Journal::find_events(const Query& query) const {
    const std::shared_lock held(database_->store_mutex);
    RETURN_IF_ERROR(database_->check_open());
    return find<EventRecord>(*database_->store, query, Only::kAll);
}

Result<std::vector<ProgressRecord>> Journal::progress(const std::string& job,
                                                      std::size_t limit) const {
    const std::shared_lock held(database_->store_mutex);
    RETURN_IF_ERROR(database_->check_open());
    return last_records<ProgressRecord>(*database_->store, job, limit);
}

Result<std::vector<IncarnationRecord>> Journal::incarnations(const std::string& job) const {
    const std::shared_lock held(database_->store_mutex);
    RETURN_IF_ERROR(database_->check_open());
    return last_records<IncarnationRecord>(*database_->store, job, kNoLimit);
}

Result<std::vector<CheckpointRecord>> Journal::checkpoints(const std::string& job) const {
    const std::shared_lock held(database_->store_mutex);
    RETURN_IF_ERROR(database_->check_open());
    return last_records<CheckpointRecord>(*database_->store, job, kNoLimit);
}

Result<std::vector<EventRecord>> Journal::events(const std::string& job, std::size_t limit) const {
    const std::shared_lock held(database_->store_mutex);
    RETURN_IF_ERROR(database_->check_open());
    return last_records<EventRecord>(*database_->store, job, limit);
}

Result<std::optional<CheckpointRecord>> Journal::checkpoint(const std::string& job,
                                                            Sequence sequence) const {
    const std::shared_lock held(database_->store_mutex);
    RETURN_IF_ERROR(database_->check_open());
    const std::string key = key_of(job, CheckpointRecord{.sequence = sequence});
    const auto value = database_->store->get(Family::kCheckpoints, key);
    if (!value) return value.error();
    if (!*value) return std::optional<CheckpointRecord>();
    auto record = record_at<CheckpointRecord>(job, key, **value);
    if (!record) return std::optional<CheckpointRecord>();
    return std::optional(std::move(*record));
}

Result<std::optional<Incarnation>> Journal::last_incarnation(const std::string& job) const {
    const std::shared_lock held(database_->store_mutex);
    RETURN_IF_ERROR(database_->check_open());
    const auto key = database_->last_key(Family::kIncarnations, job);
    if (!key) return key.error();
    const auto number = *key ? number_in(**key) : std::nullopt;
    if (!number) return std::optional<Incarnation>();
    return std::optional(Incarnation{*number});
}

Result<std::vector<std::string>> Journal::jobs() const {
    const std::shared_lock held(database_->store_mutex);
    RETURN_IF_ERROR(database_->check_open());
    Result<std::vector<std::string>> names = database_->store->keys(Family::kJobs);
    if (!names) return std::move(names).error().while_doing("read the journal's jobs");
    return names;
}

Result<Unreadable> Journal::count_unreadable(const std::string& job) const {
    const std::shared_lock held(database_->store_mutex);
    RETURN_IF_ERROR(database_->check_open());
    const Store& store = *database_->store;
    Unreadable count;
    RETURN_IF_ERROR(count_unreadable_of<IncarnationRecord>(store, job, count));
    RETURN_IF_ERROR(count_unreadable_of<CheckpointRecord>(store, job, count));
    RETURN_IF_ERROR(count_unreadable_of<EventRecord>(store, job, count));
    RETURN_IF_ERROR(count_unreadable_of<ProgressRecord>(store, job, count));
    return count;
}

}  // namespace pawl::journal
