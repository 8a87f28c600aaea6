// TorchRun: see pawl/torch.hpp.
#include "base/crash_point.h"
#include "pawl/torch.hpp"
#include "torch/registry.h"
#include "torch/state.h"
#include "torchfile/archive.h"

#include <fmt/format.h>

namespace pawl {
namespace {

namespace tf = torchfile;
using torch_state::StateWriter;

constexpr const char* kFramework = "LibTorch " TORCH_VERSION;

}  // namespace

struct TorchRun::Implementation {
    Implementation(const pawl_attach_options& options, TorchState::Implementation& its_state)
        : run(options), state(its_state) {}

    Run run;
    TorchState::Implementation& state;
    std::vector<std::pair<std::string, double>> metrics;

    bool act(const Actions& actions);
    void snapshot();
};

// Takes the state into the memory that the run offers. What goes wrong here costs this snapshot,
// never the training: it is told to the daemon, which reports it.
void TorchRun::Implementation::snapshot() {
    const torch::NoGradGuard no_grad;
    bool has_begun = false;
    try {
        StateWriter writer;
        const tf::Document saved = state.document(writer);
        const auto plan = tf::plan_image(saved, "archive");
        if (!plan) return run.snapshot_abort(plan.error().text());
        void* const memory = run.snapshot_begin(plan->bytes);
        if (memory == nullptr) return;
        has_begun = true;
        crash_point("snapshot: begun");
        const std::span<std::byte> image(static_cast<std::byte*>(memory), plan->bytes);
        tf::lay_out(*plan, image);
        for (std::size_t i = 0; i < plan->storages.size(); ++i) {
            writer.copy_storage(i,
                                image.subspan(plan->storages[i].offset, plan->storages[i].bytes));
            if (i == plan->storages.size() / 2) crash_point("snapshot: half copied");
        }
        crash_point("snapshot: copied");
        if (!run.snapshot_seal(metrics)) {
            // Standalone, this was the write itself: its error is for the person at the terminal.
            if (!run.is_attached()) TORCH_WARN("pawl: ", pawl_last_error());
        }
        crash_point("snapshot: sealed");
    } catch (const std::exception& error) {
        if (has_begun) run.snapshot_abort(error.what());
        TORCH_WARN("pawl: no snapshot of step ", state.step, ": ", error.what());
    }
}

bool TorchRun::Implementation::act(const Actions& actions) {
    if (actions.take_snapshot) snapshot();
    return !actions.stop;
}

TorchRun::TorchRun(const TorchRunOptions& options) {
    pawl_attach_options c_options{};
    c_options.struct_size = sizeof c_options;
    c_options.framework = kFramework;
    c_options.checkpoint_directory = options.checkpoint_directory.c_str();
    c_options.every_steps = options.every_steps;
    c_options.every_epochs = options.every_epochs;
    c_options.keep_last = options.keep_last;
    implementation_ = std::make_unique<Implementation>(c_options, *state_.implementation_);
}

TorchRun::~TorchRun() = default;

TorchRun& TorchRun::add_model(torch::nn::Module& model) {
    state_.add_model(model);
    return *this;
}

TorchRun& TorchRun::add_optimizer(torch::optim::Optimizer& optimizer) {
    state_.add_optimizer(optimizer);
    return *this;
}

TorchRun& TorchRun::add_scheduler(std::function<StateDict()> save,
                                  std::function<void(const StateDict&)> load) {
    state_.add_scheduler(std::move(save), std::move(load));
    return *this;
}

TorchRun& TorchRun::add_sampler(ShuffledSampler& sampler) {
    state_.add_sampler(sampler);
    return *this;
}

bool TorchRun::resume(const LoadOptions& options) {
    Implementation& self = *implementation_;
    const pawl_resume point = self.run.resume();
    if (point.image == nullptr) return false;
    const std::span<const std::byte> image(static_cast<const std::byte*>(point.image),
                                           point.image_bytes);
    self.state.load(image, fmt::format("checkpoint {}", point.sequence), options);
    self.state.step = point.step;
    self.state.epoch = point.epoch;
    self.run.release_resume();
    for (const std::string& key : self.state.report.left_out) {
        TORCH_WARN("pawl: checkpoint ", point.sequence, " holds '", key,
                   "', for which nothing was registered: it is not restored, and later checkpoints "
                   "are without it");
    }
    return true;
}

LoadReport TorchRun::load_file(const std::string& path, const LoadOptions& options) {
    return state_.load_file(path, options);
}

const LoadReport& TorchRun::load_report() const {
    return implementation_->state.report;
}

std::uint64_t TorchRun::step() const {
    return implementation_->state.step;
}
std::uint64_t TorchRun::epoch() const {
    return implementation_->state.epoch;
}
double TorchRun::loss() const {
    return implementation_->state.loss;
}
int TorchRun::rank() const {
    return implementation_->run.rank();
}
int TorchRun::world_size() const {
    return implementation_->run.world_size();
}
bool TorchRun::is_attached() const {
    return implementation_->run.is_attached();
}

bool TorchRun::step(double loss) {
    Implementation& self = *implementation_;
    self.state.loss = loss;
    ++self.state.step;
    return self.act(self.run.step(self.state.step, self.state.epoch, loss));
}

bool TorchRun::epoch_end(double loss, const std::vector<std::pair<std::string, double>>& metrics) {
    Implementation& self = *implementation_;
    self.state.loss = loss;
    self.metrics = metrics;
    ++self.state.epoch;
    if (self.state.sampler != nullptr) self.state.sampler->begin_epoch(self.state.epoch);
    return self.act(self.run.epoch_end(self.state.step, self.state.epoch, loss, metrics));
}

bool TorchRun::poll() {
    return implementation_->act(implementation_->run.poll(PAWL_PHASE_EVALUATION));
}

bool TorchRun::snapshot() {
    Implementation& self = *implementation_;
    bool is_asked = false;
    const Actions actions = self.run.request_checkpoint(&is_asked);
    if (!is_asked) TORCH_WARN("pawl: no checkpoint will be made: ", pawl_last_error());
    return self.act(actions);
}

void TorchRun::finish() {
    Implementation& self = *implementation_;
    const Actions actions = self.run.finish();
    if (actions.stop) return;
    if (actions.take_snapshot) self.snapshot();
    if (!self.run.finish_wait()) throw RunError(PAWL_E_IO, pawl_last_error());
}

void TorchRun::request_stop() noexcept {
    implementation_->run.request_stop();
}

}  // namespace pawl
