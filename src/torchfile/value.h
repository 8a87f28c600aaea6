// The values that a torch.save file can hold, as plain data.
//
// torchfile: the torch.save container without LibTorch. Any room may include it; it includes base.
// A Value is a tree of what Python's pickle describes; a Tensor in it refers to a storage of the
// same Document by index, so that two views of one storage stay views of one storage.
//
// A list, dict, set or tensor that Python refers to from several places is copied into each of
// them. The copies carry one `object` number (0: it has one place only), by which the writer makes
// them one object again. Copies that are no longer equal become objects of their own. Numbers do
// not count in comparisons: they say who a value is, not what.
#pragma once

#include "torchfile/dtype.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace pawl::torchfile {

struct Value;

using Items = std::vector<std::pair<Value, Value>>;

struct None {
    friend bool operator==(const None&, const None&) = default;
};

// An int beyond 64 bits: its two's complement, little-endian, no longer than it has to be.
struct BigInteger {
    std::string bytes;
    friend bool operator==(const BigInteger&, const BigInteger&) = default;
};

struct Complex {
    double real = 0;
    double imaginary = 0;
    friend bool operator==(const Complex&, const Complex&) = default;
};

// bytes, or bytearray.
struct Bytes {
    std::string data;
    bool is_bytearray = false;
    friend bool operator==(const Bytes&, const Bytes&) = default;
};

struct List {
    std::vector<Value> items;
    std::uint32_t object = 0;
    friend bool operator==(const List&, const List&);
};

struct Tuple {
    std::vector<Value> items;
    friend bool operator==(const Tuple&, const Tuple&);
};

// set, or frozenset. Items are what may be a dict's key; in the file's order.
struct Set {
    std::vector<Value> items;
    bool is_frozen = false;
    std::uint32_t object = 0;
    friend bool operator==(const Set&, const Set&);
};

// dict and collections.OrderedDict, in order of insertion. Keys are None, strings, bytes, numbers
// but NaN, frozensets, devices, dtypes, and tuples of these.
struct Dict {
    Items items;
    bool is_ordered_dict = false;
    // Set on the object: `_metadata` of a state_dict. Only an OrderedDict has any.
    Items attributes;
    std::uint32_t object = 0;

    [[nodiscard]] const Value* find(std::string_view key) const;  // nullptr if there is none
    void set(std::string_view key, Value value);                  // appends or replaces
    friend bool operator==(const Dict&, const Dict&);
};

// A strided view of a storage. `offset` and `stride` count elements of the tensor's own type; shape
// and stride have equal length (0 for a scalar). The view lies within its storage: checked when
// read and when written.
struct Tensor {
    std::size_t storage = 0;  // index into Document::storages
    std::int64_t offset = 0;
    std::vector<std::int64_t> shape;
    std::vector<std::int64_t> stride;
    bool requires_grad = false;
    // The bytes are the conjugates, the negatives, of the values: PyTorch conjugates lazily.
    bool is_conjugate = false;
    bool is_negative = false;
    bool is_parameter = false;  // torch.nn.Parameter
    // Where it is not the storage's: two types of record_type_of() uint8 share memory.
    std::optional<DType> dtype;
    Items attributes;  // set on the Python object
    std::uint32_t object = 0;

    friend bool operator==(const Tensor&, const Tensor&);
};

// torch.Size.
struct Size {
    std::vector<std::int64_t> sizes;
    friend bool operator==(const Size&, const Size&) = default;
};

// torch.device.
struct Device {
    std::string type;  // "cpu", "cuda"
    std::optional<std::int64_t> index;
    friend bool operator==(const Device&, const Device&) = default;
};

// numpy.float64 and the like: not a Python number, though it behaves like one.
struct NumpyScalar {
    std::string type;  // "f8", "i4", "b1", "c16"
    std::string data;  // little-endian
    friend bool operator==(const NumpyScalar&, const NumpyScalar&) = default;
};

// A str is UTF-8, but surrogates that stand alone are let through, in three bytes each: Python has
// such strings (file names that were no UTF-8) and pickles them so.
struct Value {
    std::variant<None, bool, std::int64_t, double, std::string, List, Tuple, Dict, Tensor,
                 BigInteger, Complex, Bytes, Set, Size, Device, DType, NumpyScalar>
        data;

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
    Value(BigInteger value) : data(std::move(value)) {}     // NOLINT(google-explicit-constructor)
    Value(Complex value) : data(value) {}                   // NOLINT(google-explicit-constructor)
    Value(Bytes value) : data(std::move(value)) {}          // NOLINT(google-explicit-constructor)
    Value(Set value) : data(std::move(value)) {}            // NOLINT(google-explicit-constructor)
    Value(Size value) : data(std::move(value)) {}           // NOLINT(google-explicit-constructor)
    Value(Device value) : data(std::move(value)) {}         // NOLINT(google-explicit-constructor)
    Value(DType value) : data(value) {}                     // NOLINT(google-explicit-constructor)
    Value(NumpyScalar value) : data(std::move(value)) {}    // NOLINT(google-explicit-constructor)

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

[[nodiscard]] inline DType dtype_of(const Tensor& tensor, const Storage& storage) {
    return tensor.dtype.value_or(storage.dtype);
}

// What a file holds, without the storages' bytes.
struct Document {
    Value root;
    std::vector<Storage> storages;

    friend bool operator==(const Document&, const Document&) = default;
};

// For messages: the path by which a person would name each storage's first tensor, such as
// "model_state_dict.conv1.weight" or "optimizer_state_dict.state[0].exp_avg"; "" for a storage that
// no tensor refers to. One entry a storage. Control characters and what is no UTF-8 are escaped.
[[nodiscard]] std::vector<std::string> storage_paths(const Document& document);

}  // namespace pawl::torchfile
