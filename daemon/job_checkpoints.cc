// JobRunner: what becomes of checkpoints beside commit and restart: policies from the
// configuration, the automatic cadence, the scrub, rollback.
#include "base/clock.h"
#include "daemon/job.h"

#include <algorithm>

namespace pawl::daemon {
namespace {

// Enough to know how often it fails; a job of months has thousands.
constexpr std::size_t kIncarnationsMax = 100;
constexpr std::size_t kEventsMax = 1000;
constexpr const char* kScrubbedEvent = "scrubbed";
constexpr nanoseconds kSuspectDelay = seconds{5};

bool has_failed(const journal::IncarnationRecord& record) {
    return record.state == journal::IncarnationState::kEnded && record.cause != "finished" &&
           record.cause != "stopped";
}

// When it ran is known but for one whose daemon died: that is counted, its time is not.
checkpoint::FailureHistory history_of(const std::vector<journal::IncarnationRecord>& records) {
    checkpoint::FailureHistory history;
    const std::size_t begin =
        records.size() > kIncarnationsMax ? records.size() - kIncarnationsMax : 0;
    for (std::size_t i = begin; i < records.size(); ++i) {
        const journal::IncarnationRecord& record = records[i];
        if (has_failed(record)) ++history.failures;
        if (!record.ended || record.cause == "its daemon died") continue;
        history.observed += std::max(nanoseconds{*record.ended - record.started}, nanoseconds{});
    }
    return history;
}

}  // namespace

checkpoint::RetentionPolicy retention_of(const config::CheckpointConfig& config) {
    checkpoint::RetentionPolicy policy{.keep_last = config.keep_last,
                                       .every_steps = config.keep_every_steps,
                                       .every_epochs = config.keep_every_epochs,
                                       .bytes_max = config.keep_bytes};
    if (config.keep_best) {
        policy.best = checkpoint::BestRule{.metric = config.keep_best->metric,
                                           .mode = config.keep_best->mode == config::BestMode::kMin
                                                       ? checkpoint::BestMode::kMin
                                                       : checkpoint::BestMode::kMax,
                                           .count = config.keep_best->count};
    }
    return policy;
}

// ---- cadence ----

checkpoint::CadencePolicy JobRunner::cadence() {
    const config::CadenceConfig& configured = config_.checkpoint.cadence;
    checkpoint::CadencePolicy policy{.every_steps = configured.every_steps,
                                     .every_epochs = configured.every_epochs,
                                     .every_time = configured.every_time};
    if (!configured.is_automatic) return policy;
    const nanoseconds interval = checkpoint::automatic_interval(checkpoint_cost_, failures_);
    policy.every_time = interval;
    // Said when it moves by more than a fifth, and not before there is anything to say.
    const nanoseconds moved =
        interval > said_interval_ ? interval - said_interval_ : said_interval_ - interval;
    if (checkpoint_cost_ && moved > said_interval_ / 5) {
        said_interval_ = interval;
        report(ReportLevel::kInfo, "cadence",
               fmt::format("a checkpoint every {} from now on: one costs {}, a failure is expected "
                           "every {}",
                           format_duration(interval), format_duration(*checkpoint_cost_),
                           format_duration(checkpoint::mean_time_between_failures(failures_))));
    }
    return policy;
}

void JobRunner::learn_failures() {
    if (!config_.checkpoint.cadence.is_automatic) return;
    const auto incarnations = services_.journal.incarnations(config_.name);
    // Without a history the prior stands.
    if (incarnations) failures_ = history_of(*incarnations);
}

// From when the rank began to save until it sealed: it stood still.
void JobRunner::note_stall(const staging::Progress& last) {
    if (last.phase != staging::Phase::kSaving) return;
    stall_ = std::max(stall_, services_.clock.monotonic_now() - last.time);
}

void JobRunner::note_cost(nanoseconds write) {
    checkpoint_cost_ = checkpoint::checkpoint_cost(checkpoint_cost_, stall_, write);
    stall_ = {};
    if (!config_.checkpoint.cadence.is_automatic || !launch_ || !launch_->coordinator) return;
    carry_out(launch_->coordinator->change_cadence(cadence(), services_.clock.monotonic_now()));
}

// ---- scrub ----

// Due a period after the last one, which may have been another daemon's.
void JobRunner::plan_first_scrub() {
    if (!config_.checkpoint.scrub_every) return;
    const nanoseconds period = *config_.checkpoint.scrub_every;
    nanoseconds delay = period;
    const auto events = services_.journal.events(config_.name, kEventsMax);
    for (const journal::EventRecord& event :
         events ? *events : std::vector<journal::EventRecord>{}) {
        if (event.kind != kScrubbedEvent) continue;
        scrubbed_ = event.time;
        const nanoseconds passed = services_.clock.wall_now() - event.time;
        delay = std::clamp(period - passed, nanoseconds{}, period);
    }
    scrub_timer_.start(delay);
}

void JobRunner::replan_scrub() {
    scrub_timer_.stop();
    if (config_.checkpoint.scrub_every) scrub_timer_.start(*config_.checkpoint.scrub_every);
}

// For good. One that is under way ends before its next read, and its answer changes nothing.
void JobRunner::stop_scrubbing() {
    config_.checkpoint.scrub_every.reset();
    replan_scrub();
    suspect_timer_.stop();
    suspects_.clear();
    scrubber_.reset();
}

void JobRunner::scrub() {
    scrub_timer_.start(*config_.checkpoint.scrub_every);
    if (is_scrubbing_) return;  // a large directory takes longer than the period
    is_scrubbing_ = true;
    if (!scrubber_) scrubber_ = std::make_unique<Scrubber>(services_.fs);
    scrubber_->start(store_.directory(), [this](const checkpoint::Scrubbed& result) {
        services_.loop.post([this, result] { scrubbed(result); });
    });
}

void JobRunner::scrubbed(const checkpoint::Scrubbed& result) {
    is_scrubbing_ = false;
    if (result.was_stopped || !scrubber_) return;
    for (const std::string& why : result.unread)
        report(ReportLevel::kWarning, "checkpoint", "scrub: " + why);
    checkpoint_worker_.post([this, valid = result.valid] {
        for (const checkpoint::CheckpointName& name : valid)
            store_.note_verified(name.sequence);
    });
    for (const checkpoint::CheckpointName& name : result.suspects) {
        if (std::ranges::find(suspects_, name) == suspects_.end()) suspects_.push_back(name);
    }
    scrubbed_ = services_.clock.wall_now();
    report(result.suspects.empty() ? ReportLevel::kInfo : ReportLevel::kWarning, kScrubbedEvent,
           fmt::format("scrub: {} checkpoints were read again, {}: {}",
                       result.valid.size() + result.suspects.size(), format_bytes(result.bytes),
                       result.suspects.empty()
                           ? std::string("all are valid")
                           : fmt::format("{} to be looked at again", result.suspects.size())));
    look_at_suspects();
}

// Not while ranks may yet open its files: they were promised them.
void JobRunner::look_at_suspects() {
    std::vector<checkpoint::CheckpointName> later;
    for (const checkpoint::CheckpointName& name : suspects_) {
        const bool is_awaited =
            launch_ && !launch_->is_over && !launch_->all_attached &&
            (!launch_->verdict ||
             (launch_->verdict->chosen && launch_->verdict->chosen->sequence == name.sequence));
        if (is_awaited) {
            later.push_back(name);
            continue;
        }
        checkpoint_worker_.post([this, name] {
            const auto found = store_.confirm_damage(name);
            services_.loop.post([this, name, found] { suspect_judged(name, found); });
        });
    }
    suspects_ = std::move(later);
    if (!suspects_.empty()) suspect_timer_.start(kSuspectDelay);
}

void JobRunner::suspect_judged(const checkpoint::CheckpointName& name,
                               const Result<std::optional<checkpoint::Rejected>>& found) {
    if (!found) {
        return report(
            ReportLevel::kError, "checkpoint",
            fmt::format("scrub: checkpoint {}: {}", to_string(name), found.error().text()));
    }
    if (!found->has_value()) return;
    ++damaged_found_;
    const checkpoint::Rejected& rejected = **found;
    report(ReportLevel::kError, "checkpoint_quarantined",
           fmt::format("scrub: checkpoint {} is damaged and {}: {}", to_string(name),
                       rejected.moved_to.empty()
                           ? std::string("stays where it is, for no other valid one is known")
                           : fmt::format("was moved to '{}'", rejected.moved_to),
                       rejected.why));
}

// ---- rollback ----

Result<std::future<Result<void>>> JobRunner::request_rollback(const std::string& target) {
    if (!is_concluded() && !std::holds_alternative<supervisor::Idle>(job_.state)) {
        return make_error(ErrorKind::kBusy,
                          "job '{}' is {}: it goes on from its newest checkpoint. Stop it first: "
                          "pawl stop --job {}",
                          config_.name, supervisor::name_of(job_.state), config_.name);
    }
    auto promise = std::make_shared<std::promise<Result<void>>>();
    auto answer = promise->get_future();
    checkpoint_worker_.post([this, target, promise] {
        const auto done = roll_back_to(target);
        promise->set_value(done ? Result<void>() : Result<void>(done.error()));
    });
    return answer;
}

// On the checkpoint worker.
Result<void> JobRunner::roll_back_to(const std::string& target) {
    const auto listed = store_.list();
    if (!listed) return listed.error();
    const auto found = std::ranges::find_if(*listed, [&target](const checkpoint::Listed& one) {
        return checkpoint::is_named(one.name, target);
    });
    if (found == listed->end()) {
        return make_error(ErrorKind::kNotFound, "there is no checkpoint '{}' in '{}'", target,
                          store_.directory());
    }
    const auto done = store_.rollback(found->name.sequence);
    if (!done) return done.error();
    const auto verified = checkpoint::read_manifest_of(services_.fs, done->path);
    services_.loop.post([this, done, verified] {
        rolled_back(*done);
        if (verified) {
            shown_step_ = verified->step;
            shown_epoch_ = verified->epoch;
            newest_checkpoint_ = checkpoint_status(*verified, done->path, "before the rollback");
        }
        services_.changed();
    });
    return {};
}

void JobRunner::rolled_back(const checkpoint::RolledBack& done) {
    report(ReportLevel::kWarning, "rolled_back", describe(done));
    for (const std::string& warning : done.warnings)
        report(ReportLevel::kWarning, "checkpoint", warning);
}

}  // namespace pawl::daemon
