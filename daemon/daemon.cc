// See daemon.h.
#include "daemon/daemon.h"

#include "base/file_lock.h"
#include "base/file_system.h"
#include "base/loop.h"
#include "base/signals_blocked.h"
#include "base/worker.h"
#include "control/server.h"
#include "control/status.h"
#include "daemon/history.h"
#include "daemon/job.h"
#include "daemon/journal_queue.h"
#include "daemon/reload.h"
#include "daemon/service_manager.h"
#include "journal/journal.h"
#include "supervisor/process.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#ifndef PAWL_VERSION
#define PAWL_VERSION "unknown"
#endif

extern char** environ;  // NOLINT: POSIX's

namespace pawl::daemon {
namespace {

std::vector<std::string> own_environment() {
    std::vector<std::string> variables;
    for (char** variable = environ; *variable != nullptr; ++variable)
        variables.emplace_back(*variable);
    return variables;
}

class Daemon {
public:
    Daemon(DaemonOptions options, Reporter& reporter)
        : options_(std::move(options)),
          reporter_(reporter),
          fs_(make_posix_file_system()),
          processes_(supervisor::make_process_runner()),
          started_(clock_.wall_now()),
          service_manager_(loop_, [this] { return describe(); }) {}

    Result<int> run();

private:
    [[nodiscard]] Result<void> open();
    [[nodiscard]] Result<void> open_journal();
    void tell_what_was_lost();
    void journal_changed(const journal::Health& health);
    void catch_signals();
    void stop(const std::string& by);
    void job_concluded();
    void publish_status();
    [[nodiscard]] control::JournalStatus journal_status() const;
    [[nodiscard]] std::string status_json();
    [[nodiscard]] std::string describe() const;
    [[nodiscard]] Result<void> command(const std::string& job, const std::string& verb);
    [[nodiscard]] Result<void> rollback(const std::string& job, const std::string& target);
    [[nodiscard]] Result<JobRunner*> job_named(const std::string& name);
    [[nodiscard]] Result<void> command_on_loop(const std::string& job, const std::string& verb);
    [[nodiscard]] Result<std::string> reload();
    [[nodiscard]] std::unique_ptr<JobRunner> make_job(const config::JobConfig& job);
    [[nodiscard]] int exit_code() const;

    DaemonOptions options_;
    Reporter& reporter_;
    SystemClock clock_;
    std::unique_ptr<FileSystem> fs_;
    std::unique_ptr<supervisor::ProcessRunner> processes_;
    WallTime started_;
    std::optional<FileLock> lock_;
    journal::OpenReport journal_opened_;
    std::unique_ptr<journal::Journal> journal_;

    Loop loop_;
    ServiceManager service_manager_;
    std::vector<std::unique_ptr<SignalWatcher>> signals_;
    bool is_stopping_ = false;

    std::mutex status_mutex_;  // guards status_, which control threads read
    control::DaemonStatus status_;

    // Destroyed in this order: control first (its threads post to the loop), then the reloader (it
    // holds jobs that are being opened), the journal worker (its tasks use the queue and the jobs),
    // the queue, the jobs.
    std::vector<std::unique_ptr<JobRunner>> jobs_;
    std::unique_ptr<JournalQueue> journal_queue_;
    std::unique_ptr<Worker> journal_worker_;
    std::unique_ptr<Reloader> reloader_;
    std::unique_ptr<control::Server> control_;
};

Result<void> Daemon::open_journal() {
    const std::string path = join_path(options_.config.state_directory, "journal");
    auto journal = journal::Journal::open(path, clock_, journal_opened_);
    if (journal) {
        journal_ = std::move(*journal);
    } else {
        // Of another daemon, or of a newer pawl: that is for a person to decide.
        const ErrorKind kind = journal.error().kind();
        if (kind == ErrorKind::kBusy || kind == ErrorKind::kUnsupported) return journal.error();
        reporter_.event(
            "", ReportLevel::kWarning,
            Error(journal.error())
                .consequence("Training goes on without history; it is tried again every "
                             "{}",
                             format_duration(journal::Journal::kReopenDelay))
                .text());
        journal_ = journal::Journal::open_later(path, clock_, journal.error());
    }
    journal_->on_health_change([this](const journal::Health& health) {
        loop_.post([this, health] { journal_changed(health); });
    });
    return {};
}

// In the log and, for each job, in the journal that was begun.
void Daemon::tell_what_was_lost() {
    std::string text;
    if (!journal_opened_.moved_aside_to.empty()) {
        text = fmt::format(
            "the journal was damaged ({}); it was moved to '{}' and a new one is rebuilt from the "
            "checkpoints' manifests: events, progress and incarnations of before are only in the "
            "old one{}",
            journal_opened_.damage, journal_opened_.moved_aside_to,
            journal_opened_.pruned.empty()
                ? ""
                : fmt::format("; of earlier damaged ones {} too many were removed",
                              journal_opened_.pruned.size()));
    } else if (!journal_opened_.repaired.empty()) {
        text = fmt::format(
            "the journal was damaged: {}; the rest is sound, and what the "
            "checkpoints' manifests hold is rebuilt",
            journal_opened_.repaired);
    }
    if (text.empty()) return;
    reporter_.event("", ReportLevel::kWarning, text);
    for (const auto& job : jobs_)
        job->note(ReportLevel::kWarning, "journal_damaged", text);
}

// Once when writes begin to fail, and once when they arrive again.
void Daemon::journal_changed(const journal::Health& health) {
    publish_status();
    if (health.is_failing) {
        reporter_.event("", ReportLevel::kWarning,
                        health.why +
                            ". Training goes on; its history is lost until the journal "
                            "takes writes again");
        return;
    }
    std::string text = fmt::format(
        "the journal takes writes again: since {} it had not ({}), and {} "
        "of its records {} lost",
        format_time(health.since.value_or(clock_.wall_now())), health.why, health.lost,
        health.lost == 1 ? "is" : "are");
    if (!health.moved_aside_to.empty())
        text += fmt::format("; it was damaged, and lies in '{}'", health.moved_aside_to);
    reporter_.event("", ReportLevel::kInfo, text);
    for (const auto& job : jobs_)
        job->note(ReportLevel::kWarning, "journal", text);
}

Result<void> Daemon::open() {
    const std::string& state = options_.config.state_directory;
    RETURN_IF_ERROR(create_directories(*fs_, state));
    auto lock = FileLock::take(join_path(state, "lock"));
    if (!lock) return Error(lock.error()).while_doing("use state directory '{}'", state);
    lock_ = std::move(*lock);
    RETURN_IF_ERROR(open_journal());
    RETURN_IF_ERROR(supervisor::become_subreaper());

    journal_worker_ = std::make_unique<Worker>("journal");
    journal_queue_ = std::make_unique<JournalQueue>(*journal_, *journal_worker_);
    for (const config::JobConfig& job : options_.config.jobs) {
        jobs_.push_back(make_job(job));
        auto opened = jobs_.back()->open();
        if (opened) opened = jobs_.back()->listen();
        if (!opened) return Error(opened.error()).while_doing("open job '{}'", job.name);
    }
    reloader_ = std::make_unique<Reloader>(
        Reloader::Daemon{.loop = loop_,
                         .clock = clock_,
                         .service_manager = service_manager_,
                         .reporter = reporter_,
                         .path = options_.config_path,
                         .config = options_.config,
                         .jobs = jobs_,
                         .make_job = [this](const config::JobConfig& job) { return make_job(job); },
                         .set_log_level = options_.set_log_level,
                         .changed = [this] { publish_status(); }});
    tell_what_was_lost();
    publish_status();
    auto control = control::Server::start(
        options_.config.control.socket,
        {.status_json = [this] { return status_json(); },
         .command = [this](const std::string& job,
                           const std::string& verb) { return command(job, verb); },
         .reload = [this] { return reload(); },
         .history =
             [this](const control::HistoryRequest& request) {
                 return answer_history(*journal_, request, clock_.wall_now());
             }});
    if (!control) return control.error();
    control_ = std::move(*control);
    return {};
}

std::unique_ptr<JobRunner> Daemon::make_job(const config::JobConfig& job) {
    return std::make_unique<JobRunner>(
        job, JobServices{.loop = loop_,
                         .clock = clock_,
                         .fs = *fs_,
                         .processes = *processes_,
                         .journal = *journal_,
                         .journal_worker = *journal_worker_,
                         .history = *journal_queue_,
                         .reporter = reporter_,
                         .state_directory = options_.config.state_directory,
                         .environment = own_environment(),
                         .changed = [this] { publish_status(); },
                         .concluded = [this] { job_concluded(); }});
}

Result<int> Daemon::run() {
    // A write to a rank that hung up is an error code, not the end of the daemon.
    static_cast<void>(::signal(SIGPIPE, SIG_IGN));
    // A file or an arena beyond a limit (ulimit -f) is an error, EFBIG, and not our end.
    static_cast<void>(::signal(SIGXFSZ, SIG_IGN));
    {
        // One that comes while it starts waits until it is caught, and ends nothing that is half
        // open. The threads that are started here never take one: they are the loop's.
        const SignalsBlocked blocked({SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD});
        if (const auto opened = open(); !opened) return Error(opened.error()).while_doing("start");
        catch_signals();
    }
    for (const auto& job : jobs_)
        job->start();
    service_manager_.ready();
    loop_.run();
    service_manager_.stopping();
    return exit_code();
}

void Daemon::catch_signals() {
    for (const auto& [number, name] : {std::pair{SIGTERM, "SIGTERM"}, std::pair{SIGINT, "SIGINT"},
                                       std::pair{SIGQUIT, "SIGQUIT"}}) {
        signals_.push_back(std::make_unique<SignalWatcher>(
            loop_, number, [this, by = std::string(name)] { stop(by); }));
    }
    signals_.push_back(std::make_unique<SignalWatcher>(loop_, SIGHUP, [this] {
        // A terminal that is closed ends what was run in it; a service is told to reload.
        if (options_.lifetime == Lifetime::kUntilJobsEnd) return stop("SIGHUP");
        // What becomes of it is in the log: nobody waits for the answer.
        reloader_->request("SIGHUP", [](const Result<std::string>&) {});
    }));
    // Their default would end the daemon alone, and leave the ranks to nobody.
    for (const auto& [number, name] :
         {std::pair{SIGUSR1, "SIGUSR1"}, std::pair{SIGUSR2, "SIGUSR2"}}) {
        signals_.push_back(
            std::make_unique<SignalWatcher>(loop_, number, [this, by = std::string(name)] {
                for (const auto& job : jobs_) {
                    job->report(
                        ReportLevel::kWarning, "signal",
                        by + " means nothing to pawl: it goes on (SIGTERM asks it to stop)");
                }
            }));
    }
    signals_.push_back(std::make_unique<SignalWatcher>(loop_, SIGCHLD, [this] {
        // Ranks are watched by pidfd; this is for orphans that came to us.
        std::vector<pid_t> known;
        for (const auto& job : jobs_) {
            for (const control::RankStatus& rank : job->status().ranks)
                known.push_back(static_cast<pid_t>(rank.pid));
        }
        processes_->reap_orphans(known);
    }));
}

void Daemon::stop(const std::string& by) {
    const bool is_first = !std::exchange(is_stopping_, true);
    reloader_->stop();
    service_manager_.stopping();
    for (const auto& job : jobs_) {
        if (is_first && reloader_->is_leaving(*job)) continue;
        if (!job->is_concluded()) job->request_stop(by);
    }
    job_concluded();
}

void Daemon::job_concluded() {
    publish_status();
    reloader_->job_concluded();
    const bool all_ended =
        std::ranges::all_of(jobs_, [](const auto& job) { return job->is_concluded(); });
    const bool ends = is_stopping_ || options_.lifetime == Lifetime::kUntilJobsEnd;
    if (all_ended && ends) loop_.stop();
}

int Daemon::exit_code() const {
    if (options_.lifetime == Lifetime::kService) return 0;
    for (const auto& job : jobs_) {
        const auto outcome = job->outcome();
        if (outcome && outcome->exit_code != 0) return outcome->exit_code;
    }
    return 0;
}

// ---- status and commands ----

void Daemon::publish_status() {
    control::DaemonStatus status{.version = PAWL_VERSION,
                                 .pid = ::getpid(),
                                 .started = started_,
                                 .now = clock_.wall_now(),
                                 .state_directory = options_.config.state_directory,
                                 .journal = journal_status()};
    for (const auto& job : jobs_)
        status.jobs.push_back(job->status());
    const std::lock_guard guard(status_mutex_);
    status_ = std::move(status);
}

control::JournalStatus Daemon::journal_status() const {
    const journal::Health health = journal_->health();
    return {.is_failing = health.is_failing,
            .why = health.why,
            .lost = health.lost,
            .since = health.since};
}

// On a control thread.
std::string Daemon::status_json() {
    control::DaemonStatus status;
    {
        const std::lock_guard guard(status_mutex_);
        status = status_;
    }
    status.now = clock_.wall_now();
    status.journal = journal_status();
    return control::to_json(status);
}

std::string Daemon::describe() const {
    std::string text;
    if (jobs_.empty()) return "no jobs";
    for (const auto& job : jobs_) {
        const control::JobStatus status = job->status();
        text += fmt::format("{}{}: {} at step {}", text.empty() ? "" : "; ", status.name,
                            status.state, status.step);
        if (status.checkpoint) text += fmt::format(", durable to step {}", status.checkpoint->step);
    }
    return text;
}

// On a control thread: handed to the loop, and the answer waited for.
template <class T>
Result<T> answer_of_loop(Loop& loop, std::function<Result<T>()> question) {
    auto promise = std::make_shared<std::promise<Result<T>>>();
    auto answer = promise->get_future();
    loop.post([question = std::move(question), promise] { promise->set_value(question()); });
    constexpr auto kLimit = seconds{5};
    if (answer.wait_for(kLimit) != std::future_status::ready) {
        return make_error(ErrorKind::kTimeout, "the daemon did not answer within {} s",
                          kLimit.count());
    }
    return answer.get();
}

// On a control thread, as command(): but a file is read and jobs may be opened meanwhile.
Result<std::string> Daemon::reload() {
    auto promise = std::make_shared<std::promise<Result<std::string>>>();
    auto answer = promise->get_future();
    loop_.post([this, promise] {
        reloader_->request("pawl reload", [promise](Result<std::string> result) {
            promise->set_value(std::move(result));
        });
    });
    constexpr auto kLimit = seconds{8};
    if (answer.wait_for(kLimit) != std::future_status::ready) {
        return make_error(ErrorKind::kTimeout,
                          "the reload is not done after {} s; see pawld's log for its end",
                          kLimit.count());
    }
    return answer.get();
}

Result<void> Daemon::command(const std::string& job, const std::string& verb) {
    constexpr std::string_view kRollback = "rollback/";
    if (verb.starts_with(kRollback)) return rollback(job, verb.substr(kRollback.size()));
    return answer_of_loop<void>(loop_, [this, job, verb] { return command_on_loop(job, verb); });
}

// Taken by the loop; done by the job's worker, however long it verifies.
Result<void> Daemon::rollback(const std::string& job, const std::string& target) {
    using Answer = std::shared_ptr<std::future<Result<void>>>;
    const auto taken = answer_of_loop<Answer>(loop_, [this, job, target]() -> Result<Answer> {
        const auto found = job_named(job);
        if (!found) return found.error();
        auto answer = (*found)->request_rollback(target);
        if (!answer) return answer.error();
        return std::make_shared<std::future<Result<void>>>(std::move(*answer));
    });
    if (!taken) return taken.error();
    return (*taken)->get();
}

Result<JobRunner*> Daemon::job_named(const std::string& name) {
    const auto found =
        std::ranges::find_if(jobs_, [&](const auto& one) { return one->name() == name; });
    if (found == jobs_.end()) return make_error(ErrorKind::kNotFound, "there is no job '{}'", name);
    return found->get();
}

Result<void> Daemon::command_on_loop(const std::string& job, const std::string& verb) {
    const auto found = job_named(job);
    if (!found) return found.error();
    if ((*found)->is_concluded()) {
        return make_error(ErrorKind::kBusy, "job '{}' has ended: {}", job,
                          (*found)->outcome()->text);
    }
    if (verb == "checkpoint") return (*found)->request_checkpoint();
    (*found)->request_stop("pawl stop");
    return {};
}

}  // namespace

Result<int> run_daemon(const DaemonOptions& options, Reporter& reporter) {
    return Daemon(options, reporter).run();
}

}  // namespace pawl::daemon
