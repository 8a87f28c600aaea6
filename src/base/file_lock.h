// FileLock: one owner of a directory at a time, released by the kernel however the owner ends.
#pragma once

#include "base/fd.h"
#include "base/result.h"

#include <sys/types.h>

#include <string>

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

private:
    void release();

    UniqueFd fd_;
    pid_t owner_ = 0;
};

}  // namespace pawl
