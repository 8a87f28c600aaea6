// Where in the value a pickle machine is when it meets what it refuses, and what to say of that.
#include "torchfile/pickle_machine.h"
#include "torchfile/text.h"

#include <array>

namespace pawl::torchfile {

// A container lies on the stack below what is being put into it, with a mark in between if it gets
// several items at once; in a dict every other one of these is a key. The pickle does not say where
// one item ends and the next begins, so this is a guess, and good for what torch.save writes.
std::string PickleMachine::path() const {
    std::string path;
    std::size_t mark = 0;
    std::size_t at = 0;
    while (at < stack_.size()) {
        const auto* list = held<ListNode>(stack_[at]);
        if (list == nullptr && held<DictNode>(stack_[at]) == nullptr) break;
        const bool is_marked = mark < marks_.size() && marks_[mark] == at + 1;
        if (is_marked) ++mark;
        const std::size_t first = at + 1;
        const bool is_nested = mark < marks_.size();
        const std::size_t end = is_nested ? marks_[mark] : stack_.size();
        const std::size_t begun = is_marked ? begun_at(first, end, is_nested) : 0;
        if (list != nullptr) {
            path += fmt::format("[{}]", list->items.size() + begun);
            at = first + begun;
        } else {
            const std::size_t key = is_marked ? first + begun - 1 : first;
            const bool is_value = is_marked ? begun % 2 == 1 : first < end;
            if (!is_value) break;
            const std::string component = component_of(stack_[key]);
            path += (path.empty() || component.front() == '[' ? "" : ".") + component;
            at = key + 1;
        }
    }
    return path;
}

// Which of the items on stack_[first, end) is the one that is not complete yet.
std::size_t PickleMachine::begun_at(std::size_t first, std::size_t end, bool is_nested) const {
    for (std::size_t at = first; at < end; ++at) {
        if (held<Callable>(stack_[at]) != nullptr) return at - first;
    }
    const std::size_t items = end - first;
    if (items > 0 && is_nested) {
        const NodeId last = stack_[end - 1];
        const bool is_container = held<ListNode>(last) != nullptr ||
                                  held<DictNode>(last) != nullptr || held<SetNode>(last) != nullptr;
        return is_container ? items - 1 : items;
    }
    // An empty dict and a string: the dict's first key, most likely.
    const bool is_dict_with_key = items >= 2 && is_empty_dict(stack_[end - 2]) &&
                                  held<std::string>(stack_[end - 1]) != nullptr;
    return is_dict_with_key ? items - 2 : items;
}

std::string PickleMachine::component_of(NodeId key) const {
    if (const auto* text = held<std::string>(key); text != nullptr && !text->empty()) {
        return escaped(*text);
    }
    if (const auto* integer = held<std::int64_t>(key)) return fmt::format("[{}]", *integer);
    return "[?]";
}

// ---- what to say ----

namespace {

struct Advice {
    std::string_view module;  // begins with it
    std::string_view name;    // is it; "" is any
    std::string_view what_to_do;
};

constexpr std::array kAdvice{
    Advice{"torch._utils", "_rebuild_sparse_tensor",
           "Save a sparse tensor as x.to_dense(), or its indices() and values()."},
    Advice{"torch._utils", "_rebuild_sparse_csr_tensor",
           "Save a sparse tensor as x.to_dense(), or its indices and values()."},
    Advice{"torch._utils", "_rebuild_qtensor",
           "Save a quantized tensor as x.int_repr() with its scale and zero point."},
    Advice{"torch._utils", "_rebuild_nested_tensor",
           "Save a nested tensor as the list x.unbind()."},
    Advice{"torch.nested", "", "Save a nested tensor as the list x.unbind()."},
    Advice{"torch._utils", "_rebuild_meta_tensor_no_storage",
           "A tensor on the device meta has no values: leave it out."},
    Advice{"torch._utils", "_rebuild_wrapper_subclass",
           "Save the plain tensors that the tensor subclass is made of."},
    Advice{"torch._utils", "_rebuild_device_tensor_from", "Save x.cpu()."},
    Advice{"torch.distributed", "", "Save the plain tensor: x.full_tensor() or x.to_local()."},
    Advice{"torch.nn", "", "Save a module's state_dict()."},
    Advice{"torch.optim", "", "Save an optimizer's or scheduler's state_dict()."},
    Advice{"numpy", "", "Save torch.from_numpy(x), or x.tolist()."},
    Advice{"collections", "", "Save dict(x), or list(x)."},
    Advice{"pathlib", "", "Save str(x)."},
    Advice{"argparse", "", "Save vars(x)."},
};

std::string_view advice_for(std::string_view module, std::string_view name, Place place) {
    if (place == Place::kTypeOfTensor) return "Save x.as_subclass(torch.Tensor).";
    for (const Advice& advice : kAdvice) {
        if (module.starts_with(advice.module) && name.starts_with(advice.name)) {
            return advice.what_to_do;
        }
    }
    return "Save what it holds as dicts, lists, numbers, strings and tensors.";
}

}  // namespace

Error refusal_of_global(std::string_view module, std::string_view name, std::string_view path,
                        Place place) {
    return make_error(ErrorKind::kUnsupported,
                      "{} holds a '{}.{}', which is no plain data and is not read",
                      path.empty() ? "it" : fmt::format("'{}'", path), printable(module),
                      printable(name))
        .consequence("{}", advice_for(module, name, place));
}

}  // namespace pawl::torchfile
