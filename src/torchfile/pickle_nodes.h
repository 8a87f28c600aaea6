// What the pickle machine (pickle_reader.cc) builds and pickle_tree.cc turns into a Document.
// Private to torchfile.
//
// Values are nodes in a table and refer to each other by index, because Python memoises a container
// first and fills it later. A node that is shared is copied when it becomes part of the tree, so
// an Allowance, measured by the pickle's size, limits what copying may cost.
#pragma once

#include "base/result.h"
#include "torchfile/value.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace pawl::torchfile {

using NodeId = std::uint32_t;

// The only names that may be called; none of them is.
enum class Callable { kRebuildTensor, kRebuildParameter, kOrderedDict };

struct ListNode {
    std::vector<NodeId> items;
};
struct TupleNode {
    std::vector<NodeId> items;
};
struct DictNode {
    std::vector<std::pair<NodeId, NodeId>> items;
    bool is_ordered_dict = false;
};
struct TensorNode {
    std::size_t index = 0;  // in NodeTable::tensors
};
struct StorageNode {
    std::size_t index = 0;  // in NodeTable::storages
};

struct Node {
    std::variant<None, bool, std::int64_t, double, std::string, ListNode, TupleNode, DictNode,
                 TensorNode, StorageNode, Callable, DType>
        data;
    std::size_t offset = 0;  // of the opcode that made it, for messages
};

// How many values may be made by copying.
class Allowance {
public:
    explicit Allowance(std::size_t pickle_bytes)
        : values_left_(kValuesPerByteMax * pickle_bytes + kValuesAlways) {}

    Result<void> spend(std::size_t values) {
        if (values > values_left_) {
            return make_error(ErrorKind::kCorrupt,
                              "its values are shared so often that they would fill the memory");
        }
        values_left_ -= values;
        return {};
    }
    // A string counts as one value, and long ones as more.
    Result<void> spend_on_text(std::size_t bytes) { return spend(1 + bytes / kTextBytesPerValue); }

private:
    // Sharing saves real files little: keys of dicts, a tuple here and there, tied weights.
    static constexpr std::size_t kValuesPerByteMax = 8;
    static constexpr std::size_t kValuesAlways = 1000;
    static constexpr std::size_t kTextBytesPerValue = 16;

    std::size_t values_left_;
};

struct NodeTable {
    std::vector<Node> nodes;
    std::vector<Tensor> tensors;
    std::vector<Storage> storages;
};

[[nodiscard]] inline Error at_offset(Error error, std::size_t offset) {
    return std::move(error).while_doing("read the pickle at offset {}", offset);
}

// The tree below `root`. Every storage of the table becomes one of the document.
[[nodiscard]] Result<Document> to_document(NodeTable table, NodeId root, Allowance& allowance);

}  // namespace pawl::torchfile
