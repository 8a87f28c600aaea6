// Values: names of types, access to dicts, equality, and paths for messages. Pure.
#include "torchfile/value.h"

#include "torchfile/text.h"

#include <fmt/format.h>

#include <array>

namespace pawl::torchfile {
namespace {

// Walks the tree and remembers the first path that leads to each storage.
class PathFinder {
public:
    explicit PathFinder(std::size_t storages) : paths_(storages) {}

    void visit(const Value& value, const std::string& path) {
        if (const auto* tensor = value.get_if<Tensor>()) {
            const bool is_first =
                tensor->storage < paths_.size() && paths_[tensor->storage].empty();
            if (is_first) paths_[tensor->storage] = path.empty() ? "root" : path;
            visit_pairs(tensor->attributes, path);
        } else if (const auto* list = value.get_if<List>()) {
            visit_items(list->items, path);
        } else if (const auto* tuple = value.get_if<Tuple>()) {
            visit_items(tuple->items, path);
        } else if (const auto* dict = value.get_if<Dict>()) {
            visit_pairs(dict->items, path);
            visit_pairs(dict->attributes, path);
        }
    }

    [[nodiscard]] std::vector<std::string> take() && { return std::move(paths_); }

private:
    void visit_items(const std::vector<Value>& items, const std::string& path) {
        for (std::size_t index = 0; index < items.size(); ++index) {
            visit(items[index], fmt::format("{}[{}]", path, index));
        }
    }

    void visit_pairs(const Items& items, const std::string& path) {
        for (const auto& [key, item] : items)
            visit(item, path_below(path, key));
    }

    [[nodiscard]] static std::string path_below(const std::string& path, const Value& key) {
        if (const auto* text = key.get_if<std::string>()) {
            return path.empty() ? escaped(*text) : fmt::format("{}.{}", path, escaped(*text));
        }
        if (const auto* integer = key.get_if<std::int64_t>()) {
            return fmt::format("{}[{}]", path, *integer);
        }
        if (const auto* number = key.get_if<double>()) return fmt::format("{}[{}]", path, *number);
        if (const auto* flag = key.get_if<bool>()) {
            return fmt::format("{}[{}]", path, *flag ? "True" : "False");
        }
        return fmt::format("{}[{}]", path, key.type_name());
    }

    std::vector<std::string> paths_;
};

}  // namespace

bool operator==(const List& left, const List& right) {
    return left.items == right.items;
}

bool operator==(const Tuple& left, const Tuple& right) {
    return left.items == right.items;
}

bool operator==(const Set& left, const Set& right) {
    return left.is_frozen == right.is_frozen && left.items == right.items;
}

bool operator==(const Dict& left, const Dict& right) {
    return left.is_ordered_dict == right.is_ordered_dict && left.items == right.items &&
           left.attributes == right.attributes;
}

bool operator==(const Tensor& left, const Tensor& right) {
    return left.storage == right.storage && left.offset == right.offset &&
           left.shape == right.shape && left.stride == right.stride &&
           left.requires_grad == right.requires_grad && left.is_conjugate == right.is_conjugate &&
           left.is_negative == right.is_negative && left.is_parameter == right.is_parameter &&
           left.dtype == right.dtype && left.attributes == right.attributes;
}

const Value* Dict::find(std::string_view key) const {
    for (const auto& [candidate, value] : items) {
        const auto* text = candidate.get_if<std::string>();
        if (text != nullptr && *text == key) return &value;
    }
    return nullptr;
}

void Dict::set(std::string_view key, Value value) {
    for (auto& [candidate, present] : items) {
        const auto* text = candidate.get_if<std::string>();
        if (text != nullptr && *text == key) {
            present = std::move(value);
            return;
        }
    }
    items.emplace_back(Value(std::string(key)), std::move(value));
}

std::string_view Value::type_name() const {
    if (const auto* bytes = get_if<Bytes>()) return bytes->is_bytearray ? "bytearray" : "bytes";
    if (const auto* set = get_if<Set>()) return set->is_frozen ? "frozenset" : "set";
    constexpr std::array<std::string_view, 17> kNames{
        "None", "bool",    "int",   "float", "str",  "list",   "tuple", "dict",        "tensor",
        "int",  "complex", "bytes", "set",   "Size", "device", "dtype", "numpy scalar"};
    static_assert(kNames.size() == std::variant_size_v<decltype(data)>);
    return kNames[data.index()];
}

std::vector<std::string> storage_paths(const Document& document) {
    PathFinder finder(document.storages.size());
    finder.visit(document.root, "");
    return std::move(finder).take();
}

}  // namespace pawl::torchfile
