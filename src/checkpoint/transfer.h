// Checkpoints that come from elsewhere and go elsewhere: import of a torch.save file, export of a
// verified copy.
#pragma once

#include "base/file_system.h"
#include "checkpoint/manifest.h"
#include "torchfile/value.h"

#include <optional>
#include <string>

namespace pawl::checkpoint {

struct Imported {
    // What the keys of its dict say, if they are whole numbers: `step`, or else `global_step`,
    // `iteration` or `iter_num`; and `epoch`.
    std::optional<Step> step;
    std::optional<Epoch> epoch;
};

[[nodiscard]] Imported numbers_in(const torchfile::Document& document);

// A torch.save file that could be a rank's: its zip directory, every CRC and its pickle hold.
[[nodiscard]] Result<Imported> inspect_torch_file(const ByteSource& source);

struct Exported {
    Manifest manifest;
    std::uint64_t bytes = 0;
};

// Copies a checkpoint to `target`, which must not exist: of one rank its file, of several a
// directory with all files and the manifest. What is written was verified chunk by chunk as it was
// read. Order: a temporary name beside the target, data, (directory,) rename, parent: the target is
// there whole or not at all, and durable when this returns.
[[nodiscard]] Result<Exported> export_checkpoint(FileSystem& fs, const std::string& path,
                                                 const std::string& target);

}  // namespace pawl::checkpoint
