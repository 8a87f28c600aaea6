// LibTorch objects as torchfile values, and back. The layout is Python's: docs/formats.md,
// "data.pkl".
//
// torch: the LibTorch helper (pawl_torch); includes torchfile and the public headers. Private to
// it.
#pragma once

#include "pawl/torch.hpp"
#include "torchfile/archive.h"
#include "torchfile/value.h"

#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pawl::torch_state {

namespace tf = torchfile;

// Collects tensors into a Document. Tensors that share a storage share it in the file.
class StateWriter {
public:
    // Refuses (throws c10::Error) sparse and quantized tensors, by LibTorch's own checks.
    [[nodiscard]] tf::Value tensor(const at::Tensor& tensor);
    [[nodiscard]] tf::Value module(const torch::nn::Module& module);
    // A float of Python's. The weights_only unpickler of PyTorch 1.13 has no opcode for one (nor
    // does it load the optimizers that torch.save of that version writes), so under LibTorch 1 it
    // becomes a whole number where it is one, and a 0-d float64 tensor else, which Python's
    // optimizers take as well.
    [[nodiscard]] tf::Value number(double number);

    // Gives the document away; storages() stays, in the document's order.
    [[nodiscard]] tf::Document finish(tf::Value root);
    // Copies storage `index` of the document to `target`, from whichever device it is on.
    void copy_storage(std::size_t index, std::span<std::byte> target) const;

private:
    std::vector<at::Tensor> holders_;  // one tensor a storage, which keeps it alive
    std::map<const void*, std::size_t> indices_;
    std::vector<tf::Storage> storages_;
};

// Reads tensors of an image without copying: they are views of the image.
class StateReader {
public:
    StateReader(std::span<const std::byte> image, tf::Archive archive)
        : image_(image), archive_(std::move(archive)) {}

    [[nodiscard]] const tf::Value& root() const { return archive_.document.root; }
    // Nullopt: of a dtype that this LibTorch lacks.
    [[nodiscard]] std::optional<at::Tensor> tensor(const tf::Tensor& tensor) const;
    // "Float [3, 2]", "str": what stands in the file, for messages.
    [[nodiscard]] std::string description_of(const tf::Value* value) const;

private:
    std::span<const std::byte> image_;
    tf::Archive archive_;
};

// What does not fit, collected before anything is changed, and what to do if all of it does.
class Restoration {
public:
    explicit Restoration(const LoadOptions& options) : options_(options) {}

    [[nodiscard]] const LoadOptions& options() const { return options_; }
    void mismatch(std::string text) { mismatches_.push_back(std::move(text)); }
    // A mismatch with `text`, or only reported where the options tolerate it.
    void missing(std::string path, std::string text);
    void unexpected(std::string path, std::string text);
    // Part of the file, and of nothing that was registered: no error, but reported.
    void left_out(std::string key) { report_.left_out.push_back(std::move(key)); }

    // `target` gets a copy of `source`, a view of the image.
    void copy(const at::Tensor& target, const at::Tensor& source);
    // Code that is not ours and may throw: before all changes.
    void first(std::function<void()> change) { first_.push_back(std::move(change)); }
    void later(std::function<void()> change) { changes_.push_back(std::move(change)); }

    [[nodiscard]] const std::vector<std::string>& mismatches() const { return mismatches_; }
    [[nodiscard]] const LoadReport& report() const { return report_; }
    void apply();

private:
    LoadOptions options_;
    LoadReport report_;
    std::vector<std::string> mismatches_;
    std::vector<std::function<void()>> first_;
    std::vector<std::function<void()>> changes_;
};

void restore_module(torch::nn::Module& module, const tf::Value& state, const StateReader& reader,
                    Restoration& restoration);

// ---- optimizer.cc ----

// What a file's parameter groups hold beyond what LibTorch knows: 'initial_lr' of Python's
// schedulers, keys of the user's. One dict a group; saved again as they were.
using GroupExtras = std::vector<tf::Dict>;

[[nodiscard]] tf::Value optimizer_state(torch::optim::Optimizer& optimizer,
                                        const GroupExtras& extras, StateWriter& writer);
void restore_optimizer(torch::optim::Optimizer& optimizer, const tf::Value& state,
                       GroupExtras& extras, const StateReader& reader, Restoration& restoration);
[[nodiscard]] std::vector<double> learning_rates(torch::optim::Optimizer& optimizer);

// ---- scheduler.cc ----

struct Scheduler {
    std::function<tf::Value(StateWriter&)> save;
    std::function<void(const tf::Value&, const StateReader&, Restoration&)> restore;
};

[[nodiscard]] Scheduler scheduler_of(torch::optim::LRScheduler& scheduler);
#if TORCH_VERSION_MAJOR >= 2
[[nodiscard]] Scheduler scheduler_of(torch::optim::ReduceLROnPlateauScheduler& scheduler);
#endif
[[nodiscard]] Scheduler scheduler_of(std::function<StateDict()> save,
                                     std::function<void(const StateDict&)> load);

// ---- values.cc ----

using ValuePlace = std::variant<bool*, std::int64_t*, double*, std::string*, std::vector<bool>*,
                                std::vector<std::int64_t>*, std::vector<double>*,
                                std::vector<std::string>*, at::Tensor*>;
using NamedPlaces = std::vector<std::pair<std::string, ValuePlace>>;

[[nodiscard]] tf::Value values_state(const NamedPlaces& values, StateWriter& writer);
void restore_values(const NamedPlaces& values, const tf::Value& state, const StateReader& reader,
                    Restoration& restoration);
[[nodiscard]] tf::Value plain_state(const StateDict& dict, StateWriter& writer);
// What `expected` has, in its types, and whatever else is there. Mismatches begin with `where`.
[[nodiscard]] StateDict read_plain_state(const tf::Dict& dict, const StateDict& expected,
                                         std::string_view where, const StateReader& reader,
                                         Restoration& restoration);

[[nodiscard]] tf::Value sampler_state(const ShuffledSampler& sampler);
void restore_sampler(ShuffledSampler& sampler, const tf::Value& state, Restoration& restoration);

// Every generator that LibTorch draws from by default: the CPU's, and each CUDA device's.
[[nodiscard]] tf::Value rng_state(StateWriter& writer);
void restore_rng(const tf::Value& state, const StateReader& reader, Restoration& restoration);

// ---- small things ----

// "Float [3, 2]", for messages.
[[nodiscard]] std::string shape_of(const at::Tensor& tensor);
// An int, a float or a one-element tensor as a number.
[[nodiscard]] std::optional<double> number_of(const tf::Value* value, const StateReader& reader);
[[nodiscard]] std::optional<std::int64_t> integer_of(const tf::Value* value);

}  // namespace pawl::torch_state
