// See worker.h.
#include "base/worker.h"

#include "base/invariant.h"
#include "base/signals_blocked.h"

#include <pthread.h>

#include <utility>

namespace pawl {

Worker::Worker(std::string name) : name_(std::move(name)) {
    {
        const SignalsBlocked blocked;  // they are for the loop's thread
        thread_ = std::thread([this] { run(); });
    }
    ::pthread_setname_np(thread_.native_handle(), name_.substr(0, 15).c_str());
}

Worker::~Worker() {
    {
        const std::lock_guard lock(tasks_mutex_);
        stopping_ = true;
    }
    tasks_changed_.notify_one();
    thread_.join();
}

void Worker::post(std::function<void()> task) {
    {
        const std::lock_guard lock(tasks_mutex_);
        invariant(tasks_.size() < kTasksMax, "a worker's queue stays below its limit");
        tasks_.push_back(std::move(task));
    }
    tasks_changed_.notify_one();
}

std::size_t Worker::waiting() {
    const std::lock_guard lock(tasks_mutex_);
    return tasks_.size();
}

void Worker::run() {
    while (true) {
        std::function<void()> task;
        {
            std::unique_lock lock(tasks_mutex_);
            tasks_changed_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
            if (tasks_.empty()) return;
            task = std::move(tasks_.front());
            tasks_.pop_front();
        }
        task();
    }
}

}  // namespace pawl
