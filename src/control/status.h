// What a daemon and its jobs are doing, as plain data: for the HTTP API, the tool and the terminal.
//
// control: may be included by daemon and tools; includes base only.
#pragma once

#include "base/result.h"
#include "base/units.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pawl::control {

struct CheckpointStatus {
    Sequence sequence;
    Step step;
    Epoch epoch;
    std::string reason;
    std::uint64_t bytes = 0;
    WallTime time;
    std::string path;
    std::string verified;  // "when written", "at start": which proof there is

    friend bool operator==(const CheckpointStatus&, const CheckpointStatus&) = default;
};

struct RankStatus {
    Rank rank;
    std::int64_t pid = 0;  // 0: not running
    bool is_attached = false;
    std::string phase;  // "starting", "training", …
    Step step;
    std::uint64_t snapshots_skipped = 0;
    std::string output;  // its file

    friend bool operator==(const RankStatus&, const RankStatus&) = default;
};

// Snapshots of one step that some ranks have sealed, or that somebody waits for.
struct AttemptStatus {
    std::uint64_t request = 0;
    std::string reason;
    std::optional<Step> step;
    std::optional<Epoch> epoch;
    std::vector<Rank> missing;

    friend bool operator==(const AttemptStatus&, const AttemptStatus&) = default;
};

struct JobStatus {
    std::string name;
    std::string state;   // see supervisor::name_of
    std::string detail;  // why it stopped, what it waits for; may be empty
    std::optional<Incarnation> incarnation;
    std::uint64_t restarts = 0;  // since the daemon started
    std::uint64_t world_size = 1;
    Step step;
    Epoch epoch;
    double loss = 0;  // NaN: none
    double steps_per_second = 0;
    std::optional<Sequence> resumed_from;
    std::optional<CheckpointStatus> checkpoint;  // the newest durable one
    std::uint64_t checkpoints_committed = 0;     // since the daemon started
    std::uint64_t attempts_started = 0;
    std::uint64_t attempts_failed = 0;
    std::optional<WallTime> scrubbed;      // when all checkpoints were last read again
    std::uint64_t damaged_found = 0;       // by scrubs, since the daemon started
    std::optional<AttemptStatus> attempt;  // under way
    std::uint64_t arena_bytes = 0;
    std::string checkpoint_directory;
    std::string last_event;
    std::vector<RankStatus> ranks;

    friend bool operator==(const JobStatus&, const JobStatus&) = default;
};

// Whether history is written.
struct JournalStatus {
    bool is_failing = false;
    std::string why;
    std::uint64_t lost = 0;  // records, since it began to fail
    std::optional<WallTime> since;

    friend bool operator==(const JournalStatus&, const JournalStatus&) = default;
};

struct DaemonStatus {
    std::string version;
    std::int64_t pid = 0;
    WallTime started;
    WallTime now;
    std::string state_directory;
    JournalStatus journal;
    std::vector<JobStatus> jobs;

    friend bool operator==(const DaemonStatus&, const DaemonStatus&) = default;
};

[[nodiscard]] std::string to_json(const DaemonStatus& status);
[[nodiscard]] Result<DaemonStatus> status_from_json(std::string_view text);

// For people, at most 80 columns wide (but for paths).
[[nodiscard]] std::string to_text(const DaemonStatus& status);

}  // namespace pawl::control
