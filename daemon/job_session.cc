// JobRunner: the trainer protocol's sessions. Who may speak as which rank, and what becomes of one
// that says what can't be.
//
// A stranger is hung up on, and that costs nobody anything. An attached rank that breaks the
// protocol, or reads no more, can take no part in a checkpoint any more: what the incarnation would
// still compute would be lost, so it is ended and restarted by the job's policy.
#include "base/invariant.h"
#include "daemon/job.h"
#include "supervisor/process.h"

#include <fcntl.h>

#include <algorithm>

namespace pawl::daemon {
namespace {

// A rank that ends hangs up first. One that does not end within this time runs on without pawl.
constexpr nanoseconds kExitFollows = seconds{5};

}  // namespace

RankHolder* JobRunner::rank_of(staging::SessionId session) {
    if (!launch_) return nullptr;
    const auto found = std::ranges::find_if(
        launch_->ranks, [&](const RankHolder& rank) { return rank.session == session; });
    return found == launch_->ranks.end() ? nullptr : &*found;
}

void JobRunner::received(staging::SessionId session, const staging::RankMessage& message) {
    if (const auto* hello = std::get_if<staging::Hello>(&message)) return greeted(session, *hello);
    RankHolder* const rank = rank_of(session);
    if (rank == nullptr) {
        complain(
            fmt::format("process {} spoke without being an attached rank of this incarnation; "
                        "it is hung up on",
                        server_->pid_of(session)));
        return server_->close(session);
    }
    const MonotonicTime now = services_.clock.monotonic_now();
    if (const auto read = rank->read_progress(now); !read)
        return break_off(*rank, read.error().message());
    if (const auto* arena = std::get_if<staging::ArenaRequest>(&message))
        return arena_requested(*rank, *arena);
    if (const auto* sealed = std::get_if<staging::SnapshotSealed>(&message))
        return snapshot_sealed(*rank, *sealed);
    if (const auto* ended = std::get_if<staging::EpochEnded>(&message))
        return epoch_ended(*rank, *ended);
    if (std::holds_alternative<staging::CheckpointWanted>(message)) return checkpoint_wanted(*rank);
    if (!launch_->coordinator) return;
    if (const auto* passed = std::get_if<staging::SnapshotPassed>(&message)) {
        carry_out(launch_->coordinator->passed(passed->request, rank->rank, passed->step, now));
    } else if (const auto* skipped = std::get_if<staging::SnapshotSkipped>(&message)) {
        carry_out(launch_->coordinator->skipped(skipped->request, rank->rank, skipped->why, now));
    } else if (const auto* finishing = std::get_if<staging::Finishing>(&message)) {
        carry_out(launch_->coordinator->finishing(
            rank->rank, {.step = finishing->step, .epoch = finishing->epoch}, now));
    }
}

// ---- attach ----

void JobRunner::greeted(staging::SessionId session, const staging::Hello& hello) {
    if (RankHolder* const rank = rank_of(session)) return break_off(*rank, "it said hello twice");
    std::string why = why_refused(session, hello);
    if (why.empty()) {
        if (const auto made = launch_->ranks[hello.rank.value].make_pages(config_.name); !made)
            why = made.error().text();
    }
    if (!why.empty()) {
        complain(fmt::format("rank {} (process {}) was refused: {}", hello.rank,
                             server_->pid_of(session), why));
        server_->send(session, staging::Refused{.why = why}, {});
        return server_->close(session);
    }
    RankHolder& rank = launch_->ranks[hello.rank.value];
    rank.session = session;
    rank.framework = hello.framework;
    rank.heard = services_.clock.monotonic_now();
    server_->admit(session);
    launch_->attendance.attached(rank.rank, rank.heard);
    server_->send(session, staging::Welcome{.job = config_.name}, {rank.pages.get()});
    send_verdict(rank);
}

// Empty if it may attach.
std::string JobRunner::why_refused(staging::SessionId session, const staging::Hello& hello) const {
    if (hello.protocol != staging::kProtocolVersion) {
        return fmt::format(
            "it speaks protocol {}, this pawld {}: install the same version on both sides",
            hello.protocol, staging::kProtocolVersion);
    }
    if (!launch_ || launch_->is_over || launch_->is_killing ||
        hello.incarnation != launch_->number) {
        return fmt::format("incarnation {} is not running", hello.incarnation);
    }
    if (is_adopting()) {
        return "this job keeps the files that its script saves itself (checkpoint.adopt), and a "
               "script that attaches needs none of that: leave out --adopt";
    }
    if (hello.world_size != launch_->ranks.size()) {
        return fmt::format(
            "it takes the world size for {}, the job has {} ranks: its WORLD_SIZE "
            "is not the one that pawl set. Ranks are pawl's to start, not another launcher's: "
            "'pawl run --ranks {} -- COMMAND'",
            hello.world_size, launch_->ranks.size(), hello.world_size);
    }
    if (hello.rank.value >= launch_->ranks.size())
        return fmt::format("the job has ranks 0 to {}", launch_->ranks.size() - 1);
    if (std::string why = why_foreign(server_->pid_of(session), hello.rank); !why.empty())
        return why;
    const RankHolder& rank = launch_->ranks[hello.rank.value];
    if (rank.session) {
        return "this rank is attached already. Processes that train together are ranks, which "
               "pawl starts: 'pawl run --ranks N -- COMMAND'";
    }
    if (rank.has_verdict) {
        return "this rank was attached before; an incarnation attaches once. What is trained after "
               "it is a job of its own, with a checkpoint directory of its own";
    }
    return "";
}

// Against mistakes, not against malice: whoever may connect has this user's rights anyway. Empty if
// the process is the rank's, or left its family but carries the job's key.
std::string JobRunner::why_foreign(pid_t pid, Rank rank) const {
    if (pid <= 0) return "";  // of another pid namespace: it can't be looked at
    const std::vector<pid_t> ancestors = supervisor::ancestors_of(pid);
    const auto owns = [&](const RankHolder& one) {
        return one.process && (one.process->pid == pid ||
                               std::ranges::find(ancestors, one.process->pid) != ancestors.end());
    };
    if (owns(launch_->ranks[rank.value])) return "";
    const auto other = std::ranges::find_if(launch_->ranks, owns);
    if (other != launch_->ranks.end())
        return fmt::format("process {} belongs to rank {}", pid, other->rank);
    if (supervisor::carries_key(pid, job_key_)) return "";
    return fmt::format(
        "process {} is none of this job's: no rank started it, and it does not carry "
        "the job's {}",
        pid, supervisor::kJobKeyVariable);
}

void JobRunner::send_verdict(RankHolder& rank) {
    if (!rank.session || rank.has_verdict || !launch_->verdict || launch_->is_killing) return;
    const auto& verdict = *launch_->verdict;
    staging::Resume resume;
    UniqueFd file;
    if (verdict.chosen && verdict.chosen->is_adopted()) {
        happened(supervisor::ResumeRefused{
            .incarnation = launch_->number,
            .exit_code = supervisor::kExitNoValidCheckpoint,
            .why =
                fmt::format("checkpoint '{}' holds what a script saved itself (checkpoint.adopt) "
                            "and no state of ranks that attach. Give the job another checkpoint "
                            "directory; its files are there to be loaded",
                            verdict.path)});
        return;
    }
    if (verdict.chosen) {
        resume = {.sequence = verdict.chosen->sequence,
                  .step = verdict.chosen->step,
                  .epoch = verdict.chosen->epoch,
                  .path = join_path(verdict.path, checkpoint::rank_file_name(rank.rank))};
        file.reset(::open(resume.path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
        if (!file.is_open()) {
            happened(supervisor::ResumeRefused{
                .incarnation = launch_->number,
                .exit_code = supervisor::kExitNoValidCheckpoint,
                .why = error_from_errno("open '{}'", resume.path).text()});
            return;
        }
    }
    rank.has_verdict = true;
    rank.last.step = resume.step;
    rank.last.epoch = resume.epoch;
    server_->send(*rank.session, resume,
                  file.is_open() ? std::vector<int>{file.get()} : std::vector<int>{});
    // A stop that came first was a SIGTERM, which a trainer leaves to its daemon: told again, here.
    if (is_draining()) carry_out(launch_->coordinator->ask_to_stop());
    launch_->all_attached = std::ranges::all_of(launch_->ranks, [](const RankHolder& one) {
        return one.has_verdict && one.session.has_value();
    });
    if (!launch_->all_attached) return;
    carry_out(launch_->coordinator->begin(services_.clock.monotonic_now()));
    services_.changed();  // once, and not with each of many ranks
}

// ---- the end of a session ----

void JobRunner::lost(staging::SessionId session, const std::string& why) {
    const bool has_hung_up = why == staging::kHungUp;
    RankHolder* const rank = rank_of(session);
    if (rank == nullptr) {
        if (!has_hung_up) {
            complain(fmt::format("process {}, which is no attached rank, was hung up on: {}",
                                 server_->pid_of(session), why));
        }
        return;
    }
    const MonotonicTime now = services_.clock.monotonic_now();
    // How far it came; what can't be is not taken.
    static_cast<void>(rank->read_progress(now));
    rank->session.reset();
    for (RankSlot& slot : rank->slots)
        slot.requested_bytes.reset();  // nobody waits for it
    if (launch_->is_killing || launch_->is_over) return;
    launch_->all_attached = false;
    const bool is_ended = !has_hung_up && rank->has_verdict &&
                          std::holds_alternative<supervisor::Running>(job_.state);
    if (!has_hung_up && !is_ended) {
        report(ReportLevel::kWarning, "rank_lost",
               fmt::format("rank {} is no longer attached: {}", rank->rank, why));
    }
    if (!rank->has_verdict) return launch_->attendance.left(rank->rank);  // it may come again
    const bool is_needed = !launch_->coordinator || !launch_->coordinator->has_ended(rank->rank);
    if (launch_->coordinator) {
        const std::string text = fmt::format("its connection is gone ({})", why);
        carry_out(launch_->coordinator->lost(rank->rank, text, now));
    }
    if (!is_needed) return;
    // A rank that ends hangs up first: its exit, which follows, says more than this would.
    if (has_hung_up) {
        rank->hung_up = now;
    } else {
        useless(fmt::format("rank {} is no longer attached ({})", rank->rank, why));
    }
}

void JobRunner::break_off(RankHolder& rank, const std::string& why) {
    invariant(rank.session.has_value(), "a rank that is broken off is attached");
    const staging::SessionId session = *rank.session;
    report(ReportLevel::kError, "rank_refused",
           fmt::format("rank {} (process {}) broke the protocol: {}. Its connection is closed",
                       rank.rank, server_->pid_of(session), why));
    server_->close(session);
    lost(session, "it broke the protocol");
}

void JobRunner::useless(const std::string& why) {
    if (!launch_ || launch_->is_killing || launch_->is_over) return;
    happened(supervisor::RanksUseless{
        .incarnation = launch_->number, .why = why, .jitter = draw_jitter()});
}

void JobRunner::complain(const std::string& text) {
    const auto said = complaints_.about(text, services_.clock.monotonic_now());
    if (said) report(ReportLevel::kWarning, "rank_refused", *said);
}

void JobRunner::broadcast(const staging::DaemonMessage& message) {
    if (!launch_) return;
    for (const RankHolder& rank : launch_->ranks) {
        if (rank.session) server_->send(*rank.session, message, {});
    }
}

// From time to time: what ranks say in their pages, who has not come, who has gone and runs on.
void JobRunner::watch_sessions(MonotonicTime now) {
    for (RankHolder& rank : launch_->ranks) {
        const auto read = rank.read_progress(now);
        if (!read && rank.session) break_off(rank, read.error().message());
        if (!rank.hung_up || now < *rank.hung_up + kExitFollows) continue;
        rank.hung_up.reset();
        if (!rank.is_running()) continue;
        report(
            ReportLevel::kWarning, "rank_lost",
            fmt::format("rank {} has let go of pawl and runs on: no checkpoint can be made until "
                        "all ranks are started again",
                        rank.rank));
    }
    if (const auto overdue = launch_->attendance.overdue(now)) useless(*overdue);
}

}  // namespace pawl::daemon
