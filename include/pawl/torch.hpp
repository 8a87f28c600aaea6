// torch.hpp: makes a LibTorch trainer resumable. Ten lines; see README.md and
// examples/fashion_mnist.
//
// Register what the training consists of, resume, and report steps. A checkpoint is what a Python
// script would have saved, under the same names, and torch.load reads it:
//
//   {'epoch', 'step', 'loss', 'model_state_dict', 'optimizer_state_dict', 'scheduler_state_dict',
//    'sampler_state_dict', 'rng_state': {'torch': …, 'cuda': […]}, 'values': {…}}
//
// and a file that a Python script wrote with torch.save is resumed from in the same way.
//
// Everything here is used by the training thread. Registered objects are borrowed and outlive the
// run.
#pragma once

#include <pawl/pawl.hpp>
#include <torch/torch.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace pawl {

class LoaderSampler;
template <class Loader>
class TrackedLoader;

// Shuffled batches of indices whose position can be saved: the order of an epoch depends on the
// seed and the epoch alone, so a resumed run sees no sample twice and misses none.
//
// Either ask it for batches (`next`), or let a torch::data DataLoader do so:
//
//   auto loader = torch::data::make_data_loader(dataset, sampler.for_loader(), options);
//   for (auto& batch : sampler.track(*loader)) …
//
// `track` counts what the loop was handed, not what the loader's workers have fetched ahead: those
// batches are fetched again after a resume.
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

    // For make_data_loader. Borrows this sampler, which stays where it is and outlives the loader.
    // The batch size is that of the loader's options.
    LoaderSampler for_loader();
    // What is left of this epoch, as a range. The loader has `for_loader()` as its sampler and
    // keeps the order (enforce_ordering, its default); c10::Error otherwise.
    template <class Loader>
    TrackedLoader<Loader> track(Loader& loader);

private:
    friend class LoaderSampler;
    template <class Loader>
    friend class TrackedLoader;

    void shuffle();
    void begin_requests();
    std::optional<std::vector<std::size_t>> request(std::size_t batch_size);
    void hand_out();  // the oldest batch that was requested

    std::int64_t size_;
    std::int64_t batch_size_;
    std::uint64_t seed_;
    std::uint64_t epoch_ = 0;
    std::int64_t position_ = 0;
    ::torch::Tensor order_;
    std::int64_t requested_ = 0;             // where the loader is: never behind `position_`
    std::deque<std::int64_t> on_their_way_;  // sizes of the batches between the two
};

// A ShuffledSampler as torch::data::make_data_loader takes it: by value.
class LoaderSampler : public ::torch::data::samplers::Sampler<> {
    using Base = ::torch::data::samplers::Sampler<>;
    // c10::optional in LibTorch 1, std::optional in LibTorch 2.
    template <class Argument>
    static Argument argument_of(void (Base::*)(Argument));
    using OptionalSize = decltype(argument_of(&Base::reset));
    using OptionalBatch = decltype(std::declval<Base&>().next(std::size_t{}));

public:
    explicit LoaderSampler(ShuffledSampler& sampler) : sampler_(&sampler) {}

    void reset(OptionalSize new_size = {}) override;
    OptionalBatch next(std::size_t batch_size) override;
    void save(::torch::serialize::OutputArchive& archive) const override;
    void load(::torch::serialize::InputArchive& archive) override;

private:
    ShuffledSampler* sampler_;
};

// See ShuffledSampler::track. A batch counts as handed out when its iterator is first dereferenced.
template <class Loader>
class TrackedLoader {
    using Inner = decltype(std::declval<Loader&>().begin());

public:
    class Iterator {
    public:
        Iterator(Inner inner, ShuffledSampler* sampler) : inner_(inner), sampler_(sampler) {}
        auto& operator*() {
            if (!is_handed_out_) sampler_->hand_out();
            is_handed_out_ = true;
            return *inner_;
        }
        Iterator& operator++() {
            **this;  // skipped unseen, it is gone all the same
            ++inner_;
            is_handed_out_ = false;
            return *this;
        }
        bool operator==(const Iterator& other) const { return inner_ == other.inner_; }
        bool operator!=(const Iterator& other) const { return inner_ != other.inner_; }

    private:
        Inner inner_;
        ShuffledSampler* sampler_;
        bool is_handed_out_ = false;
    };

    TrackedLoader(Loader& loader, ShuffledSampler& sampler) : loader_(&loader), sampler_(&sampler) {
        TORCH_CHECK(loader.options().enforce_ordering || loader.options().workers == 0,
                    "a DataLoader that does not keep the order has no position to resume from");
    }
    Iterator begin() { return {loader_->begin(), sampler_}; }
    Iterator end() { return {loader_->end(), sampler_}; }

private:
    Loader* loader_;
    ShuffledSampler* sampler_;
};

template <class Loader>
TrackedLoader<Loader> ShuffledSampler::track(Loader& loader) {
    return {loader, *this};
}

// What a scheduler of the user's own saves: plain values by name. In the file a Python dict.
using StateValue = std::variant<bool, std::int64_t, double, std::string, std::vector<bool>,
                                std::vector<std::int64_t>, std::vector<double>,
                                std::vector<std::string>, ::torch::Tensor>;
using StateDict = std::map<std::string, StateValue>;

struct LoadOptions {
    // False: what the file lacks of what was registered, and what it has beyond the model, is
    // tolerated and reported. Shapes, dtypes and parameter groups have to fit all the same.
    bool strict = true;
    // Moves the model there first (torch.load's map_location). Unset: each tensor goes to where the
    // registered one is, wherever it was saved.
    std::optional<::torch::Device> device;
    // The names under which a script saved its parts.
    std::string model_key = "model_state_dict";
    std::string optimizer_key = "optimizer_state_dict";
    std::string scheduler_key = "scheduler_state_dict";
};

// What was tolerated, by path: "model_state_dict.fc.weight", "scheduler_state_dict".
struct LoadReport {
    std::vector<std::string> missing_keys;     // registered, not in the file: left as they were
    std::vector<std::string> unexpected_keys;  // in the file's model, not in the registered one
    // Parts of the file ("ema_state_dict") for which nothing was registered, strict or not.
    std::vector<std::string> left_out;
};

// What a checkpoint holds. TorchRun has one; by itself it loads a file without a run.
class TorchState {
public:
    TorchState();
    ~TorchState();
    TorchState(const TorchState&) = delete;
    TorchState& operator=(const TorchState&) = delete;

    TorchState& add_model(::torch::nn::Module& model);
    // SGD, Adam, AdamW, RMSprop, Adagrad and LBFGS, with any number of parameter groups.
    TorchState& add_optimizer(::torch::optim::Optimizer& optimizer);
    // StepLR goes on in Python as it would have here, and the reverse. Left alone it lowers the
    // rate one step() later than Python's, whose constructor takes a first step: to have the same
    // from the beginning, call step() once before the training. Of a scheduler derived from
    // LRScheduler its step count is saved.
    TorchState& add_scheduler(::torch::optim::LRScheduler& scheduler);
#if TORCH_VERSION_MAJOR >= 2
    TorchState& add_scheduler(::torch::optim::ReduceLROnPlateauScheduler& scheduler);
#endif
    // Any other scheduler. `save` is called for each snapshot, and before a load to learn which
    // names and types are expected; `load` before anything else is changed: if it throws, all else
    // is as it was.
    TorchState& add_scheduler(std::function<StateDict()> save,
                              std::function<void(const StateDict&)> load);
    TorchState& add_sampler(ShuffledSampler& sampler);
    // A tensor that is defined when it is loaded has to fit, and is copied into; one that is not
    // takes what the file has.
    TorchState& add_value(const std::string& name, bool& value);
    TorchState& add_value(const std::string& name, std::int64_t& value);
    TorchState& add_value(const std::string& name, double& value);
    TorchState& add_value(const std::string& name, std::string& value);
    TorchState& add_value(const std::string& name, std::vector<bool>& value);
    TorchState& add_value(const std::string& name, std::vector<std::int64_t>& value);
    TorchState& add_value(const std::string& name, std::vector<double>& value);
    TorchState& add_value(const std::string& name, std::vector<std::string>& value);
    TorchState& add_value(const std::string& name, ::torch::Tensor& value);

    // Any file of torch.save's (PyTorch 1.6 and later): a dict with the parts under the names in
    // `options`, or a model's state_dict alone. Every record's CRC is verified first. Throws
    // RunError that lists all that does not fit, before anything was changed.
    LoadReport load_file(const std::string& path, const LoadOptions& options = {});

private:
    friend class TorchRun;
    struct Implementation;
    std::unique_ptr<Implementation> implementation_;
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

    // What a checkpoint holds: see TorchState, whose functions these are.
    TorchRun& add_model(::torch::nn::Module& model);
    TorchRun& add_optimizer(::torch::optim::Optimizer& optimizer);
    template <class Scheduler>
    TorchRun& add_scheduler(Scheduler& scheduler) {
        state_.add_scheduler(scheduler);
        return *this;
    }
    TorchRun& add_scheduler(std::function<StateDict()> save,
                            std::function<void(const StateDict&)> load);
    TorchRun& add_sampler(ShuffledSampler& sampler);
    template <class Value>
    TorchRun& add_value(const std::string& name, Value& value) {
        state_.add_value(name, value);
        return *this;
    }

    // Restores all that was registered, and the RNG, from the newest valid checkpoint: each tensor
    // to the device where the registered one is. False if there is none: training begins at step 0.
    // Throws RunError that lists every key, shape, dtype and parameter group that does not fit,
    // before anything was changed.
    bool resume(const LoadOptions& options = {});
    // The same from a file of the caller's choice, with its 'epoch' and 'step' if it has them.
    LoadReport load_file(const std::string& path, const LoadOptions& options = {});
    // What the last of these two tolerated.
    const LoadReport& load_report() const;

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
    // Between steps: a checkpoint without waiting for the cadence. With one rank it is of the state
    // as it is; several save at the same one of the next steps. A warning says why if there will be
    // none.
    [[nodiscard]] bool snapshot();
    // Training is complete: returns when the final checkpoint is durable. Throws RunError if it is
    // not.
    void finish();

    // Async-signal-safe; for a SIGTERM handler in standalone mode. See pawl_request_stop.
    void request_stop() noexcept;

private:
    struct Implementation;
    TorchState state_;
    std::unique_ptr<Implementation> implementation_;
};

}  // namespace pawl
