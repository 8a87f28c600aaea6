// Import, export and diff: what comes in is whole, what goes out was verified, what differs is
// named.
#include "checkpoint/transfer.h"

#include "checkpoint/commit.h"
#include "checkpoint/diff.h"
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
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using torchfile::Dict;
using torchfile::Document;
using torchfile::DType;
using torchfile::Tensor;

constexpr std::size_t kDisksMax = 64;
constexpr std::uint64_t kSeed = 3;

// A file image whose storages hold `bytes`, one list for each.
std::vector<std::byte> image_of(const Document& document,
                                const std::vector<std::vector<float>>& storages) {
    const auto plan = torchfile::plan_image(document, "archive");
    EXPECT_TRUE(plan.has_value()) << plan.error().text();
    std::vector<std::byte> image(plan->bytes);
    torchfile::lay_out(*plan, image);
    for (std::size_t i = 0; i < storages.size(); ++i) {
        std::memcpy(image.data() + plan->storages[i].offset, storages[i].data(),
                    storages[i].size() * sizeof(float));
    }
    EXPECT_TRUE(torchfile::fill_crcs(image));
    return image;
}

std::vector<std::byte> image_with_root(Dict root) {
    return image_of({.root = std::move(root)}, {});
}

// One float32 tensor 'w' over a storage of the given values.
std::vector<std::byte> image_of_tensor(const std::vector<float>& values, const Tensor& tensor,
                                       DType dtype = DType::kFloat32) {
    Document document;
    Dict root;
    root.set("w", tensor);
    document.root = std::move(root);
    document.storages.push_back({.key = "0", .dtype = dtype, .elements = values.size()});
    return image_of(document, {values});
}

// ---- import ----

TEST(Import, ReadsStepAndEpochWhereTheyAreWholeNumbers) {
    struct Case {
        const char* what;
        torchfile::Value step;
        std::optional<Step> expected;
    };
    for (const Case& one :
         {Case{"an integer", std::int64_t{7}, Step{7}}, Case{"a whole float", 7.0, Step{7}},
          Case{"half", 7.5, std::nullopt}, Case{"negative", std::int64_t{-1}, std::nullopt},
          Case{"a text", "7", std::nullopt}, Case{"nothing", torchfile::None{}, std::nullopt}}) {
        Dict root;
        root.set("step", one.step);
        root.set("epoch", std::int64_t{2});
        const std::vector<std::byte> image = image_with_root(std::move(root));

        const auto found = inspect_torch_file(MemorySource(image));

        ASSERT_TRUE(found.has_value()) << found.error().text();
        EXPECT_EQ(found->step, one.expected) << one.what;
        EXPECT_EQ(found->epoch, Epoch{2});
    }
}

TEST(Import, ABitFlippedInAnyRecordIsFoundByItsCrc) {
    const std::vector<std::byte> image =
        image_of_tensor({1, 2, 3, 4}, {.shape = {4}, .stride = {1}});
    const auto directory = torchfile::read_directory(MemorySource(image));
    ASSERT_TRUE(directory.has_value());
    for (const torchfile::Record& record : directory->records) {
        std::vector<std::byte> damaged = image;
        damaged[record.data.offset + record.data.bytes / 2] ^= std::byte{4};

        const auto found = inspect_torch_file(MemorySource(damaged));

        ASSERT_FALSE(found.has_value()) << record.name;
        EXPECT_THAT(found.error().text(), HasSubstr(record.name));
    }
}

// ---- export ----

FakeFileSystem disk_with_checkpoint(std::uint64_t ranks) {
    FakeFileSystem disk;
    EXPECT_TRUE(disk.create_directory("/ckpt"));
    EXPECT_TRUE(disk.create_directory("/out"));
    const std::vector<std::byte> image = sample_image(kChunkBytes, 3);
    std::vector<RankImage> images;
    for (std::uint64_t rank = 0; rank < ranks; ++rank)
        images.push_back({.rank = Rank{rank}, .bytes = image});
    Manifest manifest = sample_manifest(1, 10);
    manifest.world_size = ranks;
    EXPECT_TRUE(commit(disk, "/ckpt", manifest, images));
    disk.sync_everything();
    return disk;
}

TEST(Export, OfOneRankIsItsFileToTheByte) {
    FakeFileSystem disk = disk_with_checkpoint(1);

    const auto exported = export_checkpoint(disk, "/ckpt/000001-step-10", "/out/model.pt");

    ASSERT_TRUE(exported.has_value()) << exported.error().text();
    EXPECT_EQ(disk.content("/out/model.pt"), disk.content("/ckpt/000001-step-10/rank-00000.pt"));
    EXPECT_THAT(disk.list_directory("/out").value(), SizeIs(1));
}

TEST(Export, OfSeveralIsACheckpointDirectoryOfItsOwn) {
    FakeFileSystem disk = disk_with_checkpoint(3);

    ASSERT_TRUE(export_checkpoint(disk, "/ckpt/000001-step-10", "/out/model"));

    EXPECT_TRUE(verify(disk, "/out/model")->is_valid());
    EXPECT_THAT(disk.list_directory("/out/model").value(), SizeIs(4));
}

TEST(Export, OfADamagedOneLeavesNothing) {
    for (const std::uint64_t ranks : {1U, 3U}) {
        FakeFileSystem disk = disk_with_checkpoint(ranks);
        disk.flip_bit(fmt::format("/ckpt/000001-step-10/rank-{:05}.pt", ranks - 1),
                      kChunkBytes + 1000);

        const auto exported = export_checkpoint(disk, "/ckpt/000001-step-10", "/out/model");

        EXPECT_EQ(exported.error().kind(), ErrorKind::kCorrupt);
        EXPECT_THAT(exported.error().text(), HasSubstr("chunk 1"));
        EXPECT_THAT(disk.list_directory("/out").value(), IsEmpty());
    }
}

TEST(Export, NeverReplacesAnything) {
    FakeFileSystem disk = disk_with_checkpoint(1);
    ASSERT_TRUE(disk.create_directory("/out/model"));

    const auto exported = export_checkpoint(disk, "/ckpt/000001-step-10", "/out/model");

    EXPECT_EQ(exported.error().kind(), ErrorKind::kAlreadyExists);
    EXPECT_THAT(disk.list_directory("/out").value(), SizeIs(1));
}

TEST(Export, APowerCutAtAnyOperationLeavesTheWholeTargetOrNone) {
    for (const std::uint64_t ranks : {1U, 2U}) {
        FakeFileSystem counted = disk_with_checkpoint(ranks);
        const int before = counted.operations_done();
        ASSERT_TRUE(export_checkpoint(counted, "/ckpt/000001-step-10", "/out/model"));
        const int operations = counted.operations_done() - before;
        const std::vector<std::byte> whole = counted.content("/ckpt/000001-step-10/rank-00000.pt");
        for (int operation = 0; operation <= operations; ++operation) {
            FakeFileSystem disk = disk_with_checkpoint(ranks);
            disk.cut_power_before(disk.operations_done() + operation);
            const bool is_reported =
                export_checkpoint(disk, "/ckpt/000001-step-10", "/out/model").has_value();

            for (FakeFileSystem& after : disk.possible_disks(kDisksMax, kSeed)) {
                SCOPED_TRACE(fmt::format("before operation {}:\n{}", operation, after.history()));
                const bool is_there = after.status("/out/model").value().has_value();
                EXPECT_TRUE(is_there || !is_reported);
                if (!is_there) continue;
                if (ranks == 1) {
                    EXPECT_EQ(after.content("/out/model"), whole);
                } else {
                    EXPECT_TRUE(verify(after, "/out/model")->is_valid());
                }
            }
        }
    }
}

// ---- diff ----

FileDifferences diff(const std::vector<std::byte>& a, const std::vector<std::byte>& b) {
    auto found = diff_files(MemorySource(a), MemorySource(b));
    EXPECT_TRUE(found.has_value()) << found.error().text();
    return found ? std::move(*found) : FileDifferences{};
}

TEST(Diff, OfAFileWithItselfIsEmpty) {
    const auto image = sample_image(1 << 20, 3);

    const FileDifferences found = diff(image, image);

    EXPECT_THAT(found.differences, IsEmpty());
    EXPECT_EQ(found.values_equal, 3u);
    EXPECT_EQ(found.values_compared, 3u);
}

TEST(Diff, NamesKeysValuesAndTypesThatDiffer) {
    torchfile::List rates_a{{0.1, 0.2}};
    torchfile::List rates_b{{0.1, 0.3, 0.4}};
    Dict inner;
    inner.set("lr", 0.5);
    Dict a;
    a.set("step", std::int64_t{10});
    a.set("gone", inner);
    a.set("rates", rates_a);
    a.set("name", "x");
    a.set("same", true);
    Dict b;
    b.set("step", std::int64_t{20});
    b.set("rates", rates_b);
    b.set("name", torchfile::None{});
    b.set("same", true);
    b.set("new", "y");

    const FileDifferences found = diff(image_with_root(a), image_with_root(b));

    std::vector<std::string> lines;
    for (const Difference& one : found.differences)
        lines.push_back(fmt::format("{} {}: {} | {}", to_string(one.kind), one.path, one.a, one.b));
    EXPECT_THAT(lines,
                testing::ElementsAre("value step: 10 | 20", "only_in_a gone: dict | ",
                                     "shape rates: 2 items | 3 items", "value rates[1]: 0.2 | 0.3",
                                     "type name: str 'x' | None", "only_in_b new:  | str 'y'"));
    EXPECT_EQ(found.values_equal, 2u);
}

TEST(Diff, CountsTheElementsAndBytesOfATensorThatDiffer) {
    std::vector<float> values(3'000'000, 1.0F);
    const Tensor tensor{.shape = {3, 1'000'000}, .stride = {1'000'000, 1}};
    const auto a = image_of_tensor(values, tensor);
    values[0] = -1.0F;         // one byte: the sign
    values[2'999'999] = 2.0F;  // two bytes
    const auto b = image_of_tensor(values, tensor);

    const FileDifferences found = diff(a, b);

    ASSERT_THAT(found.differences, SizeIs(1));
    EXPECT_EQ(found.differences[0].path, "w");
    EXPECT_EQ(found.differences[0].tensor, "float32 [3, 1000000]");
    EXPECT_EQ(found.differences[0].elements, 3'000'000u);
    EXPECT_EQ(found.differences[0].elements_differing, 2u);
    EXPECT_EQ(found.differences[0].bytes_differing, 3u);
}

TEST(Diff, ComparesValuesWhateverTheStrides) {
    const auto straight = image_of_tensor({1, 2, 3, 4, 5, 6}, {.shape = {2, 3}, .stride = {3, 1}});
    const auto transposed =
        image_of_tensor({1, 4, 2, 5, 3, 6}, {.shape = {2, 3}, .stride = {1, 2}});
    const auto inside =
        image_of_tensor({9, 1, 2, 3, 4, 5, 7}, {.offset = 1, .shape = {2, 3}, .stride = {3, 1}});

    EXPECT_THAT(diff(straight, transposed).differences, IsEmpty());
    EXPECT_EQ(diff(transposed, inside).differences.at(0).elements_differing, 1u);
}

TEST(Diff, OtherShapesAndTypesAreNamedAndNotCompared) {
    const auto a = image_of_tensor({1, 2, 3, 4}, {.shape = {4}, .stride = {1}});
    const auto b = image_of_tensor({1, 2, 3, 4}, {.shape = {2, 2}, .stride = {2, 1}});
    const auto c = image_of_tensor({1, 2, 3, 4}, {.shape = {4}, .stride = {1}}, DType::kInt32);

    const Difference shape = diff(a, b).differences.at(0);
    const Difference type = diff(a, c).differences.at(0);

    EXPECT_EQ(shape.kind, DifferenceKind::kShape);
    EXPECT_EQ(shape.a + " " + shape.b, "[4] [2, 2]");
    EXPECT_EQ(type.kind, DifferenceKind::kType);
    EXPECT_EQ(type.a + " " + type.b, "float32 int32");
}

TEST(Diff, ShowsTheValueOfASingleElement) {
    const auto a = image_of_tensor({0.5}, {});
    const auto b = image_of_tensor({0.25}, {});

    const Difference found = diff(a, b).differences.at(0);

    EXPECT_EQ(found.a + " " + found.b, "0.5 0.25");
}

}  // namespace
}  // namespace pawl::checkpoint
