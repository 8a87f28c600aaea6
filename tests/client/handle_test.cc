// The handle of a run as its callers may use and misuse it: threads, signals, detached handles,
// structs of other versions; and what a step costs.
#include "tests/checkpoint/sample.h"
#include "tests/client/run_fixture.h"
#include "tests/fakes/fake_daemon.h"

#include <gmock/gmock.h>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <array>
#include <atomic>
#include <cstring>
#include <thread>

namespace pawl::client {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class Handle : public testing::Test {
protected:
    [[nodiscard]] OwnedRun attach_in(const std::string& name, std::uint64_t every_steps = 1) const {
        const std::string directory = place_.path() + "/" + name;
        pawl_attach_options options{};
        options.struct_size = sizeof options;
        options.checkpoint_directory = directory.c_str();
        options.every_steps = every_steps;
        OwnedRun run = attach(&options);
        EXPECT_NE(run, nullptr) << pawl_last_error();
        return run;
    }
    static void save(const OwnedRun& run, unsigned seed) {
        const auto image = checkpoint::sample_image(64, seed);
        void* memory = nullptr;
        ASSERT_EQ(pawl_snapshot_begin(run.get(), image.size(), &memory), PAWL_OK)
            << pawl_last_error();
        std::memcpy(memory, image.data(), image.size());
        ASSERT_EQ(pawl_snapshot_seal(run.get(), nullptr, 0), PAWL_OK) << pawl_last_error();
    }

    fakes::TemporaryDirectory place_;
};

// ---- errors ----

TEST_F(Handle, EveryCodeHasItsName) {
    EXPECT_STREQ(pawl_error_name(PAWL_OK), "PAWL_OK");
    EXPECT_STREQ(pawl_error_name(PAWL_SKIPPED), "PAWL_SKIPPED");
    for (int code = PAWL_E_INTERNAL; code <= PAWL_E_INVALID; ++code)
        EXPECT_THAT(pawl_error_name(code), testing::StartsWith("PAWL_E_")) << code;
    EXPECT_STREQ(pawl_error_name(-1000), "unknown pawl_error");
}

TEST_F(Handle, AnErrorTextIsCutWhereItIsTooLong) {
    const Setting job("PAWL_JOB", std::string(10'000, 'x'));

    EXPECT_EQ(attach(), nullptr);
    EXPECT_THAT(pawl_last_error(), HasSubstr("pawl_attach: PAWL_JOB='xxx"));
    EXPECT_EQ(std::strlen(pawl_last_error()), 2047u);
}

// ---- detached ----

TEST_F(Handle, ADetachedRunIsKnownForOneInEveryCall) {
    pawl_run* const run = attach_in("a").release();
    pawl_detach(run);
    const pawl_progress progress{sizeof progress, 1, 0, 0.5};
    pawl_resume resume{};
    resume.struct_size = sizeof resume;
    std::uint32_t actions = 9;
    void* image = run;

    const std::array codes = {pawl_step(run, &progress, &actions),
                              pawl_epoch_end(run, &progress, nullptr, 0, &actions),
                              pawl_poll(run, PAWL_PHASE_TRAINING, &actions),
                              pawl_request_checkpoint(run, &actions),
                              pawl_snapshot_begin(run, 1, &image),
                              pawl_snapshot_seal(run, nullptr, 0),
                              pawl_snapshot_abort(run, nullptr),
                              pawl_finish(run, &actions),
                              pawl_finish_wait(run),
                              pawl_get_resume(run, &resume)};
    const std::string last = pawl_last_error();

    EXPECT_THAT(codes, testing::Each(PAWL_E_INVALID));
    EXPECT_THAT(last, AllOf(HasSubstr("pawl_get_resume"), HasSubstr("detached already")));
    EXPECT_EQ(actions, 0u);
    EXPECT_EQ(image, nullptr);
    EXPECT_STREQ(pawl_inert_reason(run), "it is not attached");
    pawl_release_resume(run);
    pawl_request_stop(run);
    pawl_detach(run);
    EXPECT_THAT(pawl_last_error(), HasSubstr("pawl_detach: this run was detached already"));
}

TEST_F(Handle, AStopAskedOfADetachedRunDoesNotReachTheNext) {
    pawl_run* const old = attach_in("a").release();
    pawl_detach(old);
    const OwnedRun run = attach_in("a", 100);

    pawl_request_stop(old);

    EXPECT_EQ(step(run, 1).actions, 0u);
}

TEST_F(Handle, AFailedAttachLeavesNothingBehindThatTheNextCouldMeet) {
    {
        const Setting world("WORLD_SIZE", "2");
        for (int i = 0; i < 3; ++i)
            EXPECT_EQ(attach(), nullptr);
    }
    const OwnedRun run = attach_in("a");

    EXPECT_EQ(step(run, 1).code, PAWL_OK);
}

// ---- threads ----

TEST_F(Handle, RunsInSeveralThreadsDoNotMeet) {
    constexpr unsigned kThreads = 4;
    std::array<std::thread, kThreads> threads;
    for (unsigned i = 0; i < kThreads; ++i) {
        threads.at(i) = std::thread([this, i] {
            const OwnedRun run = attach_in("run-" + std::to_string(i));
            for (std::uint64_t number = 1; number <= 5; ++number) {
                EXPECT_EQ(step(run, number).actions, std::uint32_t{PAWL_TAKE_SNAPSHOT});
                save(run, i);
            }
        });
    }
    for (std::thread& thread : threads)
        thread.join();

    for (unsigned i = 0; i < kThreads; ++i) {
        const OwnedRun run = attach_in("run-" + std::to_string(i));
        pawl_resume resume{};
        resume.struct_size = sizeof resume;
        EXPECT_EQ(pawl_get_resume(run.get(), &resume), PAWL_OK);
        EXPECT_EQ(resume.step, 5u);
    }
}

TEST_F(Handle, OneRunMayWanderFromThreadToThread) {
    const OwnedRun run = attach_in("a", 100);
    std::atomic<std::uint64_t> turn{0};
    const auto take_turns = [&](std::uint64_t which) {
        for (std::uint64_t i = which; i < 200; i += 2) {
            while (turn.load(std::memory_order_relaxed) != i)
                std::this_thread::yield();
            EXPECT_NE(step(run, i + 1).code, PAWL_E_INVALID);
            turn.store(i + 1, std::memory_order_relaxed);
        }
    };

    std::thread other([&] { take_turns(1); });
    take_turns(0);
    other.join();

    EXPECT_EQ(step(run, 201).code, PAWL_OK);
}

// A call that blocks in the daemon, and a second thread in the meantime.
TEST_F(Handle, TwoThreadsAtOnceAreToldApartAndHarmNothing) {
    std::atomic<bool> is_waiting{false};
    std::atomic<bool> may_go_on{false};
    const fakes::FakeDaemon daemon([&](fakes::FakeSession& rank) {
        rank.attach();
        rank.expect<staging::Finishing>();
        is_waiting = true;
        is_waiting.notify_all();
        may_go_on.wait(false);
        rank.send(staging::SnapshotDurable{.sequence = Sequence{1}, .step = Step{7}});
    });
    const OwnedRun run = attach();
    ASSERT_NE(run, nullptr) << pawl_last_error();
    step(run, 7);
    int finished = -1;
    std::thread blocked([&] {
        std::uint32_t actions = 0;
        finished = pawl_finish(run.get(), &actions);
    });
    is_waiting.wait(false);

    const Outcome meanwhile = step(run, 8);
    pawl_detach(run.get());
    const std::string detached = pawl_last_error();
    pawl_request_stop(run.get());
    const int rank = pawl_rank(run.get());
    may_go_on = true;
    may_go_on.notify_all();
    blocked.join();

    EXPECT_EQ(meanwhile.code, PAWL_E_BUSY);
    EXPECT_THAT(meanwhile.error, HasSubstr("one thread at a time"));
    EXPECT_THAT(detached, HasSubstr("nothing was detached"));
    EXPECT_EQ(rank, 0);
    EXPECT_EQ(finished, PAWL_OK);
    EXPECT_EQ(pawl_finish_wait(run.get()), PAWL_OK) << pawl_last_error();
}

TEST_F(Handle, AStopMayBeAskedForByAnyThreadAtAnyTime) {
    const OwnedRun run = attach_in("a", 1'000'000'000);
    std::atomic<bool> is_training{false};
    std::thread other([&] {
        is_training.wait(false);
        pawl_request_stop(run.get());
    });
    std::uint64_t number = 0;

    Outcome last;
    do {
        last = step(run, ++number);
        is_training = true;
        is_training.notify_all();
    } while (last.actions == 0);
    other.join();

    EXPECT_EQ(last.actions, std::uint32_t{PAWL_TAKE_SNAPSHOT | PAWL_STOP});
}

pawl_run* g_signalled = nullptr;  // a signal handler has no other way

TEST_F(Handle, ASignalHandlerMayAskForAStopInTheMiddleOfAnyCallAndAfterTheDetach) {
    struct sigaction action = {};
    struct sigaction before = {};
    action.sa_handler = [](int) { pawl_request_stop(g_signalled); };
    ASSERT_EQ(::sigaction(SIGUSR1, &action, &before), 0);
    const pthread_t trainer = ::pthread_self();
    OwnedRun run = attach_in("a");
    g_signalled = run.get();
    std::atomic<bool> is_over{false};
    std::thread signals([&] {
        while (!is_over)
            ::pthread_kill(trainer, SIGUSR1);
    });

    for (std::uint64_t number = 1; number <= 20; ++number) {
        const Outcome outcome = step(run, number);
        ASSERT_EQ(outcome.code, PAWL_OK) << outcome.error;
        if ((outcome.actions & std::uint32_t{PAWL_TAKE_SNAPSHOT}) != 0) save(run, 1);
    }
    run.reset();
    is_over = true;
    signals.join();
    ::raise(SIGUSR1);

    ::sigaction(SIGUSR1, &before, nullptr);
    EXPECT_EQ(step(attach_in("a"), 21).code, PAWL_OK);
}

// ---- structs ----

TEST_F(Handle, AStructWhoseSizeWasForgottenIsRefusedByNameAndCall) {
    const OwnedRun run = attach_in("a");
    pawl_run* none = nullptr;
    std::uint32_t actions = 0;
    for (const std::size_t size : {std::size_t{0}, sizeof(std::size_t) - 1, std::size_t{5000}}) {
        SCOPED_TRACE(size);
        pawl_attach_options options{};
        options.struct_size = size;
        pawl_progress progress{size, 1, 0, 0.5};
        pawl_resume resume{};
        resume.struct_size = size;

        EXPECT_EQ(pawl_attach(&options, &none), PAWL_E_INVALID);
        EXPECT_THAT(pawl_last_error(), HasSubstr("pawl_attach: pawl_attach_options.struct_size"));
        EXPECT_EQ(pawl_step(run.get(), &progress, &actions), PAWL_E_INVALID);
        EXPECT_THAT(pawl_last_error(), HasSubstr("pawl_step: pawl_progress.struct_size is"));
        EXPECT_EQ(pawl_epoch_end(run.get(), &progress, nullptr, 0, &actions), PAWL_E_INVALID);
        EXPECT_EQ(pawl_get_resume(run.get(), &resume), PAWL_E_INVALID);
        EXPECT_THAT(pawl_last_error(), HasSubstr("pawl_get_resume: pawl_resume.struct_size is"));
    }
    EXPECT_EQ(actions, 0u);
}

TEST_F(Handle, ProgressOfAnOlderHeaderHasNoLossAndOneOfANewerHasMore) {
    struct Newer {
        pawl_progress known;
        std::uint64_t unknown;
    } newer{.known = {sizeof(Newer), 10, 1, 0.25}, .unknown = 99};
    pawl_progress older{offsetof(pawl_progress, loss), 11, 1, 0.75};
    std::vector<double> losses;
    {
        const fakes::FakeDaemon daemon([&](fakes::FakeSession& rank) {
            rank.attach();
            while (const auto ended = rank.expect<staging::EpochEnded>())
                losses.push_back(ended->loss);
        });
        const OwnedRun run = attach();
        ASSERT_NE(run, nullptr) << pawl_last_error();
        std::uint32_t actions = 0;
        EXPECT_EQ(pawl_epoch_end(run.get(), &newer.known, nullptr, 0, &actions), PAWL_OK);
        EXPECT_EQ(pawl_epoch_end(run.get(), &older, nullptr, 0, &actions), PAWL_OK);
    }
    EXPECT_THAT(losses, testing::ElementsAre(0.25, testing::IsNan()));
}

TEST_F(Handle, APhaseThatIsNoneIsRefused) {
    const OwnedRun run = attach_in("a");
    std::uint32_t actions = 0;

    EXPECT_EQ(pawl_poll(run.get(), static_cast<pawl_phase>(0), &actions), PAWL_E_INVALID);
    EXPECT_THAT(pawl_last_error(), HasSubstr("PAWL_PHASE_TRAINING"));
}

// ---- cost ----

// From here on this process dies (SIGSYS) of any system call but write(2) and its own exit.
void forbid_system_calls() {
    const auto allow = [](std::uint32_t number) {
        return sock_filter(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1));
    };
    std::array filter = {
        sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        allow(SYS_write),
        sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        allow(SYS_exit_group),
        sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    const sock_fprog program = {.len = filter.size(), .filter = filter.data()};
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        ::_exit(99);
    }
}

void ten_thousand_steps(const OwnedRun& run) {
    const pawl_progress progress{sizeof progress, 1, 0, 0.5};
    std::uint32_t actions = 0;
    for (int i = 0; i < 10'000; ++i) {
        if (pawl_step(run.get(), &progress, &actions) != PAWL_OK) ::_exit(3);
    }
}

TEST_F(Handle, TheGuardAgainstSystemCallsKillsForOne) {
    const int end = end_of_child([] {
        forbid_system_calls();
        ::syscall(SYS_getpid);
    });

    EXPECT_EQ(end, SIGSYS);
}

TEST_F(Handle, AStepUnderADaemonMakesNoSystemCall) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "the sanitizers make system calls of their own";
#endif
    const fakes::FakeDaemon daemon([](fakes::FakeSession& rank) {
        rank.attach({.request = 1, .at_step = Step{1'000'000}});
        EXPECT_FALSE(rank.receive().has_value());
        EXPECT_EQ(rank.progress()->step, Step{1}) << "the steps were seen";
    });

    const int end = end_of_child([] {
        const OwnedRun run = attach();
        if (run == nullptr) ::_exit(2);
        forbid_system_calls();
        ten_thousand_steps(run);
        ::_exit(0);
    });

    EXPECT_EQ(end, 0) << "2: not attached, 3: a step failed, " << SIGSYS << ": a system call";
}

TEST_F(Handle, AStandaloneStepMakesNoSystemCall) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "the sanitizers make system calls of their own";
#endif
    const int end = end_of_child([&] {
        const OwnedRun run = attach_in("a", 1'000'000);
        if (run == nullptr) ::_exit(2);
        forbid_system_calls();
        ten_thousand_steps(run);
        ::_exit(0);
    });

    EXPECT_EQ(end, 0) << "2: not attached, 3: a step failed, " << SIGSYS << ": a system call";
}

}  // namespace
}  // namespace pawl::client
