// A small CNN on Fashion-MNIST: Adam, StepLR, dropout, shuffled data, an evaluation each epoch.
//
// What pawl adds are the lines with `run`. Start it by itself (standalone: checkpoints in
// ./checkpoints), or under pawld: pawl run --every-steps 100 -- build/bin/fashion_mnist --epochs 5
#include "dataset.h"

#include <pawl/torch.hpp>

#include <signal.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <stdexcept>
#include <string>

namespace {

struct Options {
    std::string data = "/usr/share/datasets/fashion-mnist";
    std::string checkpoint_directory = "checkpoints";
    std::string losses;   // a file that gets a line a step: "STEP LOSS-BITS LOSS"
    std::string weights;  // a file that gets the final parameters' bytes
    std::uint64_t epochs = 3;
    std::int64_t batch_size = 64;
    std::int64_t train_samples = 0;  // 0: all
    std::int64_t test_samples = 0;   // 0: all
    std::uint64_t every_steps = 0;
    std::uint64_t seed = 1;
    int threads = 1;
    std::string optimizer = "adam";
};

Options parse(int argc, char** argv) {
    Options options;
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string name = argv[i];
        const std::string value = argv[i + 1];
        if (name == "--data")
            options.data = value;
        else if (name == "--checkpoints")
            options.checkpoint_directory = value;
        else if (name == "--losses")
            options.losses = value;
        else if (name == "--weights")
            options.weights = value;
        else if (name == "--epochs")
            options.epochs = std::stoull(value);
        else if (name == "--batch")
            options.batch_size = std::stoll(value);
        else if (name == "--train-samples")
            options.train_samples = std::stoll(value);
        else if (name == "--test-samples")
            options.test_samples = std::stoll(value);
        else if (name == "--every-steps")
            options.every_steps = std::stoull(value);
        else if (name == "--seed")
            options.seed = std::stoull(value);
        else if (name == "--threads")
            options.threads = std::stoi(value);
        else if (name == "--optimizer")
            options.optimizer = value;
        else
            throw std::invalid_argument("unknown option " + name);
    }
    if (argc % 2 == 0) throw std::invalid_argument("an option lacks its value");
    return options;
}

struct NetImpl : torch::nn::Module {
    NetImpl()
        : conv1(register_module("conv1",
                                torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 16, 3).padding(1)))),
          norm(register_module("norm", torch::nn::BatchNorm2d(16))),
          conv2(register_module("conv2",
                                torch::nn::Conv2d(torch::nn::Conv2dOptions(16, 32, 3).padding(1)))),
          dropout(register_module("dropout", torch::nn::Dropout(0.1))),
          fc(register_module("fc", torch::nn::Linear(32 * 7 * 7, 10))) {}

    torch::Tensor forward(torch::Tensor x) {
        x = torch::max_pool2d(torch::relu(norm(conv1(x))), 2);
        x = torch::max_pool2d(torch::relu(conv2(x)), 2);
        return fc(dropout(x.flatten(1)));
    }

    torch::nn::Conv2d conv1;
    torch::nn::BatchNorm2d norm;
    torch::nn::Conv2d conv2;
    torch::nn::Dropout dropout;
    torch::nn::Linear fc;
};
TORCH_MODULE(Net);

// The losses of all steps, by step: a run that was killed writes some of them twice, equal to the
// bit.
class LossFile {
public:
    explicit LossFile(const std::string& path) {
        if (!path.empty()) file_.open(path, std::ios::app);
    }
    void add(std::uint64_t step, double loss) {
        if (!file_.is_open()) return;
        std::uint64_t bits = 0;
        std::memcpy(&bits, &loss, sizeof bits);
        char line[80];
        std::snprintf(line, sizeof line, "%llu %016llx %.6f\n",
                      static_cast<unsigned long long>(step), static_cast<unsigned long long>(bits),
                      loss);
        // In one write, so that a kill leaves whole lines.
        file_ << line << std::flush;
    }

private:
    std::ofstream file_;
};

void write_weights(const Net& net, const std::string& path) {
    if (path.empty()) return;
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    for (const auto& tensor : net->parameters()) {
        const auto bytes = tensor.detach().contiguous();
        file.write(static_cast<const char*>(bytes.data_ptr()),
                   static_cast<std::streamsize>(bytes.nbytes()));
    }
    for (const auto& tensor : net->buffers()) {
        const auto bytes = tensor.detach().contiguous();
        file.write(static_cast<const char*>(bytes.data_ptr()),
                   static_cast<std::streamsize>(bytes.nbytes()));
    }
    if (!file) throw std::runtime_error("cannot write '" + path + "'");
}

// Test accuracy; negative if the run is to stop.
double evaluate(Net& net, const fashion_mnist::Dataset& data, pawl::TorchRun& run) {
    const torch::NoGradGuard no_grad;
    net->eval();
    constexpr std::int64_t kBatch = 500;
    std::int64_t correct = 0;
    const std::int64_t size = data.labels.size(0);
    for (std::int64_t begin = 0; begin < size; begin += kBatch) {
        const std::int64_t end = std::min(begin + kBatch, size);
        const auto guess = net(data.images.slice(0, begin, end)).argmax(1);
        correct += guess.eq(data.labels.slice(0, begin, end)).sum().item<std::int64_t>();
        if (!run.poll()) return -1;
    }
    return static_cast<double>(correct) / static_cast<double>(size);
}

fashion_mnist::Dataset first(fashion_mnist::Dataset data, std::int64_t samples) {
    if (samples == 0) return data;
    return {data.images.slice(0, 0, samples), data.labels.slice(0, 0, samples)};
}

std::unique_ptr<torch::optim::Optimizer> make_optimizer(const Options& options, Net& net) {
    if (options.optimizer == "sgd") {
        return std::make_unique<torch::optim::SGD>(net->parameters(),
                                                   torch::optim::SGDOptions(0.05).momentum(0.9));
    }
    return std::make_unique<torch::optim::Adam>(net->parameters(), torch::optim::AdamOptions(2e-3));
}

std::atomic<pawl::TorchRun*> g_run{nullptr};

void on_terminate(int) {
    if (pawl::TorchRun* run = g_run) run->request_stop();
}

int train(const Options& options) {
    torch::set_num_threads(options.threads);
    torch::manual_seed(options.seed);
    const auto training = first(fashion_mnist::load(options.data, fashion_mnist::Split::kTrain),
                                options.train_samples);
    const auto test =
        first(fashion_mnist::load(options.data, fashion_mnist::Split::kTest), options.test_samples);

    Net net;
    const auto optimizer = make_optimizer(options, net);
    torch::optim::StepLR scheduler(*optimizer, /*step_size=*/1, /*gamma=*/0.7);
    pawl::ShuffledSampler sampler(training.labels.size(0), options.batch_size, options.seed);
    double best_accuracy = 0;

    pawl::TorchRun run(
        {.checkpoint_directory = options.checkpoint_directory, .every_steps = options.every_steps});
    run.add_model(*net).add_optimizer(*optimizer).add_scheduler(scheduler).add_sampler(sampler);
    run.add_value("best_accuracy", best_accuracy);
    const bool is_resumed = run.resume();
    if (!run.is_attached()) {
        g_run = &run;
        ::signal(SIGTERM, on_terminate);
    }
    std::printf("%s at step %llu, epoch %llu\n", is_resumed ? "resumed" : "begun",
                static_cast<unsigned long long>(run.step()),
                static_cast<unsigned long long>(run.epoch()));

    LossFile losses(options.losses);
    while (run.epoch() < options.epochs) {
        net->train();
        double loss_value = run.loss();  // resumed behind an epoch's last step, it is that step's
        while (const auto batch = sampler.next()) {
            optimizer->zero_grad();
            const auto guess = net(training.images.index_select(0, *batch));
            const auto loss =
                torch::cross_entropy_loss(guess, training.labels.index_select(0, *batch));
            loss.backward();
            optimizer->step();
            loss_value = loss.item<double>();
            losses.add(run.step(), loss_value);
            if (!run.step(loss_value)) return 0;
        }
        const double accuracy = evaluate(net, test, run);
        if (accuracy < 0) return 0;
        best_accuracy = std::max(best_accuracy, accuracy);
        scheduler.step();
        std::printf("epoch %llu: test accuracy %.2f%%\n",
                    static_cast<unsigned long long>(run.epoch()), 100 * accuracy);
        if (!run.epoch_end(loss_value, {{"accuracy", accuracy}})) return 0;
    }
    run.finish();
    if (run.rank() == 0) write_weights(net, options.weights);
    std::printf("finished: best test accuracy %.2f%%\n", 100 * best_accuracy);
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    // A line is seen when it is printed, also in a file.
    std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);
    try {
        return train(parse(argc, argv));
    } catch (const std::exception& error) {
        std::fprintf(stderr, "fashion_mnist: %s\n", error.what());
        return 1;
    }
}
