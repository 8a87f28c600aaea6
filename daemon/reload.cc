// See reload.h.
#include "daemon/reload.h"

#include <algorithm>
#include <utility>

namespace pawl::daemon {

Reloader::Reloader(Daemon daemon) : daemon_(std::move(daemon)), worker_("config") {
}

void Reloader::request(const std::string& by, Answer answer) {
    if (is_stopping_)
        return answer(make_error(ErrorKind::kBusy, "pawld is stopping: nothing is reloaded"));
    if (daemon_.path.empty()) {
        return answer(make_error(ErrorKind::kBusy,
                                 "this daemon was started by `pawl run`: it has no configuration "
                                 "file that could be reloaded"));
    }
    constexpr std::size_t kRequestsMax = 16;
    if (requests_.size() == kRequestsMax)
        return answer(make_error(ErrorKind::kBusy, "{} reloads are waiting already", kRequestsMax));
    requests_.push_back({.by = by, .answer = std::move(answer)});
    if (requests_.size() == 1) begin_next();
}

void Reloader::begin_next() {
    daemon_.service_manager.reloading(daemon_.clock.monotonic_now());
    changes_.clear();
    worker_.post([this] {
        auto wanted = std::make_shared<Result<config::DaemonConfig>>(config::load(daemon_.path));
        daemon_.loop.post([this, wanted] { loaded(*wanted); });
    });
}

void Reloader::loaded(const Result<config::DaemonConfig>& wanted) {
    if (is_stopping_) return;
    if (!wanted) {
        // Whatever kind: a file that is gone or may not be read is as wrong as one with a typo.
        return finish(make_error(ErrorKind::kInvalidArgument, "{}", wanted.error().text())
                          .consequence("Nothing has changed."));
    }
    apply(config::plan_reload(daemon_.config, *wanted, leaving_configs()));
}

void Reloader::apply(const config::ReloadPlan& plan) {
    changes_ = plan.changes;
    daemon_.config = plan.config;
    daemon_.set_log_level(plan.config.log_level);
    for (const config::JobConfig& job : plan.config.jobs) {
        if (JobRunner* const running = job_of(job.name)) running->reconfigure(job);
    }
    for (config::Change& change : changes_) {
        JobRunner* const job = job_of(change.job);
        if (change.what == config::Change::What::kRemoved && job != nullptr) {
            leaving_.push_back(job);
            if (!job->is_concluded()) job->request_stop("removed from the configuration");
        } else if (change.what == config::Change::What::kAdded &&
                   change.outcome == config::Outcome::kApplied) {
            const auto added = std::ranges::find_if(
                plan.config.jobs, [&](const auto& one) { return one.name == change.job; });
            opening_.push_back(daemon_.make_job(*added));
        } else if (change.outcome == config::Outcome::kNextLaunch && job != nullptr &&
                   job->is_concluded()) {
            change.outcome = config::Outcome::kRefused;
            change.why = "the job has ended; it is started again when pawld is";
        }
    }
    open_jobs();
    job_concluded();
}

// ---- new jobs ----

void Reloader::open_jobs() {
    if (opening_.empty()) return finish(config::to_json(changes_));
    std::vector<JobRunner*> jobs;
    for (const auto& job : opening_)
        jobs.push_back(job.get());
    worker_.post([this, jobs] {
        std::vector<Result<void>> results;
        for (JobRunner* const job : jobs)
            results.push_back(job->open());
        daemon_.loop.post([this, results] { opened(results); });
    });
}

void Reloader::opened(const std::vector<Result<void>>& results) {
    if (is_stopping_) return;
    for (std::size_t i = 0; i < opening_.size(); ++i) {
        std::unique_ptr<JobRunner>& job = opening_[i];
        const Result<void> listens = results[i] ? job->listen() : results[i];
        if (!listens) {
            refuse_job(job->name(), listens.error().text());
            continue;
        }
        daemon_.jobs.push_back(std::move(job));
        daemon_.jobs.back()->start();
    }
    opening_.clear();
    finish(config::to_json(changes_));
}

void Reloader::refuse_job(const std::string& name, const std::string& why) {
    std::erase_if(daemon_.config.jobs, [&](const auto& job) { return job.name == name; });
    for (config::Change& change : changes_) {
        if (change.what != config::Change::What::kAdded || change.job != name) continue;
        change.outcome = config::Outcome::kRefused;
        change.why = why;
    }
}

void Reloader::finish(Result<std::string> answer) {
    const Request done = std::move(requests_.front());
    requests_.pop_front();
    if (!answer) {
        daemon_.reporter.event("", ReportLevel::kError,
                               fmt::format("{}: not reloaded: {}", done.by, answer.error().text()));
    } else if (changes_.empty()) {
        daemon_.reporter.event("", ReportLevel::kInfo,
                               fmt::format("{}: reloaded; nothing has changed", done.by));
    }
    for (const config::Change& change : changes_) {
        const ReportLevel level = change.outcome == config::Outcome::kRefused
                                      ? ReportLevel::kWarning
                                      : ReportLevel::kInfo;
        JobRunner* const job = job_of(change.job);
        if (job != nullptr) {
            job->note(level, fmt::format("{}: {}", done.by, change.text_of_job()));
        } else {
            daemon_.reporter.event("", level, fmt::format("{}: {}", done.by, change.text()));
        }
    }
    daemon_.changed();
    daemon_.service_manager.reloaded();
    done.answer(std::move(answer));
    if (!requests_.empty()) begin_next();
}

// ---- jobs that go ----

void Reloader::job_concluded() {
    for (JobRunner* const job : leaving_) {
        if (!job->is_concluded() || std::ranges::find(settling_, job) != settling_.end()) continue;
        settling_.push_back(job);
        // Through the loop: this may be called from deep within the job.
        daemon_.loop.post([this, job] {
            job->settle([this, job] {
                std::erase(settling_, job);
                std::erase(leaving_, job);
                std::erase_if(daemon_.jobs, [job](const auto& one) { return one.get() == job; });
                daemon_.changed();
            });
        });
    }
}

bool Reloader::is_leaving(const JobRunner& job) const {
    return std::ranges::find(leaving_, &job) != leaving_.end();
}

void Reloader::stop() {
    is_stopping_ = true;
    for (const Request& request : std::exchange(requests_, {}))
        request.answer(make_error(ErrorKind::kBusy, "pawld is stopping: nothing is reloaded"));
}

JobRunner* Reloader::job_of(const std::string& name) const {
    const auto found =
        std::ranges::find_if(daemon_.jobs, [&](const auto& job) { return job->name() == name; });
    return found == daemon_.jobs.end() ? nullptr : found->get();
}

std::vector<config::JobConfig> Reloader::leaving_configs() const {
    std::vector<config::JobConfig> configs;
    for (const JobRunner* const job : leaving_)
        configs.push_back(job->config());
    return configs;
}

}  // namespace pawl::daemon
