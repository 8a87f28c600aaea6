// TorchRun and ShuffledSampler: see pawl/torch.hpp.
#include "base/crash_point.h"
#include "pawl/torch.hpp"
#include "torch/state.h"
#include "torchfile/archive.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <variant>

namespace pawl {
namespace {

namespace tf = torchfile;
using torch_state::Restoration;
using torch_state::StateReader;
using torch_state::StateWriter;

constexpr const char* kFramework = "LibTorch " TORCH_VERSION;

using Value = std::variant<double*, std::int64_t*>;

tf::Value sampler_state(const ShuffledSampler& sampler) {
    tf::Dict dict;
    dict.set("seed", static_cast<std::int64_t>(sampler.seed()));
    dict.set("epoch", static_cast<std::int64_t>(sampler.epoch()));
    dict.set("position", sampler.position());
    dict.set("size", sampler.size());
    return dict;
}

void restore_sampler(ShuffledSampler& sampler, const tf::Value& value, Restoration& restoration) {
    const auto* dict = value.get_if<tf::Dict>();
    const auto field = [&](const char* name) {
        return dict == nullptr ? std::nullopt : torch_state::integer_of(dict->find(name));
    };
    const auto seed = field("seed");
    const auto epoch = field("epoch");
    const auto position = field("position");
    const auto size = field("size");
    if (!seed || !epoch || !position || !size) {
        return restoration.mismatch(
            "sampler_state_dict: 'seed', 'epoch', 'position' and 'size' were expected");
    }
    if (*size != sampler.size() || *position < 0 || *position > *size) {
        return restoration.mismatch(fmt::format(
            "sampler_state_dict: position {} of {} samples in the checkpoint, the data has {}",
            *position, *size, sampler.size()));
    }
    restoration.later([&sampler, seed, epoch, position] {
        sampler.restore(static_cast<std::uint64_t>(*seed), static_cast<std::uint64_t>(*epoch),
                        *position);
    });
}

// Every generator that LibTorch draws from by default: the CPU's, and each CUDA device's.
std::vector<at::Generator> cuda_generators() {
    std::vector<at::Generator> generators;
    if (!torch::cuda::is_available()) return generators;
    for (std::size_t i = 0; i < torch::cuda::device_count(); ++i) {
        const at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(i));
        generators.push_back(at::globalContext().defaultGenerator(device));
    }
    return generators;
}

at::Tensor locked_state(at::Generator& generator) {
    const std::lock_guard<std::mutex> lock(generator.mutex());
    return generator.get_state();
}

tf::Value rng_state(StateWriter& writer) {
    at::Generator cpu = at::detail::getDefaultCPUGenerator();
    tf::Dict dict;
    dict.set("torch", writer.tensor(locked_state(cpu)));
    tf::List cuda;
    for (at::Generator& generator : cuda_generators())
        cuda.items.push_back(writer.tensor(locked_state(generator)));
    dict.set("cuda", std::move(cuda));
    return dict;
}

void restore_generator(at::Generator generator, const tf::Value* value, const StateReader& reader,
                       Restoration& restoration) {
    const auto* saved = value == nullptr ? nullptr : value->get_if<tf::Tensor>();
    if (saved == nullptr) return restoration.mismatch("rng_state: a generator's state is missing");
    const at::Tensor state = reader.tensor(*saved);
    restoration.later([generator, state]() mutable {
        const std::lock_guard<std::mutex> lock(generator.mutex());
        generator.set_state(state.clone());
    });
}

void restore_rng(const tf::Value& value, const StateReader& reader, Restoration& restoration) {
    const auto* dict = value.get_if<tf::Dict>();
    if (dict == nullptr) return restoration.mismatch("rng_state: a dict was expected");
    restore_generator(at::detail::getDefaultCPUGenerator(), dict->find("torch"), reader,
                      restoration);
    const tf::Value* cuda = dict->find("cuda");
    const auto* list = cuda == nullptr ? nullptr : cuda->get_if<tf::List>();
    if (list == nullptr) return;
    const auto generators = cuda_generators();
    // On a machine with other GPUs, or none, the states of those that are not here have no meaning.
    for (std::size_t i = 0; i < std::min(generators.size(), list->items.size()); ++i) {
        restore_generator(generators[i], &list->items[i], reader, restoration);
    }
}

}  // namespace

// ---- the sampler ----

ShuffledSampler::ShuffledSampler(std::int64_t size, std::int64_t batch_size, std::uint64_t seed)
    : size_(size), batch_size_(batch_size), seed_(seed) {
    TORCH_CHECK(size > 0 && batch_size > 0, "a sampler needs samples and a batch size");
    shuffle();
}

void ShuffledSampler::shuffle() {
    // A generator of its own: the order depends on nothing else that draws random numbers.
    const at::Generator generator =
        at::detail::createCPUGenerator(seed_ * 0x9E3779B97F4A7C15ULL + epoch_);
    order_ = torch::randperm(size_, generator, at::TensorOptions().dtype(at::kLong));
}

std::optional<torch::Tensor> ShuffledSampler::next() {
    if (position_ >= size_) return std::nullopt;
    const std::int64_t end = std::min(position_ + batch_size_, size_);
    auto batch = order_.slice(/*dim=*/0, position_, end);
    position_ = end;
    return batch;
}

void ShuffledSampler::begin_epoch(std::uint64_t epoch) {
    restore(seed_, epoch, 0);
}

void ShuffledSampler::restore(std::uint64_t seed, std::uint64_t epoch, std::int64_t position) {
    seed_ = seed;
    epoch_ = epoch;
    position_ = position;
    shuffle();
}

// ---- the run ----

struct TorchRun::Implementation {
    explicit Implementation(const pawl_attach_options& options) : run(options) {}

    Run run;
    torch::nn::Module* model = nullptr;
    torch::optim::Optimizer* optimizer = nullptr;
    torch::optim::LRScheduler* scheduler = nullptr;
    ShuffledSampler* sampler = nullptr;
    std::vector<std::pair<std::string, Value>> values;
    std::uint64_t step = 0;
    std::uint64_t epoch = 0;
    double loss = std::nan("");
    std::vector<std::pair<std::string, double>> metrics;

    tf::Document document(StateWriter& writer) const;
    void restore(const StateReader& reader, Restoration& restoration);
    bool act(const Actions& actions);
    void snapshot();
};

tf::Document TorchRun::Implementation::document(StateWriter& writer) const {
    tf::Dict root;
    root.set("epoch", static_cast<std::int64_t>(epoch));
    root.set("step", static_cast<std::int64_t>(step));
    root.set("loss", writer.number(loss));
    if (model != nullptr) root.set("model_state_dict", writer.module(*model));
    if (optimizer != nullptr)
        root.set("optimizer_state_dict", torch_state::optimizer_state(*optimizer, writer));
    if (scheduler != nullptr)
        root.set("scheduler_state_dict", torch_state::scheduler_state(*scheduler));
    if (sampler != nullptr) root.set("sampler_state_dict", sampler_state(*sampler));
    root.set("rng_state", rng_state(writer));
    tf::Dict value_dict;
    for (const auto& [name, place] : values) {
        if (auto* const* real = std::get_if<double*>(&place))
            value_dict.set(name, writer.number(**real));
        if (auto* const* whole = std::get_if<std::int64_t*>(&place)) value_dict.set(name, **whole);
    }
    root.set("values", std::move(value_dict));
    return writer.finish(std::move(root));
}

// Takes the state into the memory that the run offers. What goes wrong here costs this snapshot,
// never the training: it is told to the daemon, which reports it.
void TorchRun::Implementation::snapshot() {
    const torch::NoGradGuard no_grad;
    bool has_begun = false;
    try {
        StateWriter writer;
        const tf::Document saved = document(writer);
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
        TORCH_WARN("pawl: no snapshot of step ", step, ": ", error.what());
    }
}

bool TorchRun::Implementation::act(const Actions& actions) {
    if (actions.take_snapshot) snapshot();
    return !actions.stop;
}

void TorchRun::Implementation::restore(const StateReader& reader, Restoration& restoration) {
    const auto* root = reader.root().get_if<tf::Dict>();
    if (root == nullptr) {
        return restoration.mismatch(
            fmt::format("the file holds a {}, a dict was expected", reader.root().type_name()));
    }
    const auto with = [&](const char* key, const auto& restore_it) {
        const tf::Value* value = root->find(key);
        if (value == nullptr) return restoration.mismatch(fmt::format("key '{}' is missing", key));
        restore_it(*value);
    };
    if (model != nullptr) {
        with("model_state_dict", [&](const tf::Value& value) {
            torch_state::restore_module(*model, value, reader, restoration);
        });
    }
    if (optimizer != nullptr) {
        with("optimizer_state_dict", [&](const tf::Value& value) {
            torch_state::restore_optimizer(*optimizer, value, reader, restoration);
        });
    }
    if (scheduler != nullptr) {
        with("scheduler_state_dict", [&](const tf::Value& value) {
            torch_state::restore_scheduler(*scheduler, value, restoration);
        });
    }
    if (sampler != nullptr) {
        with("sampler_state_dict",
             [&](const tf::Value& value) { restore_sampler(*sampler, value, restoration); });
    }
    with("rng_state", [&](const tf::Value& value) { restore_rng(value, reader, restoration); });
    if (const auto saved = torch_state::number_of(root->find("loss"), reader)) {
        restoration.later([this, saved] { loss = *saved; });
    }
    if (values.empty()) return;
    with("values", [&](const tf::Value& value) {
        const auto* dict = value.get_if<tf::Dict>();
        for (const auto& [name, place] : values) {
            const tf::Value* saved = dict == nullptr ? nullptr : dict->find(name);
            const auto number = torch_state::number_of(saved, reader);
            if (!number) {
                restoration.mismatch(fmt::format("values: '{}' is missing or no number", name));
                continue;
            }
            const auto integer = torch_state::integer_of(saved);
            restoration.later([target = place, number, integer] {
                if (auto* const* real = std::get_if<double*>(&target)) **real = *number;
                if (auto* const* whole = std::get_if<std::int64_t*>(&target)) {
                    **whole = integer.value_or(static_cast<std::int64_t>(*number));
                }
            });
        }
    });
}

TorchRun::TorchRun(const TorchRunOptions& options) {
    pawl_attach_options c_options{};
    c_options.struct_size = sizeof c_options;
    c_options.framework = kFramework;
    c_options.checkpoint_directory = options.checkpoint_directory.c_str();
    c_options.every_steps = options.every_steps;
    c_options.every_epochs = options.every_epochs;
    c_options.keep_last = options.keep_last;
    implementation_ = std::make_unique<Implementation>(c_options);
}

TorchRun::~TorchRun() = default;

TorchRun& TorchRun::add_model(torch::nn::Module& model) {
    implementation_->model = &model;
    return *this;
}

TorchRun& TorchRun::add_optimizer(torch::optim::Optimizer& optimizer) {
    implementation_->optimizer = &optimizer;
    return *this;
}

TorchRun& TorchRun::add_scheduler(torch::optim::LRScheduler& scheduler) {
    implementation_->scheduler = &scheduler;
    return *this;
}

TorchRun& TorchRun::add_sampler(ShuffledSampler& sampler) {
    implementation_->sampler = &sampler;
    return *this;
}

TorchRun& TorchRun::add_value(const std::string& name, double& value) {
    implementation_->values.emplace_back(name, &value);
    return *this;
}

TorchRun& TorchRun::add_value(const std::string& name, std::int64_t& value) {
    implementation_->values.emplace_back(name, &value);
    return *this;
}

bool TorchRun::resume() {
    Implementation& self = *implementation_;
    const pawl_resume point = self.run.resume();
    if (point.image == nullptr) return false;
    const std::span<const std::byte> image(static_cast<const std::byte*>(point.image),
                                           point.image_bytes);
    auto archive = tf::read_archive(MemorySource(image));
    if (!archive) {
        throw RunError(PAWL_E_CORRUPT, fmt::format("cannot resume from checkpoint {}: {}",
                                                   point.sequence, archive.error().text()));
    }
    const StateReader reader(image, std::move(*archive));
    Restoration restoration;
    self.restore(reader, restoration);
    if (!restoration.mismatches().empty()) {
        throw RunError(
            PAWL_E_INVALID,
            fmt::format("checkpoint {} does not fit this program; nothing was changed:\n  {}",
                        point.sequence, fmt::join(restoration.mismatches(), "\n  ")));
    }
    restoration.apply();
    self.step = point.step;
    self.epoch = point.epoch;
    self.run.release_resume();
    return true;
}

std::uint64_t TorchRun::step() const {
    return implementation_->step;
}
std::uint64_t TorchRun::epoch() const {
    return implementation_->epoch;
}
double TorchRun::loss() const {
    return implementation_->loss;
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
    self.loss = loss;
    ++self.step;
    return self.act(self.run.step(self.step, self.epoch, loss));
}

bool TorchRun::epoch_end(double loss, const std::vector<std::pair<std::string, double>>& metrics) {
    Implementation& self = *implementation_;
    self.loss = loss;
    self.metrics = metrics;
    ++self.epoch;
    if (self.sampler != nullptr) self.sampler->begin_epoch(self.epoch);
    return self.act(self.run.epoch_end(self.step, self.epoch, loss, metrics));
}

bool TorchRun::poll() {
    return implementation_->act(implementation_->run.poll(PAWL_PHASE_EVALUATION));
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
