// Storages, tensors and parameters, from the arguments that Python would rebuild them from.
#include "torchfile/pickle_machine.h"
#include "torchfile/value_rules.h"

namespace pawl::torchfile {
namespace {

Error damaged(std::string_view what) {
    return make_error(ErrorKind::kCorrupt, "{}", what);
}

}  // namespace

// ('storage', torch.FloatStorage, key, location, elements)
Result<void> PickleMachine::push_storage() {
    auto popped = pop_some(1);
    if (!popped) return std::move(popped).error();
    const auto* id = held<TupleNode>(popped->front());
    if (id == nullptr || id->items.size() != 5) return damaged("a persistent id is no storage");
    const auto* tag = held<std::string>(id->items[0]);
    const auto* storage_class = held<StorageClass>(id->items[1]);
    const auto* key = held<std::string>(id->items[2]);
    const auto* location = held<std::string>(id->items[3]);
    const auto* elements = held<std::int64_t>(id->items[4]);
    const bool is_storage = tag != nullptr && *tag == "storage" && storage_class != nullptr &&
                            key != nullptr && location != nullptr && elements != nullptr;
    if (!is_storage) return damaged("a persistent id is no storage");
    if (*elements < 0 || static_cast<std::uint64_t>(*elements) > kStorageElementsMax) {
        return damaged(fmt::format("a storage has {} elements", *elements));
    }
    const auto dtype = storage_class->dtype;
    const Storage described{.key = *key,
                            .dtype = dtype.value_or(DType::kUInt8),
                            .elements = static_cast<std::uint64_t>(*elements),
                            .location = *location};
    RETURN_IF_ERROR(allowance_.spend_on_text(key->size() + location->size()));
    const auto [found, is_new] = storage_of_key_.try_emplace(*key, table_.storages.size());
    const std::size_t index = found->second;
    if (is_new) {
        table_.storages.push_back(described);
        is_untyped_.push_back(!dtype);
        return push(StorageNode{.index = index, .dtype = dtype});
    }
    // Of storages without bytes PyTorch writes views of several types; and bytes that are untyped
    // in one place are uint8 in another.
    const Storage& before = table_.storages[index];
    const bool is_same = before.location == described.location &&
                         before.bytes() == described.bytes() &&
                         (before.elements == 0 || record_type_of(before.dtype) == described.dtype);
    if (!is_same) {
        return damaged(fmt::format("storage '{}' is described in two ways", printable(*key)));
    }
    return push(StorageNode{.index = index, .dtype = dtype});
}

// V2: (storage, offset, shape, stride, requires_grad, hooks[, metadata])
// V3: (storage, offset, shape, stride, requires_grad, hooks, dtype[, metadata])
Result<void> PickleMachine::rebuild_tensor(const std::vector<NodeId>& arguments, Version version) {
    const std::size_t required = version == Version::kV3 ? 7 : 6;
    if (arguments.size() != required && arguments.size() != required + 1) {
        return damaged(fmt::format("a tensor is made from {} arguments", arguments.size()));
    }
    const auto* storage_node = held<StorageNode>(arguments[0]);
    const auto* offset = held<std::int64_t>(arguments[1]);
    auto shape = integers_of(arguments[2]);
    if (!shape) return std::move(shape).error();
    auto stride = integers_of(arguments[3]);
    if (!stride) return std::move(stride).error();
    const auto* requires_grad = held<bool>(arguments[4]);
    const auto* named = version == Version::kV3 ? held<DType>(arguments[6]) : nullptr;
    const bool is_plain = storage_node != nullptr && offset != nullptr && *shape && *stride &&
                          requires_grad != nullptr && held<DictNode>(arguments[5]) != nullptr &&
                          (named != nullptr || version == Version::kV2);
    if (!is_plain) return damaged("a tensor is made from arguments of other types");
    if (!is_empty_dict(arguments[5])) {
        return make_error(ErrorKind::kUnsupported, "a tensor has backward hooks");
    }
    Tensor tensor{.storage = storage_node->index,
                  .offset = *offset,
                  .shape = std::move(**shape),
                  .stride = std::move(**stride),
                  .requires_grad = *requires_grad};
    if (arguments.size() > required) RETURN_IF_ERROR(read_metadata(arguments.back(), tensor));

    const DType dtype = named != nullptr ? *named : storage_node->dtype.value_or(DType::kUInt8);
    if (record_type_of(dtype) != storage_node->dtype.value_or(DType::kUInt8)) {
        return make_error(ErrorKind::kUnsupported, "a tensor of {} lies in a storage of {}",
                          name_of(dtype), name_of(storage_node->dtype.value_or(DType::kUInt8)));
    }
    Storage& storage = table_.storages[tensor.storage];
    // The first tensor on untyped bytes gives them its type, if they are whole elements of it.
    const std::size_t item_bytes = item_bytes_of(dtype);
    if (is_untyped_[tensor.storage] && storage.elements % item_bytes == 0) {
        storage.elements /= item_bytes;
        storage.dtype = dtype;
    }
    is_untyped_[tensor.storage] = false;
    if (storage.dtype != dtype) tensor.dtype = dtype;
    if (const auto problem = problem_of_tensor(tensor, storage)) return damaged(*problem);
    table_.tensors.push_back({.tensor = std::move(tensor), .attributes = std::nullopt});
    return push(TensorNode{table_.tensors.size() - 1});
}

// None, or {'conj': True, 'neg': True}, either of which may be missing.
Result<void> PickleMachine::read_metadata(NodeId metadata, Tensor& tensor) {
    if (held<None>(metadata) != nullptr) return {};
    const auto* dict = held<DictNode>(metadata);
    if (dict == nullptr) return damaged("a tensor is made from arguments of other types");
    for (const auto& [key_id, value_id] : dict->items) {
        const auto* key = held<std::string>(key_id);
        const auto* flag = held<bool>(value_id);
        if (key != nullptr && flag != nullptr && *key == "conj") {
            tensor.is_conjugate = *flag;
        } else if (key != nullptr && flag != nullptr && *key == "neg") {
            tensor.is_negative = *flag;
        } else {
            return make_error(ErrorKind::kUnsupported, "a tensor has the metadata '{}'",
                              key == nullptr ? "?" : printable(*key));
        }
    }
    return {};
}

// (tensor, requires_grad, hooks[, state]): another tensor on the same storage.
Result<void> PickleMachine::rebuild_parameter(const std::vector<NodeId>& arguments,
                                              bool has_state) {
    const std::size_t required = has_state ? 4 : 3;
    const bool is_complete =
        arguments.size() == required && held<TensorNode>(arguments[0]) != nullptr &&
        held<bool>(arguments[1]) != nullptr && held<DictNode>(arguments[2]) != nullptr;
    if (!is_complete) return damaged("a parameter is made from arguments of other types");
    if (!is_empty_dict(arguments[2])) {
        return make_error(ErrorKind::kUnsupported, "a parameter has backward hooks");
    }
    std::optional<NodeId> attributes;
    if (has_state) {
        auto state = attributes_of(arguments[3]);
        if (!state) return std::move(state).error();
        attributes = *state;
    }
    const Tensor& data = table_.tensors[held<TensorNode>(arguments[0])->index].tensor;
    RETURN_IF_ERROR(allowance_.spend(data.shape.size()));
    Tensor parameter = data;
    parameter.requires_grad = *held<bool>(arguments[1]);
    parameter.is_parameter = true;
    table_.tensors.push_back({.tensor = std::move(parameter), .attributes = attributes});
    return push(TensorNode{table_.tensors.size() - 1});
}

// (rebuild function, torch.Tensor, its arguments, state): a tensor with attributes.
Result<void> PickleMachine::rebuild_from_type(const std::vector<NodeId>& arguments) {
    const bool is_complete = arguments.size() == 4 && held<Callable>(arguments[0]) != nullptr &&
                             held<Callable>(arguments[1]) != nullptr &&
                             held<TupleNode>(arguments[2]) != nullptr;
    if (!is_complete || *held<Callable>(arguments[1]) != Callable::kTensorClass) {
        return damaged("a tensor with attributes is made from arguments of other types");
    }
    const Callable rebuild = *held<Callable>(arguments[0]);
    if (rebuild != Callable::kRebuildTensorV2 && rebuild != Callable::kRebuildTensorV3) {
        return damaged("a tensor with attributes is made by another function");
    }
    auto attributes = attributes_of(arguments[3]);
    if (!attributes) return std::move(attributes).error();
    const auto& inner = held<TupleNode>(arguments[2])->items;
    RETURN_IF_ERROR(allowance_.spend(inner.size()));
    const std::vector<NodeId> copied = inner;
    RETURN_IF_ERROR(rebuild_tensor(
        copied, rebuild == Callable::kRebuildTensorV3 ? Version::kV3 : Version::kV2));
    table_.tensors.back().attributes = *attributes;
    return {};
}

// The state of a Python object: its attributes. A pair of them and slots is a subclass's.
Result<std::optional<NodeId>> PickleMachine::attributes_of(NodeId state) {
    if (held<None>(state) != nullptr || is_empty_dict(state)) return std::optional<NodeId>();
    if (held<DictNode>(state) != nullptr) return std::optional(state);
    return make_error(ErrorKind::kUnsupported, "a tensor has a state that is no dict");
}

}  // namespace pawl::torchfile
