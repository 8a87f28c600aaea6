// torch.hpp: makes a LibTorch trainer resumable. Ten lines; see README.md and
// examples/fashion_mnist.
//
// Register what the training consists of, resume, and report steps. A checkpoint is what a Python
// script would have saved, under the same names, and torch.load reads it:
//
//   {'epoch', 'step', 'loss', 'model_state_dict', 'optimizer_state_dict', 'scheduler_state_dict',
//    'sampler_state_dict', 'rng_state': {'torch': …, 'cuda': […]}, 'values': {…}}
//
// Everything here is used by the training thread. Registered objects are borrowed and outlive the
// run.
#pragma once

#include <pawl/pawl.hpp>
#include <torch/torch.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace pawl {

// Shuffled batches of indices whose position can be saved: the order of an epoch depends on the
// seed and the epoch alone, so a resumed run sees no sample twice and misses none.
class ShuffledSampler {
public:
    ShuffledSampler(std::int64_t size, std::int64_t batch_size, std::uint64_t seed);

    // Indices of the next batch (int64, at most `batch_size` of them); nullopt at the end of the
    // epoch.
    std::optional<::torch::Tensor> next();
    void begin_epoch(std::uint64_t epoch);

    std::int64_t size() const { return size_; }
    std::uint64_t seed() const { return seed_; }
    std::uint64_t epoch() const { return epoch_; }
    std::int64_t position() const { return position_; }  // samples handed out in this epoch
    void restore(std::uint64_t seed, std::uint64_t epoch, std::int64_t position);

private:
    void shuffle();

    std::int64_t size_;
    std::int64_t batch_size_;
    std::uint64_t seed_;
    std::uint64_t epoch_ = 0;
    std::int64_t position_ = 0;
    ::torch::Tensor order_;
};

struct TorchRunOptions {
    // Standalone mode only; under pawld the job's configuration counts. Zero: the default of
    // pawl.h.
    std::string checkpoint_directory = "checkpoints";
    std::uint64_t every_steps = 0;
    std::uint64_t every_epochs = 0;
    std::uint32_t keep_last = 0;
};

class TorchRun {
public:
    // Attaches to pawld, or begins a standalone run. Throws RunError.
    explicit TorchRun(const TorchRunOptions& options);
    ~TorchRun();
    TorchRun(const TorchRun&) = delete;
    TorchRun& operator=(const TorchRun&) = delete;

    // What a checkpoint holds. SGD and Adam are known; any scheduler of LibTorch's is.
    TorchRun& add_model(::torch::nn::Module& model);
    TorchRun& add_optimizer(::torch::optim::Optimizer& optimizer);
    TorchRun& add_scheduler(::torch::optim::LRScheduler& scheduler);
    TorchRun& add_sampler(ShuffledSampler& sampler);
    TorchRun& add_value(const std::string& name, double& value);
    TorchRun& add_value(const std::string& name, std::int64_t& value);

    // Restores all that was registered, and the RNG, from the newest valid checkpoint: each tensor
    // to the device where the registered one is. False if there is none: training begins at step 0.
    // Throws RunError that lists every key, shape and dtype that does not fit, before anything was
    // changed.
    bool resume();

    std::uint64_t step() const;   // optimizer steps completed
    std::uint64_t epoch() const;  // epochs completed: the one to train next
    double loss() const;          // as last reported, also by the run that was resumed; NaN before
    int rank() const;
    int world_size() const;
    bool is_attached() const;

    // After each optimizer step. False: the state is durable and the process is to leave.
    [[nodiscard]] bool step(double loss);
    // After the last step of an epoch, the scheduler's step and the evaluation: begins the next
    // epoch.
    [[nodiscard]] bool epoch_end(double loss,
                                 const std::vector<std::pair<std::string, double>>& metrics = {});
    // From time to time in an evaluation: a drain need not wait for its end.
    [[nodiscard]] bool poll();
    // Training is complete: returns when the final checkpoint is durable. Throws RunError if it is
    // not.
    void finish();

    // Async-signal-safe; for a SIGTERM handler in standalone mode. See pawl_request_stop.
    void request_stop() noexcept;

private:
    struct Implementation;
    std::unique_ptr<Implementation> implementation_;
};

}  // namespace pawl
