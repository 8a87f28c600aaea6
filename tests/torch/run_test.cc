// TorchRun, standalone: what is saved is restored to the bit, and what does not fit is said before
// anything is changed.
#include "tests/fakes/temporary_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pawl/torch.hpp>

#include <memory>
#include <string>
#include <vector>

namespace {

using pawl::fakes::TemporaryDirectory;
using testing::HasSubstr;

struct NetImpl : torch::nn::Module {
    explicit NetImpl(std::int64_t hidden)
        : first(register_module("first", torch::nn::Linear(4, hidden))),
          norm(register_module("norm", torch::nn::BatchNorm1d(hidden))),
          dropout(register_module("dropout", torch::nn::Dropout(0.25))),
          second(register_module("second", torch::nn::Linear(hidden, 2))) {}
    torch::Tensor forward(const torch::Tensor& x) {
        return second(dropout(torch::relu(norm(first(x)))));
    }

    torch::nn::Linear first;
    torch::nn::BatchNorm1d norm;
    torch::nn::Dropout dropout;
    torch::nn::Linear second;
};
TORCH_MODULE(Net);

enum class Kind { kSgd, kSgdMomentum, kAdam, kAdamAmsgrad };

std::unique_ptr<torch::optim::Optimizer> make_optimizer(Kind kind, Net& net) {
    switch (kind) {
        case Kind::kSgd:
            return std::make_unique<torch::optim::SGD>(net->parameters(),
                                                       torch::optim::SGDOptions(0.1));
        case Kind::kSgdMomentum:
            return std::make_unique<torch::optim::SGD>(
                net->parameters(),
                torch::optim::SGDOptions(0.1).momentum(0.9).nesterov(true).weight_decay(1e-3));
        case Kind::kAdam:
            return std::make_unique<torch::optim::Adam>(net->parameters(),
                                                        torch::optim::AdamOptions(1e-2));
        case Kind::kAdamAmsgrad:
            return std::make_unique<torch::optim::Adam>(
                net->parameters(),
                torch::optim::AdamOptions(1e-2).betas({0.8, 0.95}).amsgrad(true).weight_decay(0.1));
    }
    return nullptr;
}

// A small training, with everything that an exact resume has to bring back.
struct Training {
    Training(const std::string& directory, Kind kind, std::uint64_t every_steps,
             std::int64_t hidden = 8)
        : net(hidden),
          optimizer(make_optimizer(kind, net)),
          scheduler(*optimizer, 2, 0.5),
          sampler(20, 4, 7),
          run({.checkpoint_directory = directory, .every_steps = every_steps}) {
        run.add_model(*net).add_optimizer(*optimizer).add_scheduler(scheduler).add_sampler(sampler);
        run.add_value("best", best).add_value("seen", seen);
    }

    // Until `steps` are completed; returns the losses from the first of them on.
    std::vector<double> train_to(std::uint64_t steps) {
        const auto data = torch::arange(80, torch::kFloat).view({20, 4}).sin();
        const auto labels = torch::arange(20, torch::kLong).remainder(2);
        std::vector<double> losses;
        net->train();
        while (run.step() < steps) {
            const auto batch = sampler.next();
            if (!batch) {
                scheduler.step();
                EXPECT_TRUE(run.epoch_end(losses.empty() ? 0 : losses.back()));
                continue;
            }
            optimizer->zero_grad();
            auto loss = torch::cross_entropy_loss(net(data.index_select(0, *batch)),
                                                  labels.index_select(0, *batch));
            loss.backward();
            optimizer->step();
            losses.push_back(loss.item<double>());
            best = std::min(best, losses.back());
            ++seen;
            EXPECT_TRUE(run.step(losses.back()));
        }
        return losses;
    }

    Net net;
    std::unique_ptr<torch::optim::Optimizer> optimizer;
    torch::optim::StepLR scheduler;
    pawl::ShuffledSampler sampler;
    double best = 1e9;
    std::int64_t seen = 0;
    pawl::TorchRun run;
};

bool are_equal(const Net& one, const Net& other) {
    const auto left = one->named_parameters();
    const auto right = other->named_parameters();
    for (const auto& parameter : left) {
        if (!torch::equal(parameter.value(), right[parameter.key()])) return false;
    }
    for (const auto& buffer : one->named_buffers()) {
        if (!torch::equal(buffer.value(), other->named_buffers()[buffer.key()])) return false;
    }
    return true;
}

class ExactResume : public testing::TestWithParam<Kind> {};

TEST_P(ExactResume, GoesOnWithTheSameLossesAndWeightsToTheBit) {
    const TemporaryDirectory directory;
    torch::manual_seed(1);
    auto first = std::make_unique<Training>(directory.path(), GetParam(), 7);
    first->train_to(7);
    const std::vector<double> undisturbed = first->train_to(13);
    const Net undisturbed_net = first->net;
    const auto undisturbed_values = std::pair{first->best, first->seen};
    first.reset();  // a directory has one writer at a time

    torch::manual_seed(99);  // what a new process begins with does not matter
    Training second(directory.path(), GetParam(), 1000);
    ASSERT_TRUE(second.run.resume());
    EXPECT_EQ(second.run.step(), 7u);
    const std::vector<double> resumed = second.train_to(13);

    EXPECT_EQ(resumed, undisturbed);
    EXPECT_TRUE(are_equal(undisturbed_net, second.net));
    EXPECT_EQ(std::pair(second.best, second.seen), undisturbed_values);
}

INSTANTIATE_TEST_SUITE_P(Optimizers, ExactResume,
                         testing::Values(Kind::kSgd, Kind::kSgdMomentum, Kind::kAdam,
                                         Kind::kAdamAmsgrad));

TEST(TorchRun, BeginsAtStepZeroWhereThereIsNothing) {
    const TemporaryDirectory directory;
    Training training(directory.path(), Kind::kSgd, 5);

    EXPECT_FALSE(training.run.resume());
    EXPECT_EQ(training.run.step(), 0u);
    EXPECT_FALSE(training.run.is_attached());
}

TEST(TorchRun, NamesEveryShapeThatDoesNotFitAndChangesNothing) {
    const TemporaryDirectory directory;
    torch::manual_seed(1);
    Training(directory.path(), Kind::kAdam, 3).train_to(3);
    Training wider(directory.path(), Kind::kAdam, 3, /*hidden=*/16);
    const auto before = wider.net->first->weight.detach().clone();

    std::string text;
    try {
        wider.run.resume();
    } catch (const pawl::RunError& error) {
        text = error.what();
    }

    EXPECT_THAT(
        text,
        HasSubstr("'first.weight' is Float [8, 4] in the checkpoint, Float [16, 4] in the model"));
    EXPECT_THAT(
        text,
        HasSubstr("'second.weight' is Float [2, 8] in the checkpoint, Float [2, 16] in the model"));
    EXPECT_THAT(text, HasSubstr("state[0].exp_avg"));
    EXPECT_TRUE(torch::equal(wider.net->first->weight, before));
    EXPECT_EQ(wider.run.step(), 0u);
}

TEST(TorchRun, NamesMissingAndUnexpectedKeys) {
    const TemporaryDirectory directory;
    Training(directory.path(), Kind::kSgd, 3).train_to(3);
    torch::nn::Sequential other(torch::nn::Linear(4, 8));
    pawl::TorchRun run({.checkpoint_directory = directory.path()});
    run.add_model(*other);

    std::string text;
    try {
        run.resume();
    } catch (const pawl::RunError& error) {
        text = error.what();
    }

    EXPECT_THAT(text, HasSubstr("key '0.weight' is missing; the model has Float [8, 4]"));
    EXPECT_THAT(text, HasSubstr("key 'first.weight' is not in the model"));
}

TEST(TorchRun, NamesAnOptimizerOfOtherParameterGroups) {
    const TemporaryDirectory directory;
    Training(directory.path(), Kind::kSgdMomentum, 3).train_to(3);
    Net net(8);
    torch::optim::SGD optimizer({torch::optim::OptimizerParamGroup({net->first->weight})},
                                torch::optim::SGDOptions(0.1));
    pawl::TorchRun run({.checkpoint_directory = directory.path()});
    run.add_optimizer(optimizer);

    std::string text;
    try {
        run.resume();
    } catch (const pawl::RunError& error) {
        text = error.what();
    }

    EXPECT_THAT(
        text, HasSubstr("param_groups[0] has 6 parameters in the checkpoint, 1 in the optimizer"));
}

TEST(TorchRun, ASnapshotThatTheTrainerWantsHoldsTheStateOfThatMoment) {
    const TemporaryDirectory directory;
    {
        Training training(directory.path(), Kind::kSgd, 1000);
        training.train_to(3);
        training.best = 0.25;  // which no step has counted
        EXPECT_TRUE(training.run.snapshot()) << "nobody has asked it to leave";
        training.train_to(5);
    }

    Training again(directory.path(), Kind::kSgd, 1000);
    ASSERT_TRUE(again.run.resume());

    EXPECT_EQ(again.run.step(), 3u);
    EXPECT_EQ(again.best, 0.25);
}

TEST(TorchRun, TakesAFinalCheckpointOfTheEpochsEnd) {
    const TemporaryDirectory directory;
    {
        Training training(directory.path(), Kind::kSgd, 5);
        training.train_to(5);
        ASSERT_FALSE(training.sampler.next().has_value());
        ASSERT_TRUE(training.run.epoch_end(0.5));
        training.run.finish();
    }

    Training again(directory.path(), Kind::kSgd, 5);
    ASSERT_TRUE(again.run.resume());

    EXPECT_EQ(again.run.step(), 5u);
    EXPECT_EQ(again.run.epoch(), 1u);
    EXPECT_EQ(again.sampler.position(), 0);
}

TEST(ShuffledSampler, HandsOutEachSampleOnceAnEpochInAnotherOrderEachTime) {
    pawl::ShuffledSampler sampler(10, 3, 42);

    const auto order_of_epoch = [&] {
        std::vector<std::int64_t> order;
        while (const auto batch = sampler.next()) {
            for (std::int64_t i = 0; i < batch->size(0); ++i)
                order.push_back((*batch)[i].item<std::int64_t>());
        }
        return order;
    };
    const auto first = order_of_epoch();
    sampler.begin_epoch(1);
    const auto second = order_of_epoch();

    EXPECT_THAT(first, testing::UnorderedElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
    EXPECT_THAT(second, testing::UnorderedElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
    EXPECT_NE(first, second);
}

TEST(ShuffledSampler, GoesOnFromARestoredPosition) {
    pawl::ShuffledSampler sampler(10, 3, 42);
    sampler.next();
    const auto expected = sampler.next();
    pawl::ShuffledSampler other(10, 3, 1);

    other.restore(42, 0, 3);

    EXPECT_TRUE(torch::equal(*other.next(), *expected));
}

}  // namespace
