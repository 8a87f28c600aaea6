// The machine that a pickle is a program for: a stack, a memo, and nothing that could be called.
// Private to torchfile. pickle_reader.cc has the opcodes, pickle_rebuild.cc and
// pickle_tensor.cc what Python would call, pickle_path.cc where in the value it is.
#pragma once

#include "base/result.h"
#include "torchfile/pickle_input.h"
#include "torchfile/pickle_nodes.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace pawl::torchfile {

// The names that refer to data; nothing for any other.
[[nodiscard]] std::optional<Node> node_of_global(std::string_view module, std::string_view name);

class PickleMachine {
public:
    explicit PickleMachine(std::span<const std::byte> pickle)
        : bytes_(pickle.size()), input_(pickle), allowance_(pickle.size()) {}

    Result<Document> run() &&;

private:
    // ---- pickle_reader.cc: opcodes ----
    Result<void> read_protocol();
    Result<void> step();
    Result<void> stop();
    Result<void> check_frame();

    Result<void> push_unsigned(std::size_t bytes);
    Result<void> push_bin_int();
    Result<void> push_long(std::size_t bytes_of_length);
    Result<void> push_float();
    Result<void> push_text(std::size_t bytes_of_length);
    Result<void> push_bytes(std::size_t bytes_of_length, bool is_bytearray);

    Result<void> push_tuple(Result<std::vector<NodeId>> items);
    Result<void> push_frozen_set();
    Result<void> append(Result<std::vector<NodeId>> items);
    Result<void> add_items();
    Result<void> set_items(Result<std::vector<NodeId>> items);

    template <class Data>
    Result<void> push(Data data) {
        table_.nodes.push_back(
            {.data = std::move(data), .offset = static_cast<std::uint32_t>(opcode_offset_)});
        stack_.push_back(static_cast<NodeId>(table_.nodes.size() - 1));
        return {};
    }
    Result<void> push_leaf(Value value) {
        table_.leaves.push_back(std::move(value));
        return push(LeafNode{table_.leaves.size() - 1});
    }

    Result<NodeId> top() const;
    Result<std::vector<NodeId>> pop_some(std::size_t count);
    Result<std::vector<NodeId>> pop_to_mark();

    Result<void> put_memo(Result<std::uint64_t> index);
    Result<void> get_memo(std::size_t bytes_of_index);

    Result<void> push_global(Result<std::string> module, Result<std::string> name);
    Result<void> push_stack_global();

    // ---- pickle_path.cc ----
    // Where in the value the machine is, as far as the stack tells: "model.encoder[3]".
    [[nodiscard]] std::string path() const;
    [[nodiscard]] std::size_t begun_at(std::size_t first, std::size_t end, bool is_nested) const;
    [[nodiscard]] std::string component_of(NodeId key) const;

    // ---- pickle_rebuild.cc: what Python would call ----
    Result<void> reduce();
    Result<void> call(Callable callable, const std::vector<NodeId>& arguments);
    Result<void> build();
    Result<void> make_set(const std::vector<NodeId>& arguments, bool is_frozen);
    Result<void> make_bytes(const std::vector<NodeId>& arguments, bool is_bytearray);
    Result<void> encode(const std::vector<NodeId>& arguments);
    Result<void> make_complex(const std::vector<NodeId>& arguments);
    Result<void> make_size(const std::vector<NodeId>& arguments);
    Result<void> make_device(const std::vector<NodeId>& arguments);
    Result<void> make_numpy_type(const std::vector<NodeId>& arguments);
    Result<void> complete_numpy_type(NodeId target, NodeId state);
    Result<void> make_numpy_scalar(const std::vector<NodeId>& arguments);
    Result<std::optional<std::vector<std::int64_t>>> integers_of(NodeId id);

    // ---- pickle_tensor.cc: what of that makes storages and tensors ----
    enum class Version { kV2, kV3 };
    Result<void> push_storage();
    Result<void> rebuild_tensor(const std::vector<NodeId>& arguments, Version version);
    Result<void> read_metadata(NodeId metadata, Tensor& tensor);
    Result<void> rebuild_parameter(const std::vector<NodeId>& arguments, bool has_state);
    Result<void> rebuild_from_type(const std::vector<NodeId>& arguments);
    Result<std::optional<NodeId>> attributes_of(NodeId state);

    template <class Data>
    [[nodiscard]] Data* held(NodeId id) {
        return std::get_if<Data>(&table_.nodes[id].data);
    }
    template <class Data>
    [[nodiscard]] const Data* held(NodeId id) const {
        return std::get_if<Data>(&table_.nodes[id].data);
    }
    template <class Leaf>
    [[nodiscard]] const Leaf* leaf(NodeId id) const {
        const auto* node = held<LeafNode>(id);
        return node == nullptr ? nullptr : table_.leaves[node->index].template get_if<Leaf>();
    }
    [[nodiscard]] bool is_empty_dict(NodeId id) const {
        const auto* dict = held<DictNode>(id);
        return dict != nullptr && dict->items.empty();
    }

    std::size_t bytes_;
    PickleInput input_;
    std::size_t opcode_offset_ = 0;
    bool stopped_ = false;
    NodeId result_ = 0;
    std::vector<NodeId> stack_;
    std::vector<std::size_t> marks_;  // heights of the stack
    // Picklers number their memo 0, 1, 2, …; whoever leaves gaps pays with a tree.
    std::vector<NodeId> memo_;
    std::map<std::uint64_t, NodeId> memo_beyond_;
    NodeTable table_;
    Allowance allowance_;
    std::unordered_map<std::string, std::size_t> storage_of_key_;
    // By storage: untyped bytes whose type no tensor has named yet.
    std::vector<bool> is_untyped_;
};

}  // namespace pawl::torchfile
