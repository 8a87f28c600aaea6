// See journal_queue.h.
#include "daemon/journal_queue.h"

#include <utility>

namespace pawl::daemon {

void JournalQueue::post(std::function<void()> write) {
    const std::size_t limit = is_letting_go_ ? kWaitingMax / 2 : kWaitingMax;
    if (waiting_ >= limit) {
        is_letting_go_ = true;
        journal_.count_lost(1,
                            "the disk of the journal is too slow: its records came faster than "
                            "they could be written");
        return;
    }
    if (std::exchange(is_letting_go_, false)) journal_.caught_up();
    ++waiting_;
    worker_.post([this, write = std::move(write)] {
        write();
        --waiting_;
    });
}

}  // namespace pawl::daemon
