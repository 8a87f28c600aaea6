// RocksDB as the journal uses it: its options, which bound what it takes of disk, memory and
// descriptors, and what its errors mean here.
//
// Of this room's .cc files only.
#pragma once

#include "base/result.h"

#include <rocksdb/options.h>
#include <rocksdb/status.h>

#include <memory>
#include <string>

namespace rocksdb {
class FileLock;
}  // namespace rocksdb

namespace pawl::journal {

[[nodiscard]] ErrorKind kind_of(const rocksdb::Status& status);
[[nodiscard]] Error error_from(const rocksdb::Status& status);
[[nodiscard]] Error held_by_another(const std::string& path);

[[nodiscard]] rocksdb::DBOptions reader_options();
[[nodiscard]] rocksdb::DBOptions writer_options();
[[nodiscard]] rocksdb::ColumnFamilyOptions family_options();

// The lock that RocksDB itself takes, held while nobody may begin to use the directory.
class DirectoryLock {
public:
    static Result<DirectoryLock> take(const std::string& path);
    DirectoryLock(DirectoryLock&& other) noexcept;
    DirectoryLock(const DirectoryLock&) = delete;
    DirectoryLock& operator=(const DirectoryLock&) = delete;
    DirectoryLock& operator=(DirectoryLock&&) = delete;
    ~DirectoryLock();

private:
    DirectoryLock() = default;
    rocksdb::FileLock* lock_ = nullptr;
};

}  // namespace pawl::journal
