// A torch::data DataLoader whose sampler resumes: no sample lost, none twice, whatever the workers
// had fetched ahead.
#include "tests/fakes/temporary_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pawl/torch.hpp>

#include <cstdint>
#include <sstream>
#include <vector>

namespace {

using testing::IsEmpty;

constexpr std::int64_t kSize = 23;

// Its samples are their own indices.
struct Indices : torch::data::datasets::Dataset<Indices, std::int64_t> {
    std::int64_t get(std::size_t index) override { return static_cast<std::int64_t>(index); }
    [[nodiscard]] decltype(std::declval<torch::data::datasets::Dataset<Indices>>().size()) size()
        const override {
        return static_cast<std::size_t>(kSize);
    }
};

auto loader_of(pawl::ShuffledSampler& sampler, std::size_t workers) {
    return torch::data::make_data_loader(Indices{}, sampler.for_loader(),
                                         torch::data::DataLoaderOptions(4).workers(workers));
}

// Takes at most `batches`, as a training loop would.
std::vector<std::int64_t> taken(pawl::ShuffledSampler& sampler, std::size_t workers, int batches) {
    const auto loader = loader_of(sampler, workers);
    std::vector<std::int64_t> samples;
    for (const auto& batch : sampler.track(*loader)) {
        samples.insert(samples.end(), batch.begin(), batch.end());
        if (--batches == 0) break;
    }
    return samples;
}

class Loader : public testing::TestWithParam<std::size_t> {};

TEST_P(Loader, HandsOutTheOrderOfTheSampler) {
    pawl::ShuffledSampler sampler(kSize, 4, 7);
    pawl::ShuffledSampler plain(kSize, 4, 7);
    std::vector<std::int64_t> expected;
    while (const auto batch = plain.next()) {
        for (std::int64_t i = 0; i < batch->size(0); ++i)
            expected.push_back((*batch)[i].item<std::int64_t>());
    }

    EXPECT_EQ(taken(sampler, GetParam(), 100), expected);
    EXPECT_EQ(sampler.position(), kSize);
}

TEST_P(Loader, StoppedAnywhereItGoesOnWithoutLossOrRepetition) {
    pawl::ShuffledSampler undisturbed(kSize, 4, 7);
    const auto expected = taken(undisturbed, GetParam(), 100);
    for (int batches = 1; batches <= 6; ++batches) {
        SCOPED_TRACE(batches);
        pawl::ShuffledSampler sampler(kSize, 4, 7);
        auto samples = taken(sampler, GetParam(), batches);
        EXPECT_EQ(sampler.position(), static_cast<std::int64_t>(samples.size()));

        // Another process.
        pawl::ShuffledSampler resumed(kSize, 4, 99);
        resumed.restore(sampler.seed(), sampler.epoch(), sampler.position());
        const auto rest = taken(resumed, GetParam(), 100);
        samples.insert(samples.end(), rest.begin(), rest.end());

        EXPECT_EQ(samples, expected);
    }
}

TEST_P(Loader, ALoopThatIsBrokenOffAndBegunAgainGoesOn) {
    pawl::ShuffledSampler undisturbed(kSize, 4, 7);
    const auto expected = taken(undisturbed, GetParam(), 100);
    pawl::ShuffledSampler sampler(kSize, 4, 7);
    const auto loader = loader_of(sampler, GetParam());
    std::vector<std::int64_t> samples;

    for (const auto& batch : sampler.track(*loader)) {
        samples.insert(samples.end(), batch.begin(), batch.end());
        if (samples.size() == 8) break;
    }
    // LibTorch begins no second loop while workers are busy with the first: another loader.
    const auto rest = taken(sampler, GetParam(), 100);
    samples.insert(samples.end(), rest.begin(), rest.end());

    EXPECT_EQ(samples, expected);
}

TEST_P(Loader, BeginsTheNextEpochInAnotherOrder) {
    pawl::ShuffledSampler sampler(kSize, 4, 7);
    const auto loader = loader_of(sampler, GetParam());
    const auto epoch = [&] {
        std::vector<std::int64_t> samples;
        for (const auto& batch : sampler.track(*loader))
            samples.insert(samples.end(), batch.begin(), batch.end());
        return samples;
    };

    const auto first = epoch();
    EXPECT_THAT(epoch(), IsEmpty()) << "this one is over";
    sampler.begin_epoch(1);
    const auto second = epoch();

    EXPECT_NE(first, second);
    EXPECT_THAT(second, testing::UnorderedElementsAreArray(first));
}

TEST_P(Loader, ACheckpointInTheLoopCountsTheBatchThatWasTrainedOn) {
    const pawl::fakes::TemporaryDirectory directory;
    std::vector<std::int64_t> seen;
    {
        pawl::ShuffledSampler sampler(kSize, 4, 7);
        pawl::TorchRun run({.checkpoint_directory = directory.path(), .every_steps = 3});
        run.add_sampler(sampler);
        const auto loader = loader_of(sampler, GetParam());
        for (const auto& batch : sampler.track(*loader)) {
            seen.insert(seen.end(), batch.begin(), batch.end());
            ASSERT_TRUE(run.step(0));
            if (run.step() == 3) break;
        }
    }

    pawl::ShuffledSampler sampler(kSize, 4, 1);
    pawl::TorchRun run({.checkpoint_directory = directory.path()});
    run.add_sampler(sampler);
    ASSERT_TRUE(run.resume());

    EXPECT_EQ(sampler.position(), 12);
    const auto rest = taken(sampler, GetParam(), 100);
    seen.insert(seen.end(), rest.begin(), rest.end());
    pawl::ShuffledSampler undisturbed(kSize, 4, 7);
    EXPECT_EQ(seen, taken(undisturbed, GetParam(), 100));
}

INSTANTIATE_TEST_SUITE_P(Workers, Loader, testing::Values(0, 1, 3));

TEST(Loader, ThatKeepsNoOrderIsRefused) {
    pawl::ShuffledSampler sampler(kSize, 4, 7);
    const auto loader = torch::data::make_data_loader(
        Indices{}, sampler.for_loader(),
        torch::data::DataLoaderOptions(4).workers(2).enforce_ordering(false));

    EXPECT_THROW(sampler.track(*loader), c10::Error);
}

TEST(LoaderSampler, IsSavedAndLoadedAsLibTorchsOwnAre) {
    pawl::ShuffledSampler sampler(kSize, 4, 7);
    sampler.begin_epoch(5);
    taken(sampler, 0, 2);
    torch::serialize::OutputArchive written;
    sampler.for_loader().save(written);
    std::stringstream stream;
    written.save_to(stream);

    pawl::ShuffledSampler other(kSize, 4, 1);
    torch::serialize::InputArchive read;
    read.load_from(stream);
    other.for_loader().load(read);

    EXPECT_EQ(other.seed(), 7u);
    EXPECT_EQ(other.epoch(), 5u);
    EXPECT_EQ(other.position(), 8);
}

}  // namespace
