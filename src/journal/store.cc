// See store.h.
//
// A journal is opened in this order: is it held, is something missing that RocksDB would silently
// make anew, is its format known (read-only, so that a newer journal is left as it was), open,
// verify every block. It is small enough for that: tens of megabytes.
#include "journal/store.h"

#include "base/invariant.h"

#include <rocksdb/cache.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>

#include <errno.h>

#include <algorithm>
#include <array>
#include <cstdarg>
#include <system_error>
#include <utility>

namespace pawl::journal {
namespace {

constexpr std::size_t kKiB = 1024;
constexpr std::size_t kMiB = 1024 * kKiB;

// Of one column family; of all together; and how much log may pile up behind a family that is
// seldom written to, before it is flushed.
constexpr std::size_t kWriteBufferBytes = 4 * kMiB;
constexpr std::size_t kWriteBuffersBytes = 16 * kMiB;
constexpr std::size_t kLogBytesMax = 16 * kMiB;
static_assert(kWriteBufferBytes <= kWriteBuffersBytes && kWriteBufferBytes <= kLogBytesMax);
constexpr std::size_t kBlockCacheBytes = 4 * kMiB;
constexpr int kOpenFilesMax = 64;

constexpr int kDamagedNamesMax = 100;
constexpr const char* kFormatKey = "format";
constexpr std::array kFamilyNames = {"meta",     "jobs",        "incarnations",
                                     "progress", "checkpoints", "events"};
static_assert(kFamilyNames.size() == static_cast<std::size_t>(Family::kEvents) + 1);

// RocksDB calls a file that it cannot reach corruption too; the cause then stands in the text only.
bool is_machine_failure(const std::string& text) {
    constexpr std::array kCodes = {EACCES, EPERM, EIO, EMFILE, ENFILE, ENOMEM, EROFS, ESTALE};
    return std::any_of(kCodes.begin(), kCodes.end(), [&text](int code) {
        return text.find(std::generic_category().message(code)) != std::string::npos;
    });
}

// Somebody holds it. A disk or a server that can't lock (EIO, ENOLCK) is something else.
bool is_lock_failure(const std::string& text) {
    const bool is_refused = text.find("While lock file") != std::string::npos &&
                            text.find(std::generic_category().message(EAGAIN)) != std::string::npos;
    return is_refused || text.find("lock hold by current process") != std::string::npos;
}

ErrorKind kind_of(const rocksdb::Status& status) {
    const std::string text = status.ToString();
    if (status.IsCorruption()) {
        return is_machine_failure(text) ? ErrorKind::kIo : ErrorKind::kCorrupt;
    }
    if (status.IsNoSpace() || status.subcode() == rocksdb::Status::kSpaceLimit) {
        return ErrorKind::kNoSpace;
    }
    // A file that the database's own list names is not there.
    if (status.IsPathNotFound()) return ErrorKind::kCorrupt;
    if (status.IsIOError()) return is_lock_failure(text) ? ErrorKind::kBusy : ErrorKind::kIo;
    if (status.IsBusy() || status.IsTryAgain()) return ErrorKind::kBusy;
    if (status.IsTimedOut()) return ErrorKind::kTimeout;
    if (status.IsNotSupported()) return ErrorKind::kUnsupported;
    if (status.IsInvalidArgument()) return ErrorKind::kInvalidArgument;
    return ErrorKind::kInternal;
}

Error error_from(const rocksdb::Status& status) {
    return make_error(kind_of(status), "{}", status.ToString());
}

Error held_by_another(const std::string& path) {
    return make_error(ErrorKind::kBusy, "another pawld has the journal '{}' open", path)
        .consequence("It was left alone: stop that pawld, or name another journal.");
}

rocksdb::Slice slice(std::string_view text) {
    return {text.data(), text.size()};
}

std::string_view view(const rocksdb::Slice& text) {
    return {text.data(), text.size()};
}

// RocksDB would keep a LOG beside the data. A reader leaves no trace, a second opener would rotate
// the first one's, and on a full disk the library (7.8, with Debian's assertions) aborts the
// process at the second line that it cannot write there. What matters is in the status of each
// call.
class NoLogger final : public rocksdb::Logger {
public:
    using rocksdb::Logger::Logv;
    void Logv(const char* /*format*/, va_list /*arguments*/) override {}
};

rocksdb::DBOptions common_options() {
    rocksdb::DBOptions options;
    options.paranoid_checks = true;
    // Every write here is synced before it is acknowledged, so only the very end of a log can be
    // torn. Anything else is damage to acknowledged records: this mode then refuses to open, where
    // kPointInTimeRecovery would silently drop all that came after.
    options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
    options.track_and_verify_wals_in_manifest = true;
    options.stats_dump_period_sec = 0;  // an idle daemon does not wake up
    options.stats_persist_period_sec = 0;
    options.skip_stats_update_on_db_open = true;
    options.info_log = std::make_shared<NoLogger>();
    return options;
}

rocksdb::DBOptions reader_options() {
    rocksdb::DBOptions options = common_options();
    options.max_open_files = -1;  // all at once: a writer may remove a file, but not an open one
    return options;
}

rocksdb::DBOptions writer_options() {
    rocksdb::DBOptions options = common_options();
    options.create_if_missing = true;
    options.create_missing_column_families = true;
    options.db_write_buffer_size = kWriteBuffersBytes;
    options.max_total_wal_size = kLogBytesMax;
    options.max_open_files = kOpenFilesMax;
    options.max_background_jobs = 2;
    options.manifest_preallocation_size = 64 * kKiB;
    return options;
}

std::vector<rocksdb::ColumnFamilyDescriptor> family_descriptors() {
    rocksdb::BlockBasedTableOptions table;
    table.block_cache = rocksdb::NewLRUCache(kBlockCacheBytes);
    rocksdb::ColumnFamilyOptions options;
    options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
    options.write_buffer_size = kWriteBufferBytes;
    options.target_file_size_base = kWriteBufferBytes;
    // Any build of RocksDB can read it then, whatever it was linked with; there is little to gain.
    options.compression = rocksdb::kNoCompression;

    std::vector<rocksdb::ColumnFamilyDescriptor> families;
    for (const char* name : kFamilyNames)
        families.emplace_back(name, options);
    families.emplace_back(rocksdb::kDefaultColumnFamilyName, options);
    return families;
}

// The lock that RocksDB itself takes, held while nobody may begin to use the directory.
class DirectoryLock {
public:
    static Result<DirectoryLock> take(const std::string& path) {
        DirectoryLock lock;
        const rocksdb::Status status =
            rocksdb::Env::Default()->LockFile(join_path(path, "LOCK"), &lock.lock_);
        if (status.ok()) return lock;
        if (kind_of(status) == ErrorKind::kBusy) return held_by_another(path);
        return error_from(status);
    }
    DirectoryLock(DirectoryLock&& other) noexcept : lock_(std::exchange(other.lock_, nullptr)) {}
    DirectoryLock(const DirectoryLock&) = delete;
    DirectoryLock& operator=(const DirectoryLock&) = delete;
    DirectoryLock& operator=(DirectoryLock&&) = delete;
    ~DirectoryLock() {
        // Nothing hangs on the result: the descriptor is closed whatever it says.
        if (lock_ != nullptr) rocksdb::Env::Default()->UnlockFile(lock_).PermitUncheckedError();
    }

private:
    DirectoryLock() = default;
    rocksdb::FileLock* lock_ = nullptr;
};

// "000012.sst", "000011.log": not "LOG", and no file of another program.
bool is_database_file(std::string_view name) {
    const std::size_t dot = name.find_first_not_of("0123456789");
    if (dot == 0 || dot == std::string_view::npos) return false;
    return name.substr(dot) == ".sst" || name.substr(dot) == ".log";
}

// "20261124T082558Z"
std::string compact_time(WallTime time) {
    std::string text = format_time(time);
    text.erase(text.find('.'));
    const auto is_mark = [](char letter) { return letter == '-' || letter == ':'; };
    text.erase(std::remove_if(text.begin(), text.end(), is_mark), text.end());
    return text + "Z";
}

}  // namespace

const char* name_of(Family family) {
    return kFamilyNames.at(static_cast<std::size_t>(family));
}

// Without CURRENT RocksDB would begin anew, and delete the files of the old database as strangers.
Result<bool> holds_database(FileSystem& fs, const std::string& path) {
    const auto current = fs.status(join_path(path, "CURRENT"));
    if (!current) return current.error();
    if (*current) return true;
    const auto entries = fs.list_directory(path);
    if (!entries) return entries.error();
    for (const DirectoryEntry& entry : *entries) {
        if (!is_database_file(entry.name)) continue;
        return make_error(ErrorKind::kCorrupt, "'CURRENT' is missing, though '{}' is there",
                          entry.name);
    }
    return false;
}

// Order: lock, rename, parent. The lock keeps a pawld that has just started from losing its
// journal.
Result<std::string> move_aside(FileSystem& fs, const std::string& path, WallTime now) {
    const Result<DirectoryLock> lock = DirectoryLock::take(path);
    if (!lock) return lock.error();
    const std::string name = path + ".damaged-" + compact_time(now);
    const std::size_t slash = path.rfind('/');
    const std::string parent = slash == std::string::npos ? "." : path.substr(0, slash + 1);
    for (int attempt = 1; attempt <= kDamagedNamesMax; ++attempt) {
        const std::string target = attempt == 1 ? name : fmt::format("{}-{}", name, attempt);
        const Result<void> renamed = fs.rename(path, target);
        if (!renamed && renamed.error().kind() == ErrorKind::kAlreadyExists) continue;
        if (!renamed) return renamed.error();
        RETURN_IF_ERROR(fs.sync_directory(parent));
        return target;
    }
    return make_error(ErrorKind::kAlreadyExists, "'{}' and {} more names like it are taken", name,
                      kDamagedNamesMax - 1);
}

Result<std::unique_ptr<Store>> Store::open(const std::string& path) {
    const std::unique_ptr<FileSystem> fs = make_posix_file_system();
    // Asked first: beside a writer the looks that follow could see damage where there is none.
    RETURN_IF_ERROR(DirectoryLock::take(path));
    const Result<bool> exists = holds_database(*fs, path);
    if (!exists) return exists.error();
    if (*exists) {
        const auto probe = open_read_only(path);
        if (!probe && probe.error().kind() != ErrorKind::kNotFound) return probe.error();
    }

    auto store = open_families(path, Access::kReadWrite);
    if (!store) return store;
    RETURN_IF_ERROR((*store)->verify_blocks());
    const Result<bool> has_format = (*store)->has_known_format(path);
    if (!has_format) return has_format.error();
    if (!*has_format) {
        RETURN_IF_ERROR((*store)->write_synced({{.family = Family::kMeta,
                                                 .key = kFormatKey,
                                                 .value = encode_format(kFormatVersion)}}));
    }
    return store;
}

Result<std::unique_ptr<Store>> Store::open_read_only(const std::string& path) {
    std::vector<std::string> names;
    const rocksdb::Status listed = rocksdb::DB::ListColumnFamilies(reader_options(), path, &names);
    if (!listed.ok()) return error_from(listed);
    for (const char* name : kFamilyNames) {
        if (std::find(names.begin(), names.end(), name) != names.end()) continue;
        // Its writer stopped, or is, between the making of two families.
        return make_error(ErrorKind::kNotFound, "the journal in '{}' is not fully made", path);
    }
    auto store = open_families(path, Access::kReadOnly);
    if (!store) return store;
    const Result<bool> format = (*store)->has_known_format(path);
    if (!format) return format.error();
    return store;
}

Result<std::unique_ptr<Store>> Store::open_families(const std::string& path, Access access) {
    rocksdb::DB* database = nullptr;
    std::vector<rocksdb::ColumnFamilyHandle*> handles;
    const rocksdb::Status status =
        access == Access::kReadOnly
            ? rocksdb::DB::OpenForReadOnly(reader_options(), path, family_descriptors(), &handles,
                                           &database)
            : rocksdb::DB::Open(writer_options(), path, family_descriptors(), &handles, &database);
    if (!status.ok()) {
        if (kind_of(status) == ErrorKind::kBusy) return held_by_another(path);
        return error_from(status);
    }
    return std::unique_ptr<Store>(
        new Store(std::unique_ptr<rocksdb::DB>(database), std::move(handles)));
}

// False if none is written yet.
Result<bool> Store::has_known_format(const std::string& path) const {
    const auto value = get(Family::kMeta, kFormatKey);
    if (!value) return value.error();
    if (!*value) return false;
    const Result<std::uint64_t> version = decode_format(**value);
    if (!version) return Error(version.error()).while_doing("read the format of '{}'", path);
    if (*version <= kFormatVersion) return true;
    return make_error(ErrorKind::kUnsupported,
                      "the journal '{}' has format version {}, but this pawl knows version {} only",
                      path, *version, kFormatVersion)
        .consequence(
            "It was left as it is: install the newer pawl again, or name another journal.");
}

Result<void> Store::verify_blocks() const {
    const rocksdb::Status status = database_->VerifyChecksum();
    if (!status.ok()) return error_from(status);
    return {};
}

Store::Store(std::unique_ptr<rocksdb::DB> database,
             std::vector<rocksdb::ColumnFamilyHandle*> handles)
    : database_(std::move(database)), handles_(std::move(handles)) {
}

Store::~Store() {
    for (rocksdb::ColumnFamilyHandle* handle : handles_) {
        database_->DestroyColumnFamilyHandle(handle).PermitUncheckedError();
    }
    // Every acknowledged record is in the synced log already.
    database_->Close().PermitUncheckedError();
}

Result<void> Store::write_synced(const std::vector<Change>& changes) {
    rocksdb::WriteBatch batch;
    for (const Change& change : changes) {
        const rocksdb::Status added =
            change.value ? batch.Put(handle(change.family), change.key, *change.value)
                         : batch.Delete(handle(change.family), change.key);
        invariant(added.ok(), "a batch without a size limit takes any change");
    }
    rocksdb::WriteOptions options;
    options.sync = true;
    // After a failure RocksDB refuses all later writes with the same error. When the disk was full
    // it looks again by itself, every five seconds.
    const rocksdb::Status status = database_->Write(options, &batch);
    if (!status.ok()) return error_from(status);
    return {};
}

Result<std::optional<std::string>> Store::get(Family family, const std::string& key) const {
    std::string value;
    const rocksdb::Status status =
        database_->Get(rocksdb::ReadOptions(), handle(family), key, &value);
    if (status.IsNotFound()) return std::optional<std::string>();
    if (!status.ok()) return error_from(status);
    return std::optional<std::string>(std::move(value));
}

Result<std::vector<std::string>> Store::keys(Family family) const {
    std::vector<std::string> keys;
    const std::unique_ptr<rocksdb::Iterator> at(
        database_->NewIterator(rocksdb::ReadOptions(), handle(family)));
    for (at->SeekToFirst(); at->Valid(); at->Next())
        keys.push_back(at->key().ToString());
    if (!at->status().ok()) return error_from(at->status());
    return keys;
}

Result<void> Store::visit_backwards(Family family, const KeyRange& range,
                                    const Visitor& visit) const {
    const rocksdb::Slice begin = slice(range.begin);
    const rocksdb::Slice end = slice(range.end);
    rocksdb::ReadOptions options;
    options.iterate_lower_bound = &begin;
    options.iterate_upper_bound = &end;
    const std::unique_ptr<rocksdb::Iterator> at(database_->NewIterator(options, handle(family)));
    for (at->SeekToLast(); at->Valid(); at->Prev()) {
        const Result<bool> goes_on = visit(view(at->key()), view(at->value()));
        if (!goes_on) return goes_on.error();
        if (!*goes_on) return {};
    }
    if (!at->status().ok()) return error_from(at->status());
    return {};
}

rocksdb::ColumnFamilyHandle* Store::handle(Family family) const {
    return handles_.at(static_cast<std::size_t>(family));
}

}  // namespace pawl::journal
