// What the pickle machine (pickle_machine.h) builds and pickle_tree.cc turns into a Document.
// Private to torchfile.
//
// Values are nodes in a table and refer to each other by index, because Python memoises a container
// first and fills it later. A node that is shared is copied when it becomes part of the tree, so
// an Allowance, measured by the pickle's size, limits what copying may cost.
#pragma once

#include "base/result.h"
#include "torchfile/value.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace pawl::torchfile {

using NodeId = std::uint32_t;

// The only names that may be called or handed on; none of them is ever looked up.
enum class Callable : std::uint8_t {
    kRebuildTensorV2,
    kRebuildTensorV3,
    kRebuildParameter,
    kRebuildParameterWithState,
    kRebuildFromType,
    kTensorClass,
    kOrderedDict,
    kSet,
    kFrozenSet,
    kBytes,
    kByteArray,
    kEncode,
    kComplex,
    kSize,
    kDevice,
    kNumpyScalar,
    kNumpyType,
};

struct ListNode {
    std::vector<NodeId> items;
};
struct TupleNode {
    std::vector<NodeId> items;
};
struct SetNode {
    std::vector<NodeId> items;
    bool is_frozen = false;
};
struct DictNode {
    std::vector<std::pair<NodeId, NodeId>> items;
    bool is_ordered_dict = false;
    std::optional<NodeId> attributes;  // a DictNode
};
struct TensorNode {
    std::size_t index = 0;  // in NodeTable::tensors
};
// A storage as one place describes it: by the class of its type, or as bytes.
struct StorageNode {
    std::size_t index = 0;       // in NodeTable::storages
    std::optional<DType> dtype;  // nothing: untyped
};
struct StorageClass {
    std::optional<DType> dtype;
};
// A value that nothing refers into: kept apart, so that a node stays small.
struct LeafNode {
    std::size_t index = 0;  // in NodeTable::leaves
};
// numpy.dtype, of which only the simple ones are known.
struct NumpyTypeNode {
    std::array<char, 4> name{};  // "f8"; NULs fill it up
    bool is_complete = false;    // its byte order is known, and is ours
};

struct Node {
    std::variant<None, bool, std::int64_t, double, std::string, ListNode, TupleNode, SetNode,
                 DictNode, TensorNode, StorageNode, LeafNode, DType, Callable, StorageClass,
                 NumpyTypeNode>
        data;
    std::uint32_t offset = 0;  // of the opcode that made it, for messages
    bool is_shared = false;    // it was fetched from the memo
};

struct TensorOfNodes {
    Tensor tensor;
    std::optional<NodeId> attributes;  // a DictNode
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
    // A value of its own takes a byte at least. Sharing saves real files little: keys of dicts, a
    // tuple here and there, tied weights, a state_dict that is saved under two names.
    static constexpr std::size_t kValuesPerByteMax = 4;
    static constexpr std::size_t kValuesAlways = 1000;
    static constexpr std::size_t kTextBytesPerValue = 16;

    std::size_t values_left_;
};

struct NodeTable {
    std::vector<Node> nodes;
    std::vector<TensorOfNodes> tensors;
    std::vector<Value> leaves;
    std::vector<Storage> storages;
};

[[nodiscard]] inline Error at_offset(Error error, std::size_t offset) {
    return std::move(error).while_doing("read the pickle at offset {}", offset);
}

// The tree below `root`. Every storage of the table becomes one of the document.
[[nodiscard]] Result<Document> to_document(NodeTable table, NodeId root, Allowance& allowance);

// What to say of a global that is not known: by its name, at `path` ("" if that is not known), and
// what a person can do about it.
enum class Place { kAnywhere, kTypeOfTensor };
[[nodiscard]] Error refusal_of_global(std::string_view module, std::string_view name,
                                      std::string_view path, Place place);

}  // namespace pawl::torchfile
