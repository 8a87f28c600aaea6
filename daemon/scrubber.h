// Scrubber: a thread that reads checkpoints at leisure, so that the trainers do not feel it: lowest
// priority, idle I/O class, bounded bandwidth.
#pragma once

#include "base/file_system.h"
#include "base/worker.h"
#include "checkpoint/scrub.h"

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>

namespace pawl::daemon {

class Scrubber {
public:
    // Half of what a slow disk gives.
    static constexpr std::uint64_t kBytesPerSecond = std::uint64_t{64} << 20;

    explicit Scrubber(FileSystem& fs);
    // Stops in the middle of a checkpoint.
    ~Scrubber();
    Scrubber(const Scrubber&) = delete;
    Scrubber& operator=(const Scrubber&) = delete;

    // Returns at once. `done` is called on the scrubber's thread.
    void start(const std::string& directory, std::function<void(const checkpoint::Scrubbed&)> done);

private:
    // Waits until `bytes` more may be read.
    [[nodiscard]] Result<void> wait_for(std::uint64_t bytes);

    FileSystem& fs_;
    std::mutex stop_mutex_;  // guards is_stopping_
    std::condition_variable stop_changed_;
    bool is_stopping_ = false;
    std::chrono::steady_clock::time_point due_;  // of the next read; the worker's alone
    Worker worker_;
};

}  // namespace pawl::daemon
