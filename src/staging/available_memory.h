// How much memory an arena may take without pushing anybody out. Reads /proc and /sys/fs/cgroup.
//
// Allocating a memfd does not fail at a cgroup's limit: the kernel's OOM killer is called instead,
// and may choose the daemon or a trainer. So what there is must be known before.
#pragma once

#include "base/result.h"

#include <cstdint>
#include <optional>
#include <string>

namespace pawl::staging {

struct AvailableMemory {
    std::uint64_t bytes = 0;
    std::string of;  // "the machine", "cgroup '/system.slice/pawld.service'"
};

// The smallest of what the machine and each cgroup (v2 or v1) above this process could still give;
// nullopt if none of them says. `root` is "" but in tests.
[[nodiscard]] std::optional<AvailableMemory> available_memory(const std::string& root = "");

// kNoSpace if `bytes` do not fit, with a reserve left for everybody else.
Result<void> check_fits(std::uint64_t bytes, const std::optional<AvailableMemory>& available);

}  // namespace pawl::staging
