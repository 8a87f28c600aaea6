// See retention.h.
#include "checkpoint/retention.h"

#include <algorithm>
#include <optional>

namespace pawl::checkpoint {

std::vector<Sequence> removable(std::vector<Sequence> committed, const std::set<Sequence>& verified,
                                const RetentionPolicy& policy) {
    std::ranges::sort(committed);
    std::optional<Sequence> newest_verified;
    for (const Sequence sequence : committed) {
        if (verified.contains(sequence)) newest_verified = sequence;
    }
    const std::size_t kept = std::max<std::size_t>(policy.keep_last, 1);
    if (committed.size() <= kept) return {};
    committed.resize(committed.size() - kept);
    std::erase_if(committed, [&](Sequence sequence) { return sequence == newest_verified; });
    // Nothing is known to be good: nothing goes.
    if (!newest_verified) return {};
    return committed;
}

}  // namespace pawl::checkpoint
