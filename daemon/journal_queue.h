// JournalQueue: writes of history on their way to the journal's worker, so many and no more.
//
// A disk that stalls for an hour must cost history, not memory, and not the daemon. On the loop's
// thread; what is posted runs on the worker's.
#pragma once

#include "base/worker.h"
#include "journal/journal.h"

#include <atomic>
#include <cstddef>
#include <functional>

namespace pawl::daemon {

class JournalQueue {
public:
    static constexpr std::size_t kWaitingMax = Worker::kTasksMax / 2;

    // Both outlive the queue, and the queue what it posts.
    JournalQueue(journal::Journal& journal, Worker& worker) : journal_(journal), worker_(worker) {}

    // One write of one record; it reports nothing, since the journal says itself that it fails.
    // Let go, and counted as lost, when too many wait: until half of them are done.
    void post(std::function<void()> write);

private:
    journal::Journal& journal_;
    Worker& worker_;
    std::atomic<std::size_t> waiting_{0};
    bool is_letting_go_ = false;
};

}  // namespace pawl::daemon
