// A store whose disk fails one operation after the other: what each costs is that attempt. The same
// on real files and system calls: tests/e2e/test_faults.py.
#include "checkpoint/store.h"
#include "tests/checkpoint/sample.h"
#include "tests/fakes/fake_file_system.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <errno.h>

#include <algorithm>

namespace pawl::checkpoint {
namespace {

using fakes::FakeFileSystem;
using testing::HasSubstr;

constexpr std::size_t kDisksMax = 64;
constexpr std::uint64_t kSeed = 11;

struct Place {
    FakeFileSystem fs;
    SystemClock clock;
    NoLedger ledger;
    Store store{fs, clock, ledger, "/ckpt", "lm"};
    std::vector<std::byte> image = sample_image(256, 5);

    Place() {
        EXPECT_TRUE(store.open());
        EXPECT_TRUE(commit(10));
        fs.sync_everything();
    }
    Result<Committed> commit(std::uint64_t step) {
        return store.commit({.step = Step{step}}, {{.rank = Rank{0}, .bytes = image}},
                            {.keep_last = 1});
    }
};

int operations_of_one_commit() {
    Place place;
    const int before = place.fs.operations_done();
    EXPECT_TRUE(place.commit(20));
    return place.fs.operations_done() - before;
}

Step newest_valid(FakeFileSystem& disk) {
    SystemClock clock;
    NoLedger ledger;
    Store store(disk, clock, ledger, "/ckpt", "lm");
    EXPECT_TRUE(store.open());
    const auto choice = store.choose();
    return choice && choice->chosen ? choice->chosen->step : Step{0};
}

class FailingDisk : public testing::TestWithParam<int> {};

TEST_P(FailingDisk, CostsTheAttemptAndTheNextOneSucceedsUnderANewSequence) {
    const int operations = operations_of_one_commit();
    ASSERT_GT(operations, 12);
    for (int operation = 0; operation < operations; ++operation) {
        Place place;
        place.fs.fail_at(place.fs.operations_done() + operation, GetParam());

        const auto first = place.commit(20);
        const auto second = place.commit(30);

        SCOPED_TRACE(fmt::format("operation {} fails:\n{}", operation, place.fs.history()));
        ASSERT_TRUE(second.has_value()) << second.error().text();
        EXPECT_EQ(second->manifest.sequence, Sequence{3});
        if (first) {
            EXPECT_LE(first->warnings.size(), 1u);
        } else {
            EXPECT_THAT(first.error().text(), HasSubstr("commit checkpoint 2 of job 'lm'"));
        }
        for (FakeFileSystem& after : place.fs.possible_disks(kDisksMax, kSeed))
            EXPECT_EQ(newest_valid(after), Step{30}) << after.history();
    }
}

TEST_P(FailingDisk, NeverTakesTheCheckpointBeforeWhileItFails) {
    const int operations = operations_of_one_commit();
    for (int operation = 0; operation < operations; ++operation) {
        Place place;
        for (int later = operation; later < 4 * operations; ++later)
            place.fs.fail_at(place.fs.operations_done() + later, GetParam());

        const bool is_durable = place.commit(20).has_value();
        std::ignore = place.commit(30).has_value();

        for (FakeFileSystem& after : place.fs.possible_disks(kDisksMax, kSeed)) {
            SCOPED_TRACE(fmt::format("from operation {} on:\n{}", operation, after.history()));
            EXPECT_GE(newest_valid(after), is_durable ? Step{20} : Step{10});
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Codes, FailingDisk, testing::Values(ENOSPC, EIO));

TEST(Store, LatestFollowsOnceRetentionHasMadeRoomForIt) {
    Place counted;
    ASSERT_TRUE(counted.commit(20));
    const std::string history = counted.fs.history();
    const auto link = history.rfind("link /ckpt/latest to 000002-step-20");
    ASSERT_NE(link, std::string::npos) << history;
    const auto line = history.rfind('\n', link) + 1;
    Place place;
    place.fs.fail_at(std::stoi(history.substr(line)), ENOSPC);

    const auto committed = place.commit(20);

    ASSERT_TRUE(committed.has_value()) << committed.error().text();
    EXPECT_TRUE(committed->warnings.empty()) << committed->warnings.front();
    EXPECT_EQ(place.fs.link_target("/ckpt/latest"), "000002-step-20");
}

}  // namespace
}  // namespace pawl::checkpoint
