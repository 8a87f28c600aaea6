// The decision to roll back, as it stands in the directory until it is carried out.
//
// Order: the decision is made durable (that is the rollback), every checkpoint above `to` and up to
// `through` moves into abandoned/, oldest first, `latest` follows, the decision is removed. A start
// that finds a decision completes it before anything else, so the directory is resumed as it was
// before the rollback or as it is after it. Format: docs/formats.md, "Checkpoint directory".
#pragma once

#include "base/file_system.h"
#include "base/units.h"

#include <optional>
#include <string>

namespace pawl::checkpoint {

struct RollbackDecision {
    Sequence to;
    Sequence through;  // the newest there was

    friend bool operator==(const RollbackDecision&, const RollbackDecision&) = default;
};

// nullopt: none is pending. kCorrupt if it is not what write_rollback wrote.
[[nodiscard]] Result<std::optional<RollbackDecision>> read_rollback(FileSystem& fs,
                                                                    const std::string& directory);

// Durable when it returns.
Result<void> write_rollback(FileSystem& fs, const std::string& directory,
                            const RollbackDecision& decision);

Result<void> remove_rollback(FileSystem& fs, const std::string& directory);

}  // namespace pawl::checkpoint
