// See rocks.h.
#include "journal/rocks.h"

#include "base/file_system.h"

#include <rocksdb/cache.h>
#include <rocksdb/env.h>
#include <rocksdb/table.h>

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

constexpr std::size_t kManifestBytesMax = 4 * kMiB;
constexpr std::uint64_t kCompactionSeconds = 2 * 24 * 3600;

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

}  // namespace

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
    options.max_manifest_file_size = kManifestBytesMax;
    return options;
}

rocksdb::ColumnFamilyOptions family_options() {
    rocksdb::BlockBasedTableOptions table;
    table.block_cache = rocksdb::NewLRUCache(kBlockCacheBytes);
    rocksdb::ColumnFamilyOptions options;
    options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
    options.write_buffer_size = kWriteBufferBytes;
    options.max_write_buffer_number = 2;
    options.target_file_size_base = kWriteBufferBytes;
    // What was thinned or has ended leaves the disk within days, also where nothing is written.
    options.periodic_compaction_seconds = kCompactionSeconds;
    // Any build of RocksDB can read it then, whatever it was linked with; there is little to gain.
    options.compression = rocksdb::kNoCompression;
    return options;
}

Result<DirectoryLock> DirectoryLock::take(const std::string& path) {
    DirectoryLock lock;
    const rocksdb::Status status =
        rocksdb::Env::Default()->LockFile(join_path(path, "LOCK"), &lock.lock_);
    if (status.ok()) return lock;
    if (kind_of(status) == ErrorKind::kBusy) return held_by_another(path);
    return error_from(status);
}

DirectoryLock::DirectoryLock(DirectoryLock&& other) noexcept
    : lock_(std::exchange(other.lock_, nullptr)) {
}

DirectoryLock::~DirectoryLock() {
    // Nothing hangs on the result: the descriptor is closed whatever it says.
    if (lock_ != nullptr) rocksdb::Env::Default()->UnlockFile(lock_).PermitUncheckedError();
}

}  // namespace pawl::journal
