// Optimizers in Python's layout: {'state': {index: {…}}, 'param_groups': [{…, 'params': [index,
// …]}]}. SGD and Adam; others are refused by name. See state.h.
#include "torch/state.h"

#include <fmt/format.h>

#include <memory>
#include <type_traits>

namespace pawl::torch_state {
namespace {

using torch::optim::Adam;
using torch::optim::AdamOptions;
using torch::optim::AdamParamState;
using torch::optim::Optimizer;
using torch::optim::SGD;
using torch::optim::SGDOptions;
using torch::optim::SGDParamState;

// LibTorch 1 keys the state by the tensor's address as text, LibTorch 2 as a pointer.
template <class Key>
Key key_of(const at::Tensor& parameter) {
    if constexpr (std::is_same_v<Key, std::string>) {
        return c10::guts::to_string(parameter.unsafeGetTensorImpl());
    } else {
        return parameter.unsafeGetTensorImpl();
    }
}

using StateMap = std::decay_t<decltype(std::declval<Optimizer>().state())>;
using StateKey = StateMap::key_type;

at::Tensor scalar(double value) {
    return torch::tensor(value, at::kFloat);
}

// ---- one parameter ----

tf::Value state_of(const AdamParamState& state, StateWriter& writer) {
    tf::Dict dict;
    dict.set("step", writer.tensor(scalar(static_cast<double>(state.step()))));
    dict.set("exp_avg", writer.tensor(state.exp_avg()));
    dict.set("exp_avg_sq", writer.tensor(state.exp_avg_sq()));
    if (state.max_exp_avg_sq().defined())
        dict.set("max_exp_avg_sq", writer.tensor(state.max_exp_avg_sq()));
    return dict;
}

tf::Value state_of(const SGDParamState& state, StateWriter& writer) {
    tf::Dict dict;
    dict.set("momentum_buffer", state.momentum_buffer().defined()
                                    ? writer.tensor(state.momentum_buffer())
                                    : tf::Value(tf::None{}));
    return dict;
}

// A tensor of the checkpoint that has a parameter's shape; a mismatch otherwise.
std::optional<at::Tensor> shaped(const tf::Dict& dict, const char* name,
                                 const at::Tensor& parameter, std::int64_t index,
                                 const StateReader& reader, Restoration& restoration) {
    const tf::Value* value = dict.find(name);
    const auto* saved = value == nullptr ? nullptr : value->get_if<tf::Tensor>();
    if (saved == nullptr) {
        restoration.mismatch(
            fmt::format("optimizer_state_dict: state[{}] has no tensor '{}'", index, name));
        return std::nullopt;
    }
    at::Tensor tensor = reader.tensor(*saved);
    if (tensor.sizes() != parameter.sizes()) {
        restoration.mismatch(fmt::format(
            "optimizer_state_dict: state[{}].{} is {} in the checkpoint, the parameter is {}",
            index, name, shape_of(tensor), shape_of(parameter)));
        return std::nullopt;
    }
    return tensor;
}

at::Tensor copy_like(const at::Tensor& source, const at::Tensor& parameter) {
    return source.to(parameter.device(), source.scalar_type(), /*non_blocking=*/false,
                     /*copy=*/true);
}

// `step`: a 0-d float tensor in newer Pythons, an int in older ones.
std::optional<std::int64_t> step_of(const tf::Dict& dict, const StateReader& reader) {
    const tf::Value* value = dict.find("step");
    if (value == nullptr) return std::nullopt;
    if (const auto* tensor = value->get_if<tf::Tensor>()) {
        return static_cast<std::int64_t>(reader.tensor(*tensor).item<double>());
    }
    return integer_of(value);
}

void restore_parameter(Adam& optimizer, const at::Tensor& parameter, const tf::Dict& dict,
                       std::int64_t index, const StateReader& reader, Restoration& restoration) {
    const auto step = step_of(dict, reader);
    if (!step)
        restoration.mismatch(fmt::format("optimizer_state_dict: state[{}] has no 'step'", index));
    const auto average = shaped(dict, "exp_avg", parameter, index, reader, restoration);
    const auto square = shaped(dict, "exp_avg_sq", parameter, index, reader, restoration);
    std::optional<at::Tensor> maximum;
    if (dict.find("max_exp_avg_sq") != nullptr) {
        maximum = shaped(dict, "max_exp_avg_sq", parameter, index, reader, restoration);
    }
    if (!step || !average || !square) return;
    restoration.later([&optimizer, parameter, step, average, square, maximum] {
        auto state = std::make_unique<AdamParamState>();
        state->step(*step);
        state->exp_avg(copy_like(*average, parameter));
        state->exp_avg_sq(copy_like(*square, parameter));
        if (maximum) state->max_exp_avg_sq(copy_like(*maximum, parameter));
        optimizer.state()[key_of<StateKey>(parameter)] = std::move(state);
    });
}

void restore_parameter(SGD& optimizer, const at::Tensor& parameter, const tf::Dict& dict,
                       std::int64_t index, const StateReader& reader, Restoration& restoration) {
    const tf::Value* value = dict.find("momentum_buffer");
    if (value == nullptr || value->get_if<tf::None>() != nullptr) return;
    const auto buffer = shaped(dict, "momentum_buffer", parameter, index, reader, restoration);
    if (!buffer) return;
    restoration.later([&optimizer, parameter, buffer] {
        auto state = std::make_unique<SGDParamState>();
        state->momentum_buffer(copy_like(*buffer, parameter));
        optimizer.state()[key_of<StateKey>(parameter)] = std::move(state);
    });
}

// ---- options of a group ----

void put_options(const AdamOptions& options, StateWriter& writer, tf::Dict& group) {
    group.set("lr", writer.number(options.lr()));
    group.set("betas", tf::Tuple{{writer.number(std::get<0>(options.betas())),
                                  writer.number(std::get<1>(options.betas()))}});
    group.set("eps", writer.number(options.eps()));
    group.set("weight_decay", writer.number(options.weight_decay()));
    group.set("amsgrad", options.amsgrad());
    group.set("maximize", false);
    group.set("foreach", tf::None{});
    group.set("capturable", false);
    group.set("differentiable", false);
    group.set("fused", tf::None{});
}

void put_options(const SGDOptions& options, StateWriter& writer, tf::Dict& group) {
    group.set("lr", writer.number(options.lr()));
    group.set("momentum", writer.number(options.momentum()));
    group.set("dampening", writer.number(options.dampening()));
    group.set("weight_decay", writer.number(options.weight_decay()));
    group.set("nesterov", options.nesterov());
    group.set("maximize", false);
    group.set("foreach", tf::None{});
    group.set("differentiable", false);
    group.set("fused", tf::None{});
}

bool flag_of(const tf::Dict& group, const char* name, bool otherwise) {
    const tf::Value* value = group.find(name);
    const auto* flag = value == nullptr ? nullptr : value->get_if<bool>();
    return flag == nullptr ? otherwise : *flag;
}

void restore_options(AdamOptions& options, const tf::Dict& group, const StateReader& reader) {
    options.lr(number_of(group.find("lr"), reader).value_or(options.lr()));
    if (const tf::Value* betas = group.find("betas")) {
        const auto* tuple = betas->get_if<tf::Tuple>();
        if (tuple != nullptr && tuple->items.size() == 2) {
            options.betas(
                {number_of(tuple->items.data(), reader).value_or(std::get<0>(options.betas())),
                 number_of(&tuple->items[1], reader).value_or(std::get<1>(options.betas()))});
        }
    }
    options.eps(number_of(group.find("eps"), reader).value_or(options.eps()));
    options.weight_decay(
        number_of(group.find("weight_decay"), reader).value_or(options.weight_decay()));
    options.amsgrad(flag_of(group, "amsgrad", options.amsgrad()));
}

void restore_options(SGDOptions& options, const tf::Dict& group, const StateReader& reader) {
    options.lr(number_of(group.find("lr"), reader).value_or(options.lr()));
    options.momentum(number_of(group.find("momentum"), reader).value_or(options.momentum()));
    options.dampening(number_of(group.find("dampening"), reader).value_or(options.dampening()));
    options.weight_decay(
        number_of(group.find("weight_decay"), reader).value_or(options.weight_decay()));
    options.nesterov(flag_of(group, "nesterov", options.nesterov()));
}

// ---- a whole optimizer ----

template <class Options, class ParamState, class Known>
tf::Value state_of_optimizer(Known& optimizer, StateWriter& writer) {
    tf::Dict state;
    tf::List groups;
    std::int64_t index = 0;
    for (auto& group : optimizer.param_groups()) {
        tf::Dict group_dict;
        put_options(static_cast<const Options&>(group.options()), writer, group_dict);
        tf::List indices;
        for (const at::Tensor& parameter : group.params()) {
            const auto found = optimizer.state().find(key_of<StateKey>(parameter));
            if (found != optimizer.state().end()) {
                state.items.emplace_back(
                    index, state_of(static_cast<const ParamState&>(*found->second), writer));
            }
            indices.items.emplace_back(index++);
        }
        group_dict.set("params", std::move(indices));
        groups.items.emplace_back(std::move(group_dict));
    }
    tf::Dict dict;
    dict.set("state", std::move(state));
    dict.set("param_groups", std::move(groups));
    return dict;
}

const tf::Value* entry_of(const tf::Dict& dict, std::int64_t index) {
    for (const auto& [key, value] : dict.items) {
        if (integer_of(&key) == index) return &value;
    }
    return nullptr;
}

template <class Options, class Known>
void restore_group(Known& optimizer, torch::optim::OptimizerParamGroup& group,
                   const tf::Dict& saved, const tf::Dict& state, std::int64_t& index,
                   const StateReader& reader, Restoration& restoration) {
    const tf::Value* indices = saved.find("params");
    const auto* list = indices == nullptr ? nullptr : indices->get_if<tf::List>();
    const std::size_t count = list == nullptr ? 0 : list->items.size();
    if (count != group.params().size()) {
        restoration.mismatch(
            fmt::format("optimizer_state_dict: a group has {} parameters in the checkpoint, {} in "
                        "the optimizer",
                        count, group.params().size()));
        return;
    }
    auto& options = static_cast<Options&>(group.options());
    restoration.later([&options, &saved, &reader] { restore_options(options, saved, reader); });
    for (const at::Tensor& parameter : group.params()) {
        const tf::Value* entry = entry_of(state, index);
        const auto* dict = entry == nullptr ? nullptr : entry->template get_if<tf::Dict>();
        if (dict != nullptr)
            restore_parameter(optimizer, parameter, *dict, index, reader, restoration);
        ++index;
    }
}

template <class Options, class Known>
void restore_known(Known& optimizer, const tf::Dict& state, const tf::List& groups,
                   const StateReader& reader, Restoration& restoration) {
    if (groups.items.size() != optimizer.param_groups().size()) {
        return restoration.mismatch(fmt::format(
            "optimizer_state_dict: {} parameter groups in the checkpoint, {} in the optimizer",
            groups.items.size(), optimizer.param_groups().size()));
    }
    restoration.later([&optimizer] { optimizer.state().clear(); });
    std::int64_t index = 0;
    for (std::size_t i = 0; i < groups.items.size(); ++i) {
        const auto* group = groups.items[i].get_if<tf::Dict>();
        if (group == nullptr) {
            restoration.mismatch(
                fmt::format("optimizer_state_dict: param_groups[{}] is no dict", i));
            continue;
        }
        restore_group<Options>(optimizer, optimizer.param_groups()[i], *group, state, index, reader,
                               restoration);
    }
}

}  // namespace

tf::Value optimizer_state(Optimizer& optimizer, StateWriter& writer) {
    if (auto* adam = dynamic_cast<Adam*>(&optimizer)) {
        return state_of_optimizer<AdamOptions, AdamParamState>(*adam, writer);
    }
    if (auto* sgd = dynamic_cast<SGD*>(&optimizer)) {
        return state_of_optimizer<SGDOptions, SGDParamState>(*sgd, writer);
    }
    TORCH_CHECK(false, "pawl knows the optimizers SGD and Adam, not this one");
}

void restore_optimizer(Optimizer& optimizer, const tf::Value& value, const StateReader& reader,
                       Restoration& restoration) {
    const auto* dict = value.get_if<tf::Dict>();
    const tf::Value* state_value = dict == nullptr ? nullptr : dict->find("state");
    const tf::Value* groups_value = dict == nullptr ? nullptr : dict->find("param_groups");
    const auto* state = state_value == nullptr ? nullptr : state_value->get_if<tf::Dict>();
    const auto* groups = groups_value == nullptr ? nullptr : groups_value->get_if<tf::List>();
    if (state == nullptr || groups == nullptr) {
        return restoration.mismatch("optimizer_state_dict: it holds no 'state' and 'param_groups'");
    }
    if (auto* adam = dynamic_cast<Adam*>(&optimizer)) {
        restore_known<AdamOptions>(*adam, *state, *groups, reader, restoration);
    } else if (auto* sgd = dynamic_cast<SGD*>(&optimizer)) {
        restore_known<SGDOptions>(*sgd, *state, *groups, reader, restoration);
    } else {
        restoration.mismatch(
            "optimizer_state_dict: pawl knows the optimizers SGD and Adam, not this one");
    }
}

}  // namespace pawl::torch_state
