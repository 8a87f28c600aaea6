// The journal's database: opening it, what may be wrong then, and synced changes to it.
//
// Knows RocksDB, and of the records only the column families they lie in. Takes and gives bytes.
#pragma once

#include "base/result.h"
#include "journal/records.h"

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rocksdb {
class ColumnFamilyHandle;
class DB;
class Iterator;
}  // namespace rocksdb

namespace pawl::journal {

enum class Family : std::size_t {
    kMeta,
    kJobs,
    kIncarnations,
    kProgress,
    kCheckpoints,
    kEvents,
};
[[nodiscard]] const char* name_of(Family family);

struct Change {
    Family family = Family::kMeta;
    std::string key;
    std::optional<std::string> value;  // nullopt: the key is removed
    std::string range_end;             // not empty: all keys of [key, range_end) are removed
};

// An open database of a known format. Thread-safe.
class Store {
public:
    // Begins one if there is none. kCorrupt: damaged, and nothing was lost by the attempt; kBusy:
    // held by another process; kUnsupported: of a newer format, and left as it was.
    static Result<std::unique_ptr<Store>> open(const std::string& path);
    // Leaves no trace. kNotFound: there is none, or one that is still being made.
    static Result<std::unique_ptr<Store>> open_read_only(const std::string& path);

    ~Store();
    Store(const Store&) = delete;
    Store& operator=(const Store&) = delete;

    // All of them or none; durable when this returns without an error.
    Result<void> write_synced(const std::vector<Change>& changes);
    // A write has failed, or it is read-only: only a store that is opened anew takes writes.
    [[nodiscard]] bool needs_reopening() const { return needs_reopening_; }

    [[nodiscard]] Result<std::optional<std::string>> get(Family family,
                                                         const std::string& key) const;
    // Of the whole family, in order.
    [[nodiscard]] Result<std::vector<std::string>> keys(Family family) const;

    // Gets a key and its value; false ends the visit.
    using Visitor = std::function<Result<bool>(std::string_view key, std::string_view value)>;
    // Last first.
    Result<void> visit_backwards(Family family, const KeyRange& range, const Visitor& visit) const;
    // First first.
    Result<void> visit(Family family, const KeyRange& range, const Visitor& visit) const;

    // What was not there when it was opened and was begun anew, though the rest is sound; else "".
    [[nodiscard]] const std::string& repaired() const { return repaired_; }

private:
    enum class Access { kReadOnly, kReadWrite };

    Store(std::unique_ptr<rocksdb::DB> database, std::vector<rocksdb::ColumnFamilyHandle*> handles);
    static Result<std::unique_ptr<Store>> open_families(const std::string& path, Access access);
    // Both visits: where it begins, and which way it goes.
    using Move = void (rocksdb::Iterator::*)();
    Result<void> walk(Family family, const KeyRange& range, const Visitor& visit, Move begin_at,
                      Move go_on) const;
    [[nodiscard]] rocksdb::ColumnFamilyHandle* handle(Family family) const;
    [[nodiscard]] Result<bool> has_known_format(const std::string& path) const;
    Result<void> verify_blocks() const;

    std::string repaired_;
    std::atomic<bool> needs_reopening_{false};
    std::unique_ptr<rocksdb::DB> database_;
    std::vector<rocksdb::ColumnFamilyHandle*> handles_;  // in the order of Family, then the default
};

}  // namespace pawl::journal
