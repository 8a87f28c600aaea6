// Values: names of types, access to dicts, equality, and paths for messages. Pure.
#include "torchfile/value.h"

#include "base/invariant.h"

#include <fmt/format.h>

#include <array>

namespace pawl::torchfile {
namespace {

struct DTypeRow {
    DType dtype;
    std::string_view name;
    std::string_view storage_class;
    std::size_t item_bytes;
};

constexpr std::array<DTypeRow, 12> kDTypes{{
    {DType::kFloat32, "float32", "FloatStorage", 4},
    {DType::kFloat64, "float64", "DoubleStorage", 8},
    {DType::kFloat16, "float16", "HalfStorage", 2},
    {DType::kBFloat16, "bfloat16", "BFloat16Storage", 2},
    {DType::kInt64, "int64", "LongStorage", 8},
    {DType::kInt32, "int32", "IntStorage", 4},
    {DType::kInt16, "int16", "ShortStorage", 2},
    {DType::kInt8, "int8", "CharStorage", 1},
    {DType::kUInt8, "uint8", "ByteStorage", 1},
    {DType::kBool, "bool", "BoolStorage", 1},
    {DType::kComplex64, "complex64", "ComplexFloatStorage", 8},
    {DType::kComplex128, "complex128", "ComplexDoubleStorage", 16},
}};

const DTypeRow& row_of(DType dtype) {
    const auto index = static_cast<std::size_t>(dtype);
    invariant(index < kDTypes.size(), "a dtype is one of the enumeration");
    invariant(kDTypes[index].dtype == dtype, "the table of dtypes is in the enumeration's order");
    return kDTypes[index];
}

// Walks the tree and remembers the first path that leads to each storage.
class PathFinder {
public:
    explicit PathFinder(std::size_t storages) : paths_(storages) {}

    void visit(const Value& value, const std::string& path) {
        if (const auto* tensor = value.get_if<Tensor>()) {
            const bool is_first =
                tensor->storage < paths_.size() && paths_[tensor->storage].empty();
            if (is_first) paths_[tensor->storage] = path.empty() ? "root" : path;
        } else if (const auto* list = value.get_if<List>()) {
            visit_items(list->items, path);
        } else if (const auto* tuple = value.get_if<Tuple>()) {
            visit_items(tuple->items, path);
        } else if (const auto* dict = value.get_if<Dict>()) {
            for (const auto& [key, item] : dict->items)
                visit(item, path_below(path, key));
        }
    }

    [[nodiscard]] std::vector<std::string> take() && { return std::move(paths_); }

private:
    void visit_items(const std::vector<Value>& items, const std::string& path) {
        for (std::size_t index = 0; index < items.size(); ++index) {
            visit(items[index], fmt::format("{}[{}]", path, index));
        }
    }

    [[nodiscard]] static std::string path_below(const std::string& path, const Value& key) {
        if (const auto* text = key.get_if<std::string>()) {
            return path.empty() ? *text : fmt::format("{}.{}", path, *text);
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

std::string_view name_of(DType dtype) {
    return row_of(dtype).name;
}

std::string_view storage_class_of(DType dtype) {
    return row_of(dtype).storage_class;
}

std::size_t item_bytes_of(DType dtype) {
    return row_of(dtype).item_bytes;
}

std::optional<DType> dtype_of_storage_class(std::string_view storage_class) {
    for (const DTypeRow& row : kDTypes) {
        if (row.storage_class == storage_class) return row.dtype;
    }
    return std::nullopt;
}

bool operator==(const List& left, const List& right) {
    return left.items == right.items;
}

bool operator==(const Tuple& left, const Tuple& right) {
    return left.items == right.items;
}

bool operator==(const Dict& left, const Dict& right) {
    return left.is_ordered_dict == right.is_ordered_dict && left.items == right.items;
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
    constexpr std::array<std::string_view, 9> kNames{"None", "bool",  "int",  "float", "str",
                                                     "list", "tuple", "dict", "tensor"};
    static_assert(kNames.size() == std::variant_size_v<decltype(data)>);
    return kNames[data.index()];
}

std::vector<std::string> storage_paths(const Document& document) {
    PathFinder finder(document.storages.size());
    finder.visit(document.root, "");
    return std::move(finder).take();
}

}  // namespace pawl::torchfile
