// FileLock: one owner of a directory at a time, released by the kernel however the owner ends.
#pragma once

#include "base/fd.h"
#include "base/result.h"

#include <sys/types.h>

#include <string>
#include <tuple>

namespace pawl {

// Of a checkpoint directory, whoever writes there.
inline constexpr const char* kLockName = ".lock";

class FileLock {
public:
    // Makes the file if need be; it stays. kBusy if another process holds it.
    [[nodiscard]] static Result<FileLock> take(const std::string& path);

    FileLock() = default;
    FileLock(FileLock&&) = default;
    FileLock& operator=(FileLock&& other) noexcept;
    FileLock(const FileLock&) = delete;
    FileLock& operator=(const FileLock&) = delete;
    ~FileLock() { release(); }

    // Whether `path` still names the locked file: a directory that was removed or replaced
    // meanwhile is nobody's, or another's. kNotFound if it does not.
    Result<void> check_is_at(const std::string& path) const;

    // For those whose forked children live on: they must close it (flock(2) holds as long as anyone
    // has the file open), and then drop their copy of this object, whose number is void.
    [[nodiscard]] int descriptor() const { return fd_.get(); }
    void forget() noexcept { std::ignore = fd_.release(); }

private:
    void release();

    UniqueFd fd_;
    pid_t owner_ = 0;
};

}  // namespace pawl
