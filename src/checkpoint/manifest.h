// The manifest: what a checkpoint holds, and the digests to verify it. Core: no file, no clock.
// Format: docs/formats.md, "manifest.json".
#pragma once

#include "base/checksum.h"
#include "base/result.h"
#include "base/units.h"
#include "checkpoint/shards.h"

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pawl::checkpoint {

inline constexpr std::uint64_t kFormatVersion = 1;
inline constexpr std::uint64_t kChunkBytes = std::uint64_t{4} << 20;
// Bounds what is read before it is believed: 64 ranks of 200 GB have 3 million chunks of 35 bytes.
inline constexpr std::uint64_t kManifestBytesMax = std::uint64_t{256} << 20;

enum class Reason { kCadence, kSigterm, kNotice, kRequest, kFinal, kImport, kAdopt };

[[nodiscard]] std::string_view to_string(Reason reason);
[[nodiscard]] std::optional<Reason> parse_reason(std::string_view text);

struct FileEntry {
    std::string name;  // no '/', not "." or ".."
    std::uint64_t bytes = 0;
    std::uint64_t chunk_bytes = kChunkBytes;
    std::vector<Digest> chunks;  // XXH3-128 of each chunk; the last one may be short

    friend bool operator==(const FileEntry&, const FileEntry&) = default;
};

// A file that the job's script has saved itself, and that is kept as it is.
struct AdoptedFile {
    std::string name;              // of the file in the checkpoint
    std::string path;              // where it belongs: absolute, or below the job's directory
    std::uint32_t mode = 0;        // permission bits
    std::int64_t modified_ns = 0;  // when the script had written it, since 1970 in UTC

    friend bool operator==(const AdoptedFile&, const AdoptedFile&) = default;
};

struct Manifest {
    std::string job;
    Sequence sequence;
    std::optional<Sequence> parent;  // the checkpoint that this incarnation resumed from
    Step step;                       // optimizer steps completed
    Epoch epoch;                     // passes over the data completed
    std::uint64_t world_size = 1;
    Incarnation incarnation;
    WallTime time;
    Reason reason = Reason::kCadence;
    std::map<std::string, double> metrics;
    std::string pawl_version;
    std::string framework;             // "LibTorch 1.13.1", as the trainer says it; may be empty
    std::vector<FileEntry> files;      // one a rank; or, if anything is adopted, one of each
    ShardedTensors tensors;            // those of which each rank holds a part
    std::vector<AdoptedFile> adopted;  // in the order of `files`
    // A JSON object of the fields that this version does not know, written back as they were.
    std::string unknown_fields = "{}";

    [[nodiscard]] std::uint64_t total_bytes() const;
    [[nodiscard]] bool is_adopted() const { return !adopted.empty(); }
    friend bool operator==(const Manifest&, const Manifest&) = default;
};

// Ends with its own digest: `,\n  "digest": "<hex>"\n}\n` after the text that the digest covers.
[[nodiscard]] std::string write_manifest(const Manifest& manifest);

// kCorrupt if the digest or a field does not hold, kUnsupported if a newer pawl wrote it.
[[nodiscard]] Result<Manifest> read_manifest(std::string_view text);

}  // namespace pawl::checkpoint
