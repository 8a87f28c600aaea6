// Files that are no torch.save archive but something else that people call a checkpoint: recognised
// and refused with advice. Private to torchfile.
#pragma once

#include "base/byte_source.h"
#include "base/result.h"

#include <cstddef>
#include <span>

namespace pawl::torchfile {

// By the file's first bytes: it has to begin as a zip archive does, which torch.load asks for too.
// kUnsupported for a known format, kCorrupt for anything else.
[[nodiscard]] Result<void> refuse_other_formats(const ByteSource& source);

// By the names in a zip's central directory: TorchScript, NumPy's .npz.
[[nodiscard]] Result<void> refuse_other_archives(std::span<const std::byte> central_directory);

}  // namespace pawl::torchfile
