// Values of the user's, the sampler's position and the random number generators. See state.h.
#include "torch/state.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <type_traits>

namespace pawl::torch_state {
namespace {

// ---- a value to and from the file, by its C++ type ----

tf::Value written(bool value, StateWriter&) {
    return value;
}
tf::Value written(std::int64_t value, StateWriter&) {
    return value;
}
tf::Value written(double value, StateWriter& writer) {
    return writer.number(value);
}
tf::Value written(const std::string& value, StateWriter&) {
    return value;
}
tf::Value written(const at::Tensor& value, StateWriter& writer) {
    return value.defined() ? writer.tensor(value) : tf::Value(tf::None{});
}
template <class Item>
tf::Value written(const std::vector<Item>& values, StateWriter& writer) {
    // Where a float is a tensor (StateWriter::number), many of them are one.
    if constexpr (std::is_same_v<Item, double> && TORCH_VERSION_MAJOR < 2) {
        return writer.tensor(torch::tensor(values, at::kDouble));
    }
    tf::List list;
    for (const auto& value : values)
        list.items.push_back(written(static_cast<Item>(value), writer));
    return list;
}

std::optional<bool> read(const tf::Value& value, const bool&, const StateReader&) {
    const auto* flag = value.get_if<bool>();
    return flag == nullptr ? std::nullopt : std::optional(*flag);
}
std::optional<std::int64_t> read(const tf::Value& value, const std::int64_t&, const StateReader&) {
    return integer_of(&value);
}
std::optional<double> read(const tf::Value& value, const double&, const StateReader& reader) {
    return number_of(&value, reader);
}
std::optional<std::string> read(const tf::Value& value, const std::string&, const StateReader&) {
    const auto* text = value.get_if<std::string>();
    return text == nullptr ? std::nullopt : std::optional(*text);
}
// A view of the image. One that is registered and defined has to fit.
std::optional<at::Tensor> read(const tf::Value& value, const at::Tensor& registered,
                               const StateReader& reader) {
    if (value.get_if<tf::None>() != nullptr && !registered.defined()) return at::Tensor();
    const auto* saved = value.get_if<tf::Tensor>();
    auto tensor = saved == nullptr ? std::nullopt : reader.tensor(*saved);
    if (tensor && registered.defined() &&
        (tensor->sizes() != registered.sizes() ||
         tensor->scalar_type() != registered.scalar_type())) {
        return std::nullopt;
    }
    return tensor;
}
template <class Item>
std::optional<std::vector<Item>> read(const tf::Value& value, const std::vector<Item>&,
                                      const StateReader& reader) {
    std::vector<Item> items;
    if (const auto* list = value.get_if<tf::List>()) {
        for (const tf::Value& element : list->items) {
            auto item = read(element, Item{}, reader);
            if (!item) return std::nullopt;
            items.push_back(*std::move(item));
        }
        return items;
    }
    const auto* saved = value.get_if<tf::Tensor>();
    if constexpr (std::is_same_v<Item, double>) {
        const auto tensor = saved == nullptr ? std::nullopt : reader.tensor(*saved);
        if (!tensor || tensor->dim() != 1 || tensor->is_complex()) return std::nullopt;
        const at::Tensor plain = tensor->to(at::kDouble).contiguous();
        const auto* const begin = plain.data_ptr<double>();
        return std::vector<double>(begin, begin + plain.numel());
    }
    return std::nullopt;
}

// ---- what was expected, for messages ----

std::string expected(const bool&) {
    return "a bool";
}
std::string expected(const std::int64_t&) {
    return "an int";
}
std::string expected(const double&) {
    return "a number";
}
std::string expected(const std::string&) {
    return "a str";
}
std::string expected(const at::Tensor& registered) {
    return registered.defined() ? shape_of(registered) : "a tensor";
}
template <class Item>
std::string expected(const std::vector<Item>&) {
    return fmt::format("a list, each {},", expected(Item{}));
}

// Puts a value in its place when all fits.
template <class Type>
void put(Type* place, Type value) {
    *place = std::move(value);
}
void put(at::Tensor* place, const at::Tensor& value, at::Device device) {
    const torch::NoGradGuard no_grad;
    if (place->defined()) {
        place->detach().copy_(value);
    } else {
        // Out of the image, which goes away.
        *place = value.defined() ? value.to(device, value.scalar_type(), false, /*copy=*/true)
                                 : at::Tensor();
    }
}

// A value of no known type, from what stands in the file. Lists take the first type that holds all.
std::optional<StateValue> guessed(const tf::Value& value, const StateReader& reader) {
    const auto as = [&](auto type) {
        auto found = read(value, type, reader);
        return found ? std::optional<StateValue>(*std::move(found)) : std::nullopt;
    };
    if (auto found = as(bool{})) return found;
    if (auto found = as(std::int64_t{})) return found;
    if (auto found = as(std::string{})) return found;
    const auto* tensor = value.get_if<tf::Tensor>();
    if (tensor != nullptr && !tensor->shape.empty()) return as(at::Tensor{});
    if (auto found = as(double{})) return found;
    if (auto found = as(std::vector<bool>{})) return found;
    if (auto found = as(std::vector<std::int64_t>{})) return found;
    if (auto found = as(std::vector<double>{})) return found;
    return as(std::vector<std::string>{});
}

// A tensor of the image as one that stays.
void keep(StateValue& value) {
    if (auto* tensor = std::get_if<at::Tensor>(&value)) {
        if (tensor->defined()) *tensor = tensor->clone();
    }
}

}  // namespace

// ---- values of the user's ----

tf::Value values_state(const NamedPlaces& values, StateWriter& writer) {
    tf::Dict dict;
    for (const auto& [name, place] : values) {
        dict.set(
            name,
            std::visit([&writer = writer](auto* value) { return written(*value, writer); }, place));
    }
    return dict;
}

void restore_values(const NamedPlaces& values, const tf::Value& state, const StateReader& reader,
                    Restoration& restoration) {
    const auto* dict = state.get_if<tf::Dict>();
    for (const auto& [name, place] : values) {
        const tf::Value* saved = dict == nullptr ? nullptr : dict->find(name);
        if (saved == nullptr) {
            restoration.missing(fmt::format("values.{}", name),
                                fmt::format("values: '{}' is missing", name));
            continue;
        }
        const std::string& key = name;  // a structured binding can't be captured
        std::visit(
            [&](auto* target) {
                auto found = read(*saved, *target, reader);
                if (!found) {
                    return restoration.mismatch(
                        fmt::format("values: '{}' is {} in the checkpoint, {} was expected", key,
                                    reader.description_of(saved), expected(*target)));
                }
                const at::Device device = restoration.options().device.value_or(at::kCPU);
                restoration.later([target, device, value = *std::move(found)] {
                    if constexpr (std::is_same_v<std::decay_t<decltype(*target)>, at::Tensor>) {
                        put(target, value, device);
                    } else {
                        put(target, value);
                    }
                });
            },
            place);
    }
}

tf::Value plain_state(const StateDict& dict, StateWriter& writer) {
    tf::Dict state;
    for (const auto& [name, value] : dict) {
        state.set(name,
                  std::visit([&](const auto& plain) { return written(plain, writer); }, value));
    }
    return state;
}

StateDict read_plain_state(const tf::Dict& dict, const StateDict& expected_state,
                           std::string_view where, const StateReader& reader,
                           Restoration& restoration) {
    StateDict state;
    for (const auto& [name, value] : expected_state) {
        const tf::Value* saved = dict.find(name);
        if (saved == nullptr) {
            restoration.missing(fmt::format("{}.{}", where, name),
                                fmt::format("{}: '{}' is missing", where, name));
            continue;
        }
        const std::string& key = name;
        std::visit(
            [&](const auto& type) {
                auto found = read(*saved, type, reader);
                if (found) {
                    keep(state[key] = *std::move(found));
                } else {
                    restoration.mismatch(
                        fmt::format("{}: '{}' is {} in the checkpoint, {} was expected", where, key,
                                    reader.description_of(saved), expected(type)));
                }
            },
            value);
    }
    for (const auto& [key, value] : dict.items) {
        const auto* name = key.get_if<std::string>();
        if (name == nullptr || expected_state.contains(*name)) continue;
        if (auto found = guessed(value, reader)) keep(state[*name] = *std::move(found));
    }
    return state;
}

// ---- the sampler ----

tf::Value sampler_state(const ShuffledSampler& sampler) {
    tf::Dict dict;
    dict.set("seed", static_cast<std::int64_t>(sampler.seed()));
    dict.set("epoch", static_cast<std::int64_t>(sampler.epoch()));
    dict.set("position", sampler.position());
    dict.set("size", sampler.size());
    return dict;
}

void restore_sampler(ShuffledSampler& sampler, const tf::Value& state, Restoration& restoration) {
    const auto* dict = state.get_if<tf::Dict>();
    const auto field = [&](const char* name) {
        return dict == nullptr ? std::nullopt : integer_of(dict->find(name));
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

// ---- random numbers ----

namespace {

// Compiles without CUDA's headers, and is empty without a GPU.
std::vector<at::Generator> cuda_generators() {
    std::vector<at::Generator> generators;
    if (!torch::cuda::is_available()) return generators;
    const auto count = static_cast<c10::DeviceIndex>(torch::cuda::device_count());
    for (c10::DeviceIndex i = 0; i < count; ++i) {
        const at::Device device(at::kCUDA, i);
        generators.push_back(at::globalContext().defaultGenerator(device));
    }
    return generators;
}

at::Tensor locked_state(at::Generator generator) {
    const std::lock_guard<std::mutex> lock(generator.mutex());
    return generator.get_state();
}

void restore_generator(const std::string& name, at::Generator generator, const tf::Value* value,
                       const StateReader& reader, Restoration& restoration) {
    const auto* saved = value == nullptr ? nullptr : value->get_if<tf::Tensor>();
    const auto state = saved == nullptr ? std::nullopt : reader.tensor(*saved);
    const at::Tensor present = locked_state(generator);
    if (!state || state->sizes() != present.sizes() ||
        state->scalar_type() != present.scalar_type()) {
        return restoration.mismatch(fmt::format("rng_state: {} is {} in the checkpoint, {} here",
                                                name, reader.description_of(value),
                                                shape_of(present)));
    }
    restoration.later([generator, state]() mutable {
        const std::lock_guard<std::mutex> lock(generator.mutex());
        generator.set_state(state->clone());
    });
}

}  // namespace

tf::Value rng_state(StateWriter& writer) {
    tf::Dict dict;
    dict.set("torch", writer.tensor(locked_state(at::detail::getDefaultCPUGenerator())));
    tf::List cuda;
    for (const at::Generator& generator : cuda_generators())
        cuda.items.push_back(writer.tensor(locked_state(generator)));
    dict.set("cuda", std::move(cuda));
    return dict;
}

void restore_rng(const tf::Value& state, const StateReader& reader, Restoration& restoration) {
    const at::Generator cpu = at::detail::getDefaultCPUGenerator();
    // As scripts often save it: torch.get_rng_state() alone.
    if (state.get_if<tf::Tensor>() != nullptr) {
        return restore_generator("'rng_state'", cpu, &state, reader, restoration);
    }
    const auto* dict = state.get_if<tf::Dict>();
    if (dict == nullptr) return restoration.mismatch("rng_state: a dict was expected");
    restore_generator("'torch'", cpu, dict->find("torch"), reader, restoration);
    const tf::Value* cuda = dict->find("cuda");
    const auto* list = cuda == nullptr ? nullptr : cuda->get_if<tf::List>();
    if (list == nullptr) return;
    const auto generators = cuda_generators();
    // On a machine with other GPUs, or none, the states of those that are not here have no meaning.
    for (std::size_t i = 0; i < std::min(generators.size(), list->items.size()); ++i) {
        restore_generator(fmt::format("'cuda'[{}]", i), generators[i], &list->items[i], reader,
                          restoration);
    }
}

}  // namespace pawl::torch_state
