// What an arena may take, by files as the kernel writes them.
#include "staging/available_memory.h"

#include "tests/fakes/temporary_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace pawl::staging {
namespace {

constexpr std::uint64_t kMiB = 1024 * 1024;

class MemoryLeft : public testing::Test {
protected:
    void write(const std::string& path, const std::string& text) {
        const std::filesystem::path whole = directory_.path() + path;
        std::filesystem::create_directories(whole.parent_path());
        std::ofstream(whole) << text;
    }
    [[nodiscard]] std::string root() const { return directory_.path(); }

    fakes::TemporaryDirectory directory_;
};

TEST_F(MemoryLeft, IsWhatTheMachineSaysWhereNoCgroupHasALimit) {
    write("/proc/meminfo", "MemTotal:  2000 kB\nMemAvailable:  1000 kB\n");
    write("/proc/self/cgroup", "0::/a\n");
    write("/sys/fs/cgroup/a/memory.max", "max\n");
    write("/sys/fs/cgroup/a/memory.current", "5\n");

    const auto left = available_memory(root());

    ASSERT_TRUE(left.has_value());
    EXPECT_EQ(left->bytes, 1000u * 1024);
    EXPECT_EQ(left->of, "the machine");
}

TEST_F(MemoryLeft, IsThatOfTheTightestCgroupAboveUs) {
    write("/proc/meminfo", "MemAvailable:  900000000 kB\n");
    write("/proc/self/cgroup", "0::/slice/job\n");
    write("/sys/fs/cgroup/slice/job/memory.max", "max\n");
    write("/sys/fs/cgroup/slice/job/memory.current", "5\n");
    write("/sys/fs/cgroup/slice/memory.max", "1000\n");
    write("/sys/fs/cgroup/slice/memory.current", "700\n");
    write("/sys/fs/cgroup/slice/memory.stat", "anon 400\nactive_file 100\ninactive_file 200\n");

    const auto left = available_memory(root());

    ASSERT_TRUE(left.has_value());
    EXPECT_EQ(left->bytes, 500u) << "clean file pages make room";
    EXPECT_EQ(left->of, "cgroup '/slice'");
}

TEST_F(MemoryLeft, IsThatOfACgroupOfVersion1) {
    write("/proc/meminfo", "MemAvailable:  900000000 kB\n");
    write("/proc/self/cgroup", "5:devices:/x\n4:cpu,memory:/box\n0::/\n");
    write("/sys/fs/cgroup/memory/box/memory.limit_in_bytes", "1000\n");
    write("/sys/fs/cgroup/memory/box/memory.usage_in_bytes", "1200\n");
    write("/sys/fs/cgroup/memory/box/memory.stat", "total_inactive_file 300\n");

    const auto left = available_memory(root());

    ASSERT_TRUE(left.has_value());
    EXPECT_EQ(left->bytes, 100u);
}

TEST_F(MemoryLeft, IsNotKnownWhereNothingSays) {
    EXPECT_FALSE(available_memory(root()).has_value());
    EXPECT_TRUE(check_fits(kMiB, std::nullopt).has_value());
}

TEST_F(MemoryLeft, OfThisMachineIsMoreThanNothing) {
    const auto left = available_memory();

    ASSERT_TRUE(left.has_value());
    EXPECT_GT(left->bytes, 0u);
}

TEST_F(MemoryLeft, KeepsAReserveAndSaysWhoseLimitItIs) {
    const AvailableMemory available{.bytes = 100 * kMiB, .of = "cgroup '/slice'"};

    EXPECT_TRUE(check_fits(60 * kMiB, available).has_value());
    const auto refused = check_fits(80 * kMiB, available);

    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().kind(), ErrorKind::kNoSpace);
    EXPECT_EQ(refused.error().message(),
              "an arena of 80.0 MiB does not fit: cgroup '/slice' has 100.0 MiB left, of which "
              "32.0 MiB are kept free");
    EXPECT_FALSE(check_fits(~std::uint64_t{0}, available).has_value());
    EXPECT_FALSE(check_fits(1, AvailableMemory{.bytes = 0, .of = "x"}).has_value());
}

}  // namespace
}  // namespace pawl::staging
