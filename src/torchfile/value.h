// The values that a torch.save file can hold, as plain data.
//
// torchfile: the torch.save container without LibTorch. Any room may include it; it includes base.
// A Value is a tree of what Python's pickle describes; a Tensor in it refers to a storage of the
// same Document by index, so that two views of one storage stay views of one storage.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace pawl::torchfile {

enum class DType {
    kFloat32,
    kFloat64,
    kFloat16,
    kBFloat16,
    kInt64,
    kInt32,
    kInt16,
    kInt8,
    kUInt8,
    kBool,
    kComplex64,
    kComplex128,
};

[[nodiscard]] std::string_view name_of(DType dtype);           // "float32"
[[nodiscard]] std::string_view storage_class_of(DType dtype);  // "FloatStorage"
[[nodiscard]] std::size_t item_bytes_of(DType dtype);
[[nodiscard]] std::optional<DType> dtype_of_storage_class(std::string_view storage_class);

struct Value;

struct None {
    friend bool operator==(const None&, const None&) = default;
};

struct List {
    std::vector<Value> items;
    friend bool operator==(const List&, const List&);
};

struct Tuple {
    std::vector<Value> items;
    friend bool operator==(const Tuple&, const Tuple&);
};

// dict and collections.OrderedDict, in order of insertion. Keys are strings, integers, bools or
// floats. Attributes set on an OrderedDict (`_metadata` of a state_dict) are read and dropped.
struct Dict {
    std::vector<std::pair<Value, Value>> items;
    bool is_ordered_dict = false;

    [[nodiscard]] const Value* find(std::string_view key) const;  // nullptr if there is none
    void set(std::string_view key, Value value);                  // appends or replaces
    friend bool operator==(const Dict&, const Dict&);
};

// A strided view of a storage. `offset` and `stride` count elements; shape and stride have equal
// length (0 for a scalar). The view lies within its storage: checked when read and when written.
struct Tensor {
    std::size_t storage = 0;  // index into Document::storages
    std::int64_t offset = 0;
    std::vector<std::int64_t> shape;
    std::vector<std::int64_t> stride;
    bool requires_grad = false;

    friend bool operator==(const Tensor&, const Tensor&) = default;
};

struct Value {
    std::variant<None, bool, std::int64_t, double, std::string, List, Tuple, Dict, Tensor> data;

    Value() = default;
    Value(None value) : data(value) {}                      // NOLINT(google-explicit-constructor)
    Value(bool value) : data(value) {}                      // NOLINT(google-explicit-constructor)
    Value(int value) : data(std::int64_t{value}) {}         // NOLINT(google-explicit-constructor)
    Value(std::int64_t value) : data(value) {}              // NOLINT(google-explicit-constructor)
    Value(double value) : data(value) {}                    // NOLINT(google-explicit-constructor)
    Value(std::string value) : data(std::move(value)) {}    // NOLINT(google-explicit-constructor)
    Value(const char* value) : data(std::string(value)) {}  // NOLINT(google-explicit-constructor)
    Value(List value) : data(std::move(value)) {}           // NOLINT(google-explicit-constructor)
    Value(Tuple value) : data(std::move(value)) {}          // NOLINT(google-explicit-constructor)
    Value(Dict value) : data(std::move(value)) {}           // NOLINT(google-explicit-constructor)
    Value(Tensor value) : data(std::move(value)) {}         // NOLINT(google-explicit-constructor)

    template <class T>
    [[nodiscard]] const T* get_if() const {
        return std::get_if<T>(&data);
    }
    // "dict", "int", "tensor", … as a Python user would say it.
    [[nodiscard]] std::string_view type_name() const;

    friend bool operator==(const Value&, const Value&) = default;
};

struct Storage {
    std::string key;  // the record's name below data/; writers use "0", "1", …
    DType dtype = DType::kFloat32;
    std::uint64_t elements = 0;
    std::string location = "cpu";  // "cpu", "cuda:0"

    [[nodiscard]] std::uint64_t bytes() const { return elements * item_bytes_of(dtype); }
    friend bool operator==(const Storage&, const Storage&) = default;
};

// What a file holds, without the storages' bytes.
struct Document {
    Value root;
    std::vector<Storage> storages;

    friend bool operator==(const Document&, const Document&) = default;
};

// For messages: the path by which a person would name each storage's first tensor, such as
// "model_state_dict.conv1.weight" or "optimizer_state_dict.state[0].exp_avg"; "" for a storage that
// no tensor refers to. One entry a storage.
[[nodiscard]] std::vector<std::string> storage_paths(const Document& document);

}  // namespace pawl::torchfile
