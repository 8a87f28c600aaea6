// See scrubber.h.
#include "daemon/scrubber.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace pawl::daemon {
namespace {

// Of this thread. On Linux both act on threads; where they are refused it reads as others do,
// within its bandwidth.
void lower_priority() {
    constexpr int kLowest = 19;
    constexpr int kWhoThread = 1;        // IOPRIO_WHO_PROCESS, which means a thread
    constexpr int kIdleClass = 3 << 13;  // IOPRIO_CLASS_IDLE
    const auto thread = static_cast<id_t>(::syscall(SYS_gettid));
    static_cast<void>(::setpriority(PRIO_PROCESS, thread, kLowest));
    static_cast<void>(::syscall(SYS_ioprio_set, kWhoThread, 0, kIdleClass));
}

}  // namespace

Scrubber::Scrubber(FileSystem& fs) : fs_(fs), worker_("scrub") {
    worker_.post([] { lower_priority(); });
}

Scrubber::~Scrubber() {
    const std::lock_guard lock(stop_mutex_);
    is_stopping_ = true;
    stop_changed_.notify_all();
}

void Scrubber::start(const std::string& directory,
                     std::function<void(const checkpoint::Scrubbed&)> done) {
    worker_.post([this, directory, done = std::move(done)] {
        due_ = std::chrono::steady_clock::now();
        done(checkpoint::scrub(fs_, directory, {.before_read = [this](std::uint64_t bytes) {
                                   return wait_for(bytes);
                               }}));
    });
}

Result<void> Scrubber::wait_for(std::uint64_t bytes) {
    std::unique_lock lock(stop_mutex_);
    stop_changed_.wait_until(lock, due_, [this] { return is_stopping_; });
    if (is_stopping_) return make_error(ErrorKind::kCancelled, "the daemon stops");
    const double took = static_cast<double>(bytes) / static_cast<double>(kBytesPerSecond);
    due_ = std::max(due_, std::chrono::steady_clock::now()) +
           std::chrono::duration_cast<std::chrono::steady_clock::duration>(
               std::chrono::duration<double>(took));
    return {};
}

}  // namespace pawl::daemon
