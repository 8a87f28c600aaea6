// LibTorch objects as torchfile values, and back. The layout is Python's: docs/formats.md,
// "data.pkl".
//
// torch: the LibTorch helper (pawl_torch); includes torchfile and the public headers. Private to
// it.
#pragma once

#include "torchfile/archive.h"
#include "torchfile/value.h"

#include <torch/torch.h>

#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
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
    [[nodiscard]] at::Tensor tensor(const tf::Tensor& tensor) const;

private:
    std::span<const std::byte> image_;
    tf::Archive archive_;
};

// What does not fit, collected before anything is changed, and what to do if all of it does.
class Restoration {
public:
    void mismatch(std::string text) { mismatches_.push_back(std::move(text)); }
    // `target` gets a copy of `source`, a view of the image.
    void copy(const at::Tensor& target, const at::Tensor& source);
    void later(std::function<void()> change) { changes_.push_back(std::move(change)); }

    [[nodiscard]] const std::vector<std::string>& mismatches() const { return mismatches_; }
    void apply();

private:
    std::vector<std::string> mismatches_;
    std::vector<std::function<void()>> changes_;
};

void restore_module(torch::nn::Module& module, const tf::Value& state, const StateReader& reader,
                    Restoration& restoration);

[[nodiscard]] tf::Value optimizer_state(torch::optim::Optimizer& optimizer, StateWriter& writer);
void restore_optimizer(torch::optim::Optimizer& optimizer, const tf::Value& state,
                       const StateReader& reader, Restoration& restoration);

[[nodiscard]] tf::Value scheduler_state(torch::optim::LRScheduler& scheduler);
void restore_scheduler(torch::optim::LRScheduler& scheduler, const tf::Value& state,
                       Restoration& restoration);

// "float32 [3, 2]", for messages.
[[nodiscard]] std::string shape_of(const at::Tensor& tensor);
// An int, a float or a 0-d tensor as a number.
[[nodiscard]] std::optional<double> number_of(const tf::Value* value, const StateReader& reader);
[[nodiscard]] std::optional<std::int64_t> integer_of(const tf::Value* value);

}  // namespace pawl::torch_state
