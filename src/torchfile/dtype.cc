// The table of dtypes. Pure.
#include "torchfile/dtype.h"

#include "base/invariant.h"

#include <array>

namespace pawl::torchfile {
namespace {

constexpr std::string_view kUntyped = "UntypedStorage";

enum class Kind { kReal, kComplex, kOther };

struct DTypeRow {
    DType dtype;
    std::string_view name;
    std::string_view storage_class;
    std::size_t item_bytes;
    Kind kind;
};

constexpr std::array<DTypeRow, static_cast<std::size_t>(kDTypeLast) + 1> kDTypes{{
    {DType::kFloat32, "float32", "FloatStorage", 4, Kind::kReal},
    {DType::kFloat64, "float64", "DoubleStorage", 8, Kind::kReal},
    {DType::kFloat16, "float16", "HalfStorage", 2, Kind::kReal},
    {DType::kBFloat16, "bfloat16", "BFloat16Storage", 2, Kind::kReal},
    {DType::kInt64, "int64", "LongStorage", 8, Kind::kOther},
    {DType::kInt32, "int32", "IntStorage", 4, Kind::kOther},
    {DType::kInt16, "int16", "ShortStorage", 2, Kind::kOther},
    {DType::kInt8, "int8", "CharStorage", 1, Kind::kOther},
    {DType::kUInt8, "uint8", "ByteStorage", 1, Kind::kOther},
    {DType::kBool, "bool", "BoolStorage", 1, Kind::kOther},
    {DType::kComplex64, "complex64", "ComplexFloatStorage", 8, Kind::kComplex},
    {DType::kComplex128, "complex128", "ComplexDoubleStorage", 16, Kind::kComplex},
    {DType::kUInt16, "uint16", kUntyped, 2, Kind::kOther},
    {DType::kUInt32, "uint32", kUntyped, 4, Kind::kOther},
    {DType::kUInt64, "uint64", kUntyped, 8, Kind::kOther},
    {DType::kFloat8E4M3FN, "float8_e4m3fn", kUntyped, 1, Kind::kReal},
    {DType::kFloat8E5M2, "float8_e5m2", kUntyped, 1, Kind::kReal},
    {DType::kFloat8E4M3FNUZ, "float8_e4m3fnuz", kUntyped, 1, Kind::kReal},
    {DType::kFloat8E5M2FNUZ, "float8_e5m2fnuz", kUntyped, 1, Kind::kReal},
    {DType::kFloat8E8M0FNU, "float8_e8m0fnu", kUntyped, 1, Kind::kReal},
    {DType::kFloat4E2M1FNx2, "float4_e2m1fn_x2", kUntyped, 1, Kind::kReal},
    {DType::kComplex32, "complex32", kUntyped, 4, Kind::kComplex},
    {DType::kBComplex32, "bcomplex32", kUntyped, 4, Kind::kComplex},
    {DType::kBits8, "bits8", kUntyped, 1, Kind::kOther},
    {DType::kBits16, "bits16", kUntyped, 2, Kind::kOther},
    {DType::kBits1x8, "bits1x8", kUntyped, 1, Kind::kOther},
    {DType::kBits2x4, "bits2x4", kUntyped, 1, Kind::kOther},
    {DType::kBits4x2, "bits4x2", kUntyped, 1, Kind::kOther},
}};

const DTypeRow& row_of(DType dtype) {
    const auto index = static_cast<std::size_t>(dtype);
    invariant(index < kDTypes.size(), "a dtype is one of the enumeration");
    invariant(kDTypes[index].dtype == dtype, "the table of dtypes is in the enumeration's order");
    return kDTypes[index];
}

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

bool can_require_grad(DType dtype) {
    return row_of(dtype).kind != Kind::kOther;
}

bool is_complex(DType dtype) {
    return row_of(dtype).kind == Kind::kComplex;
}

bool has_storage_class(DType dtype) {
    return row_of(dtype).storage_class != kUntyped;
}

std::optional<DType> dtype_of_storage_class(std::string_view storage_class) {
    for (const DTypeRow& row : kDTypes) {
        if (row.storage_class == storage_class && storage_class != kUntyped) return row.dtype;
    }
    return std::nullopt;
}

std::optional<DType> dtype_of_name(std::string_view name) {
    for (const DTypeRow& row : kDTypes) {
        if (row.name == name) return row.dtype;
    }
    return std::nullopt;
}

DType record_type_of(DType dtype) {
    return has_storage_class(dtype) ? dtype : DType::kUInt8;
}

}  // namespace pawl::torchfile
