// Retention: which committed checkpoints may go. Core: decides, removes nothing.
//
// Order is by sequence, never by step or by clock. A checkpoint stays while any rule wants it:
//   the newest; the newest verified; a pin; `keep_last`; the first one at or after each multiple of
//   `every_steps` and of `every_epochs`; the `best.count` best by a metric.
// `bytes_max` overrules `keep_last` alone: what only that rule wants goes, oldest first, until the
// rest fits.
#pragma once

#include "base/units.h"

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace pawl::checkpoint {

enum class BestMode { kMin, kMax };

struct BestRule {
    std::string metric;
    BestMode mode = BestMode::kMin;
    std::uint32_t count = 1;

    friend bool operator==(const BestRule&, const BestRule&) = default;
};

struct RetentionPolicy {
    std::uint32_t keep_last = 3;               // pinned ones don't count
    std::optional<std::uint64_t> every_steps;  // >= 1
    std::optional<std::uint64_t> every_epochs;
    std::optional<BestRule> best;
    std::optional<std::uint64_t> bytes_max;  // of all committed checkpoints together

    friend bool operator==(const RetentionPolicy&, const RetentionPolicy&) = default;
};

// What the rules ask of a committed checkpoint.
struct Candidate {
    Sequence sequence;
    Step step;
    Epoch epoch;
    std::uint64_t bytes = 0;
    std::map<std::string, double> metrics;
    bool is_pinned = false;
};

struct RetentionPlan {
    std::vector<Sequence> removable;  // oldest first
    std::uint64_t bytes_kept = 0;
    // By how much what must stay is above bytes_max; 0: it fits.
    std::uint64_t bytes_over = 0;
};

// `candidates` in any order, no sequence twice. While none of them is verified, nothing goes.
[[nodiscard]] RetentionPlan plan_retention(std::vector<Candidate> candidates,
                                           const std::set<Sequence>& verified,
                                           const RetentionPolicy& policy);

}  // namespace pawl::checkpoint
