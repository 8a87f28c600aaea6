// The scrub: reads what is committed again, to find rot before it is needed.
//
// It only reads, beside commits and retention: what it finds is a suspicion, which the owner of the
// directory looks at again (Store::confirm_damage) before anything is done about it.
#pragma once

#include "base/file_system.h"
#include "checkpoint/name.h"
#include "checkpoint/verify.h"

#include <string>
#include <vector>

namespace pawl::checkpoint {

struct Scrubbed {
    std::vector<CheckpointName> valid;
    std::vector<CheckpointName> suspects;
    std::vector<std::string> unread;  // why nothing can be said of some
    std::uint64_t bytes = 0;
    bool was_stopped = false;  // before_read said kCancelled: not all has been read
};

// Newest first. One that goes away meanwhile is passed over.
[[nodiscard]] Scrubbed scrub(FileSystem& fs, const std::string& directory,
                             const VerifyOptions& options);

}  // namespace pawl::checkpoint
