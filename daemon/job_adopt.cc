// JobRunner: scripts that are not changed. The files that they save are watched and kept, and are
// in their place before the ranks start.
//
// Then, and where arguments depend on the verdict, ranks start after it and not beside it: choose,
// prepare, journal, spawn. When no process is left, the files are looked at once more before the
// job goes on or ends: a version that was saved just before the exit counts.
#include "checkpoint/name.h"
#include "config/arguments.h"
#include "daemon/job.h"

#ifndef PAWL_VERSION
#define PAWL_VERSION "unknown"
#endif

namespace pawl::daemon {

namespace {

constexpr int kExitDisk = 74;  // EX_IOERR

struct Chosen {
    Result<checkpoint::Choice> choice;
    adopt::Prepared prepared;
};

}  // namespace

// ---- before a start ----

bool JobRunner::waits_for_verdict() const {
    return is_adopting() || !config_.on_resume.empty() || !config_.on_fresh.empty();
}

adopt::Settings JobRunner::adopt_settings() const {
    return {.patterns = config_.checkpoint.adopt, .working_directory = config_.working_directory};
}

void JobRunner::choose_then_spawn(Incarnation number) {
    begin_adopting();
    const adopt::Settings settings = adopt_settings();
    const bool stops_where_none_is_left =
        config_.checkpoint.on_no_valid_checkpoint == config::OnNoValidCheckpoint::kStop;
    checkpoint_worker_.post([this, number, settings, context = adopt_context(),
                             stops_where_none_is_left] {
        auto chosen = std::make_shared<Chosen>(Chosen{.choice = store_.choose(), .prepared = {}});
        // What the verdict refuses is left as it is: nothing of it is removed, nothing put beside
        // it.
        const auto is_refused = [&](const checkpoint::Choice& choice) {
            return (stops_where_none_is_left && !choice.missing.empty()) ||
                   !adopt::why_foreign(settings, choice).empty();
        };
        if (chosen->choice && !is_refused(*chosen->choice)) {
            for (std::string& warning : store_.apply_retention(context.retention))
                chosen->choice->warnings.push_back(std::move(warning));
            if (!settings.patterns.empty())
                chosen->prepared = adoption_->adopter->prepare(settings, *chosen->choice, context);
        }
        services_.loop.post([this, number, chosen] {
            prepared(number, chosen->prepared);
            if (!chosen->prepared.impossible) verdict_reached(number, std::move(chosen->choice));
            journal_then_spawn(number);
        });
    });
}

void JobRunner::prepared(Incarnation number, const adopt::Prepared& prepared) {
    looked(prepared.looked);
    if (!launch_ || launch_->number != number || launch_->is_over) return;
    launch_->resume_path = prepared.resume_path;
    if (!prepared.impossible) return;
    happened(supervisor::ResumeRefused{
        .incarnation = number,
        .exit_code = kExitDisk,
        .why = fmt::format("{}. Not started: the script would begin again or find a torn file",
                           prepared.impossible->text())});
}

std::vector<std::string> JobRunner::command_of(Rank rank) const {
    std::vector<std::string> command = config_.command;
    if (!waits_for_verdict() || !launch_->verdict) return command;
    const checkpoint::Choice& verdict = *launch_->verdict;
    std::string path = launch_->resume_path;
    if (path.empty() && verdict.chosen) {
        path = join_path(verdict.path, verdict.chosen->is_adopted()
                                           ? verdict.chosen->files.front().name
                                           : checkpoint::rank_file_name(rank));
    }
    const std::vector<std::string> more =
        config::filled_in(path.empty() ? config_.on_fresh : config_.on_resume, path);
    command.insert(command.end(), more.begin(), more.end());
    return command;
}

// ---- while it runs ----

void JobRunner::begin_adopting() {
    if (!is_adopting()) return;
    if (!adoption_) {
        adoption_ = std::make_unique<Adoption>();
        if (auto watches = adopt::Watches::make()) {
            adoption_->watches = std::move(*watches);
            adoption_->watcher =
                std::make_unique<FdWatcher>(services_.loop, adoption_->watches.descriptor(),
                                            [this](int) { saved_files_may_have_changed(); });
            adoption_->watcher->watch(UV_READABLE);
        } else {
            report(
                ReportLevel::kError, "adopt",
                fmt::format("{}. What the script saves is kept when it has ended, and not before",
                            watches.error().text()));
        }
        adoption_->adopter =
            std::make_unique<adopt::Adopter>(services_.fs, store_, adoption_->watches);
    }
    adoption_->patterns.clear();
    for (const std::string& text : config_.checkpoint.adopt)
        adoption_->patterns.push_back(adopt::pattern_of(text, config_.working_directory));
}

adopt::Context JobRunner::adopt_context() const {
    adopt::Context context{.manifest = {.world_size = config_.ranks,
                                        .incarnation = launch_->number,
                                        .pawl_version = PAWL_VERSION},
                           .retention = retention_of(config_.checkpoint)};
    if (launch_->verdict && launch_->verdict->chosen)
        context.manifest.parent = launch_->verdict->chosen->sequence;
    return context;
}

void JobRunner::saved_files_may_have_changed() {
    if (!adoption_->watches.take(adoption_->patterns)) return;
    // Before the ranks are spawned it is our own doing, or of no interest yet.
    if (!launch_ || launch_->is_over || !launch_->is_spawned || !is_adopting()) return;
    look_at_saved_files();
}

// One look at a time; what comes meanwhile is one more look.
void JobRunner::look_at_saved_files() {
    if (adoption_->is_looking) {
        adoption_->looks_again = true;
        return;
    }
    adoption_->is_looking = true;
    adoption_->looks_again = false;
    checkpoint_worker_.post([this, context = adopt_context()] {
        const adopt::Looked result = adoption_->adopter->look(context);
        services_.loop.post([this, result] {
            adoption_->is_looking = false;
            looked(result);
            const bool goes_on = launch_ && !launch_->is_over && is_adopting();
            if (adoption_->looks_again && goes_on) look_at_saved_files();
        });
    });
}

void JobRunner::look_for_the_last_time(Incarnation number) {
    if (!adoption_ || !is_adopting() || !launch_->is_spawned)
        return happened(supervisor::RanksGone{.incarnation = number});
    const bool has_finished = std::ranges::all_of(launch_->ranks, [](const RankHolder& rank) {
        return rank.exit && rank.exit->cause == supervisor::ExitCause::kFinished;
    });
    const auto* const killing = std::get_if<supervisor::Killing>(&job_.state);
    const bool is_over =
        has_finished ||
        (killing != nullptr && std::holds_alternative<supervisor::Stopped>(killing->then));
    checkpoint_worker_.post([this, number, is_over, context = adopt_context()] {
        adopt::Looked result = adoption_->adopter->look(context);
        // One that was killed may not have come to its first save, and will.
        if (is_over) {
            for (adopt::Note& note : adoption_->adopter->never_found())
                result.notes.push_back(std::move(note));
        }
        services_.loop.post([this, number, result] {
            looked(result);
            happened(supervisor::RanksGone{.incarnation = number});
        });
    });
}

void JobRunner::looked(const adopt::Looked& looked) {
    for (const adopt::Note& note : looked.notes) {
        report(note.gravity == adopt::Gravity::kInfo ? ReportLevel::kInfo : ReportLevel::kWarning,
               "adopt", note.text);
    }
    for (const std::string& path : looked.final_paths) {
        const adopt::Pattern pattern = adopt::pattern_of(path, "/");
        auto& known = adoption_->patterns;
        if (std::ranges::find(known, pattern) == known.end()) known.push_back(pattern);
    }
    if (looked.failed) {
        ++attempts_failed_;
        const auto said = attempt_complaints_.about(
            fmt::format("no checkpoint was made: {}. Training goes on; what the script saves next "
                        "is tried again",
                        looked.failed->text()),
            services_.clock.monotonic_now());
        if (said) report(ReportLevel::kWarning, "checkpoint_failed", *said);
    }
    if (!looked.committed) return;
    const checkpoint::Committed& committed = *looked.committed;
    const checkpoint::Manifest& manifest = committed.manifest;
    ++checkpoints_committed_;
    newest_checkpoint_ = checkpoint_status(manifest, committed.path, "when written");
    std::vector<std::string> paths;
    for (const checkpoint::AdoptedFile& file : manifest.adopted)
        paths.push_back(file.path);
    report(
        ReportLevel::kInfo, "checkpoint_committed",
        fmt::format("checkpoint {} of step {} is durable ({}, {}, {}): {}", manifest.sequence,
                    manifest.step, to_string(manifest.reason), format_bytes(manifest.total_bytes()),
                    format_duration(committed.duration), fmt::join(paths, ", ")));
    for (const std::string& warning : committed.warnings)
        report(ReportLevel::kWarning, "checkpoint", warning);
    shown_step_ = manifest.step;
    shown_epoch_ = manifest.epoch;
    if (launch_ && launch_->is_spawned) {
        happened(
            supervisor::ProgressSeen{.incarnation = manifest.incarnation, .step = manifest.step});
    }
}

}  // namespace pawl::daemon
