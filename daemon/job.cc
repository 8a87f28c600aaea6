// JobRunner: opening, the policy's actions, status. Ranks and snapshots: job_launch.cc,
// job_snapshot.cc.
#include "daemon/job.h"

#include "base/invariant.h"
#include "torchfile/text.h"

#include <stdlib.h>

#include <algorithm>
#include <cmath>

namespace pawl::daemon {
namespace {

std::string real_path(const std::string& path) {
    const std::unique_ptr<char, void (*)(void*)> resolved(::realpath(path.c_str(), nullptr),
                                                          ::free);
    return resolved ? resolved.get() : path;
}

journal::Severity severity_of(ReportLevel level) {
    switch (level) {
        case ReportLevel::kInfo:
            return journal::Severity::kInfo;
        case ReportLevel::kWarning:
            return journal::Severity::kWarning;
        case ReportLevel::kError:
            return journal::Severity::kError;
    }
    return journal::Severity::kError;
}

}  // namespace

JobRunner::JobRunner(config::JobConfig config, JobServices services)
    : config_(std::move(config)),
      services_(std::move(services)),
      policy_(policy_of(config_)),
      ledger_(services_.journal, services_.clock, config_.name, config_.checkpoint.directory),
      store_(services_.fs, services_.clock, ledger_, config_.checkpoint.directory, config_.name),
      wake_timer_(services_.loop, [this] { wake(); }),
      tick_timer_(services_.loop, [this] { tick(); }),
      advance_timer_(services_.loop, [this] { advance(); }),
      scrub_timer_(services_.loop, [this] { scrub(); }),
      suspect_timer_(services_.loop, [this] { look_at_suspects(); }),
      shown_loss_(std::nan("")),
      arena_worker_("arena"),
      checkpoint_worker_("checkpoint") {
}

JobRunner::~JobRunner() = default;

Result<void> JobRunner::open() {
    // Locked before it is swept: what another daemon is writing there is not ours to remove.
    const auto with_context = [this](const Error& error) {
        return Error(error).while_doing("use checkpoint directory '{}' for job '{}'",
                                        store_.directory(), config_.name);
    };
    if (auto made = create_directories(services_.fs, store_.directory()); !made)
        return with_context(made.error());
    auto lock = FileLock::take(join_path(store_.directory(), kLockName));
    if (!lock) return with_context(lock.error());
    directory_lock_ = std::move(*lock);
    RETURN_IF_ERROR(store_.open());
    if (store_.completed_rollback()) rolled_back(*store_.completed_rollback());
    RETURN_IF_ERROR(create_directories(services_.fs, config_.output_directory));
    const std::string sockets = join_path(services_.state_directory, "jobs");
    RETURN_IF_ERROR(create_directories(services_.fs, sockets));
    job_key_ = fmt::format("{}:{}", real_path(services_.state_directory), config_.name);
    socket_path_ = join_path(real_path(sockets), config_.name + ".sock");
    if (const auto read = read_history(); !read) {
        history_unread_ = Error(read.error())
                              .consequence(
                                  "The job goes on without its history: the checkpoint "
                                  "directory says what to resume from")
                              .text();
    }
    const auto last = last_incarnation_in(services_.fs, store_);
    if (last) job_.incarnation = std::max(job_.incarnation.value_or(*last), *last);
    return {};
}

// What is not in the directory: numbers that were given already, and what became of checkpoints.
Result<void> JobRunner::read_history() {
    const auto known = services_.journal.checkpoints(config_.name);
    if (!known) return known.error();
    for (const auto& record : *known)
        store_.set_sequence_floor(record.sequence);
    const auto last = services_.journal.last_incarnation(config_.name);
    if (!last) return last.error();
    job_.incarnation = *last;
    const auto added = reconcile(services_.journal, services_.fs, config_.name, store_);
    if (!added) return added.error();
    checkpoints_reconciled_ = *added;
    return {};
}

Result<void> JobRunner::listen() {
    auto server = staging::RankServer::listen(
        services_.loop, socket_path_,
        {.received = [this](staging::SessionId session,
                            const staging::RankMessage& message) { received(session, message); },
         .lost = [this](staging::SessionId session,
                        const std::string& why) { lost(session, why); }});
    if (!server)
        return Error(server.error()).while_doing("listen for the ranks of job '{}'", config_.name);
    server_ = std::move(*server);
    if (!history_unread_.empty()) report(ReportLevel::kWarning, "journal", history_unread_);
    if (checkpoints_reconciled_ > 0) {
        report(ReportLevel::kInfo, "journal_rebuilt",
               fmt::format("{} checkpoints of '{}' were not in the journal and are now",
                           checkpoints_reconciled_, store_.directory()));
    }
    return {};
}

// ---- the policy ----

void JobRunner::happened(const supervisor::Event& event) {
    auto [job, actions] = supervisor::next(job_, event, policy_, services_.clock.monotonic_now());
    job_ = std::move(job);
    for (const supervisor::Action& action : actions)
        act(action);
}

void JobRunner::act(const supervisor::Action& action) {
    if (const auto* start = std::get_if<supervisor::StartRanks>(&action)) {
        launch(start->incarnation);
    } else if (std::holds_alternative<supervisor::RequestDrainSnapshot>(action)) {
        if (launch_ && launch_->coordinator) {
            carry_out(launch_->coordinator->request_now(checkpoint::Reason::kSigterm, position(),
                                                        services_.clock.monotonic_now()));
        }
    } else if (std::holds_alternative<supervisor::AskRanksToStop>(action)) {
        if (launch_ && launch_->coordinator) carry_out(launch_->coordinator->ask_to_stop());
    } else if (const auto* signal = std::get_if<supervisor::SignalRanks>(&action)) {
        if (!launch_) return;
        for (const RankHolder& rank : launch_->ranks) {
            if (rank.is_running()) services_.processes.send_signal(*rank.process, signal->signal);
        }
    } else if (const auto* kill = std::get_if<supervisor::KillRanks>(&action)) {
        kill_everything(kill->incarnation);
    } else if (const auto* wake_at = std::get_if<supervisor::WakeAt>(&action)) {
        wake_timer_.start(wake_at->time - services_.clock.monotonic_now());
    } else if (const auto* to_report = std::get_if<supervisor::Report>(&action)) {
        report(to_report->level, to_report->kind, to_report->text);
    } else if (std::holds_alternative<supervisor::Conclude>(action)) {
        conclude();
    }
}

void JobRunner::wake() {
    happened(supervisor::WakeUp{});
}

void JobRunner::conclude() {
    wake_timer_.stop();
    tick_timer_.stop();
    if (!suspects_.empty()) look_at_suspects();  // nobody waits for them any more
    advance_timer_.stop();
    services_.concluded();
}

void JobRunner::report(ReportLevel level, const std::string& kind, const std::string& said) {
    // One line, whatever a path or a rank had to say: a log is read line by line.
    const std::string text = torchfile::escaped(said);
    last_event_ = text;
    services_.reporter.event(config_.name, level, text);
    services_.changed();
    note(level, kind, text);
}

void JobRunner::note(ReportLevel level, const std::string& kind, const std::string& text) {
    journal::EventRecord record{.time = services_.clock.wall_now(),
                                .severity = severity_of(level),
                                .kind = kind,
                                .text = text};
    write_journal([record](journal::Journal& journal, const std::string& job) mutable {
        return journal.append_event(job, record);
    });
}

void JobRunner::write_journal(std::function<JournalWrite> write) {
    services_.history.post([&journal = services_.journal, job = config_.name,
                            write = std::move(write)] { static_cast<void>(write(journal, job)); });
}

void JobRunner::start() {
    plan_first_scrub();
    check_history();
    stop_leftovers();
}

// Damaged records are passed over wherever they would occur; said once, at the start.
void JobRunner::check_history() {
    // Of a job that begins, and is there until its journal worker has done this.
    write_journal([this](journal::Journal& journal, const std::string& job) -> Result<void> {
        const auto unreadable = journal.count_unreadable(job);
        if (!unreadable || unreadable->count == 0) return {};
        services_.loop.post([this, found = *unreadable] {
            report(
                ReportLevel::kWarning, "journal",
                fmt::format("{} of this job's records in the journal can't be read and {} passed "
                            "over; the first: {}",
                            found.count, found.count == 1 ? "is" : "are", found.first));
        });
        return {};
    });
}

void JobRunner::request_stop(const std::string& by) {
    const bool has_clients =
        launch_ && launch_->all_attached && launch_->coordinator && !launch_->is_killing;
    happened(supervisor::StopRequested{.has_clients = has_clients, .by = by});
}

Result<void> JobRunner::request_checkpoint() {
    if (!launch_ || !launch_->coordinator || !launch_->all_attached || launch_->is_killing) {
        return make_error(
            ErrorKind::kBusy, "job '{}' can't be asked for a checkpoint now: it is {}{}",
            config_.name, supervisor::name_of(job_.state),
            launch_ && !launch_->all_attached ? " and not all its ranks are attached" : "");
    }
    carry_out(launch_->coordinator->request_now(checkpoint::Reason::kRequest, position(),
                                                services_.clock.monotonic_now()));
    return {};
}

// ---- status ----

control::CheckpointStatus checkpoint_status(const checkpoint::Manifest& manifest,
                                            const std::string& path, const std::string& verified) {
    return {.sequence = manifest.sequence,
            .step = manifest.step,
            .epoch = manifest.epoch,
            .reason = std::string(to_string(manifest.reason)),
            .bytes = manifest.total_bytes(),
            .time = manifest.time,
            .path = path,
            .verified = verified};
}

std::optional<supervisor::Stopped> JobRunner::outcome() const {
    const auto* stopped = std::get_if<supervisor::Stopped>(&job_.state);
    return stopped == nullptr ? std::nullopt : std::optional{*stopped};
}

std::size_t JobRunner::processes_running() const {
    std::size_t running = 0;
    if (launch_) {
        for (const RankHolder& rank : launch_->ranks)
            running += rank.is_running() ? 1 : 0;
    }
    return running;
}

control::JobStatus JobRunner::status() const {
    control::JobStatus status{.name = config_.name,
                              .state = std::string(supervisor::name_of(job_.state)),
                              .incarnation = job_.incarnation,
                              .restarts = launches_ > 0 ? launches_ - 1 : 0,
                              .world_size = config_.ranks,
                              .step = shown_step_,
                              .epoch = shown_epoch_,
                              .loss = shown_loss_,
                              .steps_per_second = processes_running() > 0 ? steps_per_second_ : 0,
                              .checkpoint = newest_checkpoint_,
                              .checkpoints_committed = checkpoints_committed_,
                              .attempts_started = attempts_started_,
                              .attempts_failed = attempts_failed_,
                              .scrubbed = scrubbed_,
                              .damaged_found = damaged_found_,
                              .checkpoint_directory = store_.directory(),
                              .last_event = last_event_};
    if (const auto stopped = outcome()) status.detail = stopped->text;
    if (!launch_) return status;
    if (launch_->coordinator) {
        status.attempts_started += launch_->coordinator->attempts_started();
        if (const auto attempt = launch_->coordinator->attempt(); attempt && !launch_->is_over) {
            status.attempt =
                control::AttemptStatus{.request = attempt->request,
                                       .reason = std::string(to_string(attempt->reason)),
                                       .step = attempt->target.at_step,
                                       .epoch = attempt->target.at_epoch,
                                       .missing = attempt->missing};
        }
    }
    if (launch_->verdict && launch_->verdict->chosen)
        status.resumed_from = launch_->verdict->chosen->sequence;
    for (const RankHolder& rank : launch_->ranks) {
        status.arena_bytes += rank.arena_bytes();
        status.ranks.push_back({.rank = rank.rank,
                                .pid = rank.is_running() ? rank.process->pid : 0,
                                .is_attached = rank.session.has_value(),
                                .phase = std::string(staging::name_of(rank.last.phase)),
                                .step = rank.last.step,
                                .snapshots_skipped = rank.last.snapshots_skipped,
                                .output = rank.output_path});
    }
    return status;
}

}  // namespace pawl::daemon
