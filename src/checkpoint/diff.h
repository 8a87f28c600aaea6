// What differs between two checkpoints' files: keys, shapes, types, values, elements of tensors.
#pragma once

#include "base/byte_source.h"
#include "base/result.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace pawl::checkpoint {

enum class DifferenceKind {
    kOnlyInA,
    kOnlyInB,
    kType,     // of the values; or a tensor's dtype
    kShape,    // of tensors; lengths of lists
    kValue,    // of plain values
    kElements  // of tensors of one shape and dtype
};

struct Difference {
    DifferenceKind kind = DifferenceKind::kValue;
    std::string path;  // "model_state_dict.conv1.weight", "optimizer_state_dict.state[0].step"
    std::string a;     // the value, type or shape there; "" where there is none, as for tensors of
    std::string b;     // more than one element
    std::string tensor;                    // of kElements: "float32 [10, 3]"
    std::uint64_t elements = 0;            // of the tensor
    std::uint64_t elements_differing = 0;  // by any bit
    std::uint64_t bytes_differing = 0;
};

struct FileDifferences {
    std::vector<Difference> differences;  // in the order of A, then what only B has
    std::uint64_t values_compared = 0;    // tensors and plain values that both have
    std::uint64_t values_equal = 0;
};

// Both are torch.save files. Tensors are compared bit by bit, element by element in their logical
// order, so that strides and sharing do not matter; NaNs of equal bits are equal.
[[nodiscard]] Result<FileDifferences> diff_files(const ByteSource& a, const ByteSource& b);

// One word: "only_in_a", "shape", …
[[nodiscard]] std::string_view to_string(DifferenceKind kind);

}  // namespace pawl::checkpoint
