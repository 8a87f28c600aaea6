// Pins: a checkpoint that somebody wants to keep. Beside a running daemon too, without its help.
//
// A pin is the empty file `pinned` in the checkpoint's directory: it is durable, it goes where the
// directory goes, and a copy of the directory is pinned as well (docs/formats.md).
#pragma once

#include "base/file_system.h"

#include <string>

namespace pawl::checkpoint {

[[nodiscard]] Result<bool> is_pinned(FileSystem& fs, const std::string& path);

// Order: the file, its directory. Durable when it returns. Retention looks for a pin once more when
// it has taken a checkpoint away and before it removes anything, so a pin that is there while the
// checkpoint has its name is honoured. Pinning twice is no error.
Result<void> pin(FileSystem& fs, const std::string& path);

// No error if there is no pin.
Result<void> unpin(FileSystem& fs, const std::string& path);

}  // namespace pawl::checkpoint
