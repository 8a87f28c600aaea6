// The daemon's configuration: YAML to plain data, with errors a person can act on.
//
// Any room may include this header for the plain structs; config includes base only.
// Every error reads "FILE:LINE:COLUMN: key 'jobs.lm.ranks': expected …, found …". An unknown key is
// an error, and names the nearest known one. docs/configuration.md lists every key.
//
//   surroundings  files and variables        document     text to YAML, or where it is none
//   reading       positions, a budget        yaml_reader  values with a type
//   field, keys   the one table of keys      job_check    what a job must be
//   changes       what a reload may change   show, schema, reference   the table, written out
#pragma once

#include "base/result.h"
#include "base/units.h"
#include "config/surroundings.h"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pawl::config {

// When a key that a reload changes has its effect on a job that is there.
enum class Applies {
    kAtOnce,
    kNextLaunch,  // of the job's ranks
    kRestart,     // of pawld; for a job also if it is removed, and added again
};

enum class OnNoValidCheckpoint { kStop, kStartFresh };

// At most one of the three is usual; all that are set apply, whichever comes first.
struct CadenceConfig {
    std::optional<std::uint64_t> every_steps;   // checkpoint.every_steps, >= 1
    std::optional<std::uint64_t> every_epochs;  // checkpoint.every_epochs, >= 1
    std::optional<nanoseconds> every_time;      // checkpoint.every, >= 1s
    bool is_automatic = false;                  // checkpoint.every: auto

    friend bool operator==(const CadenceConfig&, const CadenceConfig&) = default;
};

enum class BestMode { kMin, kMax };

struct KeepBestConfig {
    std::string metric;
    BestMode mode = BestMode::kMin;
    std::uint32_t count = 1;  // >= 1

    friend bool operator==(const KeepBestConfig&, const KeepBestConfig&) = default;
};

struct CheckpointConfig {
    std::string directory;                           // absolute after loading; made if missing
    CadenceConfig cadence;                           // default when none is set: every 10 minutes
    std::uint32_t keep_last = 3;                     // >= 1
    std::optional<std::uint64_t> keep_every_steps;   // >= 1
    std::optional<std::uint64_t> keep_every_epochs;  // >= 1
    std::optional<KeepBestConfig> keep_best;
    std::optional<std::uint64_t> keep_bytes;
    std::optional<nanoseconds> scrub_every = std::chrono::hours{24};  // nullopt: off
    // Without a sign of life of a rank whose snapshot the others wait for.
    nanoseconds attempt_timeout = std::chrono::minutes{5};
    OnNoValidCheckpoint on_no_valid_checkpoint = OnNoValidCheckpoint::kStop;  // stop | start_fresh
    // Files that the script saves itself; relative ones start at the working directory.
    std::vector<std::string> adopt;

    friend bool operator==(const CheckpointConfig&, const CheckpointConfig&) = default;
};

struct StartConfig {
    // From the first rank that attaches to the last. A command whose ranks never attach may.
    nanoseconds attach_timeout = std::chrono::minutes{10};

    friend bool operator==(const StartConfig&, const StartConfig&) = default;
};

struct RestartConfig {
    std::uint32_t max = 10;  // restarts within the window; 0: never restart
    nanoseconds window = std::chrono::hours{1};
    nanoseconds delay_initial = seconds{1};  // doubles with each restart in a row …
    nanoseconds delay_max = seconds{60};     // … up to this
    std::uint32_t same_step_max = 3;  // failures at one step in a row that stop the job; >= 2

    friend bool operator==(const RestartConfig&, const RestartConfig&) = default;
};

struct StopConfig {
    nanoseconds grace = seconds{30};      // from SIGTERM to SIGKILL, the checkpoint included
    nanoseconds exit_grace = seconds{5};  // after the checkpoint is durable, until SIGKILL

    friend bool operator==(const StopConfig&, const StopConfig&) = default;
};

struct JobConfig {
    std::string name;                  // [A-Za-z0-9._-]{1,64}, not beginning with '.' or '-'
    std::vector<std::string> command;  // not empty; no shell
    // Added to the command if there is something to resume from, or nothing; see arguments.h.
    std::vector<std::string> on_resume;
    std::vector<std::string> on_fresh;
    std::string working_directory;  // absolute after loading; default: the file's directory
    std::map<std::string, std::string> environment;  // added to the daemon's own; PAWL_* is refused
    std::uint32_t ranks = 1;                         // 1 to 1024
    // Ranks find torchrun's variables. Not by `pawl run` without --ranks: a program that finds RANK
    // takes itself for one of many.
    bool is_distributed = true;
    std::string output_directory;  // of the ranks' logs; default: STATE_DIRECTORY/logs/NAME
    std::uint64_t output_rotate_at = std::uint64_t{64} << 20;  // bytes; at a rank's start
    CheckpointConfig checkpoint;
    StartConfig start;
    RestartConfig restart;
    StopConfig stop;

    friend bool operator==(const JobConfig&, const JobConfig&) = default;
};

enum class LogLevel { kDebug, kInfo, kWarning, kError };

struct ControlConfig {
    std::string socket;  // path of the Unix socket; default: STATE_DIRECTORY/pawld.sock

    friend bool operator==(const ControlConfig&, const ControlConfig&) = default;
};

struct DaemonConfig {
    std::string state_directory = "/var/lib/pawl";
    LogLevel log_level = LogLevel::kInfo;
    ControlConfig control;
    std::vector<JobConfig> jobs;  // names differ

    friend bool operator==(const DaemonConfig&, const DaemonConfig&) = default;
};

// What a load has read.
struct Loaded {
    DaemonConfig config;
    std::vector<std::string> files;  // the main file, then the included ones, as they were read

    friend bool operator==(const Loaded&, const Loaded&) = default;
};

[[nodiscard]] Result<Loaded> load_files(const std::string& path, const Surroundings& surroundings);
// With this process's files and environment.
[[nodiscard]] Result<DaemonConfig> load(const std::string& path);
// `path` is for messages and as the base of relative paths.
[[nodiscard]] Result<DaemonConfig> parse(std::string_view yaml, const std::string& path);

// "500ms", "30s", "5m", "1h30m", "2d"; a bare number has no unit and is refused.
[[nodiscard]] Result<nanoseconds> parse_duration(std::string_view text);

// The same checks for a job that came from a command line (`pawl run`).
Result<void> check_job(const JobConfig& job);

}  // namespace pawl::config
