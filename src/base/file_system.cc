// FileSystem on the kernel's own calls, and the helpers that need no more than the interface.
#include "base/file_system.h"

#include "base/fd.h"

#include <limits.h>
#include <stdio.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

namespace pawl {
namespace {

FileType type_of(mode_t mode) {
    if (S_ISREG(mode)) return FileType::kRegular;
    if (S_ISDIR(mode)) return FileType::kDirectory;
    if (S_ISLNK(mode)) return FileType::kSymlink;
    return FileType::kOther;
}

// Filesystems with a server behind them give up an open when a signal comes.
int open_whatever_signals_come(const std::string& path, int flags, mode_t mode) {
    int fd = -1;
    do {
        fd = ::open(path.c_str(), flags, mode);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

class PosixWritableFile final : public WritableFile {
public:
    PosixWritableFile(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

    Result<void> write_at(std::uint64_t offset, std::span<const std::byte> bytes) override {
        while (!bytes.empty()) {
            const ssize_t written =
                ::pwrite(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
            if (written < 0) {
                if (errno == EINTR) continue;
                return error_from_errno("write {} bytes at offset {} of '{}'", bytes.size(), offset,
                                        path_);
            }
            offset += static_cast<std::uint64_t>(written);
            bytes = bytes.subspan(static_cast<std::size_t>(written));
        }
        return {};
    }

    Result<void> sync_data() override {
        if (::fdatasync(fd_.get()) != 0) return error_from_errno("sync '{}' to disk", path_);
        return {};
    }

private:
    UniqueFd fd_;
    std::string path_;
};

class PosixByteSource final : public ByteSource {
public:
    PosixByteSource(UniqueFd fd, std::uint64_t size, std::string path)
        : fd_(std::move(fd)), size_(size), path_(std::move(path)) {}

    [[nodiscard]] std::uint64_t size() const override { return size_; }

    Result<void> read_at(std::uint64_t offset, std::span<std::byte> target) const override {
        // A path that fails over, a network that comes back: only what fails twice is lost. A
        // checkpoint that is called damaged for one bad moment costs the steps since the one
        // before.
        bool may_try_again = true;
        while (!target.empty()) {
            const ssize_t got =
                ::pread(fd_.get(), target.data(), target.size(), static_cast<off_t>(offset));
            if (got < 0) {
                if (errno == EINTR) continue;
                if (errno == EIO && std::exchange(may_try_again, false)) continue;
                return error_from_errno("read {} bytes at offset {} of '{}'", target.size(), offset,
                                        path_);
            }
            if (got == 0) {
                return make_error(ErrorKind::kCorrupt,
                                  "'{}' ends at byte {}, {} more were expected", path_, offset,
                                  target.size());
            }
            offset += static_cast<std::uint64_t>(got);
            target = target.subspan(static_cast<std::size_t>(got));
        }
        return {};
    }

private:
    UniqueFd fd_;
    std::uint64_t size_;
    std::string path_;
};

class PosixFileSystem final : public FileSystem {
public:
    Result<void> create_directory(const std::string& path) override {
        if (::mkdir(path.c_str(), 0777) != 0)
            return error_from_errno("create directory '{}'", path);
        return {};
    }

    Result<std::vector<DirectoryEntry>> list_directory(const std::string& path) override {
        DIR* const directory = ::opendir(path.c_str());
        if (directory == nullptr) return error_from_errno("list directory '{}'", path);
        const std::unique_ptr<DIR, int (*)(DIR*)> closer(directory, ::closedir);
        std::vector<DirectoryEntry> entries;
        while (true) {
            errno = 0;
            const dirent* entry =
                ::readdir(directory);  // NOLINT(concurrency-mt-unsafe): our own DIR
            if (entry == nullptr) break;
            const std::string name = entry->d_name;
            if (name == "." || name == "..") continue;
            struct stat information = {};
            if (::fstatat(::dirfd(directory), name.c_str(), &information, AT_SYMLINK_NOFOLLOW) !=
                0) {
                if (errno == ENOENT) continue;  // removed since
                return error_from_errno("look at '{}' in '{}'", name, path);
            }
            entries.push_back({.name = name, .type = type_of(information.st_mode)});
        }
        if (errno != 0) return error_from_errno("list directory '{}'", path);
        std::ranges::sort(entries, {}, &DirectoryEntry::name);
        return entries;
    }

    Result<std::optional<FileStatus>> status(const std::string& path) override {
        struct stat information = {};
        if (::lstat(path.c_str(), &information) != 0) {
            if (errno == ENOENT || errno == ENOTDIR) return std::optional<FileStatus>{};
            return error_from_errno("look at '{}'", path);
        }
        const auto modified = std::chrono::seconds{information.st_mtim.tv_sec} +
                              std::chrono::nanoseconds{information.st_mtim.tv_nsec};
        return std::optional{
            FileStatus{.type = type_of(information.st_mode),
                       .bytes = static_cast<std::uint64_t>(information.st_size),
                       .modified = WallTime{std::chrono::duration_cast<milliseconds>(modified)}}};
    }

    Result<std::unique_ptr<WritableFile>> create_file(const std::string& path,
                                                      std::uint64_t bytes) override {
        UniqueFd fd(open_whatever_signals_come(
            path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666));
        if (!fd.is_open()) return error_from_errno("create '{}'", path);
        // posix_fallocate would write zeros where the filesystem can't allocate: slow, and no
        // safer.
        int code = 0;
        do {  // tmpfs gives up with EINTR whenever a signal comes
            code = bytes == 0 || ::fallocate(fd.get(), 0, 0, static_cast<off_t>(bytes)) == 0
                       ? 0
                       : errno;
        } while (code == EINTR);
        if (code != 0) {
            if (code != EOPNOTSUPP && code != ENOSYS) {
                return error_from_code(code,
                                       fmt::format("allocate {} bytes for '{}'", bytes, path));
            }
            if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
                return error_from_errno("set the size of '{}' to {} bytes", path, bytes);
            }
        }
        return std::unique_ptr<WritableFile>(
            std::make_unique<PosixWritableFile>(std::move(fd), path));
    }

    Result<std::unique_ptr<ByteSource>> open_file(const std::string& path) override {
        // O_NONBLOCK so that a FIFO in a file's place can't stop us for ever.
        constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
        UniqueFd fd(open_whatever_signals_come(path, kFlags, 0));
        // As in PosixByteSource::read_at.
        if (!fd.is_open() && errno == EIO) fd.reset(open_whatever_signals_come(path, kFlags, 0));
        if (!fd.is_open()) return error_from_errno("open '{}'", path);
        struct stat information = {};
        if (::fstat(fd.get(), &information) != 0) return error_from_errno("look at '{}'", path);
        if (!S_ISREG(information.st_mode)) {
            return make_error(ErrorKind::kInvalidArgument, "'{}' is no regular file", path);
        }
        return std::unique_ptr<ByteSource>(std::make_unique<PosixByteSource>(
            std::move(fd), static_cast<std::uint64_t>(information.st_size), path));
    }

    Result<void> rename(const std::string& from, const std::string& to) override {
        if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0)
            return {};
        // Some network filesystems know no RENAME_NOREPLACE (EINVAL). Directories are safe all the
        // same there, because rename(2) replaces empty directories only; the look before is for
        // files.
        if (errno != EINVAL && errno != ENOSYS)
            return error_from_errno("rename '{}' to '{}'", from, to);
        struct stat information = {};
        if (::lstat(to.c_str(), &information) == 0) {
            errno = EEXIST;
            return error_from_errno("rename '{}' to '{}'", from, to);
        }
        if (::rename(from.c_str(), to.c_str()) != 0) {
            return error_from_errno("rename '{}' to '{}'", from, to);
        }
        return {};
    }

    Result<void> replace_link(const std::string& target, const std::string& path) override {
        const std::string temporary = path + ".new";
        if (::unlink(temporary.c_str()) != 0 && errno != ENOENT) {
            return error_from_errno("remove '{}'", temporary);
        }
        if (::symlink(target.c_str(), temporary.c_str()) != 0) {
            return error_from_errno("link '{}' to '{}'", temporary, target);
        }
        if (::rename(temporary.c_str(), path.c_str()) != 0) {
            return error_from_errno("rename '{}' to '{}'", temporary, path);
        }
        return {};
    }

    Result<void> sync_directory(const std::string& path) override {
        const UniqueFd fd(open_whatever_signals_come(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0));
        if (!fd.is_open()) return error_from_errno("open directory '{}'", path);
        if (::fsync(fd.get()) != 0) return error_from_errno("sync directory '{}' to disk", path);
        return {};
    }

    Result<void> remove(const std::string& path) override {
        if (::unlink(path.c_str()) == 0 || errno == ENOENT) return {};
        if (errno != EISDIR && errno != EPERM) return error_from_errno("remove '{}'", path);
        if (::rmdir(path.c_str()) != 0 && errno != ENOENT) {
            return error_from_errno("remove directory '{}'", path);
        }
        return {};
    }
};

}  // namespace

std::unique_ptr<FileSystem> make_posix_file_system() {
    return std::make_unique<PosixFileSystem>();
}

std::string join_path(std::string_view directory, std::string_view name) {
    if (directory.empty() || name.starts_with('/')) return std::string(name);
    return fmt::format("{}{}{}", directory, directory.ends_with('/') ? "" : "/", name);
}

namespace {

// A symlink to a directory is as good as one. One to nothing may be a disk that is not mounted:
// what was made in its place would be written to another.
Result<void> check_directory(FileSystem& fs, const std::string& path, FileType type) {
    if (type == FileType::kDirectory) return {};
    if (type == FileType::kSymlink) {
        const auto entries = fs.list_directory(path);
        if (entries) return {};
        if (entries.error().kind() == ErrorKind::kNotFound) {
            return make_error(ErrorKind::kNotFound, "'{}' is a symlink to what is not there", path);
        }
        return entries.error();
    }
    return make_error(ErrorKind::kInvalidArgument, "'{}' is no directory", path);
}

}  // namespace

Result<void> create_directories(FileSystem& fs, const std::string& path) {
    const auto status = fs.status(path);
    if (!status) return status.error();
    if (status->has_value()) return check_directory(fs, path, (*status)->type);
    const auto slash = path.find_last_of('/');
    if (slash != std::string::npos && slash > 0) {
        RETURN_IF_ERROR(create_directories(fs, path.substr(0, slash)));
    }
    const auto created = fs.create_directory(path);
    if (!created && created.error().kind() != ErrorKind::kAlreadyExists) return created.error();
    // Else a power cut takes the directory away with all that was made durable in it.
    if (slash == std::string::npos) return fs.sync_directory(".");
    return fs.sync_directory(slash == 0 ? "/" : path.substr(0, slash));
}

Result<void> remove_tree(FileSystem& fs, const std::string& path) {
    const auto status = fs.status(path);
    if (!status) return status.error();
    if (!status->has_value()) return {};
    if ((*status)->type == FileType::kDirectory) {
        const auto entries = fs.list_directory(path);
        if (!entries) return entries.error();
        for (const DirectoryEntry& entry : *entries) {
            RETURN_IF_ERROR(remove_tree(fs, join_path(path, entry.name)));
        }
    }
    return fs.remove(path);
}

Result<std::string> read_text(FileSystem& fs, const std::string& path, std::uint64_t bytes_max) {
    auto file = fs.open_file(path);
    if (!file) return file.error();
    const std::uint64_t bytes = (*file)->size();
    if (bytes > bytes_max) {
        return make_error(ErrorKind::kCorrupt, "'{}' has {} bytes, more than the {} it may have",
                          path, bytes, bytes_max);
    }
    std::string text(bytes, '\0');
    RETURN_IF_ERROR((*file)->read_at(0, std::as_writable_bytes(std::span(text))));
    return text;
}

}  // namespace pawl
