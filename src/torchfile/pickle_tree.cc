// From the pickle machine's nodes to a tree of Values. Pure.
#include "torchfile/pickle_format.h"
#include "torchfile/pickle_nodes.h"
#include "torchfile/text.h"

#include <type_traits>
#include <unordered_set>

namespace pawl::torchfile {
namespace {

Error damaged(std::string_view what) {
    return make_error(ErrorKind::kCorrupt, "{}", what);
}

// Recursion is limited by kNestingMax, which also catches a container that contains itself.
class Converter {
public:
    Converter(const NodeTable& table, Allowance& allowance)
        : table_(table), allowance_(allowance) {}

    Result<Value> convert(NodeId id, std::size_t depth) {
        const Node& node = table_.nodes[id];
        const auto* text = std::get_if<std::string>(&node.data);
        if (auto affordable = allowance_.spend_on_text(text == nullptr ? 0 : text->size());
            !affordable) {
            return at_offset(std::move(affordable).error(), node.offset);
        }
        if (depth > kNestingMax) {
            return at_offset(
                damaged(fmt::format("values nest deeper than {} levels, or contain themselves",
                                    kNestingMax)),
                node.offset);
        }
        return std::visit([this, &node, depth](
                              const auto& data) { return convert_held(data, node.offset, depth); },
                          node.data);
    }

private:
    template <class Scalar>
    Result<Value> convert_held(const Scalar& scalar, std::size_t offset, std::size_t /*depth*/) {
        constexpr bool kIsNoValue = std::is_same_v<Scalar, StorageNode> ||
                                    std::is_same_v<Scalar, Callable> ||
                                    std::is_same_v<Scalar, DType>;
        if constexpr (kIsNoValue) {
            return at_offset(make_error(ErrorKind::kUnsupported,
                                        "a storage, type or function stands where a value should"),
                             offset);
        } else {
            return Value(scalar);
        }
    }

    Result<Value> convert_held(const TensorNode& tensor, std::size_t offset,
                               std::size_t /*depth*/) {
        const Tensor& copied = table_.tensors[tensor.index];
        if (auto affordable = allowance_.spend(copied.shape.size()); !affordable) {
            return at_offset(std::move(affordable).error(), offset);
        }
        return Value(copied);
    }

    Result<Value> convert_held(const ListNode& list, std::size_t /*offset*/, std::size_t depth) {
        auto items = convert_items(list.items, depth);
        if (!items) return std::move(items).error();
        return Value(List{std::move(*items)});
    }

    Result<Value> convert_held(const TupleNode& tuple, std::size_t /*offset*/, std::size_t depth) {
        auto items = convert_items(tuple.items, depth);
        if (!items) return std::move(items).error();
        return Value(Tuple{std::move(*items)});
    }

    Result<Value> convert_held(const DictNode& dict, std::size_t /*offset*/, std::size_t depth) {
        Dict converted;
        converted.is_ordered_dict = dict.is_ordered_dict;
        std::unordered_set<std::string> seen;
        for (const auto& [key_id, value_id] : dict.items) {
            auto key = convert(key_id, depth + 1);
            if (!key) return key;
            const auto identity = identity_of_key(*key);
            if (!identity) {
                return at_offset(make_error(ErrorKind::kUnsupported, "a dict has a key of type {}",
                                            key->type_name()),
                                 table_.nodes[key_id].offset);
            }
            if (!seen.insert(*identity).second) {
                return at_offset(damaged(fmt::format("a dict has the key '{}' twice",
                                                     printable(identity->substr(1)))),
                                 table_.nodes[key_id].offset);
            }
            auto value = convert(value_id, depth + 1);
            if (!value) return value;
            converted.items.emplace_back(std::move(*key), std::move(*value));
        }
        return Value(std::move(converted));
    }

    Result<std::vector<Value>> convert_items(const std::vector<NodeId>& ids, std::size_t depth) {
        std::vector<Value> items;
        for (const NodeId id : ids) {
            auto item = convert(id, depth + 1);
            if (!item) return std::move(item).error();
            items.push_back(std::move(*item));
        }
        return items;
    }

    const NodeTable& table_;
    Allowance& allowance_;
};

}  // namespace

Result<Document> to_document(NodeTable table, NodeId root, Allowance& allowance) {
    auto converted = Converter(table, allowance).convert(root, 0);
    if (!converted) return std::move(converted).error();
    return Document{.root = std::move(*converted), .storages = std::move(table.storages)};
}

}  // namespace pawl::torchfile
