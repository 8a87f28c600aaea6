// Verification: is a checkpoint, byte for byte, what its manifest says?
#pragma once

#include "base/file_system.h"
#include "checkpoint/manifest.h"

#include <functional>
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
    // Names in the directory that are neither the manifest's nor pawl's. Somebody put them there;
    // what the manifest promises holds all the same.
    std::vector<std::string> extra_names;

    [[nodiscard]] bool is_valid() const { return manifest.has_value() && damages.empty(); }
};

struct VerifyOptions {
    // Called before each read with its size: a place to wait. An error ends the verification.
    std::function<Result<void>(std::uint64_t bytes)> before_read;
};

// Manifest digest, its name against the directory's, file sizes, every chunk. A file that is not
// there, is a symlink or that the disk can't read counts as damaged: it can't be resumed from.
// An error says nothing of the checkpoint: kUnsupported (a newer format), kUnavailable (permission,
// descriptors or memory are missing), or `path` itself can't be looked at.
[[nodiscard]] Result<Verification> verify(FileSystem& fs, const std::string& path,
                                          const VerifyOptions& options = {});

}  // namespace pawl::checkpoint
