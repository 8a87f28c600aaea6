// Retention: which committed checkpoints may go. Core: decides, removes nothing.
#pragma once

#include "base/units.h"

#include <cstdint>
#include <set>
#include <vector>

namespace pawl::checkpoint {

struct RetentionPolicy {
    std::uint32_t keep_last = 3;
};

// `committed` in any order. Returns what may be removed, oldest first. Whatever the policy says,
// the newest checkpoint and the newest verified one stay.
[[nodiscard]] std::vector<Sequence> removable(std::vector<Sequence> committed,
                                              const std::set<Sequence>& verified,
                                              const RetentionPolicy& policy);

}  // namespace pawl::checkpoint
