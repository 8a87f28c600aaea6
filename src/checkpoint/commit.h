// The commit: from images in memory to a directory that survives a power cut.
//
// Steps 1 to 4 of the order that is pawl's guarantee (docs/design.md, "Commit"); store.h does 5
// and 6. A caller that gets an error has lost nothing: the images are still in memory, the
// directory holds what it held before and at most a .tmp- directory that the next start sweeps.
#pragma once

#include "base/file_system.h"
#include "checkpoint/manifest.h"
#include "checkpoint/name.h"

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace pawl::checkpoint {

struct RankImage {
    Rank rank;
    std::span<const std::byte> bytes;  // a whole torch.save file; may be shared memory
};

// A file that is kept as it is: what is written has the digests that `entry` says, or there is no
// commit. kBusy: it has changed since they were computed. kCorrupt: it is a checkpoint's, which
// nobody writes to.
struct KnownFile {
    const ByteSource* source = nullptr;  // outlives the commit
    FileEntry entry;                     // its name here, its size and digests
    bool is_checkpoints = false;
};

// `manifest` says all but the files; world_size images are given, one a rank from 0 on.
// Returns the manifest as it was written.
[[nodiscard]] Result<Manifest> commit(FileSystem& fs, const std::string& directory,
                                      Manifest manifest, const std::vector<RankImage>& images);
// The same of files that a script has saved; `manifest.adopted` names them, in their order.
[[nodiscard]] Result<Manifest> commit(FileSystem& fs, const std::string& directory,
                                      Manifest manifest, const std::vector<KnownFile>& files);

}  // namespace pawl::checkpoint
