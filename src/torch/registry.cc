// TorchState: see pawl/torch.hpp and registry.h.
#include "torch/registry.h"

#include "base/fd.h"
#include "base/result.h"
#include "torchfile/archive.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <set>
#include <string_view>

namespace pawl {
namespace {

namespace tf = torchfile;
using torch_state::Restoration;
using torch_state::StateReader;
using torch_state::StateWriter;

int code_of(ErrorKind kind) {
    switch (kind) {
        case ErrorKind::kNotFound:
            return PAWL_E_NOT_FOUND;
        case ErrorKind::kCorrupt:
            return PAWL_E_CORRUPT;
        case ErrorKind::kUnsupported:
            return PAWL_E_UNSUPPORTED;
        default:
            return PAWL_E_IO;
    }
}

[[noreturn]] void fail(Error error, const std::string& name) {
    const Error whole = std::move(error).while_doing("load {}", name);
    throw RunError(code_of(whole.kind()), whole.text());
}

struct FileImage {
    std::unique_ptr<std::byte[]> bytes;
    std::size_t size = 0;
};

// Read, not mapped: a script that saves over the file meanwhile must not end this process.
Result<FileImage> read_file(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd.is_open()) {
        const int code = errno;
        if (code == ENOENT) return make_error(ErrorKind::kNotFound, "there is no such file");
        return error_from_code(code, "open it");
    }
    struct stat status {};
    if (::fstat(fd.get(), &status) != 0) return error_from_errno("look at it");
    FileImage image;
    image.size = static_cast<std::size_t>(status.st_size);
    image.bytes = std::make_unique_for_overwrite<std::byte[]>(image.size);
    for (std::size_t done = 0; done < image.size;) {
        const ssize_t count = ::read(fd.get(), image.bytes.get() + done, image.size - done);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return error_from_errno("read it");
        if (count == 0) {
            return make_error(ErrorKind::kCorrupt, "it became shorter while it was read");
        }
        done += static_cast<std::size_t>(count);
    }
    return image;
}

Result<void> check_records(std::span<const std::byte> image) {
    const MemorySource source(image);
    auto directory = tf::read_directory(source);
    if (!directory) return std::move(directory).error();
    const auto damaged = tf::first_damaged_record(source, *directory);
    if (!damaged) return damaged.error();
    if (!*damaged) return {};
    return make_error(ErrorKind::kCorrupt,
                      "record '{}' is damaged: it has not the CRC-32 that the "
                      "file says",
                      directory->records.at(**damaged).name);
}

// A model's state_dict, saved by itself: names and tensors, nothing else.
bool is_state_dict(const tf::Dict& dict) {
    if (dict.items.empty()) return false;
    for (const auto& [key, value] : dict.items) {
        if (key.get_if<std::string>() == nullptr || value.get_if<tf::Tensor>() == nullptr)
            return false;
    }
    return true;
}

constexpr std::string_view kStateSuffix = "_state_dict";
constexpr const char* kSampler = "sampler_state_dict";
constexpr const char* kLoader = "loader_state_dict";

std::string missing_text(const tf::Dict& root, const std::string& key) {
    std::string text = fmt::format("key '{}' is missing", key);
    if (key == kSampler && root.find(kLoader) != nullptr) {
        text += fmt::format(
            "; '{}' is the position of a Python DataLoader whose order is its own: give that "
            "loader sampler=pawl.data.ShuffledSampler(size, seed)",
            kLoader);
    }
    return text;
}

// Says why a device can't be used, before anything is moved there.
std::optional<std::string> reason_against(const torch::Device& device) {
    try {
        static_cast<void>(torch::empty({1}, torch::TensorOptions().device(device)));
        return std::nullopt;
    } catch (const c10::Error& error) {
        const std::string text = error.what_without_backtrace();
        return fmt::format("device '{}' can't be used here: {}", device.str(),
                           text.substr(0, text.find('\n')));
    }
}

}  // namespace

// ---- the document ----

void TorchState::Implementation::set_scheduler(torch_state::Scheduler new_scheduler) {
    scheduler = std::move(new_scheduler);
    note_initial_rates();
}

// What Python's schedulers call initial_lr, and expect in the groups of an optimizer that they go
// on with.
void TorchState::Implementation::note_initial_rates() {
    if (optimizer != nullptr && scheduler) initial_rates = torch_state::learning_rates(*optimizer);
}

tf::Document TorchState::Implementation::document(StateWriter& writer) const {
    tf::Dict root;
    root.set("epoch", static_cast<std::int64_t>(epoch));
    root.set("step", static_cast<std::int64_t>(step));
    root.set("loss", writer.number(loss));
    if (model != nullptr) root.set("model_state_dict", writer.module(*model));
    if (optimizer != nullptr) {
        torch_state::GroupExtras kept = extras;
        kept.resize(std::max(kept.size(), initial_rates.size()));
        for (std::size_t i = 0; i < initial_rates.size(); ++i) {
            if (kept[i].find("initial_lr") == nullptr) kept[i].set("initial_lr", initial_rates[i]);
        }
        root.set("optimizer_state_dict", torch_state::optimizer_state(*optimizer, kept, writer));
    }
    if (scheduler) root.set("scheduler_state_dict", scheduler->save(writer));
    if (sampler != nullptr) root.set("sampler_state_dict", torch_state::sampler_state(*sampler));
    root.set("rng_state", torch_state::rng_state(writer));
    root.set("values", torch_state::values_state(values, writer));
    return writer.finish(std::move(root));
}

void TorchState::Implementation::restore(const StateReader& reader, Restoration& restoration) {
    const auto* root = reader.root().get_if<tf::Dict>();
    if (root == nullptr) {
        return restoration.mismatch(
            fmt::format("the file holds a {}, a dict was expected", reader.root().type_name()));
    }
    const LoadOptions& options = restoration.options();
    if (options.device) {
        if (auto reason = reason_against(*options.device)) restoration.mismatch(*std::move(reason));
        if (model != nullptr) {
            restoration.later([this, device = *options.device] { model->to(device); });
        }
    }
    std::set<std::string> taken;
    const auto with = [&](const std::string& key, const auto& restore_it) {
        taken.insert(key);
        const tf::Value* value = root->find(key);
        if (value != nullptr) return restore_it(*value);
        restoration.missing(key, missing_text(*root, key));
    };
    if (model != nullptr) {
        if (root->find(options.model_key) == nullptr && is_state_dict(*root)) {
            torch_state::restore_module(*model, reader.root(), reader, restoration);
        } else {
            with(options.model_key, [&](const tf::Value& value) {
                torch_state::restore_module(*model, value, reader, restoration);
            });
        }
    }
    if (optimizer != nullptr) {
        with(options.optimizer_key, [&](const tf::Value& value) {
            torch_state::restore_optimizer(*optimizer, value, extras, reader, restoration);
        });
    }
    if (scheduler) {
        with(options.scheduler_key,
             [&](const tf::Value& value) { scheduler->restore(value, reader, restoration); });
    }
    if (!values.empty()) {
        with("values", [&](const tf::Value& value) {
            torch_state::restore_values(values, value, reader, restoration);
        });
    }
    // Scripts seldom save it, and nothing was registered for it.
    if (const tf::Value* value = root->find("rng_state"))
        torch_state::restore_rng(*value, reader, restoration);
    if (const auto saved = torch_state::number_of(root->find("loss"), reader))
        restoration.later([this, saved] { loss = *saved; });

    const auto saved_epoch = torch_state::integer_of(root->find("epoch"));
    const auto saved_step = torch_state::integer_of(root->find("step"));
    if (saved_epoch && *saved_epoch >= 0)
        restoration.later(
            [this, saved_epoch] { epoch = static_cast<std::uint64_t>(*saved_epoch); });
    if (saved_step && *saved_step >= 0)
        restoration.later([this, saved_step] { step = static_cast<std::uint64_t>(*saved_step); });
    if (sampler != nullptr) {
        if (!options.strict && root->find(kSampler) == nullptr) {
            // At least the order of the samples is that of the epoch.
            restoration.later([this] { sampler->begin_epoch(epoch); });
        }
        with(kSampler, [&](const tf::Value& value) {
            torch_state::restore_sampler(*sampler, value, restoration);
        });
        // The same position, in Python's terms.
        taken.insert(kLoader);
    }
    for (const auto& [key, value] : root->items) {
        const auto* name = key.get_if<std::string>();
        if (name != nullptr && name->ends_with(kStateSuffix) && !taken.contains(*name))
            restoration.left_out(*name);
    }
}

void TorchState::Implementation::load(std::span<const std::byte> image, const std::string& name,
                                      const LoadOptions& options) {
    auto archive = tf::read_archive(MemorySource(image));
    if (!archive) fail(std::move(archive).error(), name);
    const StateReader reader(image, std::move(*archive));
    Restoration restoration(options);
    restore(reader, restoration);
    if (!restoration.mismatches().empty()) {
        throw RunError(PAWL_E_INVALID,
                       fmt::format("{} does not fit this program; nothing was changed:\n  {}", name,
                                   fmt::join(restoration.mismatches(), "\n  ")));
    }
    restoration.apply();
    report = restoration.report();
}

void TorchState::Implementation::load_file(const std::string& path, const LoadOptions& options) {
    const std::string name = fmt::format("'{}'", path);
    auto file = read_file(path);
    if (!file) fail(std::move(file).error(), name);
    const std::span<const std::byte> image(file->bytes.get(), file->size);
    if (auto checked = check_records(image); !checked) fail(std::move(checked).error(), name);
    load(image, name, options);
}

// ---- TorchState ----

TorchState::TorchState() : implementation_(std::make_unique<Implementation>()) {
}
TorchState::~TorchState() = default;

TorchState& TorchState::add_model(torch::nn::Module& model) {
    implementation_->model = &model;
    return *this;
}

TorchState& TorchState::add_optimizer(torch::optim::Optimizer& optimizer) {
    implementation_->optimizer = &optimizer;
    implementation_->note_initial_rates();
    return *this;
}

TorchState& TorchState::add_scheduler(torch::optim::LRScheduler& scheduler) {
    implementation_->set_scheduler(torch_state::scheduler_of(scheduler));
    return *this;
}

#if TORCH_VERSION_MAJOR >= 2
TorchState& TorchState::add_scheduler(torch::optim::ReduceLROnPlateauScheduler& scheduler) {
    implementation_->set_scheduler(torch_state::scheduler_of(scheduler));
    return *this;
}
#endif

TorchState& TorchState::add_scheduler(std::function<StateDict()> save,
                                      std::function<void(const StateDict&)> load) {
    implementation_->set_scheduler(torch_state::scheduler_of(std::move(save), std::move(load)));
    return *this;
}

TorchState& TorchState::add_sampler(ShuffledSampler& sampler) {
    implementation_->sampler = &sampler;
    return *this;
}

#define PAWL_ADD_VALUE(...)                                                          \
    TorchState& TorchState::add_value(const std::string& name, __VA_ARGS__& value) { \
        implementation_->values.emplace_back(name, &value);                          \
        return *this;                                                                \
    }
PAWL_ADD_VALUE(bool)
PAWL_ADD_VALUE(std::int64_t)
PAWL_ADD_VALUE(double)
PAWL_ADD_VALUE(std::string)
PAWL_ADD_VALUE(std::vector<bool>)
PAWL_ADD_VALUE(std::vector<std::int64_t>)
PAWL_ADD_VALUE(std::vector<double>)
PAWL_ADD_VALUE(std::vector<std::string>)
PAWL_ADD_VALUE(torch::Tensor)
#undef PAWL_ADD_VALUE

LoadReport TorchState::load_file(const std::string& path, const LoadOptions& options) {
    implementation_->load_file(path, options);
    return implementation_->report;
}

}  // namespace pawl
