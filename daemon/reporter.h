// Reporter: where the daemon tells people what happens: its log, or the terminal of `pawl run`.
#pragma once

#include "control/status.h"
#include "supervisor/job_policy.h"

#include <string>

namespace pawl::daemon {

using supervisor::ReportLevel;

// Called on the loop's thread.
class Reporter {
public:
    virtual ~Reporter() = default;
    virtual void event(const std::string& job, ReportLevel level, const std::string& text) = 0;
    // A few times a second while a job runs.
    virtual void progress(const control::JobStatus& status) = 0;
};

}  // namespace pawl::daemon
