// What Python would import and call to make tensors and the like: known by name, and done here.
#include "torchfile/pickle_machine.h"
#include "torchfile/value_rules.h"

#include <algorithm>
#include <array>

namespace pawl::torchfile {
namespace {

struct GlobalRow {
    std::string_view module;
    std::string_view name;
    Callable callable;
};

constexpr std::array kGlobals{
    GlobalRow{"torch._utils", "_rebuild_tensor_v2", Callable::kRebuildTensorV2},
    GlobalRow{"torch._utils", "_rebuild_tensor_v3", Callable::kRebuildTensorV3},
    GlobalRow{"torch._utils", "_rebuild_parameter", Callable::kRebuildParameter},
    GlobalRow{"torch._utils", "_rebuild_parameter_with_state",
              Callable::kRebuildParameterWithState},
    GlobalRow{"torch._tensor", "_rebuild_from_type_v2", Callable::kRebuildFromType},
    GlobalRow{"torch", "Tensor", Callable::kTensorClass},
    GlobalRow{"torch", "Size", Callable::kSize},
    GlobalRow{"torch", "device", Callable::kDevice},
    GlobalRow{"collections", "OrderedDict", Callable::kOrderedDict},
    GlobalRow{"builtins", "set", Callable::kSet},
    GlobalRow{"builtins", "frozenset", Callable::kFrozenSet},
    GlobalRow{"builtins", "bytes", Callable::kBytes},
    GlobalRow{"builtins", "bytearray", Callable::kByteArray},
    GlobalRow{"builtins", "complex", Callable::kComplex},
    GlobalRow{"_codecs", "encode", Callable::kEncode},
    GlobalRow{"numpy.core.multiarray", "scalar", Callable::kNumpyScalar},
    GlobalRow{"numpy._core.multiarray", "scalar", Callable::kNumpyScalar},
    GlobalRow{"numpy", "dtype", Callable::kNumpyType},
};

Error damaged(std::string_view what) {
    return make_error(ErrorKind::kCorrupt, "{}", what);
}

}  // namespace

std::optional<Node> node_of_global(std::string_view module, std::string_view name) {
    // Python 2's name, which protocol 2 writes.
    const std::string_view today = module == "__builtin__" ? "builtins" : module;
    for (const GlobalRow& row : kGlobals) {
        if (row.module == today && row.name == name) return Node{.data = row.callable};
    }
    if (module == "torch.storage" && name == "UntypedStorage") return Node{.data = StorageClass{}};
    if (module != "torch") return std::nullopt;
    if (const auto dtype = dtype_of_storage_class(name)) return Node{.data = StorageClass{dtype}};
    if (const auto dtype = dtype_of_name(name)) return Node{.data = *dtype};
    return std::nullopt;
}

Result<void> PickleMachine::reduce() {
    auto popped = pop_some(2);
    if (!popped) return std::move(popped).error();
    const auto* callable = held<Callable>((*popped)[0]);
    const auto* arguments = held<TupleNode>((*popped)[1]);
    if (callable == nullptr || arguments == nullptr) return damaged("it calls what is no function");
    // Copied: whatever is made moves the table of nodes.
    RETURN_IF_ERROR(allowance_.spend(arguments->items.size()));
    const std::vector<NodeId> copied = arguments->items;
    return call(*callable, copied);
}

Result<void> PickleMachine::call(Callable callable, const std::vector<NodeId>& arguments) {
    switch (callable) {
        case Callable::kRebuildTensorV2:
            return rebuild_tensor(arguments, Version::kV2);
        case Callable::kRebuildTensorV3:
            return rebuild_tensor(arguments, Version::kV3);
        case Callable::kRebuildParameter:
            return rebuild_parameter(arguments, false);
        case Callable::kRebuildParameterWithState:
            return rebuild_parameter(arguments, true);
        case Callable::kRebuildFromType:
            return rebuild_from_type(arguments);
        case Callable::kOrderedDict:
            if (!arguments.empty()) return damaged("an OrderedDict is made from arguments");
            return push(DictNode{.is_ordered_dict = true});
        case Callable::kSet:
            return make_set(arguments, false);
        case Callable::kFrozenSet:
            return make_set(arguments, true);
        case Callable::kBytes:
            return make_bytes(arguments, false);
        case Callable::kByteArray:
            return make_bytes(arguments, true);
        case Callable::kEncode:
            return encode(arguments);
        case Callable::kComplex:
            return make_complex(arguments);
        case Callable::kSize:
            return make_size(arguments);
        case Callable::kDevice:
            return make_device(arguments);
        case Callable::kNumpyScalar:
            return make_numpy_scalar(arguments);
        case Callable::kNumpyType:
            return make_numpy_type(arguments);
        case Callable::kTensorClass:
            break;
    }
    return damaged("it calls what is no function");
}

// Sets attributes: of an OrderedDict, whose state is a dict, or completes a NumPy type.
Result<void> PickleMachine::build() {
    auto state = pop_some(1);
    if (!state) return std::move(state).error();
    auto target = top();
    if (!target) return std::move(target).error();
    if (held<NumpyTypeNode>(*target) != nullptr) {
        return complete_numpy_type(*target, state->front());
    }
    auto* dict = held<DictNode>(*target);
    const bool is_known =
        dict != nullptr && dict->is_ordered_dict && held<DictNode>(state->front()) != nullptr;
    if (!is_known) {
        return make_error(ErrorKind::kUnsupported, "it sets attributes of what is no OrderedDict");
    }
    if (dict->attributes) return damaged("it sets the attributes of an OrderedDict twice");
    if (!is_empty_dict(state->front())) dict->attributes = state->front();
    return {};
}

// ---- builtins ----

Result<void> PickleMachine::make_set(const std::vector<NodeId>& arguments, bool is_frozen) {
    if (arguments.empty()) return push(SetNode{.items = {}, .is_frozen = is_frozen});
    const auto* list = arguments.size() == 1 ? held<ListNode>(arguments[0]) : nullptr;
    if (list == nullptr) return damaged("a set is made from what is no list");
    RETURN_IF_ERROR(allowance_.spend(list->items.size()));
    return push(SetNode{.items = list->items, .is_frozen = is_frozen});
}

Result<void> PickleMachine::make_bytes(const std::vector<NodeId>& arguments, bool is_bytearray) {
    if (arguments.empty()) return push_leaf(Bytes{.data = {}, .is_bytearray = is_bytearray});
    const auto* bytes = arguments.size() == 1 ? leaf<Bytes>(arguments[0]) : nullptr;
    if (bytes == nullptr) return damaged("bytes are made from what is no bytes");
    RETURN_IF_ERROR(allowance_.spend_on_text(bytes->data.size()));
    return push_leaf(Bytes{.data = bytes->data, .is_bytearray = is_bytearray});
}

// ('text', 'latin1'): how bytes look in protocol 2.
Result<void> PickleMachine::encode(const std::vector<NodeId>& arguments) {
    const auto* text = arguments.size() == 2 ? held<std::string>(arguments[0]) : nullptr;
    const auto* codec = arguments.size() == 2 ? held<std::string>(arguments[1]) : nullptr;
    const bool is_latin1 = codec != nullptr && (*codec == "latin1" || *codec == "latin-1");
    if (text == nullptr || !is_latin1) return damaged("bytes are encoded from other than Latin-1");
    RETURN_IF_ERROR(allowance_.spend_on_text(text->size()));
    std::string data;
    data.reserve(text->size());
    for (std::size_t at = 0; at < text->size(); ++at) {
        const auto first = static_cast<unsigned char>((*text)[at]);
        if (first < 0x80) {
            data += static_cast<char>(first);
        } else if (first == 0xc2 || first == 0xc3) {  // U+0080 to U+00FF; the text is valid
            ++at;
            const auto second = static_cast<unsigned char>((*text)[at]);
            data += static_cast<char>(((first & 0x03U) << 6) | (second & 0x3fU));
        } else {
            return damaged("bytes are encoded from other than Latin-1");
        }
    }
    return push_leaf(Bytes{.data = std::move(data)});
}

Result<void> PickleMachine::make_complex(const std::vector<NodeId>& arguments) {
    const bool is_pair = arguments.size() == 2 && held<double>(arguments[0]) != nullptr &&
                         held<double>(arguments[1]) != nullptr;
    if (!is_pair) return damaged("a complex is made from what is no pair of floats");
    return push_leaf(
        Complex{.real = *held<double>(arguments[0]), .imaginary = *held<double>(arguments[1])});
}

// ---- torch.Size, torch.device, NumPy ----

Result<void> PickleMachine::make_size(const std::vector<NodeId>& arguments) {
    if (arguments.size() != 1) return damaged("a torch.Size is made from what is no tuple");
    auto sizes = integers_of(arguments[0]);
    if (!sizes) return std::move(sizes).error();
    if (!*sizes) return damaged("a torch.Size is made from what is no tuple of ints");
    return push_leaf(Size{std::move(**sizes)});
}

Result<void> PickleMachine::make_device(const std::vector<NodeId>& arguments) {
    const bool has_index = arguments.size() == 2;
    const auto* type = arguments.empty() ? nullptr : held<std::string>(arguments[0]);
    const auto* index = has_index ? held<std::int64_t>(arguments[1]) : nullptr;
    if (type == nullptr || arguments.size() > 2 || (has_index && index == nullptr)) {
        return damaged("a torch.device is made from arguments of other types");
    }
    RETURN_IF_ERROR(allowance_.spend_on_text(type->size()));
    Device device{.type = *type, .index = std::nullopt};
    if (index != nullptr) device.index = *index;
    return push_leaf(std::move(device));
}

// numpy.dtype('f8', False, True); its byte order follows by BUILD.
Result<void> PickleMachine::make_numpy_type(const std::vector<NodeId>& arguments) {
    const auto* name = arguments.empty() ? nullptr : held<std::string>(arguments[0]);
    if (name == nullptr || !bytes_of_numpy_type(*name)) {
        return make_error(ErrorKind::kUnsupported, "a NumPy type '{}' is not read",
                          name == nullptr ? "?" : printable(*name));
    }
    NumpyTypeNode type;
    std::copy(name->begin(), name->end(), type.name.begin());
    return push(type);
}

// (3, '<', None, None, None, -1, -1, 0)
Result<void> PickleMachine::complete_numpy_type(NodeId target, NodeId state) {
    const auto* tuple = held<TupleNode>(state);
    const auto* order =
        tuple == nullptr || tuple->items.size() < 2 ? nullptr : held<std::string>(tuple->items[1]);
    if (order == nullptr) return damaged("a NumPy type is made from arguments of other types");
    if (*order != "<" && *order != "|") {
        return make_error(ErrorKind::kUnsupported, "a NumPy type has the byte order '{}'",
                          printable(*order));
    }
    held<NumpyTypeNode>(target)->is_complete = true;
    return {};
}

Result<void> PickleMachine::make_numpy_scalar(const std::vector<NodeId>& arguments) {
    const auto* type = arguments.size() == 2 ? held<NumpyTypeNode>(arguments[0]) : nullptr;
    const auto* bytes = arguments.size() == 2 ? leaf<Bytes>(arguments[1]) : nullptr;
    if (type == nullptr || bytes == nullptr || !type->is_complete) {
        return damaged("a NumPy scalar is made from arguments of other types");
    }
    const std::string name(type->name.data());
    if (bytes->data.size() != bytes_of_numpy_type(name)) {
        return damaged("a NumPy scalar has another size than its type");
    }
    return push_leaf(NumpyScalar{.type = name, .data = bytes->data});
}

Result<std::optional<std::vector<std::int64_t>>> PickleMachine::integers_of(NodeId id) {
    using Integers = std::optional<std::vector<std::int64_t>>;
    const auto* tuple = held<TupleNode>(id);
    if (tuple == nullptr) return Integers();
    // Shared tuples are copied here; what that costs is limited too.
    RETURN_IF_ERROR(allowance_.spend(tuple->items.size()));
    std::vector<std::int64_t> integers;
    integers.reserve(tuple->items.size());
    for (const NodeId item : tuple->items) {
        const auto* integer = held<std::int64_t>(item);
        if (integer == nullptr) return Integers();
        integers.push_back(*integer);
    }
    return Integers(std::move(integers));
}

}  // namespace pawl::torchfile
