// Optimizers in Python's layout: {'state': {index: {…}}, 'param_groups': [{…, 'params': [index,
// …]}]}. See state.h; what each optimizer consists of is in optimizer_fields.h.
#include "torch/optimizer_fields.h"
#include "torch/optimizer_visitors.h"
#include "torch/state.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <memory>
#include <type_traits>

namespace pawl::torch_state {
namespace {

using optim::Optimizer;

constexpr const char* kUnknown =
    "pawl knows the optimizers SGD, Adam, AdamW, RMSprop, Adagrad and LBFGS, not this one";

// Calls `use` with the optimizer as what it is; false if it is none of the known.
template <class Use>
bool with_known(Optimizer& optimizer, const Use& use) {
    const auto try_as = [&]<class Known>(Known*) {
        auto* known = dynamic_cast<Known*>(&optimizer);  // LibTorch has no other way to tell
        if (known != nullptr) use(*known);
        return known != nullptr;
    };
    return try_as(static_cast<optim::SGD*>(nullptr)) ||
           try_as(static_cast<optim::Adam*>(nullptr)) ||
           try_as(static_cast<optim::AdamW*>(nullptr)) ||
           try_as(static_cast<optim::RMSprop*>(nullptr)) ||
           try_as(static_cast<optim::Adagrad*>(nullptr)) ||
           try_as(static_cast<optim::LBFGS*>(nullptr));
}

// LibTorch 1 keys the state by the tensor's address as text, LibTorch 2 as a pointer.
auto key_of(const at::Tensor& parameter) {
#if TORCH_VERSION_MAJOR < 2
    return c10::guts::to_string(parameter.unsafeGetTensorImpl());
#else
    return static_cast<void*>(parameter.unsafeGetTensorImpl());
#endif
}

// Options of Python's that change what a step does, and that LibTorch has no counterpart for.
template <class Known>
void check_lacking_options(const tf::Dict& group, double weight_decay, const std::string& where,
                           Restoration& restoration) {
    const auto is_on = [&](const char* name) {
        const tf::Value* value = group.find(name);
        const auto* flag = value == nullptr ? nullptr : value->get_if<bool>();
        return flag != nullptr && *flag;
    };
    for (const char* name : {"maximize", "differentiable"}) {
        if (!is_on(name)) continue;
        restoration.mismatch(
            fmt::format("{}: '{}' is True in the checkpoint; LibTorch's {} has no "
                        "such option",
                        where, name, Kind<Known>::kName));
    }
    constexpr bool kIsAdam = std::is_same_v<Known, optim::Adam>;
    constexpr bool kIsAdamW = std::is_same_v<Known, optim::AdamW>;
    if constexpr (kIsAdam || kIsAdamW) {
        if (group.find("decoupled_weight_decay") == nullptr || weight_decay == 0) return;
        if (is_on("decoupled_weight_decay") == kIsAdamW) return;
        restoration.mismatch(fmt::format(
            "{}: 'decoupled_weight_decay' is {} in the checkpoint: it is of {}, not of {}", where,
            kIsAdam ? "True" : "False", kIsAdam ? "AdamW" : "Adam", Kind<Known>::kName));
    }
}

// A value that can be kept without the file: no tensors but numbers.
std::optional<tf::Value> kept(const tf::Value& value, const StateReader& reader) {
    if (value.get_if<tf::Dict>() != nullptr) return std::nullopt;
    if (value.get_if<tf::Tensor>() != nullptr) {
        const auto number = number_of(&value, reader);
        return number ? std::optional<tf::Value>(*number) : std::nullopt;
    }
    const auto all = [&](const std::vector<tf::Value>& items) {
        std::optional<std::vector<tf::Value>> list(std::in_place);
        for (const tf::Value& item : items) {
            auto inner = kept(item, reader);
            if (!inner) return std::optional<std::vector<tf::Value>>{};
            list->push_back(*std::move(inner));
        }
        return list;
    };
    if (const auto* list = value.get_if<tf::List>()) {
        auto items = all(list->items);
        return items ? std::optional<tf::Value>(tf::List{*std::move(items)}) : std::nullopt;
    }
    if (const auto* tuple = value.get_if<tf::Tuple>()) {
        auto items = all(tuple->items);
        return items ? std::optional<tf::Value>(tf::Tuple{*std::move(items)}) : std::nullopt;
    }
    return value;
}

tf::Value written(const tf::Value& value, StateWriter& writer) {
    if (const auto* real = value.get_if<double>()) return writer.number(*real);
    if (const auto* list = value.get_if<tf::List>()) {
        tf::List items;
        for (const tf::Value& item : list->items)
            items.items.push_back(written(item, writer));
        return items;
    }
    if (const auto* tuple = value.get_if<tf::Tuple>()) {
        tf::Tuple items;
        for (const tf::Value& item : tuple->items)
            items.items.push_back(written(item, writer));
        return items;
    }
    return value;
}

// ---- a whole optimizer ----

template <class Known>
tf::Value state_of(Known& optimizer, const GroupExtras& extras, StateWriter& writer) {
    using Options = typename Kind<Known>::Options;
    using State = typename Kind<Known>::State;
    tf::Dict state;
    tf::List groups;
    std::int64_t index = 0;
    for (auto& group : optimizer.param_groups()) {
        tf::Dict saved;
        auto options = static_cast<const Options&>(group.options());
        OptionsWriter options_writer{writer, saved};
        Kind<Known>::visit(options, options_writer);
        Kind<Known>::put_lacking_options(saved);
        if (groups.items.size() < extras.size()) {
            for (const auto& [key, value] : extras[groups.items.size()].items)
                saved.items.emplace_back(key, written(value, writer));
        }
        tf::List indices;
        for (const at::Tensor& parameter : group.params()) {
            const auto found = optimizer.state().find(key_of(parameter));
            if (found != optimizer.state().end()) {
                tf::Dict dict;
                auto copy = static_cast<const State&>(*found->second);
                ParamStateWriter state_writer{{writer, dict}};
                Kind<Known>::visit(copy, options, state_writer);
                state.items.emplace_back(index, std::move(dict));
            }
            indices.items.emplace_back(index++);
        }
        saved.set("params", std::move(indices));
        groups.items.emplace_back(std::move(saved));
    }
    tf::Dict dict;
    dict.set("state", std::move(state));
    dict.set("param_groups", std::move(groups));
    return dict;
}

const tf::Dict* entry_of(const tf::Dict& dict, const tf::Value& index) {
    for (const auto& [key, value] : dict.items) {
        if (key == index) return value.get_if<tf::Dict>();
    }
    return nullptr;
}

// What a group of the optimizer and its counterpart in the file are restored with.
struct Context {
    std::string part;  // "optimizer_state_dict"
    const tf::Dict& state;
    std::int64_t elements_of_all;
    const StateReader& reader;
    Restoration& restoration;
};

template <class Known>
void restore_parameter(Known& optimizer, const at::Tensor& parameter, const tf::Value& index,
                       const typename Kind<Known>::Options& options, const Context& context) {
    using State = typename Kind<Known>::State;
    const tf::Dict* dict = entry_of(context.state, index);
    const std::string where =
        fmt::format("{}: state[{}]", context.part, integer_of(&index).value_or(-1));
    if (dict == nullptr) {
        if (Kind<Known>::kHasStateFromTheStart)
            context.restoration.mismatch(fmt::format("{} is missing", where));
        return;
    }
    if (dict->items.empty()) return;
    auto state = std::make_shared<State>();
    ParamStateReader visitor{
        {*dict, where, context.reader, context.restoration}, parameter, context.elements_of_all};
    Kind<Known>::visit(*state, options, visitor);
    for (const auto& [key, value] : dict->items) {
        const auto* name = key.template get_if<std::string>();
        if (name != nullptr && visitor.known.contains(*name)) continue;
        context.restoration.mismatch(fmt::format(
            "{}: '{}' is nothing that LibTorch's {} has", where,
            name == nullptr ? std::string(key.type_name()) : *name, Kind<Known>::kName));
    }
    // SGD makes its buffer where there is no state, and copies none where there is an empty one.
    const auto* sgd = dict->find("momentum_buffer");
    if (std::is_same_v<Known, optim::SGD> &&
        (sgd == nullptr || sgd->get_if<tf::None>() != nullptr)) {
        return;
    }
    context.restoration.later([&optimizer, parameter, state, options] {
        const torch::NoGradGuard no_grad;
        auto settled = std::make_unique<State>(*state);
        Settle settle{parameter.device()};
        Kind<Known>::visit(*settled, options, settle);
        optimizer.state()[key_of(parameter)] = std::move(settled);
    });
}

template <class Known>
tf::Dict restore_group(Known& optimizer, std::size_t number, const tf::Dict& saved,
                       const Context& context) {
    using Options = typename Kind<Known>::Options;
    auto& group = optimizer.param_groups()[number];
    const std::string where = fmt::format("{}: param_groups[{}]", context.part, number);
    const tf::Value* indices = saved.find("params");
    const auto* list = indices == nullptr ? nullptr : indices->get_if<tf::List>();
    const std::size_t count = list == nullptr ? 0 : list->items.size();
    if (saved.find(Kind<Known>::kMark) == nullptr) {
        context.restoration.mismatch(fmt::format("{} has no '{}': it is not of the optimizer {}",
                                                 where, Kind<Known>::kMark, Kind<Known>::kName));
        return {};
    }
    auto options = static_cast<const Options&>(group.options());
    OptionsReader visitor{saved, where, context.reader, context.restoration};
    Kind<Known>::visit(options, visitor);
    double weight_decay = 0;
    if (const auto number_there = number_of(saved.find("weight_decay"), context.reader))
        weight_decay = *number_there;
    check_lacking_options<Known>(saved, weight_decay, where, context.restoration);
    tf::Dict lacking;
    Kind<Known>::put_lacking_options(lacking);
    tf::Dict extras;
    for (const auto& [key, value] : saved.items) {
        const auto* name = key.template get_if<std::string>();
        if (name == nullptr || *name == "params" || visitor.known.contains(*name)) continue;
        // Switches of Python's own, also those of another version.
        constexpr std::array<std::string_view, 6> kOwn = {"maximize",   "foreach",
                                                          "capturable", "differentiable",
                                                          "fused",      "decoupled_weight_decay"};
        if (lacking.find(*name) != nullptr || std::ranges::find(kOwn, *name) != kOwn.end())
            continue;
        if (auto value_kept = kept(value, context.reader))
            extras.items.emplace_back(key, *std::move(value_kept));
    }
    if (count != group.params().size()) {
        context.restoration.mismatch(
            fmt::format("{} has {} parameters in the checkpoint, {} in the optimizer", where, count,
                        group.params().size()));
        return extras;
    }
    context.restoration.later(
        [&group, options] { static_cast<Options&>(group.options()) = options; });
    for (std::size_t i = 0; i < count; ++i)
        restore_parameter(optimizer, group.params()[i], list->items[i], options, context);
    return extras;
}

bool is_of_a_group(const tf::Value& index, const tf::List& groups) {
    return std::ranges::any_of(groups.items, [&](const tf::Value& value) {
        const auto* group = value.get_if<tf::Dict>();
        const tf::Value* indices = group == nullptr ? nullptr : group->find("params");
        const auto* list = indices == nullptr ? nullptr : indices->get_if<tf::List>();
        return list != nullptr && std::ranges::find(list->items, index) != list->items.end();
    });
}

template <class Known>
void restore_known(Known& optimizer, const tf::List& groups, GroupExtras& extras,
                   Context& context) {
    if (groups.items.size() != optimizer.param_groups().size()) {
        return context.restoration.mismatch(
            fmt::format("{}: {} parameter groups in the checkpoint, {} in the optimizer",
                        context.part, groups.items.size(), optimizer.param_groups().size()));
    }
    for (const auto& group : optimizer.param_groups()) {
        for (const at::Tensor& parameter : group.params())
            context.elements_of_all += parameter.numel();
    }
    for (const auto& [index, value] : context.state.items) {
        if (is_of_a_group(index, groups)) continue;
        context.restoration.mismatch(fmt::format("{}: state[{}] is of no parameter of the groups",
                                                 context.part, integer_of(&index).value_or(-1)));
    }
    context.restoration.later([&optimizer] { optimizer.state().clear(); });
    auto found = std::make_shared<GroupExtras>();
    for (std::size_t i = 0; i < groups.items.size(); ++i) {
        const auto* group = groups.items[i].get_if<tf::Dict>();
        if (group == nullptr) {
            context.restoration.mismatch(
                fmt::format("{}: param_groups[{}] is no dict", context.part, i));
            continue;
        }
        found->push_back(restore_group(optimizer, i, *group, context));
    }
    context.restoration.later([&extras, found] { extras = *found; });
}

}  // namespace

tf::Value optimizer_state(Optimizer& optimizer, const GroupExtras& extras, StateWriter& writer) {
    tf::Value state;
    const bool is_known =
        with_known(optimizer, [&](auto& known) { state = state_of(known, extras, writer); });
    TORCH_CHECK(is_known, kUnknown);
    return state;
}

void restore_optimizer(Optimizer& optimizer, const tf::Value& value, GroupExtras& extras,
                       const StateReader& reader, Restoration& restoration) {
    const std::string& part = restoration.options().optimizer_key;
    const auto* dict = value.get_if<tf::Dict>();
    const tf::Value* state_value = dict == nullptr ? nullptr : dict->find("state");
    const tf::Value* groups_value = dict == nullptr ? nullptr : dict->find("param_groups");
    const auto* state = state_value == nullptr ? nullptr : state_value->get_if<tf::Dict>();
    const auto* groups = groups_value == nullptr ? nullptr : groups_value->get_if<tf::List>();
    if (state == nullptr || groups == nullptr) {
        return restoration.mismatch(
            fmt::format("{}: it holds no 'state' and 'param_groups'", part));
    }
    Context context{part, *state, 0, reader, restoration};
    const bool is_known =
        with_known(optimizer, [&](auto& known) { restore_known(known, *groups, extras, context); });
    if (!is_known) restoration.mismatch(fmt::format("{}: {}", part, kUnknown));
}

std::vector<double> learning_rates(Optimizer& optimizer) {
    std::vector<double> rates;
    for (auto& group : optimizer.param_groups())
        rates.push_back(group.options().get_lr());
    return rates;
}

}  // namespace pawl::torch_state
