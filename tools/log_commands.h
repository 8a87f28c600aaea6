// pawl logs: what ranks printed. Reads the files that ranks append to; asks the daemon where they
// are, and the journal where an incarnation's part begins. Changes nothing.
#pragma once

#include "base/result.h"
#include "tools/inspect.h"
#include "tools/journal_commands.h"

#include <cstdint>
#include <optional>
#include <vector>

namespace pawl::tools {

struct LogOptions {
    std::vector<std::uint64_t> ranks;  // none: rank 0
    bool is_of_all_ranks = false;
    std::optional<std::uint64_t> incarnation;  // none: whatever is in the file
    std::uint64_t lines = 20;                  // of each rank, the last so many
    Follows follows = Follows::kNo;
};

// Of several ranks each line begins with its rank: "[3] ".
Result<int> show_logs(const Place& place, const LogOptions& options, Format format);

}  // namespace pawl::tools
