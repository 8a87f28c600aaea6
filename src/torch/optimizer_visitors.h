// Visitors of optimizer_fields.h: write an optimizer's parts into a dict, read them from one, and
// take what was read out of the image.
#pragma once

#include "torch/optimizer_fields.h"
#include "torch/state.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <deque>
#include <set>
#include <string>
#include <tuple>

namespace pawl::torch_state {

// ---- writing ----

struct OptionsWriter {
    StateWriter& writer;
    tf::Dict& dict;

    void number(const char* name, double value) { dict.set(name, writer.number(value)); }
    void flag(const char* name, bool value) { dict.set(name, value); }
    void integer(const char* name, std::int64_t value) { dict.set(name, value); }
    void pair(const char* name, const std::tuple<double, double>& value) {
        dict.set(name,
                 tf::Tuple{{writer.number(std::get<0>(value)), writer.number(std::get<1>(value))}});
    }
    template <class Optional>
    void optional_integer(const char* name, const Optional& value) {
        dict.set(name, value ? tf::Value(std::int64_t{*value}) : tf::Value(tf::None{}));
    }
    template <class Optional>
    void optional_text(const char* name, const Optional& value) {
        dict.set(name, value ? tf::Value(std::string(*value)) : tf::Value(tf::None{}));
    }
};

struct ParamStateWriter : OptionsWriter {
    void step(std::int64_t value, StepStyle style) {
        if (style == StepStyle::kAsPython && TORCH_VERSION_MAJOR < 2) {
            return dict.set("step", value);
        }
        // Python's is a float32, which stands still at 2^24.
        const bool is_exact = value <= std::int64_t{1} << 24;
        dict.set("step", writer.tensor(torch::tensor(static_cast<double>(value),
                                                     is_exact ? at::kFloat : at::kDouble)));
    }
    void tensor(const char* name, const at::Tensor& value) {
        if (value.defined()) dict.set(name, writer.tensor(value));
    }
    void tensor_if(bool, const char* name, const at::Tensor& value) { tensor(name, value); }
    void tensor_or_none(const char* name, const at::Tensor& value) {
        dict.set(name, value.defined() ? writer.tensor(value) : tf::Value(tf::None{}));
    }
    static bool has_direction(const at::Tensor& d) { return d.defined(); }
    void flat_tensor(const char* name, const at::Tensor& value) { tensor(name, value); }
    void scalar_tensor(const char* name, const at::Tensor& value) { tensor(name, value); }
    void tensors(const char* name, const std::deque<at::Tensor>& values) {
        tf::List list;
        for (const at::Tensor& value : values)
            list.items.push_back(writer.tensor(value));
        dict.set(name, std::move(list));
    }
    void flat_tensors(const char* name, const std::deque<at::Tensor>& values, std::int64_t) {
        tensors(name, values);
    }
    void scalar_tensors(const char* name, const std::deque<at::Tensor>& values, std::size_t) {
        tensors(name, values);
    }
};

// ---- reading ----

// Reads into objects of its own; what does not fit is told to the restoration.
struct OptionsReader {
    const tf::Dict& dict;
    std::string where;  // "optimizer_state_dict: param_groups[0]"
    const StateReader& reader;
    Restoration& restoration;
    std::set<std::string> known{};

    const tf::Value* find(const char* name) {
        known.insert(name);
        return dict.find(name);
    }
    void wrong(const char* name, const char* expected) {
        restoration.mismatch(fmt::format("{}: '{}' is {} in the checkpoint, {} was expected", where,
                                         name, reader.description_of(dict.find(name)), expected));
    }
    void number(const char* name, double& target) {
        const tf::Value* value = find(name);
        if (value == nullptr) return;
        const auto number = number_of(value, reader);
        if (!number) return wrong(name, "a number");
        target = *number;
    }
    void flag(const char* name, bool& target) {
        const tf::Value* value = find(name);
        if (value == nullptr) return;
        if (const auto* flag = value->get_if<bool>()) {
            target = *flag;
        } else if (const auto number = integer_of(value)) {
            target = *number != 0;
        } else {
            wrong(name, "a bool");
        }
    }
    void integer(const char* name, std::int64_t& target) {
        const tf::Value* value = find(name);
        if (value == nullptr) return;
        const auto integer = integer_of(value);
        if (!integer) return wrong(name, "an int");
        target = *integer;
    }
    void pair(const char* name, std::tuple<double, double>& target) {
        const tf::Value* value = find(name);
        if (value == nullptr) return;
        const auto* tuple = value->get_if<tf::Tuple>();
        const auto* list = value->get_if<tf::List>();
        const std::vector<tf::Value> items =
            tuple != nullptr ? tuple->items : (list != nullptr ? list->items : tf::List{}.items);
        const auto first = items.size() == 2 ? number_of(&items[0], reader) : std::nullopt;
        const auto second = items.size() == 2 ? number_of(&items[1], reader) : std::nullopt;
        if (!first || !second) return wrong(name, "two numbers");
        target = {*first, *second};
    }
    template <class Optional>
    void optional_integer(const char* name, Optional& target) {
        const tf::Value* value = find(name);
        if (value == nullptr) return;
        if (value->get_if<tf::None>() != nullptr) {
            target = {};
        } else if (const auto integer = integer_of(value)) {
            target = *integer;
        } else {
            wrong(name, "an int or None");
        }
    }
    template <class Optional>
    void optional_text(const char* name, Optional& target) {
        const tf::Value* value = find(name);
        if (value == nullptr) return;
        if (value->get_if<tf::None>() != nullptr) {
            target = {};
        } else if (const auto* text = value->get_if<std::string>()) {
            target = *text;
        } else {
            wrong(name, "a str or None");
        }
    }
};

struct ParamStateReader : OptionsReader {
    const at::Tensor& parameter;
    std::int64_t elements_of_all;

    void step(std::int64_t& target, StepStyle) {
        const auto number = number_of(find("step"), reader);
        if (!number) return wrong("step", "a number");
        target = static_cast<std::int64_t>(*number);
    }
    // A tensor of the parameter's type and the given sizes.
    void read(const tf::Value* value, const std::string& name, at::IntArrayRef sizes,
              at::Tensor& target) {
        const auto* saved = value == nullptr ? nullptr : value->get_if<tf::Tensor>();
        const auto tensor = saved == nullptr ? std::nullopt : reader.tensor(*saved);
        if (tensor && tensor->sizes() == sizes &&
            tensor->scalar_type() == parameter.scalar_type()) {
            target = *tensor;
            return;
        }
        restoration.mismatch(fmt::format("{}.{} is {} in the checkpoint, {} [{}] was expected",
                                         where, name, reader.description_of(value),
                                         c10::toString(parameter.scalar_type()),
                                         fmt::join(sizes.vec(), ", ")));
    }
    void tensor(const char* name, at::Tensor& target) {
        read(find(name), name, parameter.sizes(), target);
    }
    void tensor_if(bool is_needed, const char* name, at::Tensor& target) {
        if (find(name) != nullptr || is_needed) tensor(name, target);
    }
    void tensor_or_none(const char* name, at::Tensor& target) {
        const tf::Value* value = find(name);
        if (value != nullptr && value->get_if<tf::None>() == nullptr) tensor(name, target);
    }
    bool has_direction(const at::Tensor&) {
        known.insert({"d", "t", "old_dirs", "old_stps", "ro", "H_diag", "prev_flat_grad",
                      "prev_loss", "al"});
        const tf::Value* value = dict.find("d");
        return value != nullptr && value->get_if<tf::None>() == nullptr;
    }
    void flat_tensor(const char* name, at::Tensor& target) {
        read(find(name), name, {elements_of_all}, target);
    }
    // Python's is the int 1 at first.
    void scalar_tensor(const char* name, at::Tensor& target) {
        const auto number = number_of(find(name), reader);
        if (!number) return wrong(name, "a number");
        target = torch::tensor(*number, parameter.scalar_type());
    }
    const tf::List* list(const char* name, std::size_t size_max) {
        const tf::Value* value = find(name);
        const auto* list = value == nullptr ? nullptr : value->get_if<tf::List>();
        if (list != nullptr && list->items.size() <= size_max) return list;
        wrong(name, fmt::format("a list of at most {}", size_max).c_str());
        return nullptr;
    }
    void flat_tensors(const char* name, std::deque<at::Tensor>& target, std::int64_t size_max) {
        const tf::List* items =
            list(name, static_cast<std::size_t>(std::max<std::int64_t>(size_max, 0)));
        if (items == nullptr) return;
        for (const tf::Value& item : items->items)
            read(&item, fmt::format("{}[{}]", name, target.size()), {elements_of_all},
                 target.emplace_back());
    }
    void scalar_tensors(const char* name, std::deque<at::Tensor>& target, std::size_t size) {
        const tf::List* items = list(name, size);
        if (items == nullptr) return;
        if (items->items.size() != size) {
            return wrong(name, fmt::format("a list of {}", size).c_str());
        }
        for (const tf::Value& item : items->items) {
            const auto number = number_of(&item, reader);
            if (!number) return wrong(name, "numbers");
            target.push_back(torch::tensor(*number, parameter.scalar_type()));
        }
    }
};

// Copies of what was read from the image, on the parameter's device.
struct Settle {
    at::Device device;

    void settle(at::Tensor& tensor) const {
        if (tensor.defined())
            tensor = tensor.to(device, tensor.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
    }
    static void step(std::int64_t, StepStyle) {}
    static void number(const char*, double) {}
    static void integer(const char*, std::int64_t) {}
    static bool has_direction(const at::Tensor& d) { return d.defined(); }
    void tensor(const char*, at::Tensor& value) const { settle(value); }
    void tensor_if(bool, const char*, at::Tensor& value) const { settle(value); }
    void tensor_or_none(const char*, at::Tensor& value) const { settle(value); }
    void flat_tensor(const char*, at::Tensor& value) const { settle(value); }
    void scalar_tensor(const char*, at::Tensor& value) const { settle(value); }
    void flat_tensors(const char*, std::deque<at::Tensor>& values, std::int64_t) const {
        for (at::Tensor& value : values)
            settle(value);
    }
    void scalar_tensors(const char*, std::deque<at::Tensor>& values, std::size_t) const {
        for (at::Tensor& value : values)
            settle(value);
    }
};

}  // namespace pawl::torch_state
