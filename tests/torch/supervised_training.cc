// The C++ half of tests/e2e/test_languages.py; supervised_training.py beside it is the other: the
// same model, data and order of calls, dropout and a shuffled order included.
//
//   supervised_training OPTIMIZER STEPS LOSSES [die]
//
// Goes on from where the job is to step STEPS ("+20": 20 steps from there), and appends a line a
// step to LOSSES: the step, the loss as a hexadecimal float, the language. With "die" it kills
// itself as soon as a checkpoint is durable and some steps have been done.
#include <pawl/torch.hpp>

#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

namespace optim = torch::optim;

constexpr std::int64_t kSamples = 36;
constexpr std::int64_t kBatch = 8;
constexpr std::uint64_t kStepsBeforeDeath = 13;

struct NetImpl : torch::nn::Module {
    NetImpl()
        : conv(register_module(
              "conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 4, 3).padding(1).bias(false)))),
          norm(register_module("norm", torch::nn::BatchNorm2d(4))),
          dropout(register_module("dropout", torch::nn::Dropout(0.2))),
          fc(register_module("fc", torch::nn::Linear(4 * 6 * 6, 3))) {}
    torch::Tensor forward(const torch::Tensor& x) {
        return fc(dropout(torch::relu(norm(conv(x))).flatten(1)));
    }

    torch::nn::Conv2d conv;
    torch::nn::BatchNorm2d norm;
    torch::nn::Dropout dropout;
    torch::nn::Linear fc;
};
TORCH_MODULE(Net);

std::unique_ptr<optim::Optimizer> make_optimizer(const std::string& name, Net& net) {
    const auto parameters = net->parameters();
    if (name == "momentum") {
        return std::make_unique<optim::SGD>(parameters, optim::SGDOptions(0.05).momentum(0.9));
    }
    if (name == "adam") return std::make_unique<optim::Adam>(parameters, optim::AdamOptions(3e-3));
    if (name == "adamw") {
        return std::make_unique<optim::AdamW>(parameters,
                                              optim::AdamWOptions(3e-3).weight_decay(0.1));
    }
    if (name == "rmsprop") {
        return std::make_unique<optim::RMSprop>(parameters,
                                                optim::RMSpropOptions(1e-3).alpha(0.95));
    }
    throw std::invalid_argument("unknown optimizer " + name);
}

void report(const std::string& path, std::uint64_t step, double loss) {
    std::FILE* const file = std::fopen(path.c_str(), "a");
    if (file == nullptr) throw std::runtime_error("cannot write " + path);
    std::fprintf(file, "%llu %a cpp\n", static_cast<unsigned long long>(step), loss);
    std::fclose(file);
}

int train(const std::vector<std::string>& words) {
    torch::set_num_threads(1);
    torch::manual_seed(7);
    Net net;
    const auto optimizer = make_optimizer(words.at(0), net);
    optim::StepLR scheduler(*optimizer, /*step_size=*/2, /*gamma=*/0.9);
    scheduler.step();  // as Python's constructor does
    pawl::ShuffledSampler sampler(kSamples, kBatch, /*seed=*/3);
    std::int64_t seen = 0;

    pawl::TorchRun run({.checkpoint_directory = "checkpoints"});
    run.add_model(*net).add_optimizer(*optimizer).add_scheduler(scheduler).add_sampler(sampler);
    run.add_value("seen", seen);
    run.resume();

    const std::string& steps = words.at(1);
    const std::uint64_t last =
        steps[0] == '+' ? run.step() + std::stoull(steps.substr(1)) : std::stoull(steps);
    const bool is_to_die = words.size() > 3;
    net->train();
    while (true) {
        while (const auto batch = sampler.next()) {
            const auto x = (batch->to(torch::kDouble).unsqueeze(1) * 0.73 +
                            torch::arange(36, torch::kDouble) * 0.37)
                               .sin()
                               .to(torch::kFloat)
                               .view({-1, 1, 6, 6});
            optimizer->zero_grad();
            auto loss = torch::cross_entropy_loss(net(x), batch->remainder(3));
            loss.backward();
            optimizer->step();
            seen += batch->numel();
            report(words.at(2), run.step(), loss.item<double>());
            if (!run.step(loss.item<double>())) return 0;
            if (is_to_die && run.step() >= kStepsBeforeDeath &&
                std::filesystem::exists(".pawl/checkpoints/latest")) {
                std::raise(SIGKILL);
            }
            if (run.step() == last) {
                TORCH_CHECK(seen == static_cast<std::int64_t>(sampler.epoch()) * kSamples +
                                        sampler.position(),
                            "'seen' is ", seen);
                run.finish();
                return 0;
            }
        }
        scheduler.step();
        if (!run.epoch_end(run.loss())) return 0;
    }
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return train(std::vector<std::string>(argv + 1, argv + argc));
    } catch (const std::exception& error) {
        std::fprintf(stderr, "supervised_training: %s\n", error.what());
        return 2;
    }
}
