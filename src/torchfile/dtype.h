// The types a tensor's elements can have, and how a torch.save file names them. Pure.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

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
    // From here on without a storage class of their own: the storage is untyped and the tensor
    // names the type. PyTorch 2 only.
    kUInt16,
    kUInt32,
    kUInt64,
    kFloat8E4M3FN,
    kFloat8E5M2,
    kFloat8E4M3FNUZ,
    kFloat8E5M2FNUZ,
    kFloat8E8M0FNU,
    kFloat4E2M1FNx2,  // an element is a byte that holds two numbers
    kComplex32,
    kBComplex32,
    kBits8,
    kBits16,
    kBits1x8,
    kBits2x4,
    kBits4x2,
};

inline constexpr DType kDTypeLast = DType::kBits4x2;

[[nodiscard]] std::string_view name_of(DType dtype);           // "float32"
[[nodiscard]] std::string_view storage_class_of(DType dtype);  // "FloatStorage", "UntypedStorage"
[[nodiscard]] std::size_t item_bytes_of(DType dtype);
[[nodiscard]] bool can_require_grad(DType dtype);  // real and complex floats
[[nodiscard]] bool is_complex(DType dtype);
// Whether PyTorch 1 has it, with a storage class of its own.
[[nodiscard]] bool has_storage_class(DType dtype);
[[nodiscard]] std::optional<DType> dtype_of_storage_class(std::string_view storage_class);
[[nodiscard]] std::optional<DType> dtype_of_name(std::string_view name);

// What PyTorch takes the bytes of a storage to be when it saves a tensor of `dtype`: uint8 for the
// types without a storage class. All tensors on one storage agree in it.
[[nodiscard]] DType record_type_of(DType dtype);

}  // namespace pawl::torchfile
