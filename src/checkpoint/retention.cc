// See retention.h.
#include "checkpoint/retention.h"

#include <algorithm>
#include <cmath>

namespace pawl::checkpoint {
namespace {

using Candidates = std::vector<Candidate>;  // oldest first
using Sequences = std::set<Sequence>;

// The first at or after each multiple. It is the same one whatever is committed later, so that a
// checkpoint that was kept once is kept for ever.
template <class NumberOf>
void keep_first_of_each(const Candidates& candidates, std::uint64_t interval, NumberOf number_of,
                        Sequences& kept) {
    std::set<std::uint64_t> seen;
    for (const Candidate& one : candidates) {
        const std::uint64_t multiple = number_of(one) / interval;
        // Before the first multiple there is none.
        if (multiple > 0 && seen.insert(multiple).second) kept.insert(one.sequence);
    }
}

// Of equals the oldest: a value that is reached again is no reason to change.
void keep_best(const Candidates& candidates, const BestRule& rule, Sequences& kept) {
    struct Ranked {
        double value;
        Sequence sequence;
    };
    std::vector<Ranked> ranked;
    for (const Candidate& one : candidates) {
        const auto found = one.metrics.find(rule.metric);
        if (found == one.metrics.end() || !std::isfinite(found->second)) continue;
        ranked.push_back({found->second, one.sequence});
    }
    std::ranges::stable_sort(ranked, [&rule](const Ranked& a, const Ranked& b) {
        return rule.mode == BestMode::kMin ? a.value < b.value : a.value > b.value;
    });
    ranked.resize(std::min<std::size_t>(ranked.size(), rule.count));
    for (const Ranked& one : ranked)
        kept.insert(one.sequence);
}

// What no limit of size takes away.
Sequences promised(const Candidates& candidates, Sequence newest_verified,
                   const RetentionPolicy& policy) {
    Sequences kept = {candidates.back().sequence, newest_verified};
    for (const Candidate& one : candidates) {
        if (one.is_pinned) kept.insert(one.sequence);
    }
    if (policy.every_steps) {
        keep_first_of_each(
            candidates, std::max<std::uint64_t>(*policy.every_steps, 1),
            [](const Candidate& one) { return one.step.value; }, kept);
    }
    if (policy.every_epochs) {
        keep_first_of_each(
            candidates, std::max<std::uint64_t>(*policy.every_epochs, 1),
            [](const Candidate& one) { return one.epoch.value; }, kept);
    }
    if (policy.best) keep_best(candidates, *policy.best, kept);
    return kept;
}

Sequences last_of(const Candidates& candidates, std::uint32_t count) {
    Sequences last;
    for (auto one = candidates.rbegin(); one != candidates.rend() && last.size() < count; ++one) {
        if (!one->is_pinned) last.insert(one->sequence);
    }
    return last;
}

}  // namespace

RetentionPlan plan_retention(Candidates candidates, const std::set<Sequence>& verified,
                             const RetentionPolicy& policy) {
    std::ranges::sort(candidates, {}, &Candidate::sequence);
    RetentionPlan plan;
    std::optional<Sequence> newest_verified;
    for (const Candidate& one : candidates) {
        plan.bytes_kept += one.bytes;
        if (verified.contains(one.sequence)) newest_verified = one.sequence;
    }
    if (newest_verified) {
        const Sequences kept = promised(candidates, *newest_verified, policy);
        const Sequences last = last_of(candidates, policy.keep_last);
        const auto remove = [&plan](const Candidate& one) {
            plan.removable.push_back(one.sequence);
            plan.bytes_kept -= one.bytes;
        };
        for (const Candidate& one : candidates) {
            if (!kept.contains(one.sequence) && !last.contains(one.sequence)) remove(one);
        }
        for (const Candidate& one : candidates) {
            if (!policy.bytes_max || plan.bytes_kept <= *policy.bytes_max) break;
            if (!kept.contains(one.sequence) && last.contains(one.sequence)) remove(one);
        }
        std::ranges::sort(plan.removable);
    }
    if (policy.bytes_max && plan.bytes_kept > *policy.bytes_max)
        plan.bytes_over = plan.bytes_kept - *policy.bytes_max;
    return plan;
}

}  // namespace pawl::checkpoint
