// Processes: how ranks are started, seen to end, found again and removed without a trace.
//
// Ranks run in sessions of their own, with their output appended straight to a file: the daemon's
// death neither signals nor blocks them. Every process of a job carries PAWL_JOB_KEY in its
// environment, which its children inherit: that is how grandchildren that left the session are
// found.
#pragma once

#include "base/fd.h"
#include "base/result.h"
#include "supervisor/job_policy.h"

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace pawl::supervisor {

inline constexpr std::string_view kJobKeyVariable = "PAWL_JOB_KEY";

// All that a start needs, before anything is forked.
struct SpawnRequest {
    std::vector<std::string> command;      // found through PATH of `environment`
    std::vector<std::string> environment;  // NAME=VALUE, all of it
    std::string working_directory;
    std::string output_path;  // stdout and stderr, appended; its directory exists
};

struct Spawned {
    pid_t pid = 0;
    std::uint64_t start_ticks = 0;  // field 22 of /proc/PID/stat
    UniqueFd pidfd;                 // readable when the process has ended
    UniqueFd exec_error;  // holds why the start failed, if it did, once the process has ended
};

class ProcessRunner {
public:
    virtual ~ProcessRunner() = default;
    // Returns without waiting for the exec: if that fails, the process ends and take_exit says why.
    virtual Result<Spawned> spawn(const SpawnRequest& request) = 0;
    // nullopt while it is running. Once it has ended the process is reaped.
    virtual std::optional<ExitStatus> take_exit(const Spawned& process) = 0;
    virtual void send_signal(const Spawned& process, int signal) = 0;
    // Live processes that carry the key, whoever's children they are. Zombies don't count.
    virtual Result<std::vector<pid_t>> find(const std::string& job_key) = 0;
    // A pidfd of any process; nullopt if it is gone.
    virtual std::optional<UniqueFd> watch(pid_t pid) = 0;
    virtual void kill_now(pid_t pid) = 0;
    // Reaps children that are none of `known`: orphans that came to us as their subreaper.
    virtual void reap_orphans(const std::vector<pid_t>& known) = 0;
};

[[nodiscard]] std::unique_ptr<ProcessRunner> make_process_runner();

// Orphaned descendants come to this process instead of to init.
Result<void> become_subreaper();

// The processes above `pid`, its parent first; empty if it is gone.
[[nodiscard]] std::vector<pid_t> ancestors_of(pid_t pid);
// Whether the process was started with this key in its environment.
[[nodiscard]] bool carries_key(pid_t pid, const std::string& job_key);

// Field 22 of /proc/PID/stat; nullopt if there is no such process or only its zombie.
[[nodiscard]] std::optional<std::uint64_t> start_ticks_of(pid_t pid);

}  // namespace pawl::supervisor
