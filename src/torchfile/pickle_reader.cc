// Reads pickle protocol 2 into a Document. A machine for data only: it looks up no name, calls
// nothing, and refuses whatever it doesn't know.
// What it builds is in pickle_nodes.h.
#include "torchfile/pickle.h"
#include "torchfile/pickle_format.h"
#include "torchfile/pickle_nodes.h"
#include "torchfile/text.h"

#include <bit>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>

namespace pawl::torchfile {
namespace {

// A node costs some 50 bytes and its opcode at least one. Real skeletons have at most a few MiB.
constexpr std::size_t kPickleBytesMax = std::size_t{1} << 30;
static_assert(kPickleBytesMax < UINT32_MAX, "an opcode makes one node at most, named by 32 bits");

Error damaged(std::string_view what) {
    return make_error(ErrorKind::kCorrupt, "{}", what);
}

class Machine {
public:
    explicit Machine(std::span<const std::byte> pickle)
        : pickle_(pickle), allowance_(pickle.size()) {}

    Result<Document> run() && {
        if (pickle_.size() > kPickleBytesMax) {
            return make_error(ErrorKind::kUnsupported, "the pickle has {} bytes; {} is the limit",
                              pickle_.size(), kPickleBytesMax);
        }
        if (auto begun = read_protocol(); !begun) return at_offset(std::move(begun).error(), 0);
        while (!stopped_) {
            opcode_offset_ = position_;
            if (auto done = step(); !done) {
                return at_offset(std::move(done).error(), opcode_offset_);
            }
        }
        return to_document(std::move(table_), result_, allowance_);
    }

private:
    Result<void> read_protocol() {
        auto opcode = take(2);
        if (!opcode) return std::move(opcode).error();
        if ((*opcode)[0] != static_cast<std::byte>(Opcode::kProto)) {
            return damaged("it does not begin with a protocol number");
        }
        const auto protocol = std::to_integer<unsigned>((*opcode)[1]);
        if (protocol != kPickleProtocol) {
            return make_error(ErrorKind::kUnsupported,
                              "it has protocol {}; torch.save's default, {}, is the one supported",
                              protocol, kPickleProtocol);
        }
        return {};
    }

    Result<void> step() {
        auto byte = take_integer(1);
        if (!byte) return std::move(byte).error();
        switch (static_cast<Opcode>(*byte)) {
            case Opcode::kStop:
                return stop();
            case Opcode::kMark:
                marks_.push_back(stack_.size());
                return {};
            case Opcode::kNone:
                return push(None{});
            case Opcode::kNewTrue:
                return push(true);
            case Opcode::kNewFalse:
                return push(false);
            case Opcode::kBinInt1:
                return push_unsigned(1);
            case Opcode::kBinInt2:
                return push_unsigned(2);
            case Opcode::kBinInt:
                return push_signed(4);
            case Opcode::kLong1:
                return push_long();
            case Opcode::kBinFloat:
                return push_float();
            case Opcode::kBinUnicode:
                return push_text(4);
            case Opcode::kShortBinString:
                return push_text(1);
            case Opcode::kEmptyList:
                return push(ListNode{});
            case Opcode::kEmptyTuple:
                return push(TupleNode{});
            case Opcode::kEmptyDict:
                return push(DictNode{});
            case Opcode::kTuple:
                return push_tuple();
            case Opcode::kTuple1:
                return push_tuple_of(1);
            case Opcode::kTuple2:
                return push_tuple_of(2);
            case Opcode::kTuple3:
                return push_tuple_of(3);
            case Opcode::kAppend:
                return append(pop_some(1));
            case Opcode::kAppends:
                return append(pop_to_mark());
            case Opcode::kSetItem:
                return set_items(pop_some(2));
            case Opcode::kSetItems:
                return set_items(pop_to_mark());
            case Opcode::kBinPut:
                return put_memo(1);
            case Opcode::kLongBinPut:
                return put_memo(4);
            case Opcode::kBinGet:
                return get_memo(1);
            case Opcode::kLongBinGet:
                return get_memo(4);
            case Opcode::kGlobal:
                return push_global();
            case Opcode::kReduce:
                return reduce();
            case Opcode::kBuild:
                return build();
            case Opcode::kBinPersId:
                return push_storage();
            case Opcode::kProto:
                break;
        }
        return make_error(ErrorKind::kUnsupported,
                          "opcode {:#04x} does not occur in what torch.save writes", *byte);
    }

    Result<void> stop() {
        if (!marks_.empty() || stack_.size() != 1)
            return damaged("it stops in the middle of a value");
        if (position_ != pickle_.size()) return damaged("it stops before its end");
        result_ = stack_.back();
        stopped_ = true;
        return {};
    }

    // ---- numbers and strings ----

    Result<std::span<const std::byte>> take(std::size_t bytes) {
        if (bytes > pickle_.size() - position_) return damaged("it ends too early");
        const auto taken = pickle_.subspan(position_, bytes);
        position_ += bytes;
        return taken;
    }

    Result<std::uint64_t> take_integer(std::size_t bytes) {
        auto taken = take(bytes);
        if (!taken) return std::move(taken).error();
        std::uint64_t integer = 0;
        for (std::size_t index = 0; index < bytes; ++index) {
            integer |= std::to_integer<std::uint64_t>((*taken)[index]) << (8 * index);
        }
        return integer;
    }

    Result<std::string_view> take_text(std::size_t bytes) {
        auto taken = take(bytes);
        if (!taken) return std::move(taken).error();
        const std::string_view text(reinterpret_cast<const char*>(taken->data()), taken->size());
        if (!is_valid_utf8(text)) return damaged("a string is not valid UTF-8");
        return text;
    }

    Result<std::string_view> take_line() {
        std::size_t length = 0;
        while (position_ + length < pickle_.size() &&
               pickle_[position_ + length] != std::byte{'\n'}) {
            ++length;
        }
        auto line = take_text(length);
        if (!line) return line;
        RETURN_IF_ERROR(take(1));
        return line;
    }

    Result<void> push_unsigned(std::size_t bytes) {
        auto integer = take_integer(bytes);
        if (!integer) return std::move(integer).error();
        return push(static_cast<std::int64_t>(*integer));
    }

    // Two's complement, little-endian, as Python's ints and BININT both are.
    Result<void> push_signed(std::size_t bytes) {
        auto integer = take_integer(bytes);
        if (!integer) return std::move(integer).error();
        if (bytes == 0) return push(std::int64_t{0});
        const auto unused_bits = static_cast<unsigned>(64 - 8 * bytes);
        return push(static_cast<std::int64_t>(*integer << unused_bits) >> unused_bits);
    }

    Result<void> push_long() {
        auto bytes = take_integer(1);
        if (!bytes) return std::move(bytes).error();
        if (*bytes > sizeof(std::int64_t)) {
            return make_error(ErrorKind::kUnsupported, "an int of {} bytes exceeds 64 bits",
                              *bytes);
        }
        return push_signed(*bytes);
    }

    Result<void> push_float() {
        auto taken = take(sizeof(double));
        if (!taken) return std::move(taken).error();
        std::uint64_t bits = 0;
        for (const std::byte byte : *taken)
            bits = (bits << 8) | std::to_integer<std::uint64_t>(byte);
        return push(std::bit_cast<double>(bits));
    }

    Result<void> push_text(std::size_t bytes_of_length) {
        auto length = take_integer(bytes_of_length);
        if (!length) return std::move(length).error();
        auto text = take_text(*length);
        if (!text) return std::move(text).error();
        return push(std::string(*text));
    }

    // ---- stack and memo ----

    template <class Data>
    Result<void> push(Data data) {
        stack_.push_back(static_cast<NodeId>(table_.nodes.size()));
        table_.nodes.push_back({.data = std::move(data), .offset = opcode_offset_});
        return {};
    }

    [[nodiscard]] std::size_t items_above_mark() const {
        return stack_.size() - (marks_.empty() ? 0 : marks_.back());
    }

    Result<std::vector<NodeId>> pop_some(std::size_t count) {
        if (items_above_mark() < count)
            return damaged("it takes more than it has put on the stack");
        const auto first = stack_.end() - static_cast<std::ptrdiff_t>(count);
        std::vector<NodeId> items(first, stack_.end());
        stack_.erase(first, stack_.end());
        return items;
    }

    Result<std::vector<NodeId>> pop_to_mark() {
        if (marks_.empty()) return damaged("a mark is missing");
        auto items = pop_some(items_above_mark());
        marks_.pop_back();
        return items;
    }

    // The value on top of the stack, which stays there.
    Result<NodeId> top() const {
        if (items_above_mark() == 0) return damaged("it uses a value that is not there");
        return stack_.back();
    }

    Result<void> put_memo(std::size_t bytes) {
        auto index = take_integer(bytes);
        if (!index) return std::move(index).error();
        auto value = top();
        if (!value) return std::move(value).error();
        memo_[*index] = *value;
        return {};
    }

    Result<void> get_memo(std::size_t bytes) {
        auto index = take_integer(bytes);
        if (!index) return std::move(index).error();
        const auto found = memo_.find(*index);
        if (found == memo_.end()) return damaged(fmt::format("memo entry {} is not there", *index));
        stack_.push_back(found->second);
        return {};
    }

    template <class Data>
    [[nodiscard]] Data* held(NodeId id) {
        return std::get_if<Data>(&table_.nodes[id].data);
    }

    // ---- containers ----

    Result<void> push_tuple() {
        auto items = pop_to_mark();
        if (!items) return std::move(items).error();
        return push(TupleNode{std::move(*items)});
    }

    Result<void> push_tuple_of(std::size_t count) {
        auto items = pop_some(count);
        if (!items) return std::move(items).error();
        return push(TupleNode{std::move(*items)});
    }

    Result<void> append(Result<std::vector<NodeId>> items) {
        if (!items) return std::move(items).error();
        auto target = top();
        if (!target) return std::move(target).error();
        auto* list = held<ListNode>(*target);
        if (list == nullptr) return damaged("it appends to what is no list");
        list->items.insert(list->items.end(), items->begin(), items->end());
        return {};
    }

    Result<void> set_items(Result<std::vector<NodeId>> items) {
        if (!items) return std::move(items).error();
        if (items->size() % 2 != 0) return damaged("a key has no value");
        auto target = top();
        if (!target) return std::move(target).error();
        auto* dict = held<DictNode>(*target);
        if (dict == nullptr) return damaged("it sets items of what is no dict");
        for (std::size_t index = 0; index < items->size(); index += 2) {
            dict->items.emplace_back((*items)[index], (*items)[index + 1]);
        }
        return {};
    }

    // ---- what Python would call ----

    Result<void> push_global() {
        auto module = take_line();
        if (!module) return std::move(module).error();
        auto name = take_line();
        if (!name) return std::move(name).error();
        if (*module == "torch._utils" && *name == "_rebuild_tensor_v2") {
            return push(Callable::kRebuildTensor);
        }
        if (*module == "torch._utils" && *name == "_rebuild_parameter") {
            return push(Callable::kRebuildParameter);
        }
        if (*module == "collections" && *name == "OrderedDict") return push(Callable::kOrderedDict);
        if (*module == "torch") {
            if (const auto dtype = dtype_of_storage_class(*name)) return push(*dtype);
        }
        return make_error(ErrorKind::kUnsupported,
                          "it holds a '{}.{}', which is no plain data and is not read",
                          printable(*module), printable(*name));
    }

    Result<void> reduce() {
        auto popped = pop_some(2);
        if (!popped) return std::move(popped).error();
        const auto* callable = held<Callable>((*popped)[0]);
        const auto* arguments = held<TupleNode>((*popped)[1]);
        if (callable == nullptr || arguments == nullptr)
            return damaged("it calls what is no function");
        switch (*callable) {
            case Callable::kOrderedDict:
                return make_ordered_dict(*arguments);
            case Callable::kRebuildTensor:
                return rebuild_tensor(arguments->items);
            case Callable::kRebuildParameter:
                return rebuild_parameter(arguments->items);
        }
        return damaged("it calls what is no function");
    }

    Result<void> make_ordered_dict(const TupleNode& arguments) {
        if (!arguments.items.empty()) return damaged("an OrderedDict is made from arguments");
        return push(DictNode{.items = {}, .is_ordered_dict = true});
    }

    // (storage, offset, shape, stride, requires_grad, hooks[, metadata])
    Result<void> rebuild_tensor(const std::vector<NodeId>& arguments) {
        if (arguments.size() != 6 && arguments.size() != 7) {
            return damaged(fmt::format("a tensor is made from {} arguments", arguments.size()));
        }
        const auto* storage = held<StorageNode>(arguments[0]);
        const auto* offset = held<std::int64_t>(arguments[1]);
        auto shape = integers_of(arguments[2]);
        auto stride = integers_of(arguments[3]);
        const auto* requires_grad = held<bool>(arguments[4]);
        const bool is_plain = storage != nullptr && offset != nullptr && shape && stride &&
                              requires_grad != nullptr && held<DictNode>(arguments[5]) != nullptr;
        if (!is_plain) return damaged("a tensor is made from arguments of other types");
        // Metadata says that a tensor is a conjugate or negative view: its bytes are not its
        // values.
        if (arguments.size() == 7 && !is_nothing(arguments[6])) {
            return make_error(ErrorKind::kUnsupported, "a tensor has metadata (a conjugate view?)");
        }
        Tensor tensor{.storage = storage->index,
                      .offset = *offset,
                      .shape = std::move(*shape),
                      .stride = std::move(*stride),
                      .requires_grad = *requires_grad};
        if (const auto problem = problem_of_view(tensor, table_.storages[tensor.storage])) {
            return damaged(printable(*problem));
        }
        table_.tensors.push_back(std::move(tensor));
        return push(TensorNode{table_.tensors.size() - 1});
    }

    // (tensor, requires_grad, hooks): another tensor on the same storage.
    Result<void> rebuild_parameter(const std::vector<NodeId>& arguments) {
        const bool is_complete =
            arguments.size() == 3 && held<TensorNode>(arguments[0]) != nullptr &&
            held<bool>(arguments[1]) != nullptr && held<DictNode>(arguments[2]) != nullptr;
        if (!is_complete) return damaged("a parameter is made from arguments of other types");
        Tensor tensor = table_.tensors[held<TensorNode>(arguments[0])->index];
        RETURN_IF_ERROR(allowance_.spend(tensor.shape.size()));
        tensor.requires_grad = *held<bool>(arguments[1]);
        table_.tensors.push_back(std::move(tensor));
        return push(TensorNode{table_.tensors.size() - 1});
    }

    std::optional<std::vector<std::int64_t>> integers_of(NodeId id) {
        const auto* tuple = held<TupleNode>(id);
        if (tuple == nullptr) return std::nullopt;
        // Shared tuples are copied here; what that costs is limited too.
        if (!allowance_.spend(tuple->items.size())) return std::nullopt;
        std::vector<std::int64_t> integers;
        integers.reserve(tuple->items.size());
        for (const NodeId item : tuple->items) {
            const auto* integer = held<std::int64_t>(item);
            if (integer == nullptr) return std::nullopt;
            integers.push_back(*integer);
        }
        return integers;
    }

    [[nodiscard]] bool is_nothing(NodeId id) {
        const auto* dict = held<DictNode>(id);
        return held<None>(id) != nullptr || (dict != nullptr && dict->items.empty());
    }

    // State of an OrderedDict (`_metadata`) is dropped; nothing else has any here.
    Result<void> build() {
        auto state = pop_some(1);
        if (!state) return std::move(state).error();
        auto target = top();
        if (!target) return std::move(target).error();
        const auto* dict = held<DictNode>(*target);
        const bool is_known =
            dict != nullptr && dict->is_ordered_dict && held<DictNode>(state->front()) != nullptr;
        if (is_known) return {};
        return make_error(ErrorKind::kUnsupported, "it sets attributes of what is no OrderedDict");
    }

    // ('storage', torch.FloatStorage, key, location, elements)
    Result<void> push_storage() {
        auto popped = pop_some(1);
        if (!popped) return std::move(popped).error();
        const auto* id = held<TupleNode>(popped->front());
        if (id == nullptr || id->items.size() != 5) return damaged("a persistent id is no storage");
        const auto* tag = held<std::string>(id->items[0]);
        const auto* dtype = held<DType>(id->items[1]);
        const auto* key = held<std::string>(id->items[2]);
        const auto* location = held<std::string>(id->items[3]);
        const auto* elements = held<std::int64_t>(id->items[4]);
        const bool is_storage = tag != nullptr && *tag == "storage" && dtype != nullptr &&
                                key != nullptr && location != nullptr && elements != nullptr;
        if (!is_storage) return damaged("a persistent id is no storage");
        if (*elements < 0 || static_cast<std::uint64_t>(*elements) > kStorageElementsMax) {
            return damaged(fmt::format("a storage has {} elements", *elements));
        }
        const auto [found, is_new] = storage_of_key_.try_emplace(*key, table_.storages.size());
        const std::size_t index = found->second;
        if (!is_new) {
            const Storage& before = table_.storages[index];
            const bool is_same = before.dtype == *dtype && before.location == *location &&
                                 before.elements == static_cast<std::uint64_t>(*elements);
            if (!is_same) {
                return damaged(
                    fmt::format("storage '{}' is described in two ways", printable(*key)));
            }
            return push(StorageNode{index});
        }
        RETURN_IF_ERROR(allowance_.spend_on_text(key->size() + location->size()));
        table_.storages.push_back({.key = *key,
                                   .dtype = *dtype,
                                   .elements = static_cast<std::uint64_t>(*elements),
                                   .location = *location});
        return push(StorageNode{index});
    }

    std::span<const std::byte> pickle_;
    std::size_t position_ = 0;
    std::size_t opcode_offset_ = 0;
    bool stopped_ = false;
    NodeId result_ = 0;
    std::vector<NodeId> stack_;
    std::vector<std::size_t> marks_;  // heights of the stack
    std::unordered_map<std::uint64_t, NodeId> memo_;
    NodeTable table_;
    Allowance allowance_;
    std::unordered_map<std::string, std::size_t> storage_of_key_;
};

}  // namespace

Result<Document> read_pickle(std::span<const std::byte> pickle) {
    return Machine(pickle).run();
}

}  // namespace pawl::torchfile
