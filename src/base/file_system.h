// The FileSystem seam: the only door through which checkpoints reach a disk.
//
// Paths are absolute or relative to the working directory. Every call says its durability: nothing
// is durable before sync_data of the file and sync_directory of the directory that names it.
// tests/fakes/fake_file_system.h is the other implementation; both pass
// tests/base/file_system_test.cc.
#pragma once

#include "base/byte_source.h"
#include "base/result.h"
#include "base/units.h"

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pawl {

enum class FileType { kRegular, kDirectory, kSymlink, kOther };

struct DirectoryEntry {
    std::string name;
    FileType type = FileType::kOther;

    friend bool operator==(const DirectoryEntry&, const DirectoryEntry&) = default;
};

struct FileStatus {
    FileType type = FileType::kOther;
    std::uint64_t bytes = 0;
    WallTime modified;
};

// One writer; closed by its destructor, which is not a promise of anything.
class WritableFile {
public:
    virtual ~WritableFile() = default;
    virtual Result<void> write_at(std::uint64_t offset, std::span<const std::byte> bytes) = 0;
    // Data and size are durable when this returns without an error. After an error the data is gone
    // whatever a second call says: the file must be written anew.
    virtual Result<void> sync_data() = 0;
};

// Thread-safe, except that two threads must not change the same name at once.
class FileSystem {
public:
    virtual ~FileSystem() = default;

    // One level; kAlreadyExists if the name is taken.
    virtual Result<void> create_directory(const std::string& path) = 0;
    // Entries without "." and "..", sorted by name; symlinks are not followed.
    virtual Result<std::vector<DirectoryEntry>> list_directory(const std::string& path) = 0;
    // Of the name itself (symlinks are not followed); nullopt if there is none.
    virtual Result<std::optional<FileStatus>> status(const std::string& path) = 0;
    // A new file with its space allocated: a full disk fails here (kNoSpace), before any data is
    // written. kAlreadyExists if the name is taken.
    virtual Result<std::unique_ptr<WritableFile>> create_file(const std::string& path,
                                                              std::uint64_t bytes) = 0;
    // Regular files only; a symlink as the last component is refused. An open or a read that the
    // disk fails (EIO) is tried once more; a write or a sync never is.
    virtual Result<std::unique_ptr<ByteSource>> open_file(const std::string& path) = 0;
    // Atomic; never replaces: kAlreadyExists if the target's name is taken.
    virtual Result<void> rename(const std::string& from, const std::string& to) = 0;
    // Makes `path` a symlink to `target`, atomically in place of what symlink was there.
    virtual Result<void> replace_link(const std::string& target, const std::string& path) = 0;
    virtual Result<void> sync_directory(const std::string& path) = 0;
    // A file, a symlink or an empty directory; no error if there is none.
    virtual Result<void> remove(const std::string& path) = 0;
};

[[nodiscard]] std::unique_ptr<FileSystem> make_posix_file_system();

// Helpers made of the calls above.
[[nodiscard]] std::string join_path(std::string_view directory, std::string_view name);
// With their parents. A symlink to a directory is one; kNotFound for a symlink to nothing,
// kInvalidArgument for a file in the way.
Result<void> create_directories(FileSystem& fs, const std::string& path);
Result<void> remove_tree(FileSystem& fs, const std::string& path);
// Refuses files above `bytes_max` (kCorrupt).
Result<std::string> read_text(FileSystem& fs, const std::string& path, std::uint64_t bytes_max);

}  // namespace pawl
