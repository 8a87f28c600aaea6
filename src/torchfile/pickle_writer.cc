// Writes a Document as pickle protocol 2, in the opcodes that torch.load(weights_only=True) takes.
//
// PyTorch 1.13's restricted unpickler knows no BINFLOAT: a file that holds Python floats loads
// there only with weights_only=False, as torch.save's own files do. Strings and globals are written
// once and fetched from the memo after that, so a key that occurs in a thousand dicts costs two
// bytes.
#include "torchfile/pickle.h"
#include "torchfile/pickle_format.h"
#include "torchfile/text.h"

#include <bit>
#include <limits>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

namespace pawl::torchfile {
namespace {

bool can_require_grad(DType dtype) {
    switch (dtype) {
        case DType::kFloat32:
        case DType::kFloat64:
        case DType::kFloat16:
        case DType::kBFloat16:
        case DType::kComplex64:
        case DType::kComplex128:
            return true;
        default:
            return false;
    }
}

class Writer {
public:
    explicit Writer(const Document& document) : storages_(document.storages) {}

    Result<std::vector<std::byte>> write(const Value& root) && {
        put(Opcode::kProto);
        put_little_endian(kPickleProtocol, 1);
        RETURN_IF_ERROR(put_value(root, 0));
        put(Opcode::kStop);
        return std::move(bytes_);
    }

private:
    Result<void> put_value(const Value& value, std::size_t depth) {
        if (depth > kNestingMax) {
            return make_error(ErrorKind::kInvalidArgument, "values nest deeper than {} levels",
                              kNestingMax);
        }
        return std::visit([this, depth](const auto& held) { return put_held(held, depth); },
                          value.data);
    }

    Result<void> put_held(None /*none*/, std::size_t /*depth*/) {
        put(Opcode::kNone);
        return {};
    }

    Result<void> put_held(bool flag, std::size_t /*depth*/) {
        put(flag ? Opcode::kNewTrue : Opcode::kNewFalse);
        return {};
    }

    Result<void> put_held(std::int64_t integer, std::size_t /*depth*/) {
        put_integer(integer);
        return {};
    }

    Result<void> put_held(double number, std::size_t /*depth*/) {
        put(Opcode::kBinFloat);
        const auto bits = std::bit_cast<std::uint64_t>(number);
        for (int shift = 56; shift >= 0; shift -= 8)
            put_little_endian((bits >> shift) & 0xff, 1);
        return {};
    }

    Result<void> put_held(const std::string& text, std::size_t /*depth*/) {
        return put_string(text);
    }

    Result<void> put_held(const List& list, std::size_t depth) {
        put(Opcode::kEmptyList);
        if (list.items.empty()) return {};
        put(Opcode::kMark);
        for (const Value& item : list.items)
            RETURN_IF_ERROR(put_value(item, depth + 1));
        put(Opcode::kAppends);
        return {};
    }

    Result<void> put_held(const Tuple& tuple, std::size_t depth) {
        begin_tuple(tuple.items.size());
        for (const Value& item : tuple.items)
            RETURN_IF_ERROR(put_value(item, depth + 1));
        end_tuple(tuple.items.size());
        return {};
    }

    Result<void> put_held(const Dict& dict, std::size_t depth) {
        if (dict.is_ordered_dict) {
            put_empty_ordered_dict();
        } else {
            put(Opcode::kEmptyDict);
        }
        if (dict.items.empty()) return {};
        put(Opcode::kMark);
        std::unordered_set<std::string> seen;
        for (const auto& [key, item] : dict.items) {
            auto identity = identity_of_key(key);
            if (!identity) {
                return make_error(ErrorKind::kInvalidArgument, "a {} cannot be a key of a dict",
                                  key.type_name());
            }
            if (!seen.insert(*identity).second) {
                return make_error(ErrorKind::kInvalidArgument, "a dict has the key '{}' twice",
                                  printable(identity->substr(1)));
            }
            RETURN_IF_ERROR(put_value(key, depth + 1));
            RETURN_IF_ERROR(put_value(item, depth + 1));
        }
        put(Opcode::kSetItems);
        return {};
    }

    // torch._utils._rebuild_tensor_v2(storage, offset, shape, stride, requires_grad, hooks)
    Result<void> put_held(const Tensor& tensor, std::size_t /*depth*/) {
        if (tensor.storage >= storages_.size()) {
            return make_error(ErrorKind::kInvalidArgument,
                              "a tensor names storage {} of a document with {}", tensor.storage,
                              storages_.size());
        }
        const Storage& storage = storages_[tensor.storage];
        if (const auto problem = problem_of_view(tensor, storage)) {
            return make_error(ErrorKind::kInvalidArgument, "{}", *problem);
        }
        if (tensor.requires_grad && !can_require_grad(storage.dtype)) {
            return make_error(ErrorKind::kInvalidArgument,
                              "a tensor of {} cannot require gradients", name_of(storage.dtype));
        }
        put_global("torch._utils", "_rebuild_tensor_v2");
        put(Opcode::kMark);
        RETURN_IF_ERROR(put_storage(storage));
        put_integer(tensor.offset);
        put_integers(tensor.shape);
        put_integers(tensor.stride);
        put(tensor.requires_grad ? Opcode::kNewTrue : Opcode::kNewFalse);
        put_empty_ordered_dict();
        put(Opcode::kTuple);
        put(Opcode::kReduce);
        return {};
    }

    // The persistent id ('storage', torch.FloatStorage, key, location, elements).
    Result<void> put_storage(const Storage& storage) {
        if (storage.elements > kStorageElementsMax) {
            return make_error(ErrorKind::kInvalidArgument, "storage '{}' has {} elements",
                              printable(storage.key), storage.elements);
        }
        put(Opcode::kMark);
        RETURN_IF_ERROR(put_string("storage"));
        put_global("torch", storage_class_of(storage.dtype));
        RETURN_IF_ERROR(put_string(storage.key));
        RETURN_IF_ERROR(put_string(storage.location));
        put_integer(static_cast<std::int64_t>(storage.elements));
        put(Opcode::kTuple);
        put(Opcode::kBinPersId);
        return {};
    }

    void put_integers(const std::vector<std::int64_t>& integers) {
        begin_tuple(integers.size());
        for (const std::int64_t integer : integers)
            put_integer(integer);
        end_tuple(integers.size());
    }

    // Tuples of one to three items need no mark.
    void begin_tuple(std::size_t items) {
        if (items > 3) put(Opcode::kMark);
    }

    void end_tuple(std::size_t items) {
        switch (items) {
            case 0:
                return put(Opcode::kEmptyTuple);
            case 1:
                return put(Opcode::kTuple1);
            case 2:
                return put(Opcode::kTuple2);
            case 3:
                return put(Opcode::kTuple3);
            default:
                return put(Opcode::kTuple);
        }
    }

    void put_empty_ordered_dict() {
        put_global("collections", "OrderedDict");
        put(Opcode::kEmptyTuple);
        put(Opcode::kReduce);
    }

    void put_integer(std::int64_t integer) {
        const auto bits = static_cast<std::uint64_t>(integer);
        if (integer >= 0 && integer <= 0xff) {
            put(Opcode::kBinInt1);
            put_little_endian(bits, 1);
        } else if (integer >= 0 && integer <= 0xffff) {
            put(Opcode::kBinInt2);
            put_little_endian(bits, 2);
        } else if (integer >= std::numeric_limits<std::int32_t>::min() &&
                   integer <= std::numeric_limits<std::int32_t>::max()) {
            put(Opcode::kBinInt);
            put_little_endian(bits, 4);
        } else {
            put(Opcode::kLong1);
            put_little_endian(sizeof bits, 1);
            put_little_endian(bits, sizeof bits);
        }
    }

    Result<void> put_string(std::string_view text) {
        if (!is_valid_utf8(text)) {
            return make_error(ErrorKind::kInvalidArgument, "the string '{}' is not valid UTF-8",
                              printable(text));
        }
        if (text.size() > std::numeric_limits<std::uint32_t>::max()) {
            return make_error(ErrorKind::kInvalidArgument, "a string has {} bytes", text.size());
        }
        if (fetch_from_memo(text)) return {};
        put(Opcode::kBinUnicode);
        put_little_endian(text.size(), 4);
        put_text(text);
        keep_in_memo(text);
        return {};
    }

    void put_global(std::string_view module, std::string_view name) {
        // The byte 0xff is in no valid UTF-8, so no string of a document has the same name.
        const std::string memo_name = fmt::format("{}\n{}\n", module, name) + '\xff';
        if (fetch_from_memo(memo_name)) return;
        put(Opcode::kGlobal);
        put_text(fmt::format("{}\n{}\n", module, name));
        keep_in_memo(memo_name);
    }

    bool fetch_from_memo(std::string_view name) {
        const auto found = memo_.find(std::string(name));
        if (found == memo_.end()) return false;
        put_memo(Opcode::kBinGet, Opcode::kLongBinGet, found->second);
        return true;
    }

    void keep_in_memo(std::string_view name) {
        const auto index = static_cast<std::uint32_t>(memo_.size());
        memo_.emplace(std::string(name), index);
        put_memo(Opcode::kBinPut, Opcode::kLongBinPut, index);
    }

    void put_memo(Opcode of_one_byte, Opcode of_four_bytes, std::uint32_t index) {
        const bool is_short = index <= 0xff;
        put(is_short ? of_one_byte : of_four_bytes);
        put_little_endian(index, is_short ? 1 : 4);
    }

    void put(Opcode opcode) { bytes_.push_back(static_cast<std::byte>(opcode)); }

    void put_little_endian(std::uint64_t value, std::size_t bytes) {
        for (std::size_t index = 0; index < bytes; ++index) {
            bytes_.push_back(static_cast<std::byte>((value >> (8 * index)) & 0xff));
        }
    }

    void put_text(std::string_view text) {
        const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
        bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    }

    const std::vector<Storage>& storages_;
    std::vector<std::byte> bytes_;
    std::unordered_map<std::string, std::uint32_t> memo_;
};

}  // namespace

Result<std::vector<std::byte>> write_pickle(const Document& document) {
    return Writer(document).write(document.root);
}

}  // namespace pawl::torchfile
