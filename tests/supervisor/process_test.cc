// Real processes: how they start, fail to, end, and are found again.
#include "supervisor/process.h"

#include "base/file_system.h"
#include "tests/fakes/temporary_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>

namespace pawl::supervisor {
namespace {

using fakes::TemporaryDirectory;
using testing::HasSubstr;

class Process : public testing::Test {
protected:
    [[nodiscard]] SpawnRequest request(std::vector<std::string> command) const {
        return {.command = std::move(command),
                .environment = {"PATH=/usr/bin:/bin", "PAWL_JOB_KEY=" + key()},
                .working_directory = directory_.path(),
                .output_path = directory_.path() + "/output"};
    }
    [[nodiscard]] std::string key() const { return directory_.path() + ":job"; }
    [[nodiscard]] std::string output() const {
        return *read_text(*fs_, directory_.path() + "/output", 1 << 20);
    }

    // Waits for the pidfd, which becomes readable at the end.
    ExitStatus end_of(const Spawned& process) {
        pollfd watch = {.fd = process.pidfd.get(), .events = POLLIN, .revents = 0};
        EXPECT_EQ(::poll(&watch, 1, 20'000), 1) << "it did not end";
        return runner_->take_exit(process).value_or(
            ExitStatus{.cause = ExitCause::kError, .number = -1});
    }
    ExitStatus run(const SpawnRequest& spawn_request) {
        const auto spawned = runner_->spawn(spawn_request);
        EXPECT_TRUE(spawned.has_value()) << spawned.error().text();
        return end_of(*spawned);
    }

    TemporaryDirectory directory_;
    std::unique_ptr<FileSystem> fs_ = make_posix_file_system();
    std::unique_ptr<ProcessRunner> runner_ = make_process_runner();
};

TEST_F(Process, EndsAreToldApart) {
    EXPECT_EQ(run(request({"true"})), ExitStatus{});
    EXPECT_EQ(run(request({"sh", "-c", "exit 3"})),
              (ExitStatus{.cause = ExitCause::kError, .number = 3}));
    EXPECT_EQ(run(request({"sh", "-c", "kill -9 $$"})),
              (ExitStatus{.cause = ExitCause::kSignal, .number = SIGKILL}));
}

TEST_F(Process, AStartThatFailsSaysWhatFailedAndWhy) {
    const ExitStatus missing = run(request({"no-such-program"}));
    EXPECT_EQ(missing.cause, ExitCause::kCouldNotStart);
    EXPECT_EQ(missing.number, ENOENT);
    EXPECT_EQ(missing.detail, "cannot run the command: No such file or directory");

    SpawnRequest elsewhere = request({"true"});
    elsewhere.working_directory = "/no/such/place";
    EXPECT_THAT(run(elsewhere).detail, HasSubstr("cannot enter the working directory"));

    SpawnRequest unwritable = request({"true"});
    unwritable.output_path = directory_.path() + "/no/output";
    EXPECT_THAT(run(unwritable).detail, HasSubstr("cannot open the output file"));
}

TEST_F(Process, AFileThatMayNotBeRunIsNoMissingOne) {
    const std::string script = directory_.path() + "/script";
    auto file = fs_->create_file(script, 0);
    ASSERT_TRUE(file.has_value());
    ASSERT_EQ(::chmod(script.c_str(), 0644), 0);

    const ExitStatus status = run(request({script}));

    EXPECT_EQ(status.cause, ExitCause::kCouldNotStart);
    EXPECT_EQ(status.number, EACCES);
    EXPECT_EQ(status.exit_code(), 126);
}

TEST_F(Process, BothOutputsAreAppendedToOneFile) {
    run(request({"sh", "-c", "echo one; echo two >&2"}));
    run(request({"sh", "-c", "echo three"}));

    EXPECT_EQ(output(), "one\ntwo\nthree\n");
}

TEST_F(Process, HasExactlyTheGivenEnvironmentAndASessionOfItsOwn) {
    run(request(
        {"sh", "-c",
         "env | sort | grep -v '^_=\\|^PWD=\\|^SHLVL='; ps -o sid= -p $$ | tr -d ' '; echo $$"}));

    const std::string text = output();
    EXPECT_THAT(text, HasSubstr("PATH=/usr/bin:/bin\nPAWL_JOB_KEY=" + key() + "\n"));
    EXPECT_THAT(text, testing::Not(HasSubstr("HOME=")));
    const auto last = text.rfind('\n', text.size() - 2);
    const std::string pid = text.substr(last + 1);
    EXPECT_THAT(text, HasSubstr("\n" + pid + pid)) << "the session is the process's own";
}

TEST_F(Process, IsFoundByItsKeyAlsoInASessionOfItsOwnUntilItIsKilled) {
    const auto spawned =
        runner_->spawn(request({"sh", "-c", "setsid sleep 1000 & exec sleep 1000"}));
    ASSERT_TRUE(spawned.has_value());
    std::vector<pid_t> found;
    for (int i = 0; i < 2000 && found.size() < 2; ++i) {
        found = *runner_->find(key());
        ::usleep(5000);
    }
    ASSERT_EQ(found.size(), 2u);

    for (const pid_t pid : found) {
        auto pidfd = runner_->watch(pid);
        ASSERT_TRUE(pidfd.has_value());
        runner_->kill_now(pid);
        pollfd watch = {.fd = pidfd->get(), .events = POLLIN, .revents = 0};
        EXPECT_EQ(::poll(&watch, 1, 20'000), 1);
    }
    std::ignore = end_of(*spawned);

    EXPECT_TRUE(runner_->find(key())->empty());
}

// A pipe that parent and child share, as the loop's for its signals is.
int shared_pipe_end = -1;

TEST_F(Process, ASignalThatMeetsItBeforeItsCommandIsForItAndNotForUs) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK), 0);
    const UniqueFd read_end(ends[0]);
    const UniqueFd write_end(ends[1]);
    shared_pipe_end = write_end.get();
    struct sigaction ours = {};
    struct sigaction before = {};
    ours.sa_handler = [](int) {
        [[maybe_unused]] const ssize_t written = ::write(shared_pipe_end, "!", 1);
    };
    ASSERT_EQ(::sigaction(SIGTERM, &ours, &before), 0);

    constexpr int kChildren = 200;  // where the signal meets each is chance
    for (int i = 0; i < kChildren; ++i) {
        const auto child = runner_->spawn(request({"sleep", "1000"}));
        ASSERT_TRUE(child.has_value()) << child.error().text();
        runner_->send_signal(*child, SIGTERM);
        const ExitStatus end = end_of(*child);
        runner_->send_signal(*child, SIGKILL);  // if it has not ended, nobody else ends it
        ASSERT_EQ(end, (ExitStatus{.cause = ExitCause::kSignal, .number = SIGTERM}));
    }

    char heard = 0;
    EXPECT_EQ(::read(read_end.get(), &heard, 1), -1) << "the parent heard a signal of its child";
    EXPECT_EQ(::sigaction(SIGTERM, &before, nullptr), 0);
}

TEST_F(Process, OurOwnSignalsAreAsTheyWereAfterAStart) {
    sigset_t before;
    sigset_t after;
    ASSERT_EQ(::pthread_sigmask(SIG_SETMASK, nullptr, &before), 0);
    ASSERT_EQ(run(request({"true"})), ExitStatus{});
    ASSERT_EQ(::pthread_sigmask(SIG_SETMASK, nullptr, &after), 0);
    for (int number = 1; number < SIGRTMIN; ++number)
        EXPECT_EQ(::sigismember(&before, number), ::sigismember(&after, number)) << number;
}

TEST_F(Process, ARunningProcessHasNoExitYetAndAStartTime) {
    const auto spawned = runner_->spawn(request({"sleep", "1000"}));
    ASSERT_TRUE(spawned.has_value());

    EXPECT_EQ(runner_->take_exit(*spawned), std::nullopt);
    EXPECT_EQ(start_ticks_of(spawned->pid), spawned->start_ticks);
    EXPECT_GT(spawned->start_ticks, 0u);

    runner_->send_signal(*spawned, SIGTERM);
    EXPECT_EQ(end_of(*spawned), (ExitStatus{.cause = ExitCause::kSignal, .number = SIGTERM}));
    EXPECT_EQ(start_ticks_of(spawned->pid), std::nullopt);
}

}  // namespace
}  // namespace pawl::supervisor
