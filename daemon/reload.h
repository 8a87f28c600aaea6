// Reloader: the configuration read again, while the daemon runs. One reload at a time.
//
// The file is read, and new jobs are opened, on a worker of its own: neither a slow disk nor a
// checkpoint directory on a network that hangs stops the loop. Everything else is on the loop's
// thread. What a reload may change is decided by config/changes.
#pragma once

#include "base/loop.h"
#include "base/worker.h"
#include "config/changes.h"
#include "daemon/job.h"
#include "daemon/reporter.h"
#include "daemon/service_manager.h"

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace pawl::daemon {

using Jobs = std::vector<std::unique_ptr<JobRunner>>;

class Reloader {
public:
    // All outlive it. `config` and `jobs` are the daemon's own, which it changes.
    struct Daemon {
        Loop& loop;
        const Clock& clock;
        ServiceManager& service_manager;
        Reporter& reporter;
        std::string path;  // of the main file; empty: there is none
        config::DaemonConfig& config;
        Jobs& jobs;
        std::function<std::unique_ptr<JobRunner>(const config::JobConfig&)> make_job;
        std::function<void(config::LogLevel)> set_log_level;
        std::function<void()> changed;  // jobs have come or gone
    };
    // The changes, as JSON; or what is wrong, and then nothing has changed.
    using Answer = std::function<void(Result<std::string>)>;

    explicit Reloader(Daemon daemon);

    // `by`: "SIGHUP", "pawl reload".
    void request(const std::string& by, Answer answer);
    // Some job has stopped: one that a reload has removed goes.
    void job_concluded();
    // A job that a reload has removed drains already: a stop of the daemon is no second request.
    [[nodiscard]] bool is_leaving(const JobRunner& job) const;
    // From here on nothing is reloaded. Who waits is answered.
    void stop();

private:
    struct Request {
        std::string by;
        Answer answer;
    };

    void begin_next();
    void loaded(const Result<config::DaemonConfig>& wanted);
    void apply(const config::ReloadPlan& plan);
    void open_jobs();
    void opened(const std::vector<Result<void>>& results);
    void refuse_job(const std::string& name, const std::string& why);
    void finish(Result<std::string> answer);
    [[nodiscard]] JobRunner* job_of(const std::string& name) const;
    [[nodiscard]] std::vector<config::JobConfig> leaving_configs() const;

    Daemon daemon_;
    std::deque<Request> requests_;  // the first is being carried out
    std::vector<config::Change> changes_;
    Jobs opening_;                      // new, not yet in `jobs`
    std::vector<JobRunner*> leaving_;   // drained, in `jobs`
    std::vector<JobRunner*> settling_;  // of these, those that have concluded
    bool is_stopping_ = false;
    Worker worker_;  // last: its tasks use what is above
};

}  // namespace pawl::daemon
