// Daemon: the loop, the journal, the control socket and the jobs, from start to orderly stop.
// Used by pawld (a service: stays when its jobs have ended) and by `pawl run` (ends with its one
// job).
#pragma once

#include "base/clock.h"
#include "base/result.h"
#include "config/config.h"
#include "daemon/reporter.h"

#include <functional>
#include <string>

namespace pawl::daemon {

enum class Lifetime { kService, kUntilJobsEnd };

struct DaemonOptions {
    config::DaemonConfig config;
    Lifetime lifetime = Lifetime::kService;
    std::string config_path{};  // what a reload reads again; empty: there is no file
    std::function<void(config::LogLevel)> set_log_level = [](config::LogLevel) {};
};

// Runs until it is told to stop or, with kUntilJobsEnd, all jobs have ended. Returns the exit code:
// with kUntilJobsEnd the job's own (0, 75 when it can be resumed, …), for a service 0.
[[nodiscard]] Result<int> run_daemon(const DaemonOptions& options, Reporter& reporter);

}  // namespace pawl::daemon
