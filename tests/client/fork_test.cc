// Data-loader workers, as PyTorch forks them: copies of a trainer that go on without exec. Whatever
// they call and however they end, their parent's run does not notice; and when the parent is
// killed, neither its session nor its directory's lock lives on in them.
#include "base/file_lock.h"
#include "tests/checkpoint/sample.h"
#include "tests/client/run_fixture.h"
#include "tests/fakes/fake_daemon.h"

#include <gmock/gmock.h>

#include <dirent.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <array>
#include <cstring>

namespace pawl::client {
namespace {

using fakes::FakeDaemon;
using fakes::FakeSession;
using testing::HasSubstr;

// Of every call in a forked child: nothing is done, and it is said.
bool is_inert_here(const OwnedRun& run) {
    const auto is_told = [&](int code) {
        return code == PAWL_SKIPPED && std::strstr(pawl_last_error(), "forked") != nullptr;
    };
    const pawl_progress progress{sizeof progress, 999, 9, 0.5};
    std::uint32_t actions = 7;
    void* image = nullptr;
    pawl_resume resume{};
    resume.struct_size = sizeof resume;
    const bool all_told = is_told(pawl_step(run.get(), &progress, &actions)) &&
                          is_told(pawl_epoch_end(run.get(), &progress, nullptr, 0, &actions)) &&
                          is_told(pawl_poll(run.get(), PAWL_PHASE_TRAINING, &actions)) &&
                          is_told(pawl_request_checkpoint(run.get(), &actions)) &&
                          is_told(pawl_snapshot_begin(run.get(), 100, &image)) &&
                          is_told(pawl_snapshot_seal(run.get(), nullptr, 0)) &&
                          is_told(pawl_snapshot_abort(run.get(), "why")) &&
                          is_told(pawl_finish(run.get(), &actions)) &&
                          is_told(pawl_finish_wait(run.get()));
    pawl_request_stop(run.get());
    pawl_release_resume(run.get());
    return all_told && actions == 0 && image == nullptr && resume.image == nullptr &&
           pawl_get_resume(run.get(), &resume) == PAWL_E_UNSUPPORTED &&
           std::strstr(pawl_inert_reason(run.get()), "forked") != nullptr &&
           pawl_rank(run.get()) == 0 && pawl_world_size(run.get()) == 1;
}

// Descriptors of sockets and of lock files that this process has.
int held_descriptors() {
    int held = 0;
    DIR* const directory = ::opendir("/proc/self/fd");
    while (const dirent* entry = ::readdir(directory)) {
        std::array<char, 256> target{};
        const std::string path = std::string("/proc/self/fd/") + entry->d_name;
        if (::readlink(path.c_str(), target.data(), target.size() - 1) <= 0) continue;
        const std::string_view name = target.data();
        if (name.starts_with("socket:") || name.ends_with("/.lock")) ++held;
    }
    ::closedir(directory);
    return held;
}

// Uses the run in every way, and takes its memory and descriptor numbers for something else before
// it detaches: what it detaches is not there.
void work_and_detach(OwnedRun run) {
    if (!is_inert_here(run)) ::_exit(10);
    std::array<int, 200> files{};
    for (int& file : files)
        file = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    run.reset();
    for (const int file : files) {
        if (::fcntl(file, F_GETFD) < 0) ::_exit(11);  // it closed a number that was not its own
    }
}

class Forked : public testing::Test {
protected:
    [[nodiscard]] OwnedRun attach_standalone() const {
        pawl_attach_options options{};
        options.struct_size = sizeof options;
        options.checkpoint_directory = directory_.c_str();
        options.every_steps = 10;
        return attach(&options);
    }
    [[nodiscard]] bool is_locked() const {
        return !FileLock::take(directory_ + "/" + kLockName).has_value();
    }

    fakes::TemporaryDirectory place_;
    std::string directory_ = place_.path() + "/checkpoints";
};

TEST_F(Forked, WorkersDoNotDisturbAStandaloneRunHoweverTheyEnd) {
    OwnedRun run = attach_standalone();
    ASSERT_NE(run, nullptr) << pawl_last_error();

    EXPECT_EQ(end_of_child([&] { work_and_detach(std::move(run)); }), 0);
    EXPECT_EQ(end_of_child([&] { ::_exit(is_inert_here(run) ? 0 : 1); }), 0);
    EXPECT_EQ(end_of_child([&] { ::raise(SIGKILL); }), SIGKILL);
    EXPECT_EQ(end_of_child([&] { ::_exit(held_descriptors()); }), 0);

    EXPECT_TRUE(is_locked());
    EXPECT_EQ(step(run, 1), (Outcome{})) << "a worker's stop is the worker's";
    EXPECT_EQ(step(run, 10).actions, std::uint32_t{PAWL_TAKE_SNAPSHOT});
    const auto image = checkpoint::sample_image(64, 1);
    void* memory = nullptr;
    ASSERT_EQ(pawl_snapshot_begin(run.get(), image.size(), &memory), PAWL_OK);
    std::memcpy(memory, image.data(), image.size());
    EXPECT_EQ(pawl_snapshot_seal(run.get(), nullptr, 0), PAWL_OK) << pawl_last_error();
}

TEST_F(Forked, WorkersDoNotDisturbASessionHoweverTheyEnd) {
    const FakeDaemon daemon([](FakeSession& rank) {
        rank.attach({.request = 1, .at_step = Step{10}});
        rank.grant_arena();
        const auto sealed = rank.expect<staging::SnapshotSealed>();
        ASSERT_TRUE(sealed.has_value()) << "the session has ended";
        EXPECT_EQ(sealed->step, Step{10}) << "not a worker's";
        EXPECT_EQ(rank.progress()->step, Step{10});
    });
    OwnedRun run = attach();
    ASSERT_NE(run, nullptr) << pawl_last_error();
    ASSERT_EQ(step(run, 10).actions, std::uint32_t{PAWL_TAKE_SNAPSHOT});
    void* image = nullptr;
    ASSERT_EQ(pawl_snapshot_begin(run.get(), 4096, &image), PAWL_OK) << pawl_last_error();
    std::memset(image, 1, 4096);

    EXPECT_EQ(end_of_child([&] { work_and_detach(std::move(run)); }), 0);
    EXPECT_EQ(end_of_child([&] { ::_exit(is_inert_here(run) ? 0 : 1); }), 0);
    EXPECT_EQ(end_of_child([&] { ::raise(SIGKILL); }), SIGKILL);
    EXPECT_EQ(end_of_child([&] { ::_exit(held_descriptors()); }), 1) << "the fake daemon's alone";
    EXPECT_EQ(end_of_child([&] { *static_cast<volatile char*>(image) = 2; }), SIGSEGV)
        << "an arena is not in a worker";
    EXPECT_EQ(
        end_of_child([&] { ::_exit(end_of_child([&] { ::_exit(is_inert_here(run) ? 0 : 1); })); }),
        0)
        << "a worker's worker";

    EXPECT_EQ(pawl_snapshot_seal(run.get(), nullptr, 0), PAWL_OK) << pawl_last_error();
}

// A child made by the kernel's own call, without the C library: no fork handler has run.
TEST_F(Forked, AChildThatTheCLibraryDoesNotKnowOfIsInertToo) {
    OwnedRun run = attach_standalone();
    ASSERT_NE(run, nullptr) << pawl_last_error();
    clone_args arguments{};
    arguments.exit_signal = SIGCHLD;

    const long child = ::syscall(SYS_clone3, &arguments, sizeof arguments);
    if (child == 0) {
        work_and_detach(std::move(run));
        ::_exit(held_descriptors());
    }
    ASSERT_GT(child, 0);
    int status = 0;
    ::waitpid(static_cast<pid_t>(child), &status, 0);

    EXPECT_EQ(status, 0);
    EXPECT_TRUE(is_locked());
    EXPECT_EQ(step(run, 1), (Outcome{}));
}

// A launcher that attached (or whose parent did) and forks trainers.
TEST_F(Forked, AChildMayAttachARunOfItsOwn) {
    const OwnedRun run = attach_standalone();
    ASSERT_NE(run, nullptr) << pawl_last_error();
    const std::string other = place_.path() + "/other";

    const int end = end_of_child([&] {
        pawl_attach_options options{};
        options.struct_size = sizeof options;
        options.checkpoint_directory = other.c_str();
        options.every_steps = 1;
        const OwnedRun own = attach(&options);
        if (own == nullptr) ::_exit(2);
        if (step(own, 1).actions != std::uint32_t{PAWL_TAKE_SNAPSHOT}) ::_exit(3);
        if (!is_inert_here(run)) ::_exit(4);
        ::_exit(0);
    });

    EXPECT_EQ(end, 0);
    EXPECT_EQ(step(run, 1), (Outcome{}));
}

// ---- workers that outlive their trainer ----

// A trainer that `begin`s and forks a worker, which tells its pid; both wait to be killed.
class Trainer {
public:
    template <class Begin>
    explicit Trainer(const Begin& begin) {
        std::array<int, 2> ends{};
        EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
        const UniqueFd reader(ends[0]);
        UniqueFd writer(ends[1]);
        pid_ = ::fork();
        if (pid_ == 0) {
            auto* const run = new OwnedRun(begin());
            if (*run == nullptr) ::_exit(2);
            if (::fork() == 0) {
                const pid_t worker = ::getpid();
                std::ignore = ::write(writer.get(), &worker, sizeof worker);
            }
            while (true)
                ::pause();
        }
        writer.reset();
        EXPECT_EQ(::read(reader.get(), &worker_, sizeof worker_), long{sizeof worker_});
    }
    ~Trainer() {
        kill_trainer();
        if (worker_ > 0) ::kill(worker_, SIGKILL);
    }
    Trainer(const Trainer&) = delete;
    Trainer& operator=(const Trainer&) = delete;

    void kill_trainer() {
        if (pid_ <= 0) return;
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
        pid_ = 0;
    }
    [[nodiscard]] bool worker_lives() const { return worker_ > 0 && ::kill(worker_, 0) == 0; }

private:
    pid_t pid_ = 0;
    pid_t worker_ = 0;
};

TEST_F(Forked, AKilledTrainersSessionEndsThoughAWorkerLivesOn) {
    std::atomic<bool> has_hung_up{false};
    FakeDaemon daemon([&](FakeSession& rank) {
        rank.attach();
        EXPECT_FALSE(rank.receive().has_value());
        has_hung_up = true;
    });
    Trainer trainer([] { return attach(); });

    EXPECT_FALSE(has_hung_up) << "it is attached";
    trainer.kill_trainer();
    daemon.join();

    EXPECT_TRUE(has_hung_up);
    EXPECT_TRUE(trainer.worker_lives());
}

TEST_F(Forked, AKilledTrainersDirectoryIsFreeThoughAWorkerLivesOn) {
    Trainer trainer([&] { return attach_standalone(); });

    EXPECT_TRUE(is_locked());
    trainer.kill_trainer();

    EXPECT_FALSE(is_locked());
    EXPECT_TRUE(trainer.worker_lives());
    EXPECT_NE(attach_standalone(), nullptr) << pawl_last_error();
}

}  // namespace
}  // namespace pawl::client
