// JobRunner: what an incarnation resumes from. Said, refused where going on would lose something,
// handed to the coordinator and to the ranks that wait for it.
#include "daemon/job.h"

namespace pawl::daemon {
namespace {

std::string ranks_in_words(std::uint64_t count) {
    return count == 1 ? std::string("1 rank") : fmt::format("{} ranks", count);
}

// Why there is nothing to resume from though there was; what to do about it.
struct NoneLeft {
    std::string what;
    std::string way_out;
};

std::optional<NoneLeft> none_left(const checkpoint::Choice& choice, const std::string& directory) {
    if (choice.chosen) return std::nullopt;
    if (!choice.missing.empty()) {
        const std::size_t count = choice.missing.size();
        const checkpoint::CheckpointName& newest = choice.missing.back();
        return NoneLeft{
            .what = fmt::format(
                "checkpoint directory '{}' is empty, and the journal knows {} in it, the newest "
                "{} of step {}",
                directory,
                count == 1 ? std::string("one checkpoint") : fmt::format("{} checkpoints", count),
                newest.sequence, newest.step),
            .way_out = "bring them back (is its volume mounted?)"};
    }
    if (!choice.some_existed) return std::nullopt;
    return NoneLeft{
        .what = fmt::format("no valid checkpoint is left in '{}' though there were some (they are "
                            "kept in its folder '{}')",
                            directory, checkpoint::kQuarantineName),
        .way_out = "repair one, or move that folder away"};
}

}  // namespace

void JobRunner::verdict_reached(Incarnation number, Result<checkpoint::Choice> choice) {
    if (!launch_ || launch_->number != number || launch_->is_over) return;
    learn_failures();
    if (choice) say_what_was_found(*choice);
    if (const auto why = choice ? why_refused(*choice) : choice.error().text()) {
        happened(supervisor::ResumeRefused{
            .incarnation = number, .exit_code = supervisor::kExitNoValidCheckpoint, .why = *why});
        return;
    }
    checkpoint::Position begin;
    if (choice->chosen) {
        begin = {.furthest_step = choice->chosen->step, .furthest_epoch = choice->chosen->epoch};
        newest_checkpoint_ = checkpoint_status(*choice->chosen, choice->path, "at start");
        report(ReportLevel::kInfo, "resuming",
               fmt::format("incarnation {} resumes from checkpoint {} (step {}), verified: {}",
                           number, choice->chosen->sequence, choice->chosen->step,
                           format_bytes(choice->bytes_verified)));
    }
    shown_step_ = begin.furthest_step;
    shown_epoch_ = begin.furthest_epoch;
    rate_step_ = begin.furthest_step;
    journalled_step_ = begin.furthest_step;
    const checkpoint::CoordinatorPolicy policy{
        .cadence = cadence(), .attempt_timeout = config_.checkpoint.attempt_timeout};
    launch_->coordinator = std::make_unique<checkpoint::Coordinator>(
        config_.ranks, policy, begin, choice->chosen.has_value(), services_.clock.monotonic_now());
    launch_->verdict = std::move(*choice);
    if (launch_->is_spawned) put_incarnation(journal::IncarnationState::kRunning);
    for (RankHolder& rank : launch_->ranks)
        send_verdict(rank);
    if (!launch_->is_killing) make_arenas_for_resume();
}

void JobRunner::say_what_was_found(const checkpoint::Choice& choice) {
    for (const checkpoint::Rejected& rejected : choice.rejected) {
        const std::string where = rejected.moved_to.empty()
                                      ? std::string("could not be moved away")
                                      : fmt::format("was moved to '{}'", rejected.moved_to);
        report(ReportLevel::kError, "checkpoint_quarantined",
               fmt::format("checkpoint {} is damaged and {}: {}", to_string(rejected.name), where,
                           rejected.why));
    }
    for (const std::string& warning : choice.warnings)
        report(ReportLevel::kWarning, "checkpoint", warning);
}

std::optional<std::string> JobRunner::why_refused(const checkpoint::Choice& choice) {
    if (const auto none = none_left(choice, store_.directory())) {
        if (config_.checkpoint.on_no_valid_checkpoint == config::OnNoValidCheckpoint::kStop) {
            return fmt::format(
                "{}. Not begun again at step 0: {}, or set on_no_valid_checkpoint: start_fresh "
                "(pawl run --start-fresh)",
                none->what, none->way_out);
        }
        report(ReportLevel::kWarning, "start_fresh",
               none->what + "; beginning again at step 0 as configured");
    }
    if (const std::string why = adopt::why_foreign(adopt_settings(), choice); !why.empty()) {
        return why +
               ": another training's, which would be removed to make room for this one's. "
               "Give this job a checkpoint directory of its own (--checkpoint-dir)";
    }
    if (choice.chosen && !choice.chosen->is_adopted() &&
        choice.chosen->world_size != config_.ranks) {
        return fmt::format(
            "checkpoint '{}' is of {}, the job has {}: start it with as many as before, or with "
            "another checkpoint directory. It is kept as it is",
            choice.path, ranks_in_words(choice.chosen->world_size), ranks_in_words(config_.ranks));
    }
    return std::nullopt;
}

}  // namespace pawl::daemon
