// TorchState and TorchRun: what is restored beside a model, from which files, and what is said of
// one that does not fit.
#include "tests/fakes/temporary_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pawl/torch.hpp>

#include <cmath>
#include <fstream>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using pawl::fakes::TemporaryDirectory;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::UnorderedElementsAre;

// Leaves a checkpoint of what `add` registers, and returns its file.
template <class Add>
std::string saved(const TemporaryDirectory& directory, const Add& add) {
    pawl::TorchRun run({.checkpoint_directory = directory.path()});
    add(run);
    EXPECT_TRUE(run.step(0.5));
    run.finish();
    return directory.path() + "/latest/rank-00000.pt";
}

template <class Load>
std::string refusal_of(const Load& load) {
    try {
        load();
    } catch (const pawl::RunError& error) {
        return error.what();
    }
    return "";
}

// ---- values ----

struct Values {
    bool flag = false;
    std::int64_t count = 0;
    double best = 0;
    std::string name;
    std::vector<bool> flags;
    std::vector<std::int64_t> counts;
    std::vector<double> history;
    std::vector<std::string> names;
    torch::Tensor average;
    torch::Tensor history_tensor;

    template <class State>
    void add_to(State& state) {
        state.add_value("flag", flag);
        state.add_value("count", count);
        state.add_value("best", best);
        state.add_value("name", name);
        state.add_value("flags", flags);
        state.add_value("counts", counts);
        state.add_value("history", history);
        state.add_value("names", names);
        state.add_value("average", average);
        state.add_value("history_tensor", history_tensor);
    }
};

TEST(Values, OfEveryTypeComeBack) {
    const TemporaryDirectory directory;
    Values before{.flag = true,
                  .count = std::numeric_limits<std::int64_t>::min(),
                  .best = 0.1,
                  .name = "né",
                  .flags = {true, false},
                  .counts = {1, -2},
                  .history = {0.25, 1.0 / 3, std::numeric_limits<double>::infinity()},
                  .names = {"a", ""},
                  .average = torch::arange(3, torch::kHalf),
                  .history_tensor = torch::arange(4).view({2, 2}).t()};
    const std::string file = saved(directory, [&](pawl::TorchRun& run) { before.add_to(run); });

    Values after;
    after.average = torch::zeros({3}, torch::kHalf);
    const torch::Tensor same_average = after.average;
    pawl::TorchState state;
    after.add_to(state);
    state.load_file(file);

    EXPECT_TRUE(after.flag);
    EXPECT_EQ(after.count, before.count);
    EXPECT_EQ(after.best, 0.1);
    EXPECT_EQ(after.name, "né");
    EXPECT_EQ(after.flags, before.flags);
    EXPECT_EQ(after.counts, before.counts);
    EXPECT_EQ(after.history, before.history);
    EXPECT_EQ(after.names, before.names);
    EXPECT_TRUE(torch::equal(same_average, before.average)) << "a defined tensor is copied into";
    EXPECT_TRUE(torch::equal(after.history_tensor, before.history_tensor));
}

TEST(Values, OfAnotherTypeOrMissingAreAllNamedAndNothingIsChanged) {
    const TemporaryDirectory directory;
    Values before{.count = 7, .best = 0.5, .name = "x"};
    before.average = torch::ones({2});
    const std::string file = saved(directory, [&](pawl::TorchRun& run) {
        run.add_value("count", before.count);
        run.add_value("name", before.name);
        run.add_value("average", before.average);
    });

    Values after{.count = 1};
    after.average = torch::zeros({3});
    pawl::TorchState state;
    state.add_value("count", after.count);
    state.add_value("name", after.best);
    state.add_value("average", after.average);
    state.add_value("absent", after.flag);
    const std::string text = refusal_of([&] { state.load_file(file); });

    EXPECT_THAT(text, HasSubstr("nothing was changed"));
    EXPECT_THAT(text, HasSubstr("values: 'name' is str in the checkpoint, a number was expected"));
    EXPECT_THAT(
        text,
        HasSubstr("values: 'average' is Float [2] in the checkpoint, Float [3] was expected"));
    EXPECT_THAT(text, HasSubstr("values: 'absent' is missing"));
    EXPECT_EQ(after.count, 1);
    EXPECT_TRUE(torch::equal(after.average, torch::zeros({3})));
}

// ---- a model, strictly and not ----

torch::nn::Sequential two_layers(std::int64_t width) {
    return torch::nn::Sequential(torch::nn::Linear(4, width), torch::nn::Linear(width, 2));
}

TEST(LoadFile, ToleratesMissingAndUnexpectedKeysWhereAskedToAndReportsThem) {
    const TemporaryDirectory directory;
    auto source = two_layers(8);
    const std::string file = saved(directory, [&](pawl::TorchRun& run) { run.add_model(*source); });
    torch::nn::Sequential target;
    target->push_back("0", torch::nn::Linear(4, 8));
    target->push_back("head", torch::nn::Linear(8, 5));
    torch::optim::SGD optimizer(target->parameters(), torch::optim::SGDOptions(0.1));
    const auto head = target->named_parameters()["head.weight"].detach().clone();

    pawl::TorchState state;
    state.add_model(*target).add_optimizer(optimizer);
    pawl::LoadOptions options;
    options.strict = false;
    const pawl::LoadReport report = state.load_file(file, options);

    EXPECT_THAT(report.missing_keys,
                UnorderedElementsAre("model_state_dict.head.weight", "model_state_dict.head.bias",
                                     "optimizer_state_dict"));
    EXPECT_THAT(report.unexpected_keys,
                UnorderedElementsAre("model_state_dict.1.weight", "model_state_dict.1.bias"));
    EXPECT_TRUE(torch::equal(target->named_parameters()["0.weight"],
                             source->named_parameters()["0.weight"]));
    EXPECT_TRUE(torch::equal(target->named_parameters()["head.weight"], head));
}

TEST(LoadFile, NamesShapesAndDtypesEvenWhereKeysAreTolerated) {
    const TemporaryDirectory directory;
    auto source = two_layers(8);
    const std::string file = saved(directory, [&](pawl::TorchRun& run) { run.add_model(*source); });
    auto target = two_layers(8);
    target->ptr<torch::nn::LinearImpl>(1)->to(torch::kDouble);
    const auto before = target->named_parameters()["0.weight"].detach().clone();

    pawl::TorchState state;
    state.add_model(*target);
    pawl::LoadOptions options;
    options.strict = false;
    const std::string text = refusal_of([&] { state.load_file(file, options); });

    EXPECT_THAT(
        text,
        HasSubstr("'1.weight' is Float [2, 8] in the checkpoint, Double [2, 8] in the model"));
    EXPECT_TRUE(torch::equal(target->named_parameters()["0.weight"], before));
}

TEST(LoadFile, RefusesADeviceThatIsNotThereBeforeAnythingIsChanged) {
    if (torch::cuda::is_available()) GTEST_SKIP() << "there is a GPU";
    const TemporaryDirectory directory;
    auto source = two_layers(8);
    const std::string file = saved(directory, [&](pawl::TorchRun& run) { run.add_model(*source); });
    auto target = two_layers(8);
    const auto before = target->named_parameters()["0.weight"].detach().clone();

    pawl::TorchState state;
    state.add_model(*target);
    pawl::LoadOptions options;
    options.device = torch::Device(torch::kCUDA, 0);
    const std::string text = refusal_of([&] { state.load_file(file, options); });

    EXPECT_THAT(text, HasSubstr("device 'cuda:0' can't be used here"));
    EXPECT_TRUE(torch::equal(target->named_parameters()["0.weight"], before));
}

TEST(LoadFile, NamesTheRecordThatIsDamaged) {
    const TemporaryDirectory directory;
    auto source = two_layers(8);
    const std::string file = saved(directory, [&](pawl::TorchRun& run) { run.add_model(*source); });
    const auto weight = source->named_parameters()["0.weight"];
    std::string bytes;
    {
        std::ifstream stream(file, std::ios::binary);
        bytes.assign(std::istreambuf_iterator<char>(stream), {});
    }
    const std::string needle(static_cast<const char*>(weight.data_ptr()), weight.nbytes());
    const std::size_t place = bytes.find(needle);
    ASSERT_NE(place, std::string::npos);
    bytes[place] = static_cast<char>(bytes[place] ^ 1);
    const std::string damaged = directory.path() + "/damaged.pt";
    std::ofstream(damaged, std::ios::binary) << bytes;

    pawl::TorchState state;
    state.add_model(*source);
    const std::string text = refusal_of([&] { state.load_file(damaged); });

    EXPECT_THAT(text, HasSubstr("cannot load '" + damaged + "'"));
    EXPECT_THAT(text, HasSubstr("record 'archive/data/"));
    EXPECT_THAT(text, HasSubstr("is damaged"));
}

TEST(LoadFile, SaysThatThereIsNoFile) {
    pawl::TorchState state;

    EXPECT_THAT(refusal_of([&] { state.load_file("/nowhere/x.pt"); }),
                HasSubstr("cannot load '/nowhere/x.pt': there is no such file"));
}

// ---- optimizers ----

struct Case {
    const char* name;
    std::unique_ptr<torch::optim::Optimizer> (*make)(const std::vector<torch::Tensor>&);
};

template <class Optimizer, class Options>
std::unique_ptr<torch::optim::Optimizer> two_groups(const std::vector<torch::Tensor>& parameters,
                                                    const Options& options) {
    std::vector<torch::optim::OptimizerParamGroup> groups;
    groups.emplace_back(std::vector<torch::Tensor>{parameters[0], parameters[1]},
                        std::make_unique<Options>(options));
    groups.emplace_back(std::vector<torch::Tensor>{parameters[2], parameters[3]},
                        std::make_unique<Options>(Options(options).lr(0.002)));
    return std::make_unique<Optimizer>(groups, options);
}

const Case kCases[] = {
    {"AdamW",
     [](const std::vector<torch::Tensor>& parameters) {
         return two_groups<torch::optim::AdamW>(
             parameters, torch::optim::AdamWOptions(0.01).amsgrad(true).weight_decay(0.3));
     }},
    {"RMSprop",
     [](const std::vector<torch::Tensor>& parameters) {
         return two_groups<torch::optim::RMSprop>(
             parameters, torch::optim::RMSpropOptions(0.01).momentum(0.9).centered(true));
     }},
    {"Adagrad",
     [](const std::vector<torch::Tensor>& parameters) {
         return two_groups<torch::optim::Adagrad>(parameters,
                                                  torch::optim::AdagradOptions(0.01).lr_decay(0.1));
     }},
    {"LBFGS",
     [](const std::vector<torch::Tensor>& parameters) -> std::unique_ptr<torch::optim::Optimizer> {
         return std::make_unique<torch::optim::LBFGS>(
             parameters, torch::optim::LBFGSOptions(0.5).max_iter(3).history_size(4).line_search_fn(
                             "strong_wolfe"));
     }},
};

class EveryOptimizer : public testing::TestWithParam<Case> {};

// Three steps from `step` on.
std::vector<double> train(torch::nn::Sequential& model, torch::optim::Optimizer& optimizer,
                          std::int64_t step) {
    std::vector<double> losses;
    for (std::int64_t end = step + 3; step < end; ++step) {
        const auto x = (torch::arange(20, torch::kFloat).view({5, 4}) + step).sin();
        losses.push_back(optimizer
                             .step([&] {
                                 optimizer.zero_grad();
                                 auto loss = model->forward(x).square().mean();
                                 loss.backward();
                                 return loss;
                             })
                             .item<double>());
    }
    return losses;
}

TEST_P(EveryOptimizer, GoesOnToTheBitAndItsOptionsAreThoseOfTheFile) {
    const TemporaryDirectory directory;
    torch::manual_seed(3);
    auto model = two_layers(3);
    const auto optimizer = GetParam().make(model->parameters());
    train(model, *optimizer, 0);
    optimizer->param_groups()[0].options().set_lr(0.0125);
    const std::string file = saved(
        directory, [&](pawl::TorchRun& run) { run.add_model(*model).add_optimizer(*optimizer); });
    const std::vector<double> undisturbed = train(model, *optimizer, 3);

    auto again = two_layers(3);
    const auto its_optimizer = GetParam().make(again->parameters());
    train(again, *its_optimizer, 40);  // what it had before leaves no trace
    pawl::TorchState state;
    state.add_model(*again).add_optimizer(*its_optimizer);
    state.load_file(file);

    EXPECT_EQ(its_optimizer->param_groups()[0].options().get_lr(), 0.0125);
    EXPECT_EQ(train(again, *its_optimizer, 3), undisturbed);
}

INSTANTIATE_TEST_SUITE_P(Optimizers, EveryOptimizer, testing::ValuesIn(kCases),
                         [](const auto& one) { return std::string(one.param.name); });

TEST(Optimizer, OfAnotherKindOrOtherGroupsIsNamed) {
    const TemporaryDirectory directory;
    auto model = two_layers(3);
    const auto adagrad = kCases[2].make(model->parameters());
    const std::string file =
        saved(directory, [&](pawl::TorchRun& run) { run.add_optimizer(*adagrad); });
    torch::optim::RMSprop other({torch::optim::OptimizerParamGroup(model->parameters()),
                                 torch::optim::OptimizerParamGroup({torch::ones({1})})});
    torch::optim::Adagrad fewer(model->parameters());

    pawl::TorchState of_another_kind;
    of_another_kind.add_optimizer(other);
    pawl::TorchState of_fewer_groups;
    of_fewer_groups.add_optimizer(fewer);

    EXPECT_THAT(refusal_of([&] { of_another_kind.load_file(file); }),
                HasSubstr("param_groups[0] has no 'alpha': it is not of the optimizer RMSprop"));
    EXPECT_THAT(refusal_of([&] { of_fewer_groups.load_file(file); }),
                HasSubstr("2 parameter groups in the checkpoint, 1 in the optimizer"));
}

// ---- schedulers ----

struct Rates {
    torch::Tensor parameter = torch::ones({1}, torch::requires_grad());
    torch::optim::SGD optimizer{{parameter}, torch::optim::SGDOptions(1)};
    double now() { return optimizer.param_groups()[0].options().get_lr(); }
};

TEST(Schedulers, StepLrGoesOnAsItWouldHave) {
    const TemporaryDirectory directory;
    Rates before;
    torch::optim::StepLR scheduler(before.optimizer, 2, 0.5);
    scheduler.step();
    const std::string file = saved(directory, [&](pawl::TorchRun& run) {
        run.add_optimizer(before.optimizer).add_scheduler(scheduler);
    });

    Rates after;
    torch::optim::StepLR again(after.optimizer, 2, 0.5);
    pawl::TorchState state;
    state.add_optimizer(after.optimizer).add_scheduler(again);
    state.load_file(file);

    for (int i = 0; i < 6; ++i) {
        scheduler.step();
        again.step();
        EXPECT_EQ(after.now(), before.now()) << "after " << i + 1 << " more steps";
    }
    EXPECT_EQ(after.now(), 0.125);
}

TEST(Schedulers, StepLrOfAnotherShapeIsNamed) {
    const TemporaryDirectory directory;
    Rates rates;
    torch::optim::StepLR scheduler(rates.optimizer, 2, 0.5);
    const std::string file =
        saved(directory, [&](pawl::TorchRun& run) { run.add_scheduler(scheduler); });
    torch::optim::StepLR other(rates.optimizer, 3, 0.1);
    pawl::TorchState state;
    state.add_scheduler(other);

    const std::string text = refusal_of([&] { state.load_file(file); });

    EXPECT_THAT(text, HasSubstr("'step_size' is 2 in the checkpoint, 3 in the scheduler"));
    EXPECT_THAT(text, HasSubstr("'gamma' is 0.5 in the checkpoint, 0.1 in the scheduler"));
}

#if TORCH_VERSION_MAJOR >= 2
TEST(Schedulers, ReduceLrOnPlateauGoesOnAsItWouldHave) {
    using Plateau = torch::optim::ReduceLROnPlateauScheduler;
    const TemporaryDirectory directory;
    Rates before;
    Plateau scheduler(before.optimizer, Plateau::min, 0.5F, 2, 1e-4, Plateau::rel, 1);
    for (const float loss : {1.0F, 1.0F, 1.0F, 1.0F, 1.0F})
        scheduler.step(loss);
    const std::string file = saved(directory, [&](pawl::TorchRun& run) {
        run.add_optimizer(before.optimizer).add_scheduler(scheduler);
    });

    Rates after;
    Plateau again(after.optimizer, Plateau::min, 0.5F, 2, 1e-4, Plateau::rel, 1);
    pawl::TorchState state;
    state.add_optimizer(after.optimizer).add_scheduler(again);
    state.load_file(file);

    EXPECT_EQ(before.now(), 0.5);
    for (const float loss : {1.0F, 1.0F, 0.9F, 0.95F, 0.95F, 0.95F, 0.95F}) {
        scheduler.step(loss);
        again.step(loss);
        EXPECT_EQ(after.now(), before.now());
    }
    EXPECT_EQ(after.now(), 0.25);
}
#endif

// A scheduler of somebody's own.
struct Warmup {
    std::int64_t step = 0;
    double peak = 0.1;
    std::vector<double> rates;

    [[nodiscard]] pawl::StateDict state_dict() const {
        return {{"step", step}, {"peak", peak}, {"rates", rates}};
    }
    void load_state_dict(const pawl::StateDict& state) {
        step = std::get<std::int64_t>(state.at("step"));
        peak = std::get<double>(state.at("peak"));
        rates = std::get<std::vector<double>>(state.at("rates"));
    }
};

TEST(Schedulers, OfTheUsersOwnAreSavedByTwoFunctions) {
    const TemporaryDirectory directory;
    const Warmup before{.step = 12, .peak = 0.3, .rates = {0.1, 0.2}};
    const std::string file = saved(directory, [&](pawl::TorchRun& run) {
        run.add_scheduler([&] { return before.state_dict(); }, [](const pawl::StateDict&) {});
    });

    Warmup after;
    pawl::TorchState state;
    state.add_scheduler([&] { return after.state_dict(); },
                        [&](const pawl::StateDict& dict) { after.load_state_dict(dict); });
    state.load_file(file);

    EXPECT_EQ(after.step, 12);
    EXPECT_EQ(after.peak, 0.3);
    EXPECT_THAT(after.rates, ElementsAre(0.1, 0.2));
}

TEST(Schedulers, OneThatThrowsWhenItIsLoadedLeavesAllElseAsItWas) {
    const TemporaryDirectory directory;
    auto source = two_layers(8);
    const Warmup before;
    const std::string file = saved(directory, [&](pawl::TorchRun& run) {
        run.add_model(*source).add_scheduler([&] { return before.state_dict(); },
                                             [](const pawl::StateDict&) {});
    });
    auto target = two_layers(8);
    const auto weight = target->named_parameters()["0.weight"].detach().clone();
    pawl::TorchState state;
    state.add_model(*target).add_scheduler(
        [&] { return before.state_dict(); },
        [](const pawl::StateDict&) { throw std::runtime_error("not this one"); });

    EXPECT_THROW(state.load_file(file), std::runtime_error);
    EXPECT_TRUE(torch::equal(target->named_parameters()["0.weight"], weight));
}

// ---- a run ----

TEST(TorchRun, LoadFileBringsStepAndEpochAndTrainingGoesOnFromThere) {
    const TemporaryDirectory first;
    const TemporaryDirectory second;
    auto model = two_layers(8);
    const std::string file = saved(first, [&](pawl::TorchRun& run) {
        run.add_model(*model);
        EXPECT_TRUE(run.step(1.0));
        EXPECT_TRUE(run.epoch_end(1.0));
    });

    pawl::TorchRun run({.checkpoint_directory = second.path()});
    run.add_model(*model);
    ASSERT_FALSE(run.resume());
    run.load_file(file);

    EXPECT_EQ(run.step(), 2u);
    EXPECT_EQ(run.epoch(), 1u);
    EXPECT_EQ(run.loss(), 0.5);
    EXPECT_TRUE(run.step(0.25));
    run.finish();
    pawl::TorchState state;
    EXPECT_THAT(state.load_file(second.path() + "/latest/rank-00000.pt").missing_keys,
                testing::IsEmpty());
}

TEST(TorchRun, ResumeReportsWhatItTolerated) {
    const TemporaryDirectory directory;
    auto model = two_layers(8);
    saved(directory, [&](pawl::TorchRun& run) { run.add_model(*model); });
    double best = 0.75;

    pawl::TorchRun run({.checkpoint_directory = directory.path()});
    run.add_model(*model).add_value("best", best);
    EXPECT_THAT(refusal_of([&] { run.resume(); }), HasSubstr("values: 'best' is missing"));
    pawl::LoadOptions options;
    options.strict = false;
    ASSERT_TRUE(run.resume(options));

    EXPECT_THAT(run.load_report().missing_keys, ElementsAre("values.best"));
    EXPECT_EQ(best, 0.75);
}

TEST(TorchRun, ResumeReportsWhatNothingWasRegisteredFor) {
    const TemporaryDirectory directory;
    auto model = two_layers(8);
    torch::optim::SGD optimizer(model->parameters(), torch::optim::SGDOptions(0.1));
    pawl::ShuffledSampler sampler(10, 2, 0);
    saved(directory, [&](pawl::TorchRun& run) {
        run.add_model(*model).add_optimizer(optimizer).add_sampler(sampler);
    });

    pawl::TorchRun run({.checkpoint_directory = directory.path()});
    run.add_model(*model);
    ASSERT_TRUE(run.resume());

    EXPECT_THAT(run.load_report().left_out,
                ElementsAre("optimizer_state_dict", "sampler_state_dict"));
}

}  // namespace
