// From the pickle machine's nodes to a tree of Values. Pure.
#include "torchfile/pickle_format.h"
#include "torchfile/pickle_nodes.h"
#include "torchfile/text.h"
#include "torchfile/value_rules.h"

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
        return std::visit(
            [this, id, &node, depth](const auto& data) {
                const Place place{
                    .offset = node.offset, .depth = depth, .object = node.is_shared ? id + 1 : 0};
                return convert_held(data, place);
            },
            node.data);
    }

private:
    struct Place {
        std::size_t offset = 0;
        std::size_t depth = 0;
        std::uint32_t object = 0;
    };

    Result<Value> convert_held(None none, const Place& /*place*/) { return Value(none); }
    Result<Value> convert_held(bool flag, const Place& /*place*/) { return Value(flag); }
    Result<Value> convert_held(std::int64_t integer, const Place& /*place*/) {
        return Value(integer);
    }
    Result<Value> convert_held(double number, const Place& /*place*/) { return Value(number); }
    Result<Value> convert_held(DType dtype, const Place& /*place*/) { return Value(dtype); }
    Result<Value> convert_held(const std::string& text, const Place& /*place*/) {
        return Value(text);
    }

    Result<Value> convert_held(const StorageNode& /*storage*/, const Place& place) {
        return at_offset(
            make_error(ErrorKind::kUnsupported, "a storage stands where a value should")
                .consequence("Save a tensor on it."),
            place.offset);
    }
    Result<Value> convert_held(Callable /*callable*/, const Place& place) {
        return refuse_name(place);
    }
    Result<Value> convert_held(const StorageClass& /*name*/, const Place& place) {
        return refuse_name(place);
    }
    Result<Value> convert_held(const NumpyTypeNode& /*type*/, const Place& place) {
        return refuse_name(place);
    }
    static Result<Value> refuse_name(const Place& place) {
        return at_offset(
            make_error(ErrorKind::kUnsupported, "a type or function stands where a value should"),
            place.offset);
    }

    Result<Value> convert_held(const LeafNode& leaf, const Place& place) {
        const Value& copied = table_.leaves[leaf.index];
        std::size_t bytes = 0;
        if (const auto* data = copied.get_if<Bytes>()) bytes = data->data.size();
        if (const auto* integer = copied.get_if<BigInteger>()) bytes = integer->bytes.size();
        if (const auto* device = copied.get_if<Device>()) bytes = device->type.size();
        if (const auto* size = copied.get_if<Size>()) {
            bytes = size->sizes.size() * sizeof(std::int64_t);
        }
        if (auto affordable = allowance_.spend_on_text(bytes); !affordable) {
            return at_offset(std::move(affordable).error(), place.offset);
        }
        return copied;
    }

    Result<Value> convert_held(const TensorNode& node, const Place& place) {
        const TensorOfNodes& held = table_.tensors[node.index];
        if (auto affordable = allowance_.spend(held.tensor.shape.size()); !affordable) {
            return at_offset(std::move(affordable).error(), place.offset);
        }
        Tensor tensor = held.tensor;
        tensor.object = place.object;
        auto attributes = convert_attributes(held.attributes, place);
        if (!attributes) return std::move(attributes).error();
        tensor.attributes = std::move(*attributes);
        return Value(std::move(tensor));
    }

    Result<Value> convert_held(const ListNode& list, const Place& place) {
        auto items = convert_items(list.items, place);
        if (!items) return std::move(items).error();
        return Value(List{.items = std::move(*items), .object = place.object});
    }

    Result<Value> convert_held(const TupleNode& tuple, const Place& place) {
        auto items = convert_items(tuple.items, place);
        if (!items) return std::move(items).error();
        return Value(Tuple{std::move(*items)});
    }

    Result<Value> convert_held(const SetNode& set, const Place& place) {
        Set converted{.items = {}, .is_frozen = set.is_frozen, .object = place.object};
        Keys keys{.what = "set", .has = "item", .seen = {}};
        for (const NodeId id : set.items) {
            auto item = convert_key(id, place, keys);
            if (!item) return item;
            converted.items.push_back(std::move(*item));
        }
        return Value(std::move(converted));
    }

    Result<Value> convert_held(const DictNode& dict, const Place& place) {
        auto items = convert_pairs(dict, place);
        if (!items) return std::move(items).error();
        auto attributes = convert_attributes(dict.attributes, place);
        if (!attributes) return std::move(attributes).error();
        return Value(Dict{.items = std::move(*items),
                          .is_ordered_dict = dict.is_ordered_dict,
                          .attributes = std::move(*attributes),
                          .object = place.object});
    }

    Result<Items> convert_pairs(const DictNode& dict, const Place& place) {
        Items items;
        Keys keys{.what = "dict", .has = "key", .seen = {}};
        for (const auto& [key_id, value_id] : dict.items) {
            auto key = convert_key(key_id, place, keys);
            if (!key) return std::move(key).error();
            auto value = convert(value_id, place.depth + 1);
            if (!value) return std::move(value).error();
            items.emplace_back(std::move(*key), std::move(*value));
        }
        return items;
    }

    Result<Items> convert_attributes(std::optional<NodeId> id, const Place& place) {
        if (!id) return Items();
        // One level deeper, so that attributes which contain their own object end somewhere.
        const Place below{.offset = place.offset, .depth = place.depth + 1, .object = 0};
        if (below.depth > kNestingMax) {
            return at_offset(damaged("attributes nest too deep, or contain themselves"),
                             place.offset);
        }
        const auto& dict = std::get<DictNode>(table_.nodes[*id].data);
        auto items = convert_pairs(dict, below);
        if (!items) return items;
        for (const auto& [name, value] : *items) {
            if (name.get_if<std::string>() == nullptr) {
                return at_offset(damaged("the name of an attribute is no string"), place.offset);
            }
        }
        return items;
    }

    struct Keys {
        std::string_view what;
        std::string_view has;
        std::unordered_set<std::string> seen;
    };

    Result<Value> convert_key(NodeId id, const Place& place, Keys& keys) {
        auto key = convert(id, place.depth + 1);
        if (!key) return key;
        auto identity = identity_of_key(*key);
        if (!identity) {
            return at_offset(
                make_error(ErrorKind::kUnsupported, "a {} has {} {} of type {}", keys.what,
                           keys.has == "item" ? "an" : "a", keys.has, key->type_name()),
                table_.nodes[id].offset);
        }
        if (const auto [place_in_seen, is_new] = keys.seen.insert(std::move(*identity)); !is_new) {
            return at_offset(damaged(fmt::format("a {} has the {} '{}' twice", keys.what, keys.has,
                                                 printable(place_in_seen->substr(1)))),
                             table_.nodes[id].offset);
        }
        return key;
    }

    Result<std::vector<Value>> convert_items(const std::vector<NodeId>& ids, const Place& place) {
        std::vector<Value> items;
        for (const NodeId id : ids) {
            auto item = convert(id, place.depth + 1);
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
