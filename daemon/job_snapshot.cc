// JobRunner: the trainer protocol's sessions, snapshots on their way to the disk, progress on its
// way to the journal. What a rank says is checked here, before anything is done with it.
#include "base/invariant.h"
#include "daemon/job.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>

#ifndef PAWL_VERSION
#define PAWL_VERSION "unknown"
#endif

namespace pawl::daemon {
namespace {

constexpr nanoseconds kJournalPeriod = seconds{1};

// What the machine could still give without swapping or killing; nullopt if it does not say.
std::optional<std::uint64_t> available_memory() {
    const UniqueFd fd(::open("/proc/meminfo", O_RDONLY | O_CLOEXEC));
    if (!fd.is_open()) return std::nullopt;
    std::array<char, 4096> buffer{};
    if (::read(fd.get(), buffer.data(), buffer.size() - 1) <= 0) return std::nullopt;
    const char* found = std::strstr(buffer.data(), "MemAvailable:");
    if (found == nullptr) return std::nullopt;
    return std::strtoull(found + std::strlen("MemAvailable:"), nullptr, 10) * 1024;
}

Result<std::shared_ptr<Arena>> make_arena(const std::string& name, std::uint64_t bytes) {
    const auto available = available_memory();
    if (available && bytes > *available) {
        return make_error(ErrorKind::kNoSpace,
                          "an arena of {} bytes does not fit in the {} bytes of memory left", bytes,
                          *available);
    }
    auto memory = staging::make_sealed_memory(name, bytes);
    if (!memory) return memory.error();
    auto mapping = staging::Mapping::of(memory->get(), 0, bytes, staging::Access::kReadWrite);
    if (!mapping) return mapping.error();
    auto arena = std::make_shared<Arena>();
    arena->memory = std::move(*memory);
    arena->mapping = std::move(*mapping);
    return arena;
}

}  // namespace

// ---- sessions ----

RankHolder* JobRunner::rank_of(staging::SessionId session) {
    if (!launch_) return nullptr;
    const auto found = std::ranges::find_if(
        launch_->ranks, [&](const RankHolder& rank) { return rank.session == session; });
    return found == launch_->ranks.end() ? nullptr : &*found;
}

void JobRunner::received(staging::SessionId session, const staging::RankMessage& message) {
    if (const auto* hello = std::get_if<staging::Hello>(&message)) return greeted(session, *hello);
    RankHolder* const rank = rank_of(session);
    if (rank == nullptr)
        return server_->close(session);  // spoke before its hello, or is of an old incarnation
    rank->read_progress();
    const MonotonicTime now = services_.clock.monotonic_now();
    if (const auto* arena = std::get_if<staging::ArenaRequest>(&message))
        return arena_requested(*rank, *arena);
    if (const auto* sealed = std::get_if<staging::SnapshotSealed>(&message))
        return snapshot_sealed(*rank, *sealed);
    if (const auto* ended = std::get_if<staging::EpochEnded>(&message))
        return epoch_ended(*rank, *ended);
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

void JobRunner::greeted(staging::SessionId session, const staging::Hello& hello) {
    const auto refuse = [&](const std::string& why) {
        report(ReportLevel::kWarning, "rank_refused",
               fmt::format("rank {} was refused: {}", hello.rank, why));
        server_->send(session, staging::Refused{.why = why}, {});
        server_->close(session);
        lost(session, "it said hello twice");  // nothing, unless it was attached
    };
    if (hello.protocol != staging::kProtocolVersion) {
        return refuse(fmt::format(
            "it speaks protocol {}, this pawld {}: install the same version on both sides",
            hello.protocol, staging::kProtocolVersion));
    }
    if (!launch_ || launch_->is_over || launch_->is_killing ||
        hello.incarnation != launch_->number) {
        return refuse(fmt::format("incarnation {} is not running", hello.incarnation));
    }
    if (hello.rank.value >= launch_->ranks.size()) {
        return refuse(fmt::format("the job has ranks 0 to {}", launch_->ranks.size() - 1));
    }
    RankHolder& rank = launch_->ranks[hello.rank.value];
    if (rank.session) return refuse("this rank is attached already");
    if (rank.has_verdict)
        return refuse("this rank was attached before; an incarnation attaches once");
    if (const auto made = rank.make_pages(config_.name); !made) return refuse(made.error().text());
    rank.session = session;
    rank.framework = hello.framework;
    server_->send(session, staging::Welcome{.job = config_.name}, {rank.pages.get()});
    send_verdict(rank);
}

void JobRunner::send_verdict(RankHolder& rank) {
    if (!rank.session || rank.has_verdict || !launch_->verdict || launch_->is_killing) return;
    const auto& verdict = *launch_->verdict;
    staging::Resume resume;
    UniqueFd file;
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
    launch_->all_attached = std::ranges::all_of(launch_->ranks, &RankHolder::has_verdict);
    if (launch_->all_attached)
        carry_out(launch_->coordinator->begin(services_.clock.monotonic_now()));
}

void JobRunner::lost(staging::SessionId session, const std::string& why) {
    RankHolder* const rank = rank_of(session);
    if (rank == nullptr) return;
    rank->read_progress();
    rank->session.reset();
    if (launch_->is_killing || launch_->is_over) return;
    launch_->all_attached = false;
    // A rank that ends hangs up first: its exit, which follows, says more than this would.
    if (why != staging::kHungUp) {
        report(ReportLevel::kWarning, "rank_lost",
               fmt::format("rank {} is no longer attached: {}", rank->rank, why));
    }
    if (launch_->coordinator) {
        const std::string text = fmt::format("its connection is gone ({})", why);
        carry_out(launch_->coordinator->lost(rank->rank, text, services_.clock.monotonic_now()));
    }
}

void JobRunner::broadcast(const staging::DaemonMessage& message) {
    if (!launch_) return;
    for (const RankHolder& rank : launch_->ranks) {
        if (rank.session) server_->send(*rank.session, message, {});
    }
}

// ---- arenas ----

void JobRunner::arena_requested(RankHolder& rank, const staging::ArenaRequest& request) {
    const auto refuse = [&](const std::string& why) {
        server_->send(*rank.session, staging::ArenaRefused{.slot = request.slot, .why = why}, {});
    };
    if (request.slot >= rank.slots.size()) return refuse("there is no such slot");
    if (rank.slots.at(request.slot).is_sealed) return refuse("the slot is being made durable");
    if (request.bytes == 0) return refuse("an arena of no bytes");
    // Given up before the larger one is made: the rank has unmapped it, so memory is not held
    // twice.
    rank.slots.at(request.slot).arena.reset();
    const std::string name =
        fmt::format("pawl-arena-{}-{}-{}", config_.name, rank.rank, request.slot);
    arena_worker_.post([this, number = launch_->number, id = rank.rank, request, name] {
        auto arena = make_arena(name, request.bytes);
        services_.loop.post([this, number, id, request, arena] {
            if (!launch_ || launch_->number != number || launch_->is_over) return;
            RankHolder& holder = launch_->ranks.at(id.value);
            if (!holder.session) return;
            if (!arena) {
                report(ReportLevel::kError, "no_memory", arena.error().text());
                server_->send(
                    *holder.session,
                    staging::ArenaRefused{.slot = request.slot, .why = arena.error().text()}, {});
                return;
            }
            holder.slots.at(request.slot).arena = *arena;
            server_->send(*holder.session,
                          staging::ArenaGranted{.slot = request.slot, .bytes = request.bytes},
                          {(*arena)->memory.get()});
        });
    });
}

// ---- snapshots ----

checkpoint::Position JobRunner::position() {
    checkpoint::Position position;
    position.all_between_steps = true;
    for (RankHolder& rank : launch_->ranks) {
        rank.read_progress();
        position.furthest_step = std::max(position.furthest_step, rank.last.step);
        position.furthest_epoch = std::max(position.furthest_epoch, rank.last.epoch);
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
        message.slot < rank.slots.size() && rank.slots.at(message.slot).arena != nullptr &&
        !rank.slots.at(message.slot).is_sealed && message.bytes > 0 &&
        message.bytes <= rank.slots.at(message.slot).arena->mapping.bytes().size();
    if (!is_known || !launch_->coordinator) {
        const auto session = *rank.session;
        report(ReportLevel::kError, "rank_refused",
               fmt::format("rank {} sealed a snapshot in slot {} that it does not own; its "
                           "connection is closed",
                           rank.rank, message.slot));
        server_->close(session);
        return lost(session, "it broke the protocol");
    }
    rank.slots.at(message.slot).is_sealed = true;
    note_stall(rank.last);
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
                                 : std::string("Training goes on; the next is made as planned");
            report(ReportLevel::kWarning, "checkpoint_failed",
                   fmt::format("no checkpoint was made: {}. {}", failed->why, now_what));
            if (!failed->retry_in) {
                broadcast(staging::SnapshotFailed{.request = failed->request, .why = failed->why});
            }
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
    write_journal(
        [this, record] { return services_.journal.append_progress(config_.name, {record}); });
}

void JobRunner::tick() {
    if (!launch_) return;
    const MonotonicTime now = services_.clock.monotonic_now();
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
    if (launch_->coordinator && launch_->all_attached && !launch_->is_killing) {
        carry_out(launch_->coordinator->moved(where, now));
    }
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
    write_journal(
        [this, record] { return services_.journal.append_progress(config_.name, {record}); });
}

}  // namespace pawl::daemon
