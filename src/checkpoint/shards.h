// Which part of a tensor a rank's file holds, where ranks hold parts: what a checkpoint of another
// number of ranks will need to be cut anew. Core: no file, no clock. Format: docs/formats.md,
// "shards.json".
#pragma once

#include "base/result.h"
#include "torchfile/archive.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pawl::checkpoint {

// The record of a rank's file that says it; under the archive's root folder.
inline constexpr std::string_view kShardsRecord = "shards.json";
// Bounds what is read of a trainer's file: 100,000 tensors with names of 200 bytes.
inline constexpr std::uint64_t kShardsBytesMax = std::uint64_t{64} << 20;

// What a tensor is as a whole.
struct GlobalTensor {
    std::string dtype;                 // "float32"
    std::vector<std::uint64_t> shape;  // elements
    // Parameters were flattened before they were cut: parts are intervals of its elements in
    // row-major order, and have one offset and one size whatever the shape has.
    bool is_flat = false;

    friend bool operator==(const GlobalTensor&, const GlobalTensor&) = default;
};

// A box of it: [offsets, offsets + sizes) in elements, a dimension each.
struct Part {
    std::vector<std::uint64_t> offsets;
    std::vector<std::uint64_t> sizes;

    friend bool operator==(const Part&, const Part&) = default;
};

// As a rank's file says it.
struct Shard {
    std::string tensor;  // its path in the file: "model_state_dict.layer.weight"
    GlobalTensor whole;
    Part part;

    friend bool operator==(const Shard&, const Shard&) = default;
};

// As the manifest says it: which files hold which part.
struct ShardedTensor {
    GlobalTensor whole;
    std::map<std::string, Part> parts;  // by the file's name

    friend bool operator==(const ShardedTensor&, const ShardedTensor&) = default;
};
using ShardedTensors = std::map<std::string, ShardedTensor>;

// kCorrupt if the part does not lie within its tensor.
Result<void> check_part(const GlobalTensor& whole, const Part& part);

// The text of a record. kCorrupt if it is not what the format says.
[[nodiscard]] Result<std::vector<Shard>> read_shards(std::string_view json);

// Adds those of a rank's image, if it has such a record. kCorrupt if the record is wrong, or says
// of a tensor other than another file did.
Result<void> add_shards(ShardedTensors& tensors, const std::string& file,
                        std::span<const std::byte> image, const torchfile::Directory& directory);

}  // namespace pawl::checkpoint
