// History that comes faster than the disk takes it: lost within bounds, and said.
#include "daemon/journal_queue.h"

#include "tests/journal/sample.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>

namespace pawl::daemon {
namespace {

class SlowJournal : public journal::JournalPlace {
protected:
    void post_event() {
        queue_.post([this] {
            append(*journal_, journal::event("started"));
            ++written_;
        });
    }

    std::unique_ptr<journal::Journal> journal_ = open();
    std::atomic<std::size_t> written_{0};
    Worker worker_{"journal"};
    JournalQueue queue_{*journal_, worker_};
};

TEST_F(SlowJournal, LosesWhatIsMoreThanMayWaitAndCatchesUp) {
    constexpr std::size_t kMore = 1'000;  // more than a worker's queue would bear
    std::promise<void> disk;
    worker_.post([stalled = disk.get_future().share()] { stalled.wait(); });

    for (std::size_t i = 0; i < JournalQueue::kWaitingMax + kMore; ++i)
        post_event();
    const journal::Health stalled = journal_->health();
    disk.set_value();
    while (written_ < JournalQueue::kWaitingMax)
        std::this_thread::yield();
    const journal::Health behind = journal_->health();
    std::promise<void> done;
    post_event();
    worker_.post([&done] { done.set_value(); });
    done.get_future().wait();

    EXPECT_TRUE(stalled.is_failing);
    EXPECT_EQ(stalled.lost, kMore);
    EXPECT_THAT(stalled.why, testing::HasSubstr("too slow"));
    EXPECT_TRUE(behind.is_failing) << "it is not known yet whether the next one comes too fast";
    EXPECT_FALSE(journal_->health().is_failing);
    EXPECT_EQ(written_, JournalQueue::kWaitingMax + 1);
}

}  // namespace
}  // namespace pawl::daemon
