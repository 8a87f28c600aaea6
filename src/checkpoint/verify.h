// Verification: is a checkpoint, byte for byte, what its manifest says?
#pragma once

#include "base/file_system.h"
#include "checkpoint/manifest.h"

#include <optional>
#include <string>
#include <vector>

namespace pawl::checkpoint {

// One thing that is wrong, named as exactly as can be: file, chunk, record, tensor.
struct Damage {
    std::string file;                    // "manifest.json", "rank-00000.pt"
    std::optional<std::uint64_t> chunk;  // index; chunk n begins at n * chunk_bytes
    std::uint64_t chunk_begin = 0;       // bytes of the file
    std::uint64_t chunk_end = 0;
    std::string record;  // zip record: "archive/data/7"; "" if none could be named
    std::string tensor;  // "model_state_dict.fc.weight"; "" if none could be named
    std::string text;    // what is wrong, without the above

    // "rank-00000.pt, chunk 0 (bytes 0 to 4194304), record archive/data/7
    // (model_state_dict.fc.weight): …"
    [[nodiscard]] std::string describe() const;
};

struct Verification {
    std::optional<Manifest> manifest;  // if it could be read
    std::vector<Damage> damages;
    std::uint64_t bytes_read = 0;

    [[nodiscard]] bool is_valid() const { return manifest.has_value() && damages.empty(); }
};

// Manifest digest, its name against the directory's, file sizes, every chunk. A file that can't be
// read counts as damaged: it can't be resumed from. Fails only with kUnsupported (a newer format:
// neither valid nor damaged) or if `path` itself can't be looked at.
[[nodiscard]] Result<Verification> verify(FileSystem& fs, const std::string& path);

}  // namespace pawl::checkpoint
