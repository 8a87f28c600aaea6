// FileLock: one owner of a directory at a time, released by the kernel however the owner ends.
#pragma once

#include "base/fd.h"
#include "base/result.h"

#include <string>

namespace pawl {

// Of a checkpoint directory, whoever writes there.
inline constexpr const char* kLockName = ".lock";

class FileLock {
public:
    // Makes the file if need be; it stays. kBusy if another process holds it.
    [[nodiscard]] static Result<FileLock> take(const std::string& path);

private:
    UniqueFd fd_;
};

}  // namespace pawl
