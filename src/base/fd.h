// UniqueFd: a file descriptor that is closed once, by its owner.
#pragma once

#include <unistd.h>

#include <utility>

namespace pawl {

class UniqueFd {
public:
    UniqueFd() = default;
    explicit UniqueFd(int fd) noexcept : fd_(fd) {}
    UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, kNone)) {}
    UniqueFd& operator=(UniqueFd&& other) noexcept {
        reset(std::exchange(other.fd_, kNone));
        return *this;
    }
    UniqueFd(const UniqueFd&) = delete;
    UniqueFd& operator=(const UniqueFd&) = delete;
    ~UniqueFd() { reset(); }

    [[nodiscard]] int get() const noexcept { return fd_; }
    [[nodiscard]] bool is_open() const noexcept { return fd_ != kNone; }
    [[nodiscard]] int release() noexcept { return std::exchange(fd_, kNone); }
    // Never tried again after EINTR: on Linux the number is free already and may be another file's.
    void reset(int fd = kNone) noexcept {
        if (fd_ != kNone) ::close(fd_);
        fd_ = fd;
    }

private:
    static constexpr int kNone = -1;
    int fd_ = kNone;
};

}  // namespace pawl
