// The loop's handles: when they fire, when they no longer do, and who may destroy them.
#include "base/loop.h"

#include "base/clock.h"
#include "base/fd.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <thread>

namespace pawl {
namespace {

struct Pipe {
    UniqueFd reader;
    UniqueFd writer;

    Pipe() {
        std::array<int, 2> ends{};
        EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK), 0);
        reader.reset(ends[0]);
        writer.reset(ends[1]);
    }
};

TEST(LoopHandles, TasksOfOneThreadKeepTheirOrder) {
    Loop loop;
    std::vector<int> order;
    std::thread poster([&] {
        for (int i = 0; i < 1000; ++i)
            loop.post([&order, i] { order.push_back(i); });
        loop.post([&loop] { loop.stop(); });
    });

    loop.run();
    poster.join();

    ASSERT_EQ(order.size(), 1000u);
    EXPECT_TRUE(std::ranges::is_sorted(order));
}

TEST(LoopHandles, ATaskMayPostAndTheLoopStaysResponsive) {
    Loop loop;
    int rounds = 0;
    std::function<void()> again = [&] {
        if (++rounds < 1000) return loop.post(again);
        loop.stop();
    };
    loop.post(again);

    loop.run();

    EXPECT_EQ(rounds, 1000);
}

TEST(LoopHandles, AStopBeforeTheRunEndsThatRunAndNoLaterOne) {
    Loop loop;
    loop.stop();
    loop.run();
    bool has_run_again = false;
    loop.post([&] {
        has_run_again = true;
        loop.stop();
    });

    loop.run();

    EXPECT_TRUE(has_run_again);
}

TEST(LoopHandles, TasksThatWereNotRunAreDroppedWithTheLoop) {
    const auto witness = std::make_shared<int>(7);
    {
        Loop loop;
        loop.post([witness] { ADD_FAILURE() << "whom this was for is gone"; });
        EXPECT_EQ(witness.use_count(), 2);
    }

    EXPECT_EQ(witness.use_count(), 1);
}

TEST(LoopHandles, ARepeatingTimerRepeatsUntilItIsStopped) {
    Loop loop;
    int fired = 0;
    Timer end(loop, [&loop] { loop.stop(); });
    Timer timer(loop, [&] {
        if (++fired < 3) return;
        timer.stop();
        end.start(milliseconds{20});
    });

    timer.start_repeating(milliseconds{1});
    loop.run();

    EXPECT_EQ(fired, 3);
}

TEST(LoopHandles, ATimerStartedAgainFiresOnceAtItsNewTime) {
    Loop loop;
    const SystemClock clock;
    const MonotonicTime began = clock.monotonic_now();
    int fired = 0;
    nanoseconds passed{};
    Timer end(loop, [&loop] { loop.stop(); });
    Timer timer(loop, [&] {
        ++fired;
        passed = clock.monotonic_now() - began;
        end.start(milliseconds{5});
    });

    timer.start(milliseconds{1});
    timer.start(milliseconds{30});
    loop.run();

    EXPECT_EQ(fired, 1);
    EXPECT_GE(passed, milliseconds{30});
}

TEST(LoopHandles, ATimeThatIsPastIsDueAtOnce) {
    Loop loop;
    bool fired = false;
    Timer timer(loop, [&] {
        fired = true;
        loop.stop();
    });

    timer.start(seconds{-5});
    loop.run();

    EXPECT_TRUE(fired);
}

TEST(LoopHandles, AWatcherThatIsStoppedOrDestroyedReportsNothing) {
    Loop loop;
    const Pipe pipe;
    auto destroyed = std::make_unique<FdWatcher>(loop, pipe.reader.get(),
                                                 [](int) { ADD_FAILURE() << "it was destroyed"; });
    destroyed->watch(UV_READABLE);
    ASSERT_EQ(::write(pipe.writer.get(), "x", 1), 1);
    destroyed.reset();
    Timer end(loop, [&loop] { loop.stop(); });

    end.start(milliseconds{10});
    loop.run();

    FdWatcher stopped(loop, pipe.reader.get(), [](int) { ADD_FAILURE() << "it was stopped"; });
    stopped.watch(UV_READABLE);
    stopped.stop();
    end.start(milliseconds{10});
    loop.run();
}

TEST(LoopHandles, AWatcherMayDestroyItselfAndAnotherMayWatchTheSameDescriptor) {
    Loop loop;
    const Pipe pipe;
    std::unique_ptr<FdWatcher> watcher;
    int seen = 0;
    const auto watch = [&](std::function<void()> then) {
        watcher = std::make_unique<FdWatcher>(loop, pipe.reader.get(), [&, then](int events) {
            ++seen;
            EXPECT_EQ(events, UV_READABLE);
            watcher.reset();
            then();
        });
        watcher->watch(UV_READABLE);
    };
    ASSERT_EQ(::write(pipe.writer.get(), "x", 1), 1);

    watch([&] { loop.post([&] { watch([&] { loop.stop(); }); }); });
    loop.run();

    EXPECT_EQ(seen, 2);
}

TEST(LoopHandles, ASignalBecomesAnEventOfTheLoopsThread) {
    Loop loop;
    std::thread::id ran_on;
    {
        SignalWatcher watcher(loop, SIGUSR2, [&] {
            ran_on = std::this_thread::get_id();
            loop.stop();
        });
        std::thread sender([] { ::kill(::getpid(), SIGUSR2); });
        loop.run();
        sender.join();
    }

    EXPECT_EQ(ran_on, std::this_thread::get_id());
}

}  // namespace
}  // namespace pawl
