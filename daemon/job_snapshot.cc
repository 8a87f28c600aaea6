// JobRunner: snapshots on their way to the disk, progress on its way to the journal. What a rank
// says is checked here, before anything is done with it. Sessions: job_session.cc.
#include "base/invariant.h"
#include "daemon/job.h"

#include <algorithm>
#include <cmath>

#ifndef PAWL_VERSION
#define PAWL_VERSION "unknown"
#endif

namespace pawl::daemon {
namespace {

constexpr nanoseconds kJournalPeriod = seconds{1};

}  // namespace

// ---- snapshots ----

checkpoint::Position JobRunner::position() {
    checkpoint::Position position;
    position.all_between_steps = true;
    for (const RankHolder& rank : launch_->ranks) {
        position.furthest_step = std::max(position.furthest_step, rank.last.step);
        position.furthest_epoch = std::max(position.furthest_epoch, rank.last.epoch);
        position.ranks.push_back({.step = rank.last.step,
                                  .epoch = rank.last.epoch,
                                  .phase = rank.last.phase,
                                  .heard = rank.heard});
    }
    for (const RankHolder& rank : launch_->ranks) {
        const bool is_between = rank.has_reported &&
                                rank.last.phase == staging::Phase::kEvaluation &&
                                rank.last.step == position.furthest_step;
        position.all_between_steps = position.all_between_steps && is_between;
    }
    return position;
}

void JobRunner::snapshot_sealed(RankHolder& rank, const staging::SnapshotSealed& message) {
    const bool is_known =
        message.slot < rank.slots.size() && rank.slots.at(message.slot).is_the_ranks() &&
        message.bytes > 0 &&
        message.bytes <= rank.slots.at(message.slot).arena->mapping.bytes().size();
    if (!is_known || !launch_->coordinator) {
        return break_off(rank,
                         fmt::format("it sealed {} bytes in slot {}, which is not its own or has "
                                     "no arena of that size",
                                     message.bytes, message.slot));
    }
    rank.slots.at(message.slot).is_sealed = true;
    note_stall(rank.last);
    make_arena_ahead(rank, message.bytes);
    const checkpoint::Sealed sealed{.rank = rank.rank,
                                    .slot = message.slot,
                                    .step = message.step,
                                    .epoch = message.epoch,
                                    .bytes = message.bytes};
    carry_out(launch_->coordinator->sealed(message.request, sealed, message.metrics,
                                           services_.clock.monotonic_now()));
}

void JobRunner::carry_out(const checkpoint::CoordinatorActions& actions) {
    for (const checkpoint::CoordinatorAction& action : actions) {
        if (const auto* control = std::get_if<checkpoint::SetControl>(&action)) {
            launch_->asked.try_emplace(control->control.request, services_.clock.wall_now());
            for (const RankHolder& rank : launch_->ranks)
                rank.write_control(control->control);
            // Ranks that wait in `finish` look at nothing but messages.
            if (control->control.should_stop) broadcast(staging::TakeSnapshot{.request = 0});
        } else if (const auto* release = std::get_if<checkpoint::ReleaseSlot>(&action)) {
            RankHolder& rank = launch_->ranks.at(release->rank.value);
            rank.slots.at(release->slot).is_sealed = false;
            if (rank.session)
                server_->send(*rank.session, staging::SlotReleased{.slot = release->slot}, {});
        } else if (const auto* work = std::get_if<checkpoint::Persist>(&action)) {
            persist(*work);
        } else if (const auto* wake_finishing = std::get_if<checkpoint::WakeFinishing>(&action)) {
            broadcast(staging::TakeSnapshot{.request = wake_finishing->request});
        } else if (const auto* failed = std::get_if<checkpoint::AttemptFailed>(&action)) {
            ++attempts_failed_;
            const std::string now_what =
                failed->retry_in ? fmt::format("It is kept in memory; next try in {}",
                                               format_duration(*failed->retry_in))
                : launch_->all_attached
                    ? std::string("Training goes on; the next is made as planned")
                    : std::string("The newest durable checkpoint stands");
            const std::string text =
                fmt::format("no checkpoint was made: {}. {}", failed->why, now_what);
            const auto said =
                failed->retry_in ? std::optional{text}
                                 : attempt_complaints_.about(text, services_.clock.monotonic_now());
            if (said) report(ReportLevel::kWarning, "checkpoint_failed", *said);
            if (!failed->retry_in) {
                broadcast(staging::SnapshotFailed{.request = failed->request, .why = failed->why});
            }
        } else if (const auto* waiting = std::get_if<checkpoint::StillWaiting>(&action)) {
            report(ReportLevel::kWarning, "checkpoint_waits", waiting->text);
        } else if (const auto* stuck = std::get_if<checkpoint::Stuck>(&action)) {
            useless(stuck->why);
        } else if (const auto* settled = std::get_if<checkpoint::UrgentSettled>(&action)) {
            if (settled->reason == checkpoint::Reason::kSigterm) {
                happened(supervisor::DrainSettled{
                    .incarnation = launch_->number,
                    .is_durable = settled->is_durable,
                    .text = settled->is_durable
                                ? "that state is safe: asking the ranks to leave"
                                : settled->text + "; the newest durable checkpoint stands"});
            }
            if (settled->reason == checkpoint::Reason::kFinal && settled->is_durable &&
                newest_checkpoint_) {
                broadcast(staging::SnapshotDurable{.sequence = newest_checkpoint_->sequence,
                                                   .step = newest_checkpoint_->step,
                                                   .epoch = newest_checkpoint_->epoch});
            }
        }
    }
}

void JobRunner::persist(const checkpoint::Persist& work) {
    struct Held {
        std::shared_ptr<Arena> arena;
        std::uint64_t bytes = 0;
        Rank rank;
    };
    std::vector<Held> held;
    for (const checkpoint::Sealed& sealed : work.sealed) {
        held.push_back({.arena = launch_->ranks.at(sealed.rank.value).slots.at(sealed.slot).arena,
                        .bytes = sealed.bytes,
                        .rank = sealed.rank});
    }
    checkpoint::Manifest manifest{.step = work.sealed.front().step,
                                  .epoch = work.sealed.front().epoch,
                                  .world_size = config_.ranks,
                                  .incarnation = launch_->number,
                                  .reason = work.reason,
                                  .metrics = work.metrics,
                                  .pawl_version = PAWL_VERSION,
                                  .framework = launch_->ranks.front().framework};
    if (launch_->verdict->chosen) manifest.parent = launch_->verdict->chosen->sequence;
    JournalLedger::Origin origin{.request = work.request,
                                 .snapshotted = services_.clock.wall_now()};
    if (const auto asked = launch_->asked.find(work.request); asked != launch_->asked.end())
        origin.asked = asked->second;
    // Requests are served in their order.
    launch_->asked.erase(launch_->asked.begin(), launch_->asked.lower_bound(work.request));
    checkpoint_worker_.post([this, number = launch_->number, work, manifest, held, origin,
                             retention = retention_of(config_.checkpoint)] {
        ledger_.beginning(origin);
        std::vector<checkpoint::RankImage> images;
        images.reserve(held.size());
        for (const Held& one : held) {
            images.push_back(
                {.rank = one.rank, .bytes = one.arena->mapping.bytes().first(one.bytes)});
        }
        auto result = store_.commit(manifest, images, retention);
        services_.loop.post([this, number, work, result] { persisted(number, work, result); });
    });
}

void JobRunner::persisted(Incarnation number, const checkpoint::Persist& work,
                          const Result<checkpoint::Committed>& result) {
    std::string text;
    if (result) {
        const checkpoint::Manifest& manifest = result->manifest;
        ++checkpoints_committed_;
        newest_checkpoint_ = checkpoint_status(manifest, result->path, "when written");
        text = fmt::format("checkpoint {} of step {} is durable ({}, {}, {})", manifest.sequence,
                           manifest.step, to_string(manifest.reason),
                           format_bytes(manifest.total_bytes()), format_duration(result->duration));
        report(ReportLevel::kInfo, "checkpoint_committed", text);
        for (const std::string& warning : result->warnings)
            report(ReportLevel::kWarning, "checkpoint", warning);
        note_cost(result->duration);
    } else {
        text = result.error().text();
    }
    // An incarnation that has ended since wants no answer, but its checkpoint counts.
    if (!launch_ || launch_->number != number || launch_->is_over || !launch_->coordinator) {
        if (!result) report(ReportLevel::kWarning, "checkpoint_failed", text);
        return;
    }
    if (result) {
        broadcast(staging::SnapshotDurable{.sequence = result->manifest.sequence,
                                           .step = result->manifest.step,
                                           .epoch = result->manifest.epoch});
    }
    carry_out(launch_->coordinator->persisted(work, result.has_value(), text,
                                              services_.clock.monotonic_now()));
}

// ---- progress ----

void JobRunner::epoch_ended(const RankHolder& rank, const staging::EpochEnded& message) {
    if (rank.rank != Rank{0}) return;
    journal::ProgressRecord record{.incarnation = launch_->number,
                                   .step = message.step,
                                   .epoch = message.epoch,
                                   .loss = message.loss,
                                   .time = services_.clock.wall_now(),
                                   .is_epoch_end = true,
                                   .metrics = message.metrics};
    write_journal([record](journal::Journal& journal, const std::string& job) {
        return journal.append_progress(job, {record});
    });
}

// The rank waits for the answer, so there is one whatever happens.
void JobRunner::checkpoint_wanted(const RankHolder& rank) {
    staging::CheckpointAnswer answer;
    if (!launch_->coordinator || !launch_->all_attached || launch_->is_killing) {
        answer.why_not = "not all ranks of the job are attached";
    } else {
        const auto actions = launch_->coordinator->request_now(
            checkpoint::Reason::kRequest, position(), services_.clock.monotonic_now(),
            checkpoint::Coordinator::IfDurable::kSaveAgain);
        for (const checkpoint::CoordinatorAction& action : actions) {
            const auto* settled = std::get_if<checkpoint::UrgentSettled>(&action);
            if (settled != nullptr && settled->reason == checkpoint::Reason::kRequest)
                answer.why_not = settled->text;
        }
        carry_out(actions);
    }
    if (rank.session) server_->send(*rank.session, answer, {});
}

void JobRunner::tick() {
    if (!launch_) return;
    const MonotonicTime now = services_.clock.monotonic_now();
    watch_sessions(now);
    const checkpoint::Position where = position();
    bool has_reported = false;
    for (const RankHolder& rank : launch_->ranks) {
        has_reported = has_reported || rank.has_reported;
        if (rank.rank == Rank{0} && rank.has_reported) shown_loss_ = rank.last.loss;
    }
    if (has_reported) {
        shown_step_ = where.furthest_step;
        shown_epoch_ = where.furthest_epoch;
        happened(
            supervisor::ProgressSeen{.incarnation = launch_->number, .step = where.furthest_step});
    }
    advance();
    if (now - rate_time_ >= seconds{2}) {
        const double passed = std::chrono::duration<double>(now - rate_time_).count();
        const auto steps =
            static_cast<double>(shown_step_.value) - static_cast<double>(rate_step_.value);
        steps_per_second_ = std::max(steps, 0.0) / passed;
        rate_step_ = shown_step_;
        rate_time_ = now;
    }
    if (now - journalled_time_ >= kJournalPeriod) journal_progress();
    services_.reporter.progress(status());
    services_.changed();
}

// Called by the tick and, for limits that end between two of them, by a timer.
void JobRunner::advance() {
    if (!launch_ || !launch_->coordinator || !launch_->all_attached || launch_->is_killing) return;
    const MonotonicTime now = services_.clock.monotonic_now();
    carry_out(launch_->coordinator->moved(position(), now));
    if (const auto wake = launch_->coordinator->wake_at())
        advance_timer_.start(std::max(nanoseconds::zero(), *wake - now));
}

// One record a second is one batch: what is lost by a kill is at most that second's history.
void JobRunner::journal_progress() {
    journalled_time_ = services_.clock.monotonic_now();
    if (shown_step_ == journalled_step_) return;
    journalled_step_ = shown_step_;
    journal::ProgressRecord record{.incarnation = launch_->number,
                                   .step = shown_step_,
                                   .epoch = shown_epoch_,
                                   .loss = shown_loss_,
                                   .time = services_.clock.wall_now()};
    write_journal([record](journal::Journal& journal, const std::string& job) {
        return journal.append_progress(job, {record});
    });
}

}  // namespace pawl::daemon
