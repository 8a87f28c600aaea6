// One linear pass over a rank's image: CRCs are filled in, chunks are digested, bytes are written.
#pragma once

#include "base/file_system.h"
#include "checkpoint/manifest.h"
#include "torchfile/archive.h"

#include <cstddef>
#include <span>

namespace pawl::checkpoint {

// `image` is memory that a trainer may still be able to write to: each chunk is copied once, and
// what is digested, checksummed and written is that copy. Returns the entry without its name.
// `directory` was parsed from the same image; the image is not changed. Does not sync.
[[nodiscard]] Result<FileEntry> write_image(WritableFile& file, std::span<const std::byte> image,
                                            const torchfile::Directory& directory);

}  // namespace pawl::checkpoint
