// Writes a Document as pickle protocol 2, in the opcodes that torch.load(weights_only=True) takes
// wherever there are such: docs/formats.md says for each type of value who reads it.
#include "torchfile/pickle.h"
#include "torchfile/pickle_format.h"
#include "torchfile/pickle_output.h"
#include "torchfile/text.h"
#include "torchfile/value_rules.h"

#include <limits>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <unordered_set>

namespace pawl::torchfile {
namespace {

template <class... Args>
Error invalid(fmt::format_string<Args...> format, Args&&... args) {
    return make_error(ErrorKind::kInvalidArgument, format, std::forward<Args>(args)...);
}

// The objects of one type that have been written and may be referred to again.
template <class Object>
struct Written {
    struct Place {
        const Object* object = nullptr;
        std::uint32_t memo_index = 0;
    };
    std::unordered_map<std::uint32_t, Place> by_number;
};

class Writer {
public:
    explicit Writer(const Document& document) : storages_(document.storages) {}

    Result<std::vector<std::byte>> write(const Value& root) && {
        output_.put(Opcode::kProto);
        output_.put_little_endian(kPickleProtocol, 1);
        RETURN_IF_ERROR(put_value(root, 0));
        output_.put(Opcode::kStop);
        return std::move(output_).take();
    }

private:
    Result<void> put_value(const Value& value, std::size_t depth) {
        if (depth > kNestingMax) return invalid("values nest deeper than {} levels", kNestingMax);
        return std::visit([this, depth](const auto& held) { return put_held(held, depth); },
                          value.data);
    }

    Result<void> put_values(const std::vector<Value>& values, std::size_t depth) {
        for (const Value& value : values)
            RETURN_IF_ERROR(put_value(value, depth + 1));
        return {};
    }

    // ---- numbers, strings, bytes ----

    Result<void> put_held(None /*none*/, std::size_t /*depth*/) {
        output_.put(Opcode::kNone);
        return {};
    }

    Result<void> put_held(bool flag, std::size_t /*depth*/) {
        output_.put_flag(flag);
        return {};
    }

    Result<void> put_held(std::int64_t integer, std::size_t /*depth*/) {
        output_.put_integer(integer);
        return {};
    }

    Result<void> put_held(const BigInteger& integer, std::size_t /*depth*/) {
        if (!is_canonical(integer) || integer.bytes.size() > kIntegerBytesMax) {
            return invalid("a big integer of {} bytes is not in its shortest form, or too long",
                           integer.bytes.size());
        }
        output_.put_long(integer.bytes);
        return {};
    }

    Result<void> put_held(double number, std::size_t /*depth*/) {
        output_.put_float(number);
        return {};
    }

    Result<void> put_held(const Complex& number, std::size_t /*depth*/) {
        output_.put_global("__builtin__", "complex");
        output_.put_float(number.real);
        output_.put_float(number.imaginary);
        call_with(2);
        return {};
    }

    Result<void> put_held(const std::string& text, std::size_t /*depth*/) {
        return put_string(text);
    }

    Result<void> put_string(std::string_view text) {
        if (!is_valid_str(text)) return invalid("the string '{}' is not UTF-8", printable(text));
        if (text.size() > std::numeric_limits<std::uint32_t>::max()) {
            return invalid("a string has {} bytes", text.size());
        }
        output_.put_string(text);
        return {};
    }

    // As Latin-1 text: weights_only takes no opcode for bytes.
    Result<void> put_held(const Bytes& bytes, std::size_t /*depth*/) {
        if (bytes.is_bytearray) output_.put_global("__builtin__", "bytearray");
        if (!bytes.is_bytearray || !bytes.data.empty()) {
            std::string text;
            for (const char byte : bytes.data) {
                const auto code = static_cast<unsigned char>(byte);
                if (code >= 0x80) text += static_cast<char>(0xc0 | (code >> 6));
                text += static_cast<char>(code >= 0x80 ? 0x80 | (code & 0x3f) : code);
            }
            output_.put_global("_codecs", "encode");
            RETURN_IF_ERROR(put_string(text));
            output_.put_string("latin1");
            call_with(2);
        }
        if (bytes.is_bytearray) call_with(bytes.data.empty() ? 0 : 1);
        return {};
    }

    // ---- containers ----

    Result<void> put_held(const List& list, std::size_t depth) {
        if (was_fetched(list)) return {};
        output_.put(Opcode::kEmptyList);
        remember(list);
        return put_list_items(list.items, depth);
    }

    Result<void> put_list_items(const std::vector<Value>& items, std::size_t depth) {
        if (items.empty()) return {};
        output_.put(Opcode::kMark);
        RETURN_IF_ERROR(put_values(items, depth));
        output_.put(Opcode::kAppends);
        return {};
    }

    Result<void> put_held(const Tuple& tuple, std::size_t depth) {
        output_.begin_tuple(tuple.items.size());
        RETURN_IF_ERROR(put_values(tuple.items, depth));
        output_.end_tuple(tuple.items.size());
        return {};
    }

    Result<void> put_held(const Set& set, std::size_t depth) {
        if (was_fetched(set)) return {};
        if (set.items.empty() && !set.is_frozen) {
            // PyTorch 1.13's weights_only takes this, and no other set.
            output_.put(Opcode::kEmptySet);
            remember(set);
            return {};
        }
        std::unordered_set<std::string> seen;
        for (const Value& item : set.items)
            RETURN_IF_ERROR(check_key(item, "an item of a set", seen));
        output_.put_global("__builtin__", set.is_frozen ? "frozenset" : "set");
        output_.put(Opcode::kEmptyList);
        RETURN_IF_ERROR(put_list_items(set.items, depth));
        call_with(1);
        remember(set);
        return {};
    }

    Result<void> put_held(const Dict& dict, std::size_t depth) {
        if (!dict.is_ordered_dict && !dict.attributes.empty()) {
            return invalid("a dict has attributes, which only an OrderedDict can have");
        }
        if (was_fetched(dict)) return {};
        if (dict.is_ordered_dict) {
            put_empty_ordered_dict();
        } else {
            output_.put(Opcode::kEmptyDict);
        }
        remember(dict);
        RETURN_IF_ERROR(put_dict_items(dict.items, depth));
        if (dict.attributes.empty()) return {};
        RETURN_IF_ERROR(put_attributes(dict.attributes, depth));
        output_.put(Opcode::kBuild);
        return {};
    }

    Result<void> put_dict_items(const Items& items, std::size_t depth) {
        if (items.empty()) return {};
        output_.put(Opcode::kMark);
        std::unordered_set<std::string> seen;
        for (const auto& [key, item] : items) {
            RETURN_IF_ERROR(check_key(key, "a key of a dict", seen));
            RETURN_IF_ERROR(put_value(key, depth + 1));
            RETURN_IF_ERROR(put_value(item, depth + 1));
        }
        output_.put(Opcode::kSetItems);
        return {};
    }

    Result<void> put_attributes(const Items& attributes, std::size_t depth) {
        for (const auto& [name, value] : attributes) {
            if (name.get_if<std::string>() == nullptr) {
                return invalid("a {} cannot be the name of an attribute", name.type_name());
            }
        }
        output_.put(Opcode::kEmptyDict);
        return put_dict_items(attributes, depth + 1);
    }

    static Result<void> check_key(const Value& key, std::string_view what,
                                  std::unordered_set<std::string>& seen) {
        auto identity = identity_of_key(key);
        if (!identity) return invalid("a {} cannot be {}", key.type_name(), what);
        if (const auto [place, is_new] = seen.insert(std::move(*identity)); !is_new) {
            return invalid("'{}' is {} twice", printable(place->substr(1)), what);
        }
        return {};
    }

    // ---- tensors ----

    Result<void> put_held(const Tensor& tensor, std::size_t depth) {
        if (was_fetched(tensor)) return {};
        if (tensor.storage >= storages_.size()) {
            return invalid("a tensor names storage {} of a document with {}", tensor.storage,
                           storages_.size());
        }
        const Storage& storage = storages_[tensor.storage];
        if (const auto problem = problem_of_tensor(tensor, storage)) return invalid("{}", *problem);
        if (tensor.requires_grad && !can_require_grad(dtype_of(tensor, storage))) {
            return invalid("a tensor of {} cannot require gradients",
                           name_of(dtype_of(tensor, storage)));
        }
        if (tensor.is_parameter) {
            RETURN_IF_ERROR(put_parameter(tensor, storage, depth));
        } else if (!tensor.attributes.empty()) {
            RETURN_IF_ERROR(put_tensor_with_attributes(tensor, storage, depth));
        } else {
            put_rebuild_function(tensor, storage);
            RETURN_IF_ERROR(put_tensor_arguments(tensor, storage, tensor.requires_grad));
            output_.put(Opcode::kReduce);
        }
        remember(tensor);
        return {};
    }

    // torch._utils._rebuild_parameter(tensor, requires_grad, hooks), or with its attributes
    Result<void> put_parameter(const Tensor& tensor, const Storage& storage, std::size_t depth) {
        const bool has_state = !tensor.attributes.empty();
        output_.put_global("torch._utils",
                           has_state ? "_rebuild_parameter_with_state" : "_rebuild_parameter");
        const std::size_t arguments = has_state ? 4 : 3;
        output_.begin_tuple(arguments);
        put_rebuild_function(tensor, storage);
        RETURN_IF_ERROR(put_tensor_arguments(tensor, storage, false));
        output_.put(Opcode::kReduce);
        output_.put_flag(tensor.requires_grad);
        put_empty_ordered_dict();
        if (has_state) RETURN_IF_ERROR(put_attributes(tensor.attributes, depth));
        call_with(arguments);
        return {};
    }

    // torch._tensor._rebuild_from_type_v2(rebuild function, torch.Tensor, its arguments,
    // attributes)
    Result<void> put_tensor_with_attributes(const Tensor& tensor, const Storage& storage,
                                            std::size_t depth) {
        output_.put_global("torch._tensor", "_rebuild_from_type_v2");
        output_.begin_tuple(4);
        put_rebuild_function(tensor, storage);
        output_.put_global("torch", "Tensor");
        RETURN_IF_ERROR(put_tensor_arguments(tensor, storage, tensor.requires_grad));
        RETURN_IF_ERROR(put_attributes(tensor.attributes, depth));
        call_with(4);
        return {};
    }

    void put_rebuild_function(const Tensor& tensor, const Storage& storage) {
        output_.put_global("torch._utils", has_storage_class(dtype_of(tensor, storage))
                                               ? "_rebuild_tensor_v2"
                                               : "_rebuild_tensor_v3");
    }

    // (storage, offset, shape, stride, requires_grad, hooks[, dtype][, metadata])
    Result<void> put_tensor_arguments(const Tensor& tensor, const Storage& storage,
                                      bool requires_grad) {
        const DType dtype = dtype_of(tensor, storage);
        output_.put(Opcode::kMark);
        RETURN_IF_ERROR(put_storage(storage, dtype));
        output_.put_integer(tensor.offset);
        output_.put_integers(tensor.shape);
        output_.put_integers(tensor.stride);
        output_.put_flag(requires_grad);
        put_empty_ordered_dict();
        if (!has_storage_class(dtype)) output_.put_global("torch", name_of(dtype));
        if (tensor.is_conjugate || tensor.is_negative) {
            output_.put(Opcode::kEmptyDict);
            output_.put(Opcode::kMark);
            if (tensor.is_conjugate) put_named_flag("conj");
            if (tensor.is_negative) put_named_flag("neg");
            output_.put(Opcode::kSetItems);
        }
        output_.put(Opcode::kTuple);
        return {};
    }

    void put_named_flag(std::string_view name) {
        output_.put_string(name);
        output_.put_flag(true);
    }

    // The persistent id ('storage', torch.FloatStorage, key, location, elements), of the class that
    // a tensor of `dtype` asks for.
    Result<void> put_storage(const Storage& storage, DType dtype) {
        if (storage.elements > kStorageElementsMax) {
            return invalid("storage '{}' has {} elements", printable(storage.key),
                           storage.elements);
        }
        const bool is_typed = has_storage_class(dtype);
        output_.put(Opcode::kMark);
        output_.put_string("storage");
        output_.put_global(is_typed ? "torch" : "torch.storage", storage_class_of(dtype));
        RETURN_IF_ERROR(put_string(storage.key));
        RETURN_IF_ERROR(put_string(storage.location));
        output_.put_integer(static_cast<std::int64_t>(
            is_typed ? storage.bytes() / item_bytes_of(dtype) : storage.bytes()));
        output_.put(Opcode::kTuple);
        output_.put(Opcode::kBinPersId);
        return {};
    }

    // ---- torch.Size, torch.device, dtypes, NumPy ----

    Result<void> put_held(const Size& size, std::size_t /*depth*/) {
        output_.put_global("torch", "Size");
        output_.put_integers(size.sizes);
        call_with(1);
        return {};
    }

    Result<void> put_held(const Device& device, std::size_t /*depth*/) {
        output_.put_global("torch", "device");
        RETURN_IF_ERROR(put_string(device.type));
        if (device.index) output_.put_integer(*device.index);
        call_with(device.index ? 2 : 1);
        return {};
    }

    Result<void> put_held(DType dtype, std::size_t /*depth*/) {
        output_.put_global("torch", name_of(dtype));
        return {};
    }

    // numpy.core.multiarray.scalar(dtype, bytes): the name of NumPy 1, which 2 knows as well.
    Result<void> put_held(const NumpyScalar& scalar, std::size_t depth) {
        if (bytes_of_numpy_type(scalar.type) != scalar.data.size()) {
            return invalid("a NumPy '{}' has {} bytes", printable(scalar.type), scalar.data.size());
        }
        output_.put_global("numpy.core.multiarray", "scalar");
        output_.put_global("numpy", "dtype");
        output_.put_string(scalar.type);
        output_.put_flag(false);
        output_.put_flag(true);
        call_with(3);
        const bool has_order = scalar.data.size() > 1;
        output_.put(Opcode::kMark);
        output_.put_integer(3);
        output_.put_string(has_order ? "<" : "|");
        for (int index = 0; index < 3; ++index)
            output_.put(Opcode::kNone);
        output_.put_integer(-1);
        output_.put_integer(-1);
        output_.put_integer(0);
        output_.put(Opcode::kTuple);
        output_.put(Opcode::kBuild);
        RETURN_IF_ERROR(put_held(Bytes{.data = scalar.data}, depth));
        call_with(2);
        return {};
    }

    // ---- what several of these need ----

    // Makes a tuple of the last `arguments` values and calls what lies below them.
    void call_with(std::size_t arguments) {
        output_.end_tuple(arguments);
        output_.put(Opcode::kReduce);
    }

    void put_empty_ordered_dict() {
        output_.put_global("collections", "OrderedDict");
        call_with(0);
    }

    template <class Object>
    bool was_fetched(const Object& object) {
        if (object.object == 0) return false;
        const auto& written = std::get<Written<Object>>(written_).by_number;
        const auto found = written.find(object.object);
        // A copy that was changed is another object by now.
        if (found == written.end() || !is_identical(*found->second.object, object)) return false;
        output_.fetch(found->second.memo_index);
        return true;
    }

    template <class Object>
    void remember(const Object& object) {
        if (object.object == 0) return;
        auto& written = std::get<Written<Object>>(written_).by_number;
        written.try_emplace(object.object,
                            typename Written<Object>::Place{&object, output_.memoise()});
    }

    static constexpr std::size_t kIntegerBytesMax = std::numeric_limits<std::int32_t>::max();

    const std::vector<Storage>& storages_;
    PickleOutput output_;
    std::tuple<Written<List>, Written<Set>, Written<Dict>, Written<Tensor>> written_;
};

}  // namespace

Result<std::vector<std::byte>> write_pickle(const Document& document) {
    return Writer(document).write(document.root);
}

}  // namespace pawl::torchfile
