// See shards.h.
#include "checkpoint/shards.h"

#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <optional>

namespace pawl::checkpoint {
namespace {

using nlohmann::json;

constexpr std::uint64_t kShardsVersion = 1;
constexpr std::size_t kDimensionsMax = 64;  // as many as PyTorch has

Result<std::vector<std::uint64_t>> numbers_of(const json& list) {
    std::vector<std::uint64_t> numbers;
    if (!list.is_array() || list.size() > kDimensionsMax) {
        return make_error(ErrorKind::kCorrupt, "a list of up to {} sizes was expected, not {}",
                          kDimensionsMax, list.dump().substr(0, 60));
    }
    for (const json& number : list) {
        if (!number.is_number_unsigned()) {
            return make_error(ErrorKind::kCorrupt, "a size was expected, not {}",
                              number.dump().substr(0, 60));
        }
        numbers.push_back(number.get<std::uint64_t>());
    }
    return numbers;
}

// nullopt: more than can be counted.
std::optional<std::uint64_t> elements_of(const std::vector<std::uint64_t>& shape) {
    std::uint64_t elements = 1;
    for (const std::uint64_t size : shape) {
        if (__builtin_mul_overflow(elements, size, &elements)) return std::nullopt;
    }
    return elements;
}

Result<Shard> shard_of(const std::string& tensor, const json& entry) {
    Shard shard{.tensor = tensor,
                .whole = {.dtype = entry.at("dtype").get<std::string>(),
                          .is_flat = entry.value("flat", false)}};
    struct Field {
        const char* name;
        std::vector<std::uint64_t>& numbers;
    };
    for (const Field& field :
         {Field{"shape", shard.whole.shape}, Field{"offsets", shard.part.offsets},
          Field{"sizes", shard.part.sizes}}) {
        auto numbers = numbers_of(entry.at(field.name));
        if (!numbers) return Error(numbers.error()).while_doing("read '{}'", field.name);
        field.numbers = std::move(*numbers);
    }
    RETURN_IF_ERROR(check_part(shard.whole, shard.part));
    return shard;
}

std::string text_of(const GlobalTensor& whole) {
    return fmt::format("{}{} of shape [{}]", whole.is_flat ? "flattened " : "", whole.dtype,
                       fmt::join(whole.shape, ", "));
}

}  // namespace

Result<void> check_part(const GlobalTensor& whole, const Part& part) {
    const auto elements = elements_of(whole.shape);
    if (!elements) return make_error(ErrorKind::kCorrupt, "its shape is beyond counting");
    const std::vector<std::uint64_t> bounds =
        whole.is_flat ? std::vector<std::uint64_t>{*elements} : whole.shape;
    if (part.offsets.size() != bounds.size() || part.sizes.size() != bounds.size()) {
        return make_error(ErrorKind::kCorrupt,
                          "it has {} offsets and {} sizes, {} of each were expected",
                          part.offsets.size(), part.sizes.size(), bounds.size());
    }
    for (std::size_t i = 0; i < bounds.size(); ++i) {
        if (part.offsets[i] <= bounds[i] && part.sizes[i] <= bounds[i] - part.offsets[i]) continue;
        return make_error(ErrorKind::kCorrupt,
                          "{} elements from {} on lie outside dimension {}, which has {}",
                          part.sizes[i], part.offsets[i], i, bounds[i]);
    }
    return {};
}

Result<std::vector<Shard>> read_shards(std::string_view text) {
    try {
        const json body = json::parse(text);
        const auto version = body.at("version").get<std::uint64_t>();
        if (version > kShardsVersion) {
            return make_error(ErrorKind::kUnsupported,
                              "{} has version {}, this pawl reads up to {}: a newer pawl is needed",
                              kShardsRecord, version, kShardsVersion);
        }
        std::vector<Shard> shards;
        if (!body.at("tensors").is_object())
            return make_error(ErrorKind::kCorrupt, "'tensors' is no object");
        for (const auto& [tensor, entry] : body.at("tensors").items()) {
            auto shard = shard_of(tensor, entry);
            if (!shard) {
                return Error(shard.error())
                    .while_doing("read which part of tensor '{}' a file holds", tensor);
            }
            shards.push_back(std::move(*shard));
        }
        return shards;
    } catch (const json::exception& error) {
        return make_error(ErrorKind::kCorrupt, "{} is not what it should be: {}", kShardsRecord,
                          error.what());
    }
}

Result<void> add_shards(ShardedTensors& tensors, const std::string& file,
                        std::span<const std::byte> image, const torchfile::Directory& directory) {
    const std::string name = fmt::format("{}/{}", directory.root, kShardsRecord);
    const auto record = std::ranges::find(directory.records, name, &torchfile::Record::name);
    if (record == directory.records.end()) return {};
    if (record->data.bytes > kShardsBytesMax) {
        return make_error(ErrorKind::kCorrupt,
                          "record '{}' of {} has {} bytes, at most {} are read", name, file,
                          record->data.bytes, kShardsBytesMax);
    }
    // A copy: a trainer may still be able to write to it.
    const std::string text(reinterpret_cast<const char*>(image.data()) + record->data.offset,
                           record->data.bytes);
    auto shards = read_shards(text);
    if (!shards) return Error(shards.error()).while_doing("read record '{}' of {}", name, file);
    for (Shard& shard : *shards) {
        const auto [there, is_new] = tensors.try_emplace(shard.tensor);
        ShardedTensor& tensor = there->second;
        if (is_new) tensor.whole = shard.whole;
        if (tensor.whole != shard.whole) {
            return make_error(ErrorKind::kCorrupt,
                              "tensor '{}' is {} as a whole as {} says, but {} as {} says",
                              shard.tensor, text_of(tensor.whole), tensor.parts.begin()->first,
                              text_of(shard.whole), file);
        }
        tensor.parts.emplace(file, std::move(shard.part));
    }
    return {};
}

}  // namespace pawl::checkpoint
