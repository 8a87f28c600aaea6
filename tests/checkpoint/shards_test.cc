// Which part of a tensor each rank's file holds: from the ranks' records to the manifest.
#include "checkpoint/shards.h"

#include "checkpoint/commit.h"
#include "checkpoint/verify.h"
#include "tests/checkpoint/sample.h"
#include "tests/fakes/fake_file_system.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pawl::checkpoint {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

constexpr const char* kWeight =
    R"({"dtype": "float32", "shape": [5, 8], "offsets": [3, 0], "sizes": [2, 8]})";

std::string record_of(const std::string& tensors) {
    return R"({"version": 1, "tensors": {)" + tensors + "}}";
}

// An image with one storage and a record of that text.
std::vector<std::byte> image_with(const std::string& record) {
    const std::string pickle = "\x80\x02}.";
    const std::vector<std::uint64_t> storages = {64};
    const std::vector<torchfile::OtherRecord> others = {
        {.name = std::string(kShardsRecord), .content = record}};
    const auto plan =
        torchfile::plan_image(std::as_bytes(std::span(pickle)), storages, "archive", others);
    EXPECT_TRUE(plan.has_value()) << plan.error().text();
    std::vector<std::byte> image(plan->bytes);
    torchfile::lay_out(*plan, image);
    return image;
}

Result<Manifest> committed(fakes::FakeFileSystem& fs,
                           const std::vector<std::vector<std::byte>>& images) {
    EXPECT_TRUE(fs.create_directory("/c").has_value());
    Manifest manifest = sample_manifest(1, 10);
    manifest.world_size = images.size();
    std::vector<RankImage> ranks;
    for (std::size_t i = 0; i < images.size(); ++i)
        ranks.push_back({.rank = Rank{i}, .bytes = images[i]});
    return commit(fs, "/c", std::move(manifest), ranks);
}

TEST(Shards, AreReadFromARecord) {
    const auto shards = read_shards(record_of(
        std::string(R"("b": )") + kWeight +
        R"(, "a": {"dtype": "int64", "shape": [4, 6], "flat": true, "offsets": [20], "sizes": [4]})"));

    ASSERT_TRUE(shards.has_value()) << shards.error().text();
    EXPECT_THAT(*shards,
                ElementsAre(Shard{.tensor = "a",
                                  .whole = {.dtype = "int64", .shape = {4, 6}, .is_flat = true},
                                  .part = {.offsets = {20}, .sizes = {4}}},
                            Shard{.tensor = "b",
                                  .whole = {.dtype = "float32", .shape = {5, 8}, .is_flat = false},
                                  .part = {.offsets = {3, 0}, .sizes = {2, 8}}}));
}

struct BadRecord {
    std::string text;
    std::string says;
};

class BadShards : public testing::TestWithParam<BadRecord> {};

TEST_P(BadShards, AreRefused) {
    const auto shards = read_shards(GetParam().text);

    ASSERT_FALSE(shards.has_value());
    EXPECT_THAT(shards.error().text(), HasSubstr(GetParam().says));
}

std::string with(const std::string& shape, const std::string& offsets, const std::string& sizes,
                 const std::string& more = "") {
    return record_of(R"("w": {"dtype": "float32", "shape": )" + shape + R"(, "offsets": )" +
                     offsets + R"(, "sizes": )" + sizes + more + "}");
}

INSTANTIATE_TEST_SUITE_P(
    Each, BadShards,
    testing::Values(
        BadRecord{"", "is not what it should be"}, BadRecord{"[]", "is not what it should be"},
        BadRecord{R"({"version": 2, "tensors": {}})", "a newer pawl is needed"},
        BadRecord{R"({"version": 1, "tensors": [1]})", "'tensors' is no object"},
        BadRecord{record_of(R"("w": 1)"), "is not what it should be"},
        BadRecord{with("[5]", "[-1]", "[1]"), "a size was expected, not -1"},
        BadRecord{with("[5]", "[1.5]", "[1]"), "a size was expected, not 1.5"},
        BadRecord{with("5", "[1]", "[1]"), "a list of up to 64 sizes"},
        BadRecord{with("[5]", "[3]", "[3]"), "3 elements from 3 on lie outside dimension 0"},
        BadRecord{with("[5]", "[18446744073709551615]", "[2]"), "lie outside dimension 0"},
        BadRecord{with("[5, 2]", "[3]", "[2]"), "1 offsets and 1 sizes, 2 of each"},
        BadRecord{with("[5, 2]", "[9]", "[2]", R"(, "flat": true)"), "lie outside dimension 0"},
        BadRecord{with("[4294967296, 4294967296, 2]", "[0]", "[1]", R"(, "flat": true)"),
                  "beyond counting"}));

TEST(Shards, AreListedInTheManifestForEachTensor) {
    fakes::FakeFileSystem fs;
    const std::string other =
        R"({"dtype": "float32", "shape": [5, 8], "offsets": [0, 0], "sizes": [3, 8]})";

    const auto manifest = committed(fs, {image_with(record_of(std::string(R"("w": )") + other)),
                                         image_with(record_of(std::string(R"("w": )") + kWeight))});

    ASSERT_TRUE(manifest.has_value()) << manifest.error().text();
    const ShardedTensor expected{
        .whole = {.dtype = "float32", .shape = {5, 8}, .is_flat = false},
        .parts = {{"rank-00000.pt", {.offsets = {0, 0}, .sizes = {3, 8}}},
                  {"rank-00001.pt", {.offsets = {3, 0}, .sizes = {2, 8}}}}};
    EXPECT_THAT(manifest->tensors, ElementsAre(Pair("w", expected)));
    const auto read = read_manifest(write_manifest(*manifest));
    ASSERT_TRUE(read.has_value()) << read.error().text();
    EXPECT_EQ(*read, *manifest);
    EXPECT_EQ(read->unknown_fields, "{}");
}

TEST(Shards, OfRanksThatContradictEachOtherAreNoCheckpoint) {
    fakes::FakeFileSystem fs;
    const std::string other =
        R"({"dtype": "float32", "shape": [6, 8], "offsets": [0, 0], "sizes": [3, 8]})";

    const auto manifest = committed(fs, {image_with(record_of(std::string(R"("w": )") + other)),
                                         image_with(record_of(std::string(R"("w": )") + kWeight))});

    ASSERT_FALSE(manifest.has_value());
    EXPECT_THAT(manifest.error().text(),
                HasSubstr("tensor 'w' is float32 of shape [6, 8] as a whole as rank-00000.pt says, "
                          "but float32 of shape [5, 8] as rank-00001.pt says"));
    EXPECT_THAT(*fs.list_directory("/c"), testing::IsEmpty());
}

TEST(Shards, ARecordThatIsNoneIsSaidWithItsFile) {
    fakes::FakeFileSystem fs;

    const auto manifest = committed(fs, {image_with("rubbish")});

    ASSERT_FALSE(manifest.has_value());
    EXPECT_THAT(manifest.error().text(),
                HasSubstr("read record 'archive/shards.json' of rank-00000.pt"));
}

TEST(Shards, ARecordOfTorchSavesOwnNameIsRefused) {
    const std::vector<torchfile::OtherRecord> others = {{.name = "data.pkl", .content = "x"}};

    const auto plan = torchfile::plan_image({}, {}, "archive", others);

    ASSERT_FALSE(plan.has_value());
    EXPECT_THAT(plan.error().text(), HasSubstr("'data.pkl' is a record of torch.save's own"));
}

}  // namespace
}  // namespace pawl::checkpoint
