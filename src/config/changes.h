// What a reload changes. Core: compares two configurations and decides; touches nothing.
#pragma once

#include "config/config.h"

#include <span>
#include <string>
#include <vector>

namespace pawl::config {

enum class Outcome {
    kApplied,     // now
    kNextLaunch,  // when the job's ranks are started the next time
    kRefused,     // not at all, as long as this pawld, or this job, runs
};

struct Change {
    enum class What { kChanged, kAdded, kRemoved };

    What what = What::kChanged;
    std::string job{};   // empty: the daemon's own
    std::string key{};   // of a kChanged: "checkpoint.keep_last", "environment.NAME"
    std::string from{};  // as `pawl config show --json` writes it. Empty for variables, which may
    std::string to{};    // be secrets
    Outcome outcome = Outcome::kApplied;
    std::string why{};  // of a kRefused

    // "job 'lm': checkpoint.keep_last: 3 -> 5: applied"
    [[nodiscard]] std::string text() const;
    [[nodiscard]] std::string text_of_job() const;  // without "job 'lm': "
    friend bool operator==(const Change&, const Change&) = default;
};

// In the order of the keys' table: the daemon's own, then job by job.
[[nodiscard]] std::vector<Change> differences(const DaemonConfig& from, const DaemonConfig& to);

struct ReloadPlan {
    std::vector<Change> changes;
    DaemonConfig config;  // `current` with what is applied, and what waits for a launch
};

// `leaving`: jobs that an earlier reload has removed and that still drain. They hold their names
// and directories, and so does whatever is refused.
[[nodiscard]] ReloadPlan plan_reload(const DaemonConfig& current, const DaemonConfig& wanted,
                                     std::span<const JobConfig> leaving);

// Copies the keys of this kind.
void adopt(const JobConfig& from, JobConfig& to, Applies which);

// {"changes": [{"what", "job", "key", "from", "to", "outcome", "why", "text"}]}
[[nodiscard]] std::string to_json(std::span<const Change> changes);

}  // namespace pawl::config
