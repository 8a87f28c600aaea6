// See state.h.
#include "torch/state.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <set>

namespace pawl::torch_state {
namespace {

struct DTypePair {
    tf::DType ours;
    at::ScalarType theirs;
};

constexpr std::array<DTypePair, 12> kDTypes = {{
    {tf::DType::kFloat32, at::kFloat},
    {tf::DType::kFloat64, at::kDouble},
    {tf::DType::kFloat16, at::kHalf},
    {tf::DType::kBFloat16, at::kBFloat16},
    {tf::DType::kInt64, at::kLong},
    {tf::DType::kInt32, at::kInt},
    {tf::DType::kInt16, at::kShort},
    {tf::DType::kInt8, at::kChar},
    {tf::DType::kUInt8, at::kByte},
    {tf::DType::kBool, at::kBool},
    {tf::DType::kComplex64, at::kComplexFloat},
    {tf::DType::kComplex128, at::kComplexDouble},
}};

tf::DType dtype_of(const at::Tensor& tensor) {
    for (const DTypePair& pair : kDTypes) {
        if (pair.theirs == tensor.scalar_type()) return pair.ours;
    }
    TORCH_CHECK(false, "pawl can't save tensors of type ", tensor.scalar_type());
}

std::optional<at::ScalarType> scalar_type_of(tf::DType dtype) {
    for (const DTypePair& pair : kDTypes) {
        if (pair.ours == dtype) return pair.theirs;
    }
    return std::nullopt;
}

// A lazily conjugated or negated tensor: its bytes are not yet what it says.
at::Tensor with_flags(const at::Tensor& tensor, const tf::Tensor& saved) {
    tensor._set_conj(saved.is_conjugate);
    tensor._set_neg(saved.is_negative);
    return tensor;
}

// As Python's state_dict orders them: a module's own parameters, its own buffers, then its
// children.
void collect(const torch::nn::Module& module, const std::string& prefix,
             std::vector<std::pair<std::string, at::Tensor>>& tensors) {
    for (const auto& parameter : module.named_parameters(/*recurse=*/false)) {
        tensors.emplace_back(prefix + parameter.key(), parameter.value());
    }
    for (const auto& buffer : module.named_buffers(/*recurse=*/false)) {
        tensors.emplace_back(prefix + buffer.key(), buffer.value());
    }
    for (const auto& child : module.named_children()) {
        collect(*child.value(), prefix + child.key() + ".", tensors);
    }
}

std::vector<std::pair<std::string, at::Tensor>> named_tensors(const torch::nn::Module& module) {
    std::vector<std::pair<std::string, at::Tensor>> tensors;
    collect(module, "", tensors);
    return tensors;
}

}  // namespace

// ---- writing ----

tf::Value StateWriter::tensor(const at::Tensor& tensor) {
    const at::Tensor plain = tensor.detach();
    const at::Storage& storage = plain.storage();
    const auto [found, is_new] = indices_.emplace(storage.unsafeGetStorageImpl(), holders_.size());
    if (is_new) {
        const tf::DType dtype = dtype_of(plain);
        storages_.push_back({.key = fmt::format("{}", holders_.size()),
                             .dtype = dtype,
                             .elements = storage.nbytes() / tf::item_bytes_of(dtype),
                             .location = plain.device().str()});
        holders_.push_back(plain);
    }
    return tf::Tensor{.storage = found->second,
                      .offset = plain.storage_offset(),
                      .shape = plain.sizes().vec(),
                      .stride = plain.strides().vec(),
                      .requires_grad = tensor.requires_grad() && tensor.is_leaf(),
                      .is_conjugate = plain.is_conj(),
                      .is_negative = plain.is_neg()};
}

tf::Value StateWriter::module(const torch::nn::Module& module) {
    tf::Dict dict{.is_ordered_dict = true};
    for (const auto& [name, value] : named_tensors(module)) {
        // Python's state_dict holds detached tensors.
        if (value.defined()) dict.items.emplace_back(name, tensor(value.detach()));
    }
    return dict;
}

tf::Value StateWriter::number(double number) {
    if constexpr (TORCH_VERSION_MAJOR >= 2) return number;
    constexpr double kExactMax = 9007199254740992.0;  // 2^53
    if (std::trunc(number) == number && std::abs(number) < kExactMax)
        return static_cast<std::int64_t>(number);
    return tensor(torch::tensor(number, at::kDouble));
}

tf::Document StateWriter::finish(tf::Value root) {
    return {.root = std::move(root), .storages = storages_};
}

void StateWriter::copy_storage(std::size_t index, std::span<std::byte> target) const {
    if (target.empty()) return;
    const at::Tensor& holder = holders_.at(index);
    const at::Storage& storage = holder.storage();
    TORCH_CHECK(target.size() <= storage.nbytes(), "a storage has shrunk while it was saved");
    if (holder.device().is_cpu()) {
        std::memcpy(target.data(), storage.data(), target.size());
        return;
    }
    const auto bytes = static_cast<std::int64_t>(target.size());
    const auto options = at::TensorOptions().dtype(at::kByte);
    const at::Tensor source =
        at::from_blob(const_cast<void*>(static_cast<const void*>(storage.data())), {bytes},
                      options.device(holder.device()));
    at::from_blob(target.data(), {bytes}, options).copy_(source);
}

// ---- reading ----

std::optional<at::Tensor> StateReader::tensor(const tf::Tensor& tensor) const {
    const tf::Storage& storage = archive_.document.storages.at(tensor.storage);
    const tf::Extent& extent = archive_.storages.at(tensor.storage);
    const tf::DType dtype = tf::dtype_of(tensor, storage);
    const auto type = scalar_type_of(dtype);
    if (!type) return std::nullopt;
    const std::size_t item_bytes = tf::item_bytes_of(dtype);
    const std::size_t skipped = static_cast<std::size_t>(tensor.offset) * item_bytes;
    const std::byte* const begin = image_.data() + extent.offset + skipped;
    const auto options = at::TensorOptions().dtype(*type);
    // The image is aligned, and torch.save aligns records in it; another writer of zips need not.
    if ((extent.offset + skipped) % item_bytes != 0) {
        const auto items = static_cast<std::int64_t>((extent.bytes - skipped) / item_bytes);
        const at::Tensor aligned = at::empty({items}, options);
        std::memcpy(aligned.data_ptr(), begin, extent.bytes - skipped);
        return with_flags(aligned.as_strided(tensor.shape, tensor.stride), tensor);
    }
    // The image is mapped read-only; the view is only ever copied from.
    void* const address = const_cast<std::byte*>(begin);
    return with_flags(at::from_blob(address, tensor.shape, tensor.stride, options), tensor);
}

std::string StateReader::description_of(const tf::Value* value) const {
    if (value == nullptr) return "missing";
    const auto* saved = value->get_if<tf::Tensor>();
    if (saved == nullptr) return std::string(value->type_name());
    if (const auto plain = tensor(*saved)) return shape_of(*plain);
    return fmt::format(
        "{} [{}]", tf::name_of(tf::dtype_of(*saved, archive_.document.storages.at(saved->storage))),
        fmt::join(saved->shape, ", "));
}

void Restoration::missing(std::string path, std::string text) {
    if (options_.strict) return mismatch(std::move(text));
    report_.missing_keys.push_back(std::move(path));
}

void Restoration::unexpected(std::string path, std::string text) {
    if (options_.strict) return mismatch(std::move(text));
    report_.unexpected_keys.push_back(std::move(path));
}

void Restoration::copy(const at::Tensor& target, const at::Tensor& source) {
    later([target, source] {
        const at::NoGradGuard no_grad;
        at::Tensor(target).detach().copy_(source);
    });
}

void Restoration::apply() {
    for (const auto& change : first_)
        change();
    for (const auto& change : changes_)
        change();
}

void restore_module(torch::nn::Module& module, const tf::Value& state, const StateReader& reader,
                    Restoration& restoration) {
    const std::string& part = restoration.options().model_key;
    const auto* dict = state.get_if<tf::Dict>();
    if (dict == nullptr) {
        return restoration.mismatch(
            fmt::format("{}: a {}, a dict was expected", part, state.type_name()));
    }
    std::set<std::string> expected;
    for (const auto& [name, target] : named_tensors(module)) {
        if (!target.defined()) continue;
        expected.insert(name);
        const tf::Value* value = dict->find(name);
        if (value == nullptr) {
            restoration.missing(fmt::format("{}.{}", part, name),
                                fmt::format("{}: key '{}' is missing; the model has {}", part, name,
                                            shape_of(target)));
            continue;
        }
        const auto* saved = value->get_if<tf::Tensor>();
        const auto source = saved == nullptr ? std::nullopt : reader.tensor(*saved);
        if (!source || source->sizes() != target.sizes() ||
            source->scalar_type() != target.scalar_type()) {
            restoration.mismatch(fmt::format("{}: '{}' is {} in the checkpoint, {} in the model",
                                             part, name, reader.description_of(value),
                                             shape_of(target)));
            continue;
        }
        restoration.copy(target, *source);
    }
    for (const auto& [key, value] : dict->items) {
        const auto* name = key.get_if<std::string>();
        if (name != nullptr && expected.contains(*name)) continue;
        const std::string shown = name == nullptr ? std::string(key.type_name()) : *name;
        restoration.unexpected(
            fmt::format("{}.{}", part, shown),
            fmt::format("{}: key '{}' is not in the model; the checkpoint has {}", part, shown,
                        reader.description_of(&value)));
    }
}

// ---- small things ----

std::string shape_of(const at::Tensor& tensor) {
    return fmt::format("{} [{}]", c10::toString(tensor.scalar_type()),
                       fmt::join(tensor.sizes().vec(), ", "));
}

std::optional<double> number_of(const tf::Value* value, const StateReader& reader) {
    if (value == nullptr) return std::nullopt;
    if (const auto* saved = value->get_if<tf::Tensor>()) {
        const auto tensor = reader.tensor(*saved);
        const bool is_number = tensor && tensor->numel() == 1 && !tensor->is_complex();
        return is_number ? std::optional{tensor->item<double>()} : std::nullopt;
    }
    if (const auto* real = value->get_if<double>()) return *real;
    if (const auto* integer = value->get_if<std::int64_t>()) return static_cast<double>(*integer);
    return std::nullopt;
}

std::optional<std::int64_t> integer_of(const tf::Value* value) {
    if (value == nullptr) return std::nullopt;
    if (const auto* integer = value->get_if<std::int64_t>()) return *integer;
    return std::nullopt;
}

}  // namespace pawl::torch_state
