// Reads pickle protocols 2 to 5 into a Document: the opcodes. A machine for data only: it looks up
// no name, calls nothing, and refuses whatever it doesn't know.
#include "torchfile/pickle.h"
#include "torchfile/pickle_format.h"
#include "torchfile/pickle_machine.h"
#include "torchfile/value_rules.h"

#include <bit>

namespace pawl::torchfile {
namespace {

// A node costs some 50 bytes and its opcode at least one. Real skeletons have at most a few MiB.
static_assert(kPickleBytesMax < UINT32_MAX, "an opcode makes one node at most, named by 32 bits");

Error damaged(std::string_view what) {
    return make_error(ErrorKind::kCorrupt, "{}", what);
}

}  // namespace

Result<Document> PickleMachine::run() && {
    if (bytes_ > kPickleBytesMax) {
        return make_error(ErrorKind::kUnsupported, "the pickle has {} bytes; {} is the limit",
                          bytes_, kPickleBytesMax);
    }
    if (auto begun = read_protocol(); !begun) return at_offset(std::move(begun).error(), 0);
    while (!stopped_) {
        opcode_offset_ = input_.position();
        if (auto done = step(); !done) return at_offset(std::move(done).error(), opcode_offset_);
    }
    return to_document(std::move(table_), result_, allowance_);
}

Result<void> PickleMachine::read_protocol() {
    auto opcode = input_.take(2);
    if (!opcode) return std::move(opcode).error();
    if ((*opcode)[0] != static_cast<std::byte>(Opcode::kProto)) {
        return damaged("it does not begin with a protocol number");
    }
    const auto protocol = std::to_integer<unsigned>((*opcode)[1]);
    if (protocol < kPickleProtocol || protocol > kPickleProtocolMax) {
        return make_error(ErrorKind::kUnsupported, "it has protocol {}; {} to {} are supported",
                          protocol, kPickleProtocol, kPickleProtocolMax);
    }
    return {};
}

Result<void> PickleMachine::step() {
    auto byte = input_.take_integer(1);
    if (!byte) return std::move(byte).error();
    switch (static_cast<Opcode>(*byte)) {
        case Opcode::kStop:
            return stop();
        case Opcode::kFrame:
            return check_frame();
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
            return push_bin_int();
        case Opcode::kLong1:
            return push_long(1);
        case Opcode::kLong4:
            return push_long(4);
        case Opcode::kBinFloat:
            return push_float();
        case Opcode::kShortBinUnicode:
        case Opcode::kShortBinString:
            return push_text(1);
        case Opcode::kBinUnicode:
            return push_text(4);
        case Opcode::kBinUnicode8:
            return push_text(8);
        case Opcode::kShortBinBytes:
            return push_bytes(1, false);
        case Opcode::kBinBytes:
            return push_bytes(4, false);
        case Opcode::kBinBytes8:
            return push_bytes(8, false);
        case Opcode::kByteArray8:
            return push_bytes(8, true);
        case Opcode::kEmptyList:
            return push(ListNode{});
        case Opcode::kEmptyTuple:
            return push(TupleNode{});
        case Opcode::kEmptyDict:
            return push(DictNode{});
        case Opcode::kEmptySet:
            return push(SetNode{});
        case Opcode::kTuple:
            return push_tuple(pop_to_mark());
        case Opcode::kTuple1:
            return push_tuple(pop_some(1));
        case Opcode::kTuple2:
            return push_tuple(pop_some(2));
        case Opcode::kTuple3:
            return push_tuple(pop_some(3));
        case Opcode::kAppend:
            return append(pop_some(1));
        case Opcode::kAppends:
            return append(pop_to_mark());
        case Opcode::kSetItem:
            return set_items(pop_some(2));
        case Opcode::kSetItems:
            return set_items(pop_to_mark());
        case Opcode::kAddItems:
            return add_items();
        case Opcode::kFrozenSet:
            return push_frozen_set();
        case Opcode::kBinPut:
            return put_memo(input_.take_integer(1));
        case Opcode::kLongBinPut:
            return put_memo(input_.take_integer(4));
        case Opcode::kMemoize:
            return put_memo(memo_.size() + memo_beyond_.size());
        case Opcode::kBinGet:
            return get_memo(1);
        case Opcode::kLongBinGet:
            return get_memo(4);
        case Opcode::kGlobal: {
            auto module = input_.take_line();
            return push_global(std::move(module), input_.take_line());
        }
        case Opcode::kStackGlobal:
            return push_stack_global();
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

Result<void> PickleMachine::stop() {
    if (!marks_.empty() || stack_.size() != 1) return damaged("it stops in the middle of a value");
    if (input_.bytes_left() != 0) return damaged("it stops before its end");
    result_ = stack_.back();
    stopped_ = true;
    return {};
}

// Frames say how much to read ahead; all of it is here already.
Result<void> PickleMachine::check_frame() {
    auto bytes = input_.take_integer(8);
    if (!bytes) return std::move(bytes).error();
    if (*bytes > input_.bytes_left()) return damaged("a frame reaches beyond its end");
    return {};
}

// ---- numbers, strings, bytes ----

Result<void> PickleMachine::push_unsigned(std::size_t bytes) {
    auto integer = input_.take_integer(bytes);
    if (!integer) return std::move(integer).error();
    return push(static_cast<std::int64_t>(*integer));
}

Result<void> PickleMachine::push_bin_int() {
    auto integer = input_.take_integer(4);
    if (!integer) return std::move(integer).error();
    return push(std::int64_t{static_cast<std::int32_t>(static_cast<std::uint32_t>(*integer))});
}

Result<void> PickleMachine::push_long(std::size_t bytes_of_length) {
    auto bytes = input_.take_bytes(bytes_of_length);
    if (!bytes) return std::move(bytes).error();
    Value integer = integer_from(std::move(*bytes));
    if (const auto* small = integer.get_if<std::int64_t>()) return push(*small);
    return push_leaf(std::move(integer));
}

Result<void> PickleMachine::push_float() {
    auto taken = input_.take(sizeof(double));
    if (!taken) return std::move(taken).error();
    std::uint64_t bits = 0;
    for (const std::byte byte : *taken)
        bits = (bits << 8) | std::to_integer<std::uint64_t>(byte);
    return push(std::bit_cast<double>(bits));
}

Result<void> PickleMachine::push_text(std::size_t bytes_of_length) {
    auto text = input_.take_text(bytes_of_length);
    if (!text) return std::move(text).error();
    return push(std::move(*text));
}

Result<void> PickleMachine::push_bytes(std::size_t bytes_of_length, bool is_bytearray) {
    auto bytes = input_.take_bytes(bytes_of_length);
    if (!bytes) return std::move(bytes).error();
    return push_leaf(Bytes{.data = std::move(*bytes), .is_bytearray = is_bytearray});
}

// ---- containers ----

Result<void> PickleMachine::push_tuple(Result<std::vector<NodeId>> items) {
    if (!items) return std::move(items).error();
    return push(TupleNode{std::move(*items)});
}

Result<void> PickleMachine::push_frozen_set() {
    auto items = pop_to_mark();
    if (!items) return std::move(items).error();
    return push(SetNode{.items = std::move(*items), .is_frozen = true});
}

Result<void> PickleMachine::append(Result<std::vector<NodeId>> items) {
    if (!items) return std::move(items).error();
    auto target = top();
    if (!target) return std::move(target).error();
    auto* list = held<ListNode>(*target);
    if (list == nullptr) return damaged("it appends to what is no list");
    list->items.insert(list->items.end(), items->begin(), items->end());
    return {};
}

Result<void> PickleMachine::add_items() {
    auto items = pop_to_mark();
    if (!items) return std::move(items).error();
    auto target = top();
    if (!target) return std::move(target).error();
    auto* set = held<SetNode>(*target);
    if (set == nullptr || set->is_frozen) return damaged("it adds items to what is no set");
    set->items.insert(set->items.end(), items->begin(), items->end());
    return {};
}

Result<void> PickleMachine::set_items(Result<std::vector<NodeId>> items) {
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

// ---- stack and memo ----

Result<NodeId> PickleMachine::top() const {
    const std::size_t floor = marks_.empty() ? 0 : marks_.back();
    if (stack_.size() <= floor) return damaged("it takes a value that is not there");
    return stack_.back();
}

Result<std::vector<NodeId>> PickleMachine::pop_some(std::size_t count) {
    const std::size_t floor = marks_.empty() ? 0 : marks_.back();
    if (stack_.size() - floor < count) return damaged("it takes more than it has put");
    const auto first = stack_.end() - static_cast<std::ptrdiff_t>(count);
    std::vector<NodeId> popped(first, stack_.end());
    stack_.erase(first, stack_.end());
    return popped;
}

Result<std::vector<NodeId>> PickleMachine::pop_to_mark() {
    if (marks_.empty()) return damaged("a mark is missing");
    auto popped = pop_some(stack_.size() - marks_.back());
    marks_.pop_back();
    return popped;
}

Result<void> PickleMachine::put_memo(Result<std::uint64_t> index) {
    if (!index) return std::move(index).error();
    auto node = top();
    if (!node) return std::move(node).error();
    if (*index < memo_.size()) {
        memo_[*index] = *node;
    } else if (*index == memo_.size()) {
        memo_.push_back(*node);
    } else {
        memo_beyond_[*index] = *node;
    }
    return {};
}

Result<void> PickleMachine::get_memo(std::size_t bytes_of_index) {
    auto index = input_.take_integer(bytes_of_index);
    if (!index) return std::move(index).error();
    NodeId node = 0;
    if (*index < memo_.size()) {
        node = memo_[*index];
    } else if (const auto found = memo_beyond_.find(*index); found != memo_beyond_.end()) {
        node = found->second;
    } else {
        return make_error(ErrorKind::kCorrupt, "it takes memo entry {}, which is not there",
                          *index);
    }
    table_.nodes[node].is_shared = true;
    stack_.push_back(node);
    return {};
}

// ---- names ----

Result<void> PickleMachine::push_global(Result<std::string> module, Result<std::string> name) {
    if (!module) return std::move(module).error();
    if (!name) return std::move(name).error();
    if (auto node = node_of_global(*module, *name)) {
        return std::visit([this](auto& data) { return push(std::move(data)); }, node->data);
    }
    const bool is_type_of_tensor =
        stack_.size() >= 2 && held<Callable>(stack_[stack_.size() - 2]) != nullptr &&
        *held<Callable>(stack_[stack_.size() - 2]) == Callable::kRebuildFromType;
    return refusal_of_global(*module, *name, path(),
                             is_type_of_tensor ? Place::kTypeOfTensor : Place::kAnywhere);
}

Result<void> PickleMachine::push_stack_global() {
    auto names = pop_some(2);
    if (!names) return std::move(names).error();
    const auto* module = held<std::string>((*names)[0]);
    const auto* name = held<std::string>((*names)[1]);
    if (module == nullptr || name == nullptr) return damaged("a global has no name");
    return push_global(*module, *name);
}

Result<Document> read_pickle(std::span<const std::byte> pickle) {
    return PickleMachine(pickle).run();
}

}  // namespace pawl::torchfile
