// Real processes: what they inherit and what becomes of their orphans.
#include "base/file_system.h"
#include "supervisor/process.h"
#include "tests/fakes/temporary_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace pawl::supervisor {
namespace {

using testing::HasSubstr;

class ProcessFamily : public testing::Test {
protected:
    [[nodiscard]] std::string key() const { return directory_.path() + ":job"; }
    [[nodiscard]] SpawnRequest request(const std::string& script) const {
        return {.command = {"sh", "-c", script},
                .environment = {"PATH=/usr/bin:/bin", "PAWL_JOB_KEY=" + key()},
                .working_directory = directory_.path(),
                .output_path = directory_.path() + "/output"};
    }
    ExitStatus end_of(const Spawned& process) {
        pollfd watch = {.fd = process.pidfd.get(), .events = POLLIN, .revents = 0};
        EXPECT_EQ(::poll(&watch, 1, 20'000), 1) << "it did not end";
        return runner_->take_exit(process).value_or(ExitStatus{.cause = ExitCause::kError});
    }
    std::string output_of(const SpawnRequest& spawn_request) {
        const auto spawned = runner_->spawn(spawn_request);
        EXPECT_TRUE(spawned.has_value()) << spawned.error().text();
        EXPECT_EQ(end_of(*spawned), ExitStatus{});
        return read_text(*fs_, directory_.path() + "/output", 1 << 20).value_or("no output");
    }

    fakes::TemporaryDirectory directory_;
    std::unique_ptr<FileSystem> fs_ = make_posix_file_system();
    std::unique_ptr<ProcessRunner> runner_ = make_process_runner();
};

TEST_F(ProcessFamily, ReadsNothing) {
    EXPECT_EQ(output_of(request("readlink /proc/$$/fd/0; cat; echo end")), "/dev/null\nend\n");
}

TEST_F(ProcessFamily, HasNoSignalBlockedOrIgnoredThatTheDaemonHas) {
    sigset_t all;
    sigset_t before;
    ::sigfillset(&all);
    ::sigprocmask(SIG_SETMASK, &all, &before);
    const auto pipe_before = ::signal(SIGPIPE, SIG_IGN);
    const auto size_before = ::signal(SIGXFSZ, SIG_IGN);

    const std::string text = output_of(request("exec grep -E '^Sig(Blk|Ign)' /proc/self/status"));

    ::signal(SIGPIPE, pipe_before);
    ::signal(SIGXFSZ, size_before);
    ::sigprocmask(SIG_SETMASK, &before, nullptr);
    EXPECT_EQ(text, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

TEST_F(ProcessFamily, AGrandchildIsKnownByItsAncestorsAndByItsKey) {
    const std::string pid_file = directory_.path() + "/grandchild";
    // Two processes deep; both end when their input, a fifo that is never written, is removed.
    const auto spawned =
        runner_->spawn(request("mkfifo hold; sh -c 'echo $$ > grandchild.new; mv grandchild.new "
                               "grandchild; read x < hold' "
                               "& wait"));
    ASSERT_TRUE(spawned.has_value());
    Result<std::string> text = read_text(*fs_, pid_file, 100);
    for (int i = 0; i < 20'000 && !text; ++i) {
        ::poll(nullptr, 0, 1);
        text = read_text(*fs_, pid_file, 100);
    }
    ASSERT_TRUE(text.has_value());
    const pid_t grandchild = std::stoi(*text);

    const auto ancestors = ancestors_of(grandchild);

    EXPECT_THAT(ancestors, testing::Contains(spawned->pid));
    EXPECT_THAT(ancestors, testing::Contains(::getpid()));
    EXPECT_TRUE(carries_key(grandchild, key()));
    EXPECT_FALSE(carries_key(grandchild, key() + "2"));
    EXPECT_FALSE(carries_key(::getpid(), key()));
    runner_->kill_now(grandchild);
    EXPECT_EQ(end_of(*spawned), ExitStatus{});
    EXPECT_TRUE(ancestors_of(spawned->pid).empty()) << "it is gone";
}

TEST_F(ProcessFamily, TheCommandIsFoundByItsOwnPathAndNotByOurs) {
    const std::string place = directory_.path() + "/bin";
    ASSERT_EQ(::mkdir(place.c_str(), 0700), 0);
    ASSERT_EQ(::symlink("/bin/sh", (place + "/only-here").c_str()), 0);
    SpawnRequest found = request("echo found");
    found.command[0] = "only-here";
    found.environment[0] = "PATH=/nowhere:" + place;

    EXPECT_EQ(output_of(found), "found\n");
}

TEST_F(ProcessFamily, AKeyThatOnlyBeginsAlikeIsAnotherJobs) {
    const auto spawned = runner_->spawn(request("exec sleep 1000"));
    ASSERT_TRUE(spawned.has_value());
    while (runner_->find(key())->empty())  // until the exec
        ::sched_yield();

    EXPECT_THAT(*runner_->find(key()), testing::ElementsAre(spawned->pid));
    EXPECT_TRUE(runner_->find(key().substr(0, key().size() - 1))->empty());
    EXPECT_TRUE(runner_->find(key() + "x")->empty());

    runner_->kill_now(spawned->pid);
    EXPECT_EQ(end_of(*spawned).number, SIGKILL);
    EXPECT_TRUE(runner_->find(key())->empty());
}

// In a child, since it becomes the subreaper of all that it starts.
TEST_F(ProcessFamily, OrphansComeToTheSubreaperWhichReapsThemAndNotItsRanks) {
    const pid_t daemon = ::fork();
    if (daemon == 0) {
        if (!become_subreaper()) ::_exit(2);
        const auto rank = runner_->spawn(request("setsid sh -c 'exit 3' & exec sleep 1000"));
        if (!rank) ::_exit(3);
        const auto parent = runner_->spawn(request("setsid sleep 1000 & exit 0"));
        if (!parent || end_of(*parent) != ExitStatus{}) ::_exit(4);
        std::vector<pid_t> found;
        while ((found = *runner_->find(key())).size() < 2)
            ::sched_yield();
        found.push_back(rank->pid);  // two may have been the other ones
        for (const pid_t pid : found)
            runner_->kill_now(pid);
        pollfd watch = {.fd = rank->pidfd.get(), .events = POLLIN, .revents = 0};
        if (::poll(&watch, 1, 20'000) != 1) ::_exit(5);
        runner_->reap_orphans({rank->pid});
        const auto exit = runner_->take_exit(*rank);
        if (!exit || exit->number != SIGKILL) ::_exit(6);  // its end was taken by reap_orphans
        // One that was in the middle of its exec had no environment to be found by: again.
        for (int i = 0; i < 20'000; ++i) {
            found = *runner_->find(key());
            for (const pid_t pid : found)
                runner_->kill_now(pid);
            runner_->reap_orphans({});
            siginfo_t child = {};  // looked at, not taken: that is reap_orphans' to do
            if (::waitid(P_ALL, 0, &child, WEXITED | WNOHANG | WNOWAIT) == -1) ::_exit(0);
            ::poll(nullptr, 0, 1);
        }
        ::_exit(7);  // a child is left
    }
    int status = 0;
    ASSERT_EQ(::waitpid(daemon, &status, 0), daemon);

    EXPECT_EQ(WEXITSTATUS(status), 0) << "the line of that number above";
}

}  // namespace
}  // namespace pawl::supervisor
