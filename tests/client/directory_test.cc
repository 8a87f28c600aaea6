// A standalone run and the directory it writes to, which is missing, read-only, full, a link, taken
// away or put in another's place: an error that says so, and training goes on.
#include "base/fd.h"
#include "tests/checkpoint/sample.h"
#include "tests/client/run_fixture.h"
#include "tests/fakes/temporary_directory.h"

#include <gmock/gmock.h>

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <array>
#include <cstring>
#include <filesystem>

namespace pawl::client {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

constexpr std::size_t kSmall = 64;

class StandaloneDirectory : public testing::Test {
protected:
    [[nodiscard]] OwnedRun attach_here() const {
        pawl_attach_options options{};
        options.struct_size = sizeof options;
        options.checkpoint_directory = directory_.c_str();
        options.every_steps = 1;
        return attach(&options);
    }
    static Outcome save(const OwnedRun& run, std::uint64_t number, std::size_t bytes = kSmall) {
        Outcome outcome = step(run, number);
        EXPECT_EQ(outcome.actions, std::uint32_t{PAWL_TAKE_SNAPSHOT}) << outcome.error;
        const auto image = checkpoint::sample_image(bytes, 1);
        void* memory = nullptr;
        outcome.code = pawl_snapshot_begin(run.get(), image.size(), &memory);
        if (outcome.code == PAWL_OK) {
            std::memcpy(memory, image.data(), image.size());
            outcome.code = pawl_snapshot_seal(run.get(), nullptr, 0);
        }
        outcome.error = pawl_last_error();
        return outcome;
    }
    // What a child says (write_line) before its end.
    template <class Body>
    static std::string said_by_child(const Body& body) {
        std::array<int, 2> ends{};
        EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
        const UniqueFd reader(ends[0]);
        UniqueFd writer(ends[1]);
        EXPECT_EQ(end_of_child([&] {
                      const std::string text = body();
                      std::ignore = ::write(writer.get(), text.data(), text.size());
                  }),
                  0);
        writer.reset();
        std::array<char, 4096> text{};
        const ssize_t bytes = ::read(reader.get(), text.data(), text.size());
        return {text.data(), static_cast<std::size_t>(std::max<ssize_t>(bytes, 0))};
    }

    fakes::TemporaryDirectory place_;
    std::string directory_ = place_.path() + "/checkpoints";
};

TEST_F(StandaloneDirectory, IsMadeWithItsParentsWhereItIsMissing) {
    directory_ = place_.path() + "/a/b/c";

    EXPECT_EQ(save(attach_here(), 1).code, PAWL_OK);
    EXPECT_TRUE(std::filesystem::exists(directory_ + "/000001-step-1/manifest.json"));
}

TEST_F(StandaloneDirectory, MayBeALinkToOne) {
    std::filesystem::create_directory(place_.path() + "/elsewhere");
    std::filesystem::create_symlink("elsewhere", directory_);

    EXPECT_EQ(save(attach_here(), 1).code, PAWL_OK);
    EXPECT_TRUE(std::filesystem::exists(place_.path() + "/elsewhere/000001-step-1"));
}

TEST_F(StandaloneDirectory, ThatIsAFileOrALinkToNothingIsRefusedByName) {
    std::filesystem::create_symlink("nowhere", directory_);
    EXPECT_EQ(attach_here(), nullptr);
    EXPECT_THAT(pawl_last_error(), AllOf(StartsWith("pawl_attach: cannot use the checkpoint "
                                                    "directory"),
                                         HasSubstr(directory_)));

    std::filesystem::remove(directory_);
    UniqueFd(::open(directory_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
    EXPECT_EQ(attach_here(), nullptr);
    EXPECT_THAT(pawl_last_error(), HasSubstr("is no directory"));
}

TEST_F(StandaloneDirectory, ThatIsReadOnlyIsRefusedByName) {
    std::filesystem::create_directory(directory_);
    ASSERT_EQ(::chmod(place_.path().c_str(), 0755), 0);
    ASSERT_EQ(::chmod(directory_.c_str(), 0555), 0);

    const std::string said = said_by_child([&] {
        constexpr uid_t kNobody = 65534;
        if (::geteuid() == 0 && ::setresuid(kNobody, kNobody, kNobody) != 0) return std::string();
        return attach_here() == nullptr ? std::string(pawl_last_error()) : "it was attached";
    });

    EXPECT_THAT(said, AllOf(HasSubstr("cannot use the checkpoint directory"), HasSubstr(directory_),
                            HasSubstr("Permission denied")));
}

TEST_F(StandaloneDirectory, ThatIsTakenAwayCostsCheckpointsAndNotTheTraining) {
    const OwnedRun run = attach_here();
    ASSERT_EQ(save(run, 1).code, PAWL_OK);
    std::filesystem::remove_all(directory_);

    const Outcome saved = save(run, 2);

    EXPECT_EQ(saved.code, PAWL_E_NOT_FOUND);
    EXPECT_THAT(saved.error,
                AllOf(StartsWith("pawl_snapshot_seal: "), HasSubstr(directory_),
                      HasSubstr("removed or replaced"), HasSubstr("Training goes on")));
    EXPECT_EQ(step(run, 3).code, PAWL_OK);
    EXPECT_FALSE(std::filesystem::exists(directory_)) << "where no lock is held";
}

TEST_F(StandaloneDirectory, ThatIsPutInAnothersPlaceIsNotWrittenTo) {
    const OwnedRun run = attach_here();
    ASSERT_EQ(save(run, 1).code, PAWL_OK);
    std::filesystem::rename(directory_, directory_ + ".old");
    const OwnedRun other = attach_here();
    ASSERT_NE(other, nullptr) << pawl_last_error();

    EXPECT_EQ(save(run, 2).code, PAWL_E_NOT_FOUND);
    EXPECT_EQ(save(other, 1).code, PAWL_OK);
    EXPECT_FALSE(std::filesystem::exists(directory_ + "/000002-step-2"));
    std::filesystem::rename(directory_, directory_ + ".new");
    std::filesystem::rename(directory_ + ".old", directory_);
    EXPECT_EQ(save(run, 3).code, PAWL_OK) << "it is back";
}

TEST_F(StandaloneDirectory, ThatIsFullCostsThatCheckpointAndTheNextFitsAgain) {
    std::filesystem::create_directory(directory_);

    const std::string said = said_by_child([&]() -> std::string {
        // A file system of a MiB, in this child's world only.
        if (::unshare(CLONE_NEWNS) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
            return "skip: no mount namespace";
        if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
            ::mount("small", directory_.c_str(), "tmpfs", 0, "size=1m") != 0) {
            return "skip: no mount";
        }
        const OwnedRun run = attach_here();
        if (run == nullptr) return std::string("attach: ") + pawl_last_error();
        if (save(run, 1).code != PAWL_OK) return std::string("first: ") + pawl_last_error();
        const Outcome full = save(run, 2, 1 << 20);
        if (full.code != PAWL_E_NO_SPACE) return "code: " + full.error;
        const Outcome next = save(run, 3);
        if (next.code != PAWL_OK) return "next: " + next.error;
        return full.error;
    });

    if (said.starts_with("skip: ")) GTEST_SKIP() << said;
    EXPECT_THAT(said, AllOf(StartsWith("pawl_snapshot_seal: "), HasSubstr("No space left"),
                            HasSubstr("Training goes on")));
}

TEST_F(StandaloneDirectory, AFinalStateThatCouldNotBeWrittenIsNotCalledDurable) {
    const OwnedRun run = attach_here();
    step(run, 7);
    std::uint32_t actions = 0;
    ASSERT_EQ(pawl_finish(run.get(), &actions), PAWL_OK);
    ASSERT_EQ(actions, std::uint32_t{PAWL_TAKE_SNAPSHOT});

    EXPECT_EQ(pawl_finish_wait(run.get()), PAWL_E_IO);
    EXPECT_THAT(pawl_last_error(), HasSubstr("step 7, epoch 0) is not durable"));
    EXPECT_EQ(save(run, 7).code, PAWL_OK);
    EXPECT_EQ(pawl_finish_wait(run.get()), PAWL_OK) << pawl_last_error();
}

TEST_F(StandaloneDirectory, WrongVariablesAreRefusedByNameAndChangeNothing) {
    struct Case {
        const char* name;
        std::string value;
    };
    for (const Case& one :
         {Case{"PAWL_JOB", "a/b"}, Case{"PAWL_JOB", ".hidden"}, Case{"PAWL_JOB", "\xff"},
          Case{"WORLD_SIZE", "0"}, Case{"PAWL_EVERY_MS", "18446744073709551615"},
          Case{"PAWL_EVERY_STEPS", "0x10"}, Case{"PAWL_KEEP_LAST", "4294967296"}}) {
        const Setting setting(one.name, one.value);

        EXPECT_EQ(attach_here(), nullptr) << one.name << "=" << one.value;
        EXPECT_THAT(pawl_last_error(), AllOf(StartsWith("pawl_attach: "), HasSubstr(one.name),
                                             HasSubstr(one.value), HasSubstr("nothing was done")));
        EXPECT_FALSE(std::filesystem::exists(directory_));
    }
}

}  // namespace
}  // namespace pawl::client
