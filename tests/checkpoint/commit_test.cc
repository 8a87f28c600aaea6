// The commit against a disk that forgets, fills up and fails: the old checkpoint or the new one,
// whole.
#include "checkpoint/commit.h"

#include "checkpoint/store.h"
#include "checkpoint/verify.h"
#include "tests/checkpoint/sample.h"
#include "tests/fakes/fake_file_system.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <errno.h>

#include <cstring>

namespace pawl::checkpoint {
namespace {

using fakes::FakeFileSystem;
using testing::AnyOf;
using testing::HasSubstr;

constexpr std::size_t kDisksMax = 256;
constexpr std::uint64_t kSeed = 20261124;

const std::vector<std::byte>& image_of_step(unsigned step) {
    static const std::vector<std::byte> images[] = {sample_image(4096, 41), sample_image(4096, 42)};
    return images[step - 41];
}

Result<Manifest> commit_step(FileSystem& fs, unsigned step) {
    return commit(fs, "/ckpt", sample_manifest(step, step),
                  {{.rank = Rank{0}, .bytes = image_of_step(step)}});
}

FakeFileSystem disk_holding_41() {
    FakeFileSystem disk;
    EXPECT_TRUE(disk.create_directory("/ckpt"));
    EXPECT_TRUE(commit_step(disk, 41));
    disk.sync_everything();
    return disk;
}

// The newest valid sequence on a disk, found as a restart finds it.
std::uint64_t newest_valid(FakeFileSystem& disk) {
    SystemClock clock;
    NoLedger ledger;
    Store store(disk, clock, ledger, "/ckpt", "lm");
    EXPECT_TRUE(store.open());
    const auto choice = store.choose();
    EXPECT_TRUE(choice.has_value()) << choice.error().text();
    return choice && choice->chosen ? choice->chosen->sequence.value : 0;
}

int operations_of_one_commit() {
    FakeFileSystem disk = disk_holding_41();
    const int before = disk.operations_done();
    EXPECT_TRUE(commit_step(disk, 42));
    return disk.operations_done() - before;
}

TEST(Commit, APowerCutAtAnyOperationLeavesTheOldOrTheNewCheckpointWhole) {
    const int operations = operations_of_one_commit();
    ASSERT_GT(operations, 8);
    for (int operation = 0; operation <= operations; ++operation) {
        FakeFileSystem disk = disk_holding_41();
        disk.cut_power_before(disk.operations_done() + operation);
        const bool is_reported_durable = commit_step(disk, 42).has_value();

        for (FakeFileSystem& after : disk.possible_disks(kDisksMax, kSeed)) {
            SCOPED_TRACE(
                fmt::format("power cut before operation {}:\n{}", operation, after.history()));
            const std::uint64_t resumed = newest_valid(after);
            if (is_reported_durable) {
                EXPECT_EQ(resumed, 42u);
            }
            EXPECT_THAT(resumed, AnyOf(41u, 42u));
        }
    }
}

class FailingOperation : public testing::TestWithParam<int> {};

TEST_P(FailingOperation, LosesNothingAndSaysWhatItWasDoing) {
    const int operations = operations_of_one_commit();
    for (int operation = 0; operation < operations; ++operation) {
        FakeFileSystem disk = disk_holding_41();
        disk.fail_at(disk.operations_done() + operation, GetParam());
        const auto committed = commit_step(disk, 42);

        SCOPED_TRACE(fmt::format("operation {} fails:\n{}", operation, disk.history()));
        ASSERT_FALSE(committed.has_value());
        EXPECT_THAT(committed.error().text(),
                    HasSubstr("commit checkpoint 42 of job 'lm' in '/ckpt'"));
        EXPECT_THAT(newest_valid(disk), AnyOf(41u, 42u));
        for (FakeFileSystem& after : disk.possible_disks(kDisksMax, kSeed)) {
            EXPECT_THAT(newest_valid(after), AnyOf(41u, 42u));
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Codes, FailingOperation, testing::Values(ENOSPC, EIO));

TEST(Commit, AnAttemptThatFailedLeavesNoTemporaryDirectory) {
    FakeFileSystem disk = disk_holding_41();
    disk.fail_at(disk.operations_done() + 3, EIO);
    ASSERT_FALSE(commit_step(disk, 42));

    const auto entries = disk.list_directory("/ckpt");

    ASSERT_EQ(entries->size(), 1u);
    EXPECT_EQ(entries->front().name, "000041-step-41");
}

TEST(Commit, AnImageThatIsNoTorchFileIsRefused) {
    FakeFileSystem disk = disk_holding_41();
    const std::vector<std::byte> rubbish(5000, std::byte{7});

    const auto committed =
        commit(disk, "/ckpt", sample_manifest(42, 42), {{.rank = Rank{0}, .bytes = rubbish}});

    ASSERT_FALSE(committed.has_value());
    EXPECT_THAT(committed.error().text(), HasSubstr("snapshot of rank 0 as a torch.save file"));
    EXPECT_EQ(newest_valid(disk), 41u);
}

// A zip without data descriptors, as other writers make them: flag bit 3 is taken out, the CRC of
// each record stands in its local header and is `right` or zero.
std::vector<std::byte> image_without_descriptors(bool right) {
    std::vector<std::byte> image = sample_image(256, 9);
    EXPECT_TRUE(torchfile::fill_crcs(image));
    const auto directory = torchfile::read_directory(MemorySource(image));
    for (const torchfile::Record& record : directory->records) {
        const std::uint64_t central = record.central_crc_offset - 16;
        std::uint32_t local = 0;
        std::uint64_t offset = 0;
        std::memcpy(&offset, image.data() + central + 46 + record.name.size() + 4 + 16, 8);
        std::memcpy(&local, image.data() + offset, 4);
        EXPECT_EQ(local, 0x04034b50u);
        image[central + 8] &= ~std::byte{8};
        image[offset + 6] &= ~std::byte{8};
        const std::uint32_t crc = right ? record.crc : 0;
        const auto size = static_cast<std::uint32_t>(record.data.bytes);
        std::memcpy(image.data() + offset + 14, &crc, 4);
        std::memcpy(image.data() + offset + 18, &size, 4);
        std::memcpy(image.data() + offset + 22, &size, 4);
        std::memcpy(image.data() + central + 16, &crc, 4);
    }
    return image;
}

TEST(Commit, RecordsThatStateTheirCrcThemselvesMustStateTheRightOne) {
    FakeFileSystem disk = disk_holding_41();
    const auto right = image_without_descriptors(true);
    const auto wrong = image_without_descriptors(false);

    const auto good =
        commit(disk, "/ckpt", sample_manifest(42, 42), {{.rank = Rank{0}, .bytes = right}});
    const auto bad =
        commit(disk, "/ckpt", sample_manifest(43, 43), {{.rank = Rank{0}, .bytes = wrong}});

    ASSERT_TRUE(good.has_value()) << good.error().text();
    EXPECT_EQ(disk.content("/ckpt/000042-step-42/rank-00000.pt"), right);
    ASSERT_FALSE(bad.has_value());
    EXPECT_THAT(bad.error().text(), HasSubstr("has CRC"));
    EXPECT_EQ(newest_valid(disk), 42u);
}

TEST(Commit, AHeaderThatStatesAnotherCrcThanItsRecordHasIsNeverMadeDurable) {
    FakeFileSystem disk = disk_holding_41();
    auto image = sample_image(100, 7);
    const auto directory = torchfile::read_directory(MemorySource(image));
    ASSERT_TRUE(directory.has_value());
    // In the local header of the first record and in the directory: they agree, and are wrong.
    for (const std::uint64_t at :
         {std::uint64_t{14}, directory->records.front().central_crc_offset}) {
        std::memcpy(image.data() + at, "\x01\x02\x03\x04", 4);
    }

    const auto bad =
        commit(disk, "/ckpt", sample_manifest(42, 42), {{.rank = Rank{0}, .bytes = image}});

    ASSERT_FALSE(bad.has_value());
    EXPECT_THAT(bad.error().text(), HasSubstr("states 04030201 in its header"));
    EXPECT_EQ(newest_valid(disk), 41u);
}

TEST(Commit, NeverReplacesACheckpointOfTheSameName) {
    FakeFileSystem disk = disk_holding_41();

    const auto committed = commit(disk, "/ckpt", sample_manifest(41, 41),
                                  {{.rank = Rank{0}, .bytes = image_of_step(42)}});

    ASSERT_FALSE(committed.has_value());
    EXPECT_EQ(committed.error().kind(), ErrorKind::kAlreadyExists);
    EXPECT_EQ(newest_valid(disk), 41u);
}

// Sizes around the chunk's border, so that data, descriptors and the directory lie across it.
class ImageSize : public testing::TestWithParam<std::uint64_t> {};

TEST_P(ImageSize, IsWrittenWithRightDigestsAndCrcs) {
    FakeFileSystem disk;
    ASSERT_TRUE(disk.create_directory("/ckpt"));
    const std::vector<std::byte> image = sample_image(GetParam(), 1);

    const auto committed =
        commit(disk, "/ckpt", sample_manifest(1, 1), {{.rank = Rank{0}, .bytes = image}});
    ASSERT_TRUE(committed.has_value()) << committed.error().text();

    const std::vector<std::byte> written = disk.content("/ckpt/000001-step-1/rank-00000.pt");
    const auto directory = torchfile::read_directory(MemorySource(written));
    ASSERT_TRUE(directory.has_value()) << directory.error().text();
    const auto damaged = torchfile::first_damaged_record(MemorySource(written), *directory);
    ASSERT_TRUE(damaged.has_value()) << damaged.error().text();
    EXPECT_FALSE(damaged->has_value());
    for (const torchfile::Record& record : directory->records)
        EXPECT_NE(record.crc, 0u) << record.name;
    std::vector<std::byte> filled = image;
    ASSERT_TRUE(torchfile::fill_crcs(filled));
    EXPECT_EQ(written, filled);
    EXPECT_EQ(committed->files.front().chunks.size(),
              (image.size() + kChunkBytes - 1) / kChunkBytes);
    const auto verification = verify(disk, "/ckpt/000001-step-1");
    EXPECT_TRUE(verification->is_valid());
}

std::vector<std::uint64_t> sizes_around_a_chunk() {
    std::vector<std::uint64_t> sizes = {
        4, 64, 65536, kChunkBytes, kChunkBytes + 4, 2 * kChunkBytes};
    // The first tensor's data descriptor slides across the border of the first chunk.
    for (std::uint64_t back = 0; back < 64; back += 4)
        sizes.push_back(kChunkBytes - 4096 - back);
    // And the end of the file, with the central directory, does.
    for (std::uint64_t back = 0; back < 1200; back += 60)
        sizes.push_back(kChunkBytes / 2 - 4096 - back);
    return sizes;
}

INSTANTIATE_TEST_SUITE_P(AroundAChunk, ImageSize, testing::ValuesIn(sizes_around_a_chunk()));

TEST(Commit, HoldsTheFilesOfAllRanks) {
    FakeFileSystem disk;
    ASSERT_TRUE(disk.create_directory("/ckpt"));
    Manifest manifest = sample_manifest(1, 10);
    manifest.world_size = 2;
    const std::vector<std::byte> first = sample_image(64, 1);
    const std::vector<std::byte> second = sample_image(128, 2);

    const auto committed =
        commit(disk, "/ckpt", manifest,
               {{.rank = Rank{0}, .bytes = first}, {.rank = Rank{1}, .bytes = second}});

    ASSERT_TRUE(committed.has_value()) << committed.error().text();
    EXPECT_EQ(committed->files[0].name, "rank-00000.pt");
    EXPECT_EQ(committed->files[1].name, "rank-00001.pt");
    EXPECT_EQ(committed->total_bytes(), first.size() + second.size());
    EXPECT_TRUE(verify(disk, "/ckpt/000001-step-10")->is_valid());
}

}  // namespace
}  // namespace pawl::checkpoint
