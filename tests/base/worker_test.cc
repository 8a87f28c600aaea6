// The worker's thread: its name, its signals, its queue's limit, and its end.
#include "base/worker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>

#include <signal.h>

#include <array>
#include <atomic>
#include <future>

namespace pawl {
namespace {

// What `ask` returns on the worker's thread.
template <class Ask>
auto on_worker(const std::string& name, const Ask& ask) {
    std::promise<decltype(ask())> answer;
    Worker worker(name);
    worker.post([&] { answer.set_value(ask()); });
    return answer.get_future().get();
}

std::string name_of_thread() {
    std::array<char, 16> name{};
    ::pthread_getname_np(::pthread_self(), name.data(), name.size());
    return name.data();
}

TEST(WorkerThread, CarriesItsNameAsFarAsTheKernelShowsIt) {
    EXPECT_EQ(on_worker("writer", name_of_thread), "writer");
    EXPECT_EQ(on_worker("checkpoint-writer", name_of_thread), "checkpoint-writ");
    EXPECT_NE(name_of_thread(), "writer") << "the maker's thread keeps its own";
}

TEST(WorkerThread, GetsNoSignalWhileItsMakerStillDoes) {
    const auto blocks = [](int signal) {
        sigset_t blocked;
        ::pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
        return ::sigismember(&blocked, signal) == 1;
    };

    for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGCHLD, SIGUSR1}) {
        EXPECT_TRUE(on_worker("test", [&] { return blocks(signal); })) << "signal " << signal;
        EXPECT_FALSE(blocks(signal)) << "signal " << signal;
    }
}

TEST(WorkerThread, ATaskPostedByATaskRunsBeforeTheEnd) {
    std::atomic<int> done = 0;
    {
        Worker worker("test");
        worker.post([&] {
            worker.post([&] { ++done; });
            ++done;
        });
    }

    EXPECT_EQ(done, 2);
}

TEST(WorkerThread, TakesTasksFromManyThreadsAndLosesNone) {
    constexpr int kThreads = 8;
    constexpr int kTasks = 100;
    int done = 0;  // touched by the worker only
    {
        Worker worker("test");
        std::vector<std::thread> posters;
        for (int i = 0; i < kThreads; ++i) {
            posters.emplace_back([&] {
                for (int j = 0; j < kTasks; ++j)
                    worker.post([&done] { ++done; });
            });
        }
        for (std::thread& poster : posters)
            poster.join();
    }

    EXPECT_EQ(done, kThreads * kTasks);
}

// Fills the queue while the worker is busy, then posts `more`.
void overfill(std::size_t more) {
    std::promise<void> began;
    std::promise<void> may_end;
    Worker worker("test");
    worker.post([&] {
        began.set_value();
        may_end.get_future().wait();
    });
    began.get_future().wait();
    for (std::size_t i = 0; i < Worker::kTasksMax + more; ++i)
        worker.post([] {});
    may_end.set_value();
}

TEST(WorkerThreadDeathTest, AQueueAboveItsLimitIsABrokenInvariant) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");

    overfill(0);
    EXPECT_DEATH(overfill(1), "broken invariant at .*worker.cc.*queue stays below its limit");
}

}  // namespace
}  // namespace pawl
