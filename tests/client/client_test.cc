// libpawl through its public headers: standalone runs, and attaching where there is nothing to
// attach to.
#include "checkpoint/store.h"
#include "tests/checkpoint/sample.h"
#include "tests/fakes/temporary_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pawl/pawl.hpp>

#include <cstdlib>
#include <cstring>

extern "C" int pawl_abi_check(const char* directory, const void* image, std::uint64_t image_bytes);

namespace pawl {
namespace {

using testing::HasSubstr;

// Set for a test, and as it was afterwards.
class Variable {
public:
    Variable(const char* name, const std::string& value) : name_(name) {
        ::setenv(name, value.c_str(), 1);
    }
    ~Variable() { ::unsetenv(name_); }
    Variable(const Variable&) = delete;
    Variable& operator=(const Variable&) = delete;

private:
    const char* name_;
};

struct Standalone {
    fakes::TemporaryDirectory place;
    std::string directory = place.path() + "/checkpoints";

    [[nodiscard]] pawl_attach_options options() const {
        pawl_attach_options options{};
        options.struct_size = sizeof options;
        options.checkpoint_directory = directory.c_str();
        options.every_steps = 10;
        options.keep_last = 2;
        return options;
    }
    [[nodiscard]] std::vector<checkpoint::Listed> listed() const {
        const auto fs = make_posix_file_system();
        return checkpoint::list_checkpoints(*fs, directory)
            .value_or(std::vector<checkpoint::Listed>{});
    }
};

void take(pawl::Run& run, const std::vector<std::byte>& image) {
    void* const memory = run.snapshot_begin(image.size());
    ASSERT_NE(memory, nullptr);
    std::memcpy(memory, image.data(), image.size());
    ASSERT_TRUE(run.snapshot_seal({{"accuracy", 0.5}})) << pawl_last_error();
}

std::string attach_error(const pawl_attach_options& options) {
    try {
        const pawl::Run run(options);
    } catch (const RunError& error) {
        return error.what();
    }
    return "";
}

TEST(CAbi, IsUsableFromC11) {
    const fakes::TemporaryDirectory place;

    const auto image = checkpoint::sample_image(64, 1);

    EXPECT_EQ(pawl_abi_check((place.path() + "/checkpoints").c_str(), image.data(), image.size()),
              0)
        << "the line in abi.c that does not hold";
}

TEST(StandaloneRun, ResumesTheBytesThatItSavedWithTheirCrcsFilledIn) {
    const Standalone at;
    const std::vector<std::byte> image = checkpoint::sample_image(512, 3);
    {
        pawl::Run run(at.options());
        ASSERT_FALSE(run.step(9, 0).take_snapshot);
        ASSERT_TRUE(run.step(10, 1).take_snapshot);
        take(run, image);
    }

    pawl::Run run(at.options());
    const pawl_resume resume = run.resume();

    ASSERT_NE(resume.image, nullptr);
    EXPECT_EQ(resume.step, 10u);
    EXPECT_EQ(resume.epoch, 1u);
    EXPECT_EQ(resume.sequence, 1u);
    std::vector<std::byte> expected = image;
    ASSERT_TRUE(torchfile::fill_crcs(expected));
    ASSERT_EQ(resume.image_bytes, expected.size());
    EXPECT_EQ(std::memcmp(resume.image, expected.data(), expected.size()), 0);
}

TEST(StandaloneRun, KeepsAsManyAsItWasTold) {
    const Standalone at;
    pawl::Run run(at.options());
    for (std::uint64_t step = 10; step <= 50; step += 10) {
        ASSERT_TRUE(run.step(step, 0).take_snapshot);
        take(run, checkpoint::sample_image(64, static_cast<unsigned>(step)));
    }

    const auto listed = at.listed();

    ASSERT_EQ(listed.size(), 2u);
    EXPECT_EQ(listed[0].name.step, Step{50});
    EXPECT_EQ(listed[1].name.step, Step{40});
}

TEST(StandaloneRun, IsRefusedWhileAnotherHasTheDirectory) {
    const Standalone at;
    const pawl::Run first(at.options());

    EXPECT_THAT(attach_error(at.options()), HasSubstr("another pawl holds"));
}

TEST(StandaloneRun, TakesTheEnvironmentOverItsOptions) {
    const Standalone at;
    const Variable every("PAWL_EVERY_STEPS", "3");
    pawl::Run run(at.options());

    EXPECT_FALSE(run.step(2, 0).take_snapshot);
    EXPECT_TRUE(run.step(3, 0).take_snapshot);
}

TEST(StandaloneRun, SavesAtEpochsEndsWhenAskedTo) {
    const Standalone at;
    pawl_attach_options options = at.options();
    options.every_steps = 0;
    options.every_epochs = 2;
    pawl::Run run(options);

    EXPECT_FALSE(run.step(100, 0).take_snapshot);
    EXPECT_FALSE(run.epoch_end(100, 1, 0.5, {}).take_snapshot);
    EXPECT_TRUE(run.epoch_end(200, 2, 0.5, {}).take_snapshot);
}

TEST(StandaloneRun, AFinalSnapshotIsTakenUnlessThatMomentIsDurable) {
    const Standalone at;
    pawl::Run run(at.options());
    std::ignore = run.step(7, 0);
    ASSERT_TRUE(run.finish().take_snapshot);
    take(run, checkpoint::sample_image(64, 7));
    ASSERT_TRUE(run.finish_wait());

    EXPECT_FALSE(run.finish().take_snapshot);
}

TEST(StandaloneRun, DoesNotBeginAgainWhereAllCheckpointsAreDamaged) {
    const Standalone at;
    {
        pawl::Run run(at.options());
        ASSERT_TRUE(run.step(10, 0).take_snapshot);
        take(run, checkpoint::sample_image(64, 1));
    }
    std::filesystem::resize_file(at.directory + "/000001-step-10/rank-00000.pt", 100);

    EXPECT_THAT(attach_error(at.options()), HasSubstr("no valid checkpoint is left"));
    EXPECT_THAT(attach_error(at.options()), HasSubstr("no valid checkpoint is left"));
}

TEST(Attach, SaysWhatIsWrongWithTheEnvironment) {
    const Standalone at;
    {
        const Variable every("PAWL_EVERY_STEPS", "often");
        EXPECT_THAT(attach_error(at.options()),
                    HasSubstr("PAWL_EVERY_STEPS='often' is no whole number"));
    }
    {
        const Variable world("WORLD_SIZE", "2");
        EXPECT_THAT(attach_error(at.options()), HasSubstr("pawl run --ranks 2"));
    }
    const Variable socket("PAWL_SOCKET", at.place.path() + "/nobody.sock");
    EXPECT_THAT(attach_error(at.options()), HasSubstr("cannot attach to pawld at"));
}

TEST(Attach, TakesAnOptionsStructOfAnOlderHeader) {
    const Standalone at;
    const Variable directory("PAWL_CHECKPOINT_DIRECTORY", at.directory);
    pawl_attach_options options = at.options();
    options.struct_size = offsetof(pawl_attach_options, checkpoint_directory);
    options.checkpoint_directory = "/must/not/be/read";

    EXPECT_EQ(attach_error(options), "");
}

}  // namespace
}  // namespace pawl
