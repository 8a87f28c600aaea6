// What a trainer in C++ pays: client.py beside it does the same in Python. Runs under pawld.
//
//   bench_client LAYERS ROUNDS STEPS
//
// Prints a line a number: "ratio R", a step that took a blocking snapshot beside a memcpy of the
// same bytes into warm memory by one thread, both measured in each round, with the checkpoint
// before durable and the daemon idle; then "step_ns N", a step that took none.
#include <pawl/torch.hpp>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using std::chrono::nanoseconds;

constexpr int kWidth = 1024;    // a layer is 4 MiB of weights and 4 KiB of biases
constexpr int kColdRounds = 4;  // until each of the two arenas has been new

template <class Work>
nanoseconds duration_of(const Work& work) {
    const auto begin = Clock::now();
    work();
    return Clock::now() - begin;
}

struct Training {
    torch::nn::Sequential model;
    std::unique_ptr<torch::optim::Adam> optimizer;
    std::vector<at::Tensor> tensors;  // all that is saved
    std::size_t bytes = 0;

    explicit Training(int layers) {
        for (int i = 0; i < layers; ++i)
            model->push_back(torch::nn::Linear(kWidth, kWidth));
        optimizer = std::make_unique<torch::optim::Adam>(model->parameters());
        for (auto& parameter : model->parameters()) {
            parameter.mutable_grad() = torch::zeros_like(parameter);
            tensors.push_back(parameter.detach());
        }
        optimizer->step();
        optimizer->zero_grad();
        for (const auto& [key, state] : optimizer->state()) {
            const auto& adam = static_cast<const torch::optim::AdamParamState&>(*state);
            tensors.push_back(adam.exp_avg());
            tensors.push_back(adam.exp_avg_sq());
        }
        for (const at::Tensor& tensor : tensors)
            bytes += tensor.nbytes();
    }

    void copy_to(std::byte* target) const {
        for (const at::Tensor& tensor : tensors) {
            std::memcpy(target, tensor.data_ptr(), tensor.nbytes());
            target += tensor.nbytes();
        }
    }
};

// The newest checkpoint's name; empty before the first.
std::string newest() {
    std::error_code error;
    return fs::read_symlink(fs::path(".pawl/checkpoints/latest"), error).string();
}

int measure(int layers, int rounds, int steps) {
    Training training(layers);
    pawl::TorchRun run({.checkpoint_directory = "checkpoints"});
    run.add_model(*training.model).add_optimizer(*training.optimizer);
    TORCH_CHECK(run.is_attached(), "run it under pawld: bench/client.sh");
    run.resume();
    std::vector<std::byte> warm(training.bytes, std::byte{1});

    const auto step = [&run] {
        if (!run.step(0.5)) throw std::runtime_error("asked to stop");
    };
    for (int round = rounds > 0 ? -kColdRounds : 0; round < rounds; ++round) {
        const nanoseconds copying = duration_of([&] { training.copy_to(warm.data()); });
        const std::string before = newest();
        // A step without a snapshot takes microseconds at most, a copy milliseconds at least.
        nanoseconds stall{};
        while ((stall = duration_of(step)) < copying / 4)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        if (round >= 0) {
            std::printf("ratio %.4f\n",
                        static_cast<double>(stall.count()) / static_cast<double>(copying.count()));
        }
        while (newest() == before)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (steps > 0) {
        const nanoseconds all = duration_of([&] {
            for (int i = 0; i < steps; ++i)
                step();
        });
        std::printf("step_ns %.1f\n", static_cast<double>(all.count()) / steps);
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        const std::vector<std::string> words(argv + 1, argv + argc);
        return measure(std::stoi(words.at(0)), std::stoi(words.at(1)), std::stoi(words.at(2)));
    } catch (const std::exception& error) {
        std::fprintf(stderr, "bench_client: %s\n", error.what());
        return 1;
    }
}
