// Worker: one named thread that runs what it is given, in order. Long work goes here, off the loop.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace pawl {

// Destroying a Worker runs what is queued, then joins. Tasks report errors themselves: they do not
// throw.
class Worker {
public:
    static constexpr std::size_t kTasksMax = std::size_t{16} * 1024;

    // At most 15 characters of the name are shown by the kernel.
    explicit Worker(std::string name);
    ~Worker();
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;

    // Thread-safe; never blocks. More than kTasksMax queued tasks are our own mistake.
    void post(std::function<void()> task);
    // Tasks that wait. Thread-safe. Who posts what others cause looks here first.
    [[nodiscard]] std::size_t waiting();

private:
    void run();

    std::string name_;
    std::mutex tasks_mutex_;  // guards tasks_ and stopping_
    std::condition_variable tasks_changed_;
    std::deque<std::function<void()>> tasks_;
    bool stopping_ = false;
    std::thread thread_;
};

}  // namespace pawl
