// JobRunner: another configuration while it runs, and the way out of a daemon that goes on.
#include "base/invariant.h"
#include "config/changes.h"
#include "daemon/job.h"

namespace pawl::daemon {

supervisor::JobPolicy JobRunner::policy_of(const config::JobConfig& config) {
    return {.world_size = config.ranks,
            .restarts_max = config.restart.max,
            .restart_window = config.restart.window,
            .delay_initial = config.restart.delay_initial,
            .delay_max = config.restart.delay_max,
            .same_step_failures_max = config.restart.same_step_max,
            .grace = config.stop.grace,
            .exit_grace = config.stop.exit_grace};
}

void JobRunner::reconfigure(const config::JobConfig& wanted) {
    const config::CadenceConfig before = config_.checkpoint.cadence;
    const std::optional<nanoseconds> scrub_every_before = config_.checkpoint.scrub_every;
    config::adopt(wanted, config_, config::Applies::kAtOnce);
    policy_ = policy_of(config_);
    pending_config_ = wanted;
    if (config_.checkpoint.scrub_every != scrub_every_before) replan_scrub();
    if (config_.checkpoint.cadence == before || !launch_ || !launch_->coordinator) return;
    carry_out(launch_->coordinator->change_cadence(cadence(), services_.clock.monotonic_now()));
}

void JobRunner::take_pending_config() {
    if (!pending_config_) return;
    config::adopt(*pending_config_, config_, config::Applies::kNextLaunch);
    pending_config_.reset();
}

void JobRunner::note(ReportLevel level, const std::string& text) {
    report(level, "reconfigured", text);
}

// Tasks of this job may be queued on its two workers, on the journal's and on the loop. A round
// passes through all of them in the order in which they post to one another, so that what was
// queued before it has run. What a worker answered was journalled by then; that may have failed and
// been reported, which is journalled as well (second round), and have failed too (third). Always by
// way of the loop: once it has stopped, no worker may post to another that is gone.
void JobRunner::settle(std::function<void()> done) {
    invariant(is_concluded(), "a job that lets go has concluded");
    constexpr int kRounds = 3;
    is_reclaiming_ = false;
    leftovers_.clear();
    server_.reset();
    stop_scrubbing();
    if (adoption_) adoption_->watcher.reset();
    settle_round(kRounds, done);
}

void JobRunner::settle_round(int rounds, const std::function<void()>& done) {
    if (rounds == 0) return done();
    const auto pass = [this](Worker& worker, std::function<void()> then) {
        worker.post([this, then = std::move(then)] { services_.loop.post(then); });
    };
    pass(arena_worker_, [this, pass, rounds, done] {
        pass(checkpoint_worker_, [this, pass, rounds, done] {
            pass(services_.journal_worker,
                 [this, rounds, done] { settle_round(rounds - 1, done); });
        });
    });
}

}  // namespace pawl::daemon
