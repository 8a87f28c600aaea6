// What a checkpoint holds: the objects that were registered with a TorchState, as one document and
// back. See state.h.
#pragma once

#include "pawl/torch.hpp"
#include "torch/state.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace pawl {

struct TorchState::Implementation {
    ::torch::nn::Module* model = nullptr;
    ::torch::optim::Optimizer* optimizer = nullptr;
    std::optional<torch_state::Scheduler> scheduler;
    ShuffledSampler* sampler = nullptr;
    torch_state::NamedPlaces values;
    torch_state::GroupExtras extras;
    std::vector<double> initial_rates;  // of the optimizer's groups, when all was registered

    // Part of the document, for whoever runs the training.
    std::uint64_t step = 0;
    std::uint64_t epoch = 0;
    double loss = std::nan("");
    LoadReport report;

    void set_scheduler(torch_state::Scheduler new_scheduler);
    void note_initial_rates();

    [[nodiscard]] torchfile::Document document(torch_state::StateWriter& writer) const;
    // All of it or, by RunError, nothing. `name` is what is loaded, for messages; `image` is
    // aligned to 16 bytes. Step and epoch are taken from the file if it has them.
    void load(std::span<const std::byte> image, const std::string& name,
              const LoadOptions& options);
    void load_file(const std::string& path, const LoadOptions& options);

private:
    void restore(const torch_state::StateReader& reader, torch_state::Restoration& restoration);
};

}  // namespace pawl
