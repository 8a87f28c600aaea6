// See file_lock.h. flock(2), whose lock belongs to the open file: closed at exec, so no rank
// inherits it.
#include "base/file_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

namespace pawl {

Result<FileLock> FileLock::take(const std::string& path) {
    FileLock lock;
    lock.fd_.reset(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644));
    if (!lock.fd_.is_open()) return error_from_errno("open lock file '{}'", path);
    if (::flock(lock.fd_.get(), LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK) {
            return make_error(ErrorKind::kBusy, "another pawl holds '{}'; see who with: fuser '{}'",
                              path, path);
        }
        return error_from_errno("lock '{}'", path);
    }
    lock.owner_ = ::getpid();
    return lock;
}

FileLock& FileLock::operator=(FileLock&& other) noexcept {
    if (this == &other) return *this;
    release();
    fd_ = std::move(other.fd_);
    owner_ = other.owner_;
    return *this;
}

Result<void> FileLock::check_is_at(const std::string& path) const {
    struct stat held = {};
    struct stat named = {};
    if (::fstat(fd_.get(), &held) != 0) return error_from_errno("look at a lock that is held");
    if (::stat(path.c_str(), &named) != 0) return error_from_errno("look for '{}'", path);
    if (held.st_dev == named.st_dev && held.st_ino == named.st_ino) return {};
    return make_error(ErrorKind::kNotFound, "'{}' is not the file that was locked", path);
}

// Forked children have the descriptor too: closing ours would leave it locked by theirs, and a
// child's end must not unlock it for us.
void FileLock::release() {
    if (fd_.is_open() && owner_ == ::getpid()) ::flock(fd_.get(), LOCK_UN);
    fd_.reset();
}

}  // namespace pawl
