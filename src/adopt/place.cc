// See place.h.
#include "adopt/place.h"

#include "base/crash_point.h"
#include "base/fd.h"

#include <limits.h>
#include <stdio.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <map>

namespace pawl::adopt {
namespace {

constexpr std::int64_t kNanosecondsPerSecond = 1'000'000'000;
constexpr std::size_t kNameBytesMax = 200;  // of 255: the rest is for what is put around it

std::string directory_of(const std::string& path) {
    const auto slash = path.find_last_of('/');
    return slash == 0 ? "/" : path.substr(0, slash);
}

std::string name_of(const std::string& path) {
    return path.substr(path.find_last_of('/') + 1).substr(0, kNameBytesMax);
}

std::int64_t nanoseconds_of(const timespec& time) {
    return time.tv_sec * kNanosecondsPerSecond + time.tv_nsec;
}

timespec time_of(std::int64_t since_1970) {
    timespec time{.tv_sec = since_1970 / kNanosecondsPerSecond,
                  .tv_nsec = since_1970 % kNanosecondsPerSecond};
    if (time.tv_nsec < 0) {
        time.tv_nsec += kNanosecondsPerSecond;
        --time.tv_sec;
    }
    return time;
}

Result<void> sync_directory(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd.is_open()) return error_from_errno("open directory '{}'", path);
    if (::fsync(fd.get()) != 0) return error_from_errno("sync directory '{}' to disk", path);
    return {};
}

// The numbers of what was set aside under this prefix.
Result<std::map<std::uint64_t, std::string>> numbered(const std::string& directory,
                                                      const std::string& prefix) {
    std::map<std::uint64_t, std::string> found;
    std::error_code code;
    for (auto it = std::filesystem::directory_iterator(directory, code);
         !code && it != std::filesystem::directory_iterator(); it.increment(code)) {
        const std::string name = it->path().filename().string();
        if (!name.starts_with(prefix)) continue;
        std::uint64_t number = 0;
        const char* const last = name.data() + name.size();
        const auto [end, wrong] = std::from_chars(name.data() + prefix.size(), last, number);
        if (wrong == std::errc{} && end == last) found[number] = name;
    }
    if (code) return error_from_code(code.value(), fmt::format("list directory '{}'", directory));
    return found;
}

Result<void> write_all(int fd, std::uint64_t offset, std::span<const std::byte> bytes,
                       const std::string& path) {
    while (!bytes.empty()) {
        const ssize_t written =
            ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
        if (written < 0) {
            if (errno == EINTR) continue;
            return error_from_errno("write {} bytes at offset {} of '{}'", bytes.size(), offset,
                                    path);
        }
        offset += static_cast<std::uint64_t>(written);
        bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
    return {};
}

Result<void> copy(const PutBack& wanted, int fd, const std::string& path) {
    const checkpoint::FileEntry& entry = wanted.entry;
    if (wanted.source.size() != entry.bytes) {
        return make_error(ErrorKind::kCorrupt, "{}: it has {} bytes, the manifest says {}",
                          entry.name, wanted.source.size(), entry.bytes);
    }
    std::vector<std::byte> buffer(std::min(entry.chunk_bytes, entry.bytes));
    for (std::size_t i = 0; i < entry.chunks.size(); ++i) {
        const std::uint64_t begin = i * entry.chunk_bytes;
        const std::span<std::byte> chunk =
            std::span(buffer).first(std::min(entry.chunk_bytes, entry.bytes - begin));
        RETURN_IF_ERROR(wanted.source.read_at(begin, chunk));
        if (xxh3_128(chunk) != entry.chunks[i]) {
            return make_error(ErrorKind::kCorrupt,
                              "{}, chunk {}: its digest is not what the manifest says", entry.name,
                              i);
        }
        RETURN_IF_ERROR(write_all(fd, begin, chunk, path));
    }
    return {};
}

// Of what is there now, if anything is: somebody may have changed them since. The owner as far as
// we may.
Result<void> set_attributes(int fd, const PutBack& wanted, const std::string& path) {
    struct stat there = {};
    const bool is_there = ::stat(wanted.path.c_str(), &there) == 0;
    if (is_there && ::fchown(fd, there.st_uid, there.st_gid) != 0 && errno != EPERM)
        return error_from_errno("give '{}' its owner", path);
    const mode_t mode = is_there ? there.st_mode & 07777 : wanted.file.mode;
    if (::fchmod(fd, mode) != 0) return error_from_errno("give '{}' its mode", path);
    const timespec modified = time_of(wanted.file.modified_ns);
    const std::array times{modified, modified};
    if (::futimens(fd, times.data()) != 0) return error_from_errno("give '{}' its time", path);
    return {};
}

Result<void> write_temporary(const PutBack& wanted, const std::string& path) {
    if (::unlink(path.c_str()) != 0 && errno != ENOENT)
        return error_from_errno("remove '{}'", path);
    const UniqueFd fd(
        ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!fd.is_open()) return error_from_errno("create '{}'", path);
    RETURN_IF_ERROR(copy(wanted, fd.get(), path));
    RETURN_IF_ERROR(set_attributes(fd.get(), wanted, path));
    if (::fsync(fd.get()) != 0) return error_from_errno("sync '{}' to disk", path);
    return {};
}

}  // namespace

Result<std::optional<Facts>> facts_of(const std::string& path) {
    struct stat found = {};
    if (::stat(path.c_str(), &found) != 0) {
        if (errno == ENOENT || errno == ENOTDIR) return std::optional<Facts>{};
        return error_from_errno("look at '{}'", path);
    }
    if (!S_ISREG(found.st_mode)) return std::optional<Facts>{};
    return std::optional{Facts{.device = found.st_dev,
                               .inode = found.st_ino,
                               .bytes = static_cast<std::uint64_t>(found.st_size),
                               .modified_ns = nanoseconds_of(found.st_mtim),
                               .changed_ns = nanoseconds_of(found.st_ctim),
                               .mode = found.st_mode & 07777}};
}

Result<std::string> final_path(std::string path) {
    constexpr int kLinksMax = 40;  // as the kernel
    for (int i = 0; i < kLinksMax; ++i) {
        std::string target(PATH_MAX, '\0');
        const ssize_t bytes = ::readlink(path.c_str(), target.data(), target.size());
        if (bytes < 0) {
            if (errno == EINVAL || errno == ENOENT || errno == ENOTDIR) return path;
            return error_from_errno("look at '{}'", path);
        }
        target.resize(static_cast<std::size_t>(bytes));
        path = join_path(directory_of(path), target);
    }
    return error_from_code(ELOOP, fmt::format("look at '{}'", path));
}

Result<std::string> set_aside(const std::string& path, std::string_view why) {
    const std::string directory = directory_of(path);
    const std::string prefix = fmt::format(".{}.{}-", name_of(path), why);
    auto others = numbered(directory, prefix);
    if (!others) return others.error();
    const std::uint64_t number = others->empty() ? 1 : others->rbegin()->first + 1;
    const std::string aside = join_path(directory, fmt::format("{}{}", prefix, number));
    if (::rename(path.c_str(), aside.c_str()) != 0)
        return error_from_errno("rename '{}' to '{}'", path, aside);
    RETURN_IF_ERROR(sync_directory(directory));
    if (why != "torn") return aside;
    while (others->size() >= kTornMax) {
        // What stays too long costs room and nothing else.
        static_cast<void>(::unlink(join_path(directory, others->begin()->second).c_str()));
        others->erase(others->begin());
    }
    return aside;
}

Result<std::string> put_back(const PutBack& wanted) {
    const std::string directory = directory_of(wanted.path);
    const std::string temporary =
        join_path(directory, fmt::format(".{}.pawl-new", name_of(wanted.path)));
    const auto in_order = [&]() -> Result<std::string> {
        std::error_code code;
        std::filesystem::create_directories(directory, code);
        if (code)
            return error_from_code(code.value(), fmt::format("create directory '{}'", directory));
        RETURN_IF_ERROR(write_temporary(wanted, temporary));
        crash_point("put back: written");
        std::string aside;
        if (!wanted.aside.empty()) {
            auto moved = set_aside(wanted.path, wanted.aside);
            if (!moved) return moved.error();
            aside = std::move(*moved);
            crash_point("put back: set aside");
        }
        if (::rename(temporary.c_str(), wanted.path.c_str()) != 0)
            return error_from_errno("rename '{}' to '{}'", temporary, wanted.path);
        crash_point("put back: renamed");
        RETURN_IF_ERROR(sync_directory(directory));
        return aside;
    };
    auto done = in_order();
    if (done) return done;
    // Its space is wanted; the next put-back removes it in any case.
    static_cast<void>(::unlink(temporary.c_str()));
    return Error(done.error()).while_doing("put '{}' back", wanted.path);
}

}  // namespace pawl::adopt
