// A disk in memory that forgets what was not synced.
//
// Fault model. What is not in it is not promised.
// - Bytes written since the last sync_data of their file may be there, be zero, or be torn: there
// up to a
//   multiple of 512 bytes of each write, zero behind it.
// - A new name, a rename or a removal since the last sync_directory of its directory may be undone.
// Each
//   such change is kept or undone by itself; a rename within a directory is one change.
// - sync_data makes a file's bytes and size durable, not its name; sync_directory the names in that
// directory.
// - Any operation may fail with ENOSPC or EIO, chosen by its number. After a sync_data that failed
// the bytes
//   are as good as unsynced for ever, although the next sync_data says it has succeeded.
// - A file or directory may refuse to be opened, for want of permission or descriptors.
// - Any file may have a bit flipped, or be cut short.
#pragma once

#include "base/file_system.h"

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace pawl::fakes {

class FakeFileSystem final : public FileSystem {
public:
    FakeFileSystem();
    ~FakeFileSystem() override;
    FakeFileSystem(FakeFileSystem&&) noexcept;
    FakeFileSystem& operator=(FakeFileSystem&&) noexcept;
    FakeFileSystem(const FakeFileSystem&) = delete;
    FakeFileSystem& operator=(const FakeFileSystem&) = delete;

    Result<void> create_directory(const std::string& path) override;
    Result<std::vector<DirectoryEntry>> list_directory(const std::string& path) override;
    Result<std::optional<FileStatus>> status(const std::string& path) override;
    Result<std::unique_ptr<WritableFile>> create_file(const std::string& path,
                                                      std::uint64_t bytes) override;
    Result<std::unique_ptr<ByteSource>> open_file(const std::string& path) override;
    Result<void> rename(const std::string& from, const std::string& to) override;
    Result<void> replace_link(const std::string& target, const std::string& path) override;
    Result<void> sync_directory(const std::string& path) override;
    Result<void> remove(const std::string& path) override;

    // ---- faults ----
    // Operations that change something or sync are numbered from 0. From this one on, all fail and
    // change nothing: the power is gone.
    void cut_power_before(int operation);
    // This one fails with an error of the system (ENOSPC, EIO), the others work.
    void fail_at(int operation, int code);
    [[nodiscard]] int operations_done() const;
    // From now on this path can't be opened (EACCES, EMFILE) or, a directory, listed.
    void refuse_to_open(const std::string& path, int code);
    void allow_to_open(const std::string& path);
    // What the disk may hold when the power comes back: every combination where there are at most
    // `disks_max`, else a sample drawn with `seed`.
    [[nodiscard]] std::vector<FakeFileSystem> possible_disks(std::size_t disks_max,
                                                             std::uint64_t seed) const;

    // ---- for arranging and looking ----
    void sync_everything();
    void flip_bit(const std::string& path, std::uint64_t offset);
    void truncate(const std::string& path, std::uint64_t bytes);
    [[nodiscard]] std::vector<std::byte> content(const std::string& path) const;
    [[nodiscard]] std::string link_target(const std::string& path) const;
    // What was asked, one operation a line.
    [[nodiscard]] std::string history() const;

    struct Node;
    struct Disk;

private:
    explicit FakeFileSystem(std::unique_ptr<Disk> disk);
    std::unique_ptr<Disk> disk_;
};

}  // namespace pawl::fakes
