// A training that languages_test.py does in Python too: the same model, data and order of calls.
// Goes on from a torch.save file for some steps, and leaves a checkpoint in a directory.
//
//   continue_training OPTIMIZER FROM STEPS DIRECTORY [tolerant]
//
// Prints a line a step: the loss, as a C hexadecimal float.
#include <pawl/torch.hpp>

#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

namespace optim = torch::optim;
using Group = optim::OptimizerParamGroup;

struct NetImpl : torch::nn::Module {
    NetImpl()
        : conv(register_module(
              "conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 4, 3).padding(1).bias(false)))),
          norm(register_module("norm", torch::nn::BatchNorm2d(4))),
          fc(register_module("fc", torch::nn::Linear(4 * 6 * 6, 3))) {}
    torch::Tensor forward(const torch::Tensor& x) {
        return fc(torch::relu(norm(conv(x))).flatten(1));
    }

    torch::nn::Conv2d conv;
    torch::nn::BatchNorm2d norm;
    torch::nn::Linear fc;
};
TORCH_MODULE(Net);

// Two groups that differ in their rate; LBFGS takes one.
template <class Optimizer, class Options>
std::unique_ptr<optim::Optimizer> grouped(Net& net, const Options& options) {
    std::vector<torch::Tensor> features = net->conv->parameters();
    for (const auto& parameter : net->norm->parameters())
        features.push_back(parameter);
    Options head = options;
    head.lr(options.lr() / 2);
    std::vector<Group> groups;
    groups.emplace_back(features, std::make_unique<Options>(options));
    groups.emplace_back(net->fc->parameters(), std::make_unique<Options>(head));
    return std::make_unique<Optimizer>(groups, options);
}

std::unique_ptr<optim::Optimizer> make_optimizer(const std::string& name, Net& net) {
    if (name == "sgd") return grouped<optim::SGD>(net, optim::SGDOptions(0.05));
    if (name == "momentum") {
        return grouped<optim::SGD>(
            net, optim::SGDOptions(0.05).momentum(0.9).weight_decay(1e-3).nesterov(true));
    }
    if (name == "adam") return grouped<optim::Adam>(net, optim::AdamOptions(3e-3));
    if (name == "amsgrad") {
        return grouped<optim::Adam>(
            net, optim::AdamOptions(3e-3).betas({0.8, 0.95}).weight_decay(0.01).amsgrad(true));
    }
    if (name == "adamw")
        return grouped<optim::AdamW>(net, optim::AdamWOptions(3e-3).weight_decay(0.1));
    if (name == "rmsprop") {
        return grouped<optim::RMSprop>(
            net, optim::RMSpropOptions(1e-3).alpha(0.95).momentum(0.5).centered(true).weight_decay(
                     1e-3));
    }
    if (name == "adagrad")
        return grouped<optim::Adagrad>(net, optim::AdagradOptions(0.02).lr_decay(0.1));
    if (name == "lbfgs") {
        return std::make_unique<optim::LBFGS>(net->parameters(),
                                              optim::LBFGSOptions(0.1).max_iter(4).history_size(5));
    }
    throw std::invalid_argument("unknown optimizer " + name);
}

int train(const std::vector<std::string>& words) {
    torch::set_num_threads(1);
    Net net;
    const auto optimizer = make_optimizer(words.at(0), net);
    optim::StepLR scheduler(*optimizer, /*step_size=*/6, /*gamma=*/0.5);
    scheduler.step();  // as Python's constructor does

    pawl::TorchRun run({.checkpoint_directory = words.at(3)});
    run.add_model(*net).add_optimizer(*optimizer).add_scheduler(scheduler);
    pawl::LoadOptions options;
    options.strict = words.size() < 5 || words[4] != "tolerant";
    run.load_file(words.at(1), options);

    const std::uint64_t last = run.step() + std::stoull(words.at(2));
    net->train();
    while (run.step() < last) {
        const auto step = static_cast<std::int64_t>(run.step());
        const auto index = torch::arange(8 * 36, torch::kDouble);
        const auto x = (index * 0.37 + static_cast<double>(step)).sin().to(torch::kFloat);
        const auto y = (torch::arange(8, torch::kLong) * 7 + step).remainder(3);
        const auto closure = [&] {
            optimizer->zero_grad();
            auto loss = torch::cross_entropy_loss(net(x.view({8, 1, 6, 6})), y);
            loss.backward();
            return loss;
        };
        const double loss = optimizer->step(closure).item<double>();
        scheduler.step();
        std::printf("%a\n", loss);
        if (!run.step(loss)) return 1;
    }
    run.finish();
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return train(std::vector<std::string>(argv + 1, argv + argc));
    } catch (const std::exception& error) {
        std::fprintf(stderr, "continue_training: %s\n", error.what());
        return 2;
    }
}
