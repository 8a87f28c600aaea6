// The lock's one promise, with real processes: it is free as soon as its owner is gone, however
// that ended and whatever the owner left behind.
#include "base/file_lock.h"

#include "tests/fakes/temporary_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>

namespace pawl {
namespace {

using testing::HasSubstr;

// A child process that has done `begin` and then waits, until it is killed at the end.
class Child {
public:
    template <class Begin>
    explicit Child(const Begin& begin) {
        std::array<int, 2> ready{};
        EXPECT_EQ(::pipe2(ready.data(), O_CLOEXEC), 0);
        const UniqueFd reader(ready[0]);
        UniqueFd writer(ready[1]);
        pid_ = ::fork();
        if (pid_ == 0) {
            begin();
            writer.reset();
            while (true)
                ::pause();
        }
        writer.reset();
        char none = 0;
        EXPECT_EQ(::read(reader.get(), &none, 1), 0) << "it has begun";
    }
    ~Child() { end(SIGKILL); }
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;

    void end(int signal) {
        if (pid_ <= 0) return;
        ::kill(pid_, signal);
        ::waitpid(pid_, nullptr, 0);
        pid_ = 0;
    }

private:
    pid_t pid_ = 0;
};

class FileLockOwner : public testing::Test {
protected:
    fakes::TemporaryDirectory directory_;
    std::string path_ = directory_.path() + "/lock";
};

TEST_F(FileLockOwner, KeepsOtherProcessesOutUntilItIsKilled) {
    Child owner([&] {
        // Never freed by this process itself.
        auto* const lock = new Result<FileLock>(FileLock::take(path_));
        if (!lock->has_value()) ::_exit(1);
    });
    const auto while_held = FileLock::take(path_);

    owner.end(SIGKILL);
    const auto afterwards = FileLock::take(path_);

    ASSERT_FALSE(while_held.has_value());
    EXPECT_EQ(while_held.error().kind(), ErrorKind::kBusy);
    EXPECT_TRUE(afterwards.has_value()) << afterwards.error().text();
}

// As a standalone trainer with forked data-loader workers: they have the lock's descriptor too, and
// flock(2) belongs to all of them. Closing one is not enough.
TEST_F(FileLockOwner, FreesItThoughAForkedChildLivesOn) {
    auto lock = FileLock::take(path_);
    ASSERT_TRUE(lock.has_value());
    const Child worker([] {});

    { const FileLock gone = std::move(*lock); }

    const auto next = FileLock::take(path_);
    EXPECT_TRUE(next.has_value()) << next.error().text();
}

TEST_F(FileLockOwner, KeepsItWhenAForkedChildEnds) {
    const auto lock = FileLock::take(path_);
    ASSERT_TRUE(lock.has_value());
    Child worker([] {});

    worker.end(SIGTERM);

    EXPECT_FALSE(FileLock::take(path_).has_value());
}

TEST_F(FileLockOwner, DoesNotPassItOnToAnotherProgram) {
    auto lock = FileLock::take(path_);
    ASSERT_TRUE(lock.has_value());
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe2(ends.data(), 0), 0);
    UniqueFd reader(ends[0]);
    UniqueFd writer(ends[1]);
    const pid_t program = ::fork();
    if (program == 0) {
        ::dup2(writer.get(), STDOUT_FILENO);
        ::execlp("sh", "sh", "-c", "echo; exec sleep 1000", nullptr);
        ::_exit(127);
    }
    char line = 0;
    ASSERT_EQ(::read(reader.get(), &line, 1), 1) << "the program runs";

    { const FileLock gone = std::move(*lock); }
    const bool is_free = FileLock::take(path_).has_value();

    ::kill(program, SIGKILL);
    ::waitpid(program, nullptr, 0);
    EXPECT_TRUE(is_free);
}

TEST_F(FileLockOwner, IsWhoeverTheLockWasMovedTo) {
    auto lock = FileLock::take(path_);
    ASSERT_TRUE(lock.has_value());
    std::optional<FileLock> owner = std::move(*lock);
    EXPECT_FALSE(FileLock::take(path_).has_value());

    owner.reset();

    EXPECT_TRUE(FileLock::take(path_).has_value());
}

TEST_F(FileLockOwner, LeavesTheFileAndTakesNoOtherPath) {
    const std::string other = directory_.path() + "/other";
    {
        const auto lock = FileLock::take(path_);
        EXPECT_TRUE(FileLock::take(other).has_value());
    }

    struct stat information = {};
    EXPECT_EQ(::stat(path_.c_str(), &information), 0);
}

TEST_F(FileLockOwner, IsNobodyWhereThePathIsALinkOrHasNoDirectory) {
    ASSERT_EQ(::symlink("elsewhere", path_.c_str()), 0);
    const std::string nowhere = directory_.path() + "/nowhere/lock";

    EXPECT_THAT(FileLock::take(path_).error().text(), HasSubstr("open lock file '" + path_ + "'"));
    EXPECT_EQ(FileLock::take(nowhere).error().kind(), ErrorKind::kNotFound);
    EXPECT_NE(::access((directory_.path() + "/elsewhere").c_str(), F_OK), 0);
}

}  // namespace
}  // namespace pawl
