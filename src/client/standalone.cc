// A run without a daemon: the same checkpoints, written by this process at the step that is due.
// What goes wrong with the directory after attaching costs checkpoints, never the training.
#include "base/clock.h"
#include "base/file_lock.h"
#include "base/file_system.h"
#include "checkpoint/cadence.h"
#include "checkpoint/store.h"
#include "client/arguments.h"
#include "client/run.h"
#include "staging/memory.h"

#include <fcntl.h>

#include <utility>
#include <vector>

#ifndef PAWL_VERSION
#define PAWL_VERSION "unknown"
#endif

namespace pawl::client {
namespace {

class StandaloneRun final : public Run {
public:
    StandaloneRun(const AttachOptions& options, const Shared& shared)
        : origin_(shared.origin),
          stop_requested_(shared.stop_requested),
          options_(options),
          fs_(make_posix_file_system()),
          store_(*fs_, clock_, ledger_, options.checkpoint_directory, options.job),
          cadence_{.every_steps = options.every_steps,
                   .every_epochs = options.every_epochs,
                   .every_time = options.every_time} {}

    ~StandaloneRun() override { origin_.close_in_children(-1); }
    StandaloneRun(const StandaloneRun&) = delete;
    StandaloneRun& operator=(const StandaloneRun&) = delete;

    Result<void> open();

    [[nodiscard]] Rank rank() const override { return Rank{0}; }
    [[nodiscard]] std::uint64_t world_size() const override { return 1; }
    [[nodiscard]] bool is_attached() const override { return false; }
    [[nodiscard]] const ResumePoint& resume_point() const override { return resume_; }
    void release_resume() override {
        resume_.image = {};
        resume_mapping_ = staging::Mapping();
    }

    [[nodiscard]] Result<Wanted> step(const Report& report) override;
    [[nodiscard]] Result<Wanted> epoch_end(const Report& report, const Metrics& metrics) override;
    [[nodiscard]] Result<Wanted> poll(PollPhase phase) override;
    [[nodiscard]] Result<Asked> request_checkpoint() override;
    [[nodiscard]] Result<std::span<std::byte>> snapshot_begin(std::uint64_t bytes) override;
    [[nodiscard]] Result<Sealing> snapshot_seal(const Metrics& metrics) override;
    Result<void> snapshot_abort(const std::string& why) override;
    [[nodiscard]] Result<Wanted> finish() override;
    Result<void> finish_wait() override;

    [[nodiscard]] const char* inert_reason() const noexcept override { return ""; }
    // The files on the disk are as a power cut would leave them, and the next try is made anew.
    void interrupted(const char*) noexcept override { drop_image(); }
    void forget() noexcept override {
        origin_.let_go();
        if (lock_) lock_->forget();
    }

private:
    [[nodiscard]] Wanted wanted(bool target_met, checkpoint::Reason reason);
    void aim();
    void drop_image() noexcept {
        state_began_ = false;
        image_ = {};
    }
    [[nodiscard]] std::string lock_path() const { return join_path(store_.directory(), kLockName); }

    Origin& origin_;
    const std::atomic<bool>& stop_requested_;
    AttachOptions options_;
    SystemClock clock_;
    std::unique_ptr<FileSystem> fs_;
    checkpoint::NoLedger ledger_;
    std::optional<FileLock> lock_;
    checkpoint::Store store_;
    checkpoint::CadencePolicy cadence_;
    checkpoint::CadenceState cadence_state_;
    checkpoint::SnapshotTarget target_;
    std::optional<Sequence> parent_;
    std::optional<std::pair<Step, Epoch>> durable_;  // what the newest checkpoint holds
    ResumePoint resume_;
    staging::Mapping resume_mapping_;
    Report report_;
    checkpoint::Reason reason_ = checkpoint::Reason::kCadence;
    std::vector<std::byte> image_;
    bool state_began_ = false;
    bool is_finishing_ = false;
    Result<void> final_result_;
};

Result<void> StandaloneRun::open() {
    RETURN_IF_ERROR(create_directories(*fs_, store_.directory()));
    auto lock = FileLock::take(lock_path());
    if (!lock) return lock.error();
    lock_ = std::move(*lock);
    // A worker that outlives this process must not keep the directory from the next.
    origin_.close_in_children(lock_->descriptor());
    RETURN_IF_ERROR(store_.open());
    auto choice = store_.choose();
    if (!choice) return choice.error();
    if (choice->some_existed && !choice->chosen) {
        return make_error(
            ErrorKind::kCorrupt,
            "no valid checkpoint is left in '{}' though there were some; they are in its folder "
            "'{}'. To begin again at step 0, move that folder away",
            store_.directory(), checkpoint::kQuarantineName);
    }
    cadence_state_.last_time = clock_.monotonic_now();
    if (choice->chosen) {
        const checkpoint::Manifest& manifest = *choice->chosen;
        if (manifest.world_size != 1) {
            return make_error(
                ErrorKind::kUnsupported,
                "checkpoint '{}' is of {} ranks, standalone runs have one: run it under pawld",
                choice->path, manifest.world_size);
        }
        const std::string path = join_path(choice->path, manifest.files.front().name);
        const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
        if (!fd.is_open()) return error_from_errno("open '{}'", path);
        auto mapping = staging::Mapping::of(fd.get(), 0, manifest.files.front().bytes,
                                            staging::Access::kReadOnly);
        if (!mapping) return mapping.error();
        resume_mapping_ = std::move(*mapping);
        resume_ = {.image = resume_mapping_.bytes(),
                   .sequence = manifest.sequence,
                   .step = manifest.step,
                   .epoch = manifest.epoch};
        parent_ = manifest.sequence;
        durable_ = {manifest.step, manifest.epoch};
        cadence_state_.furthest_step = manifest.step;
        cadence_state_.furthest_epoch = manifest.epoch;
    }
    aim();
    return {};
}

void StandaloneRun::aim() {
    target_ = checkpoint::next_target(cadence_, cadence_state_, clock_.monotonic_now());
}

Wanted StandaloneRun::wanted(bool target_met, checkpoint::Reason reason) {
    if (stop_requested_) {
        const bool is_durable = durable_ == std::pair{report_.step, report_.epoch};
        if (!is_durable) reason_ = checkpoint::Reason::kSigterm;
        return {.snapshot = !is_durable, .stop = true};
    }
    if (target_met) reason_ = reason;
    return {.snapshot = target_met};
}

Result<Wanted> StandaloneRun::step(const Report& report) {
    report_ = report;
    cadence_state_.furthest_step = report.step;
    const auto due = checkpoint::time_due(cadence_, cadence_state_);
    const bool time_met = due && clock_.monotonic_now() >= *due;
    const bool step_met = target_.at_step && report.step >= *target_.at_step;
    return wanted(time_met || step_met, checkpoint::Reason::kCadence);
}

Result<Wanted> StandaloneRun::epoch_end(const Report& report, const Metrics&) {
    report_ = report;
    cadence_state_.furthest_epoch = report.epoch;
    return wanted(target_.at_epoch && report.epoch >= *target_.at_epoch,
                  checkpoint::Reason::kCadence);
}

Result<Wanted> StandaloneRun::poll(PollPhase) {
    return wanted(false, checkpoint::Reason::kCadence);
}

Result<Run::Asked> StandaloneRun::request_checkpoint() {
    if (state_began_) return begun_already();
    reason_ = checkpoint::Reason::kRequest;
    return Asked{.wanted = {.snapshot = true, .stop = stop_requested_}, .why_not = {}};
}

Result<std::span<std::byte>> StandaloneRun::snapshot_begin(std::uint64_t bytes) {
    if (state_began_) return begun_already();
    if (bytes > image_.max_size()) {
        return make_error(ErrorKind::kNoSpace, "no process has memory for an image of {} bytes",
                          bytes);
    }
    image_.resize(bytes);
    state_began_ = true;
    return std::span(image_);
}

Result<Run::Sealing> StandaloneRun::snapshot_seal(const Metrics& metrics) {
    if (!state_began_) {
        return make_error(ErrorKind::kInvalidArgument,
                          "no snapshot is begun: pawl_snapshot_begin comes first");
    }
    state_began_ = false;
    cadence_state_.last_time = clock_.monotonic_now();
    aim();
    checkpoint::Manifest manifest{.parent = parent_,
                                  .step = report_.step,
                                  .epoch = report_.epoch,
                                  .reason = is_finishing_ ? checkpoint::Reason::kFinal : reason_,
                                  .metrics = metrics,
                                  .pawl_version = PAWL_VERSION,
                                  .framework = options_.framework};
    const auto commit = [&]() -> Result<void> {
        // Else it would be written where another pawl may be at work, or where nobody looks.
        if (const auto here = lock_->check_is_at(lock_path()); !here) {
            return Error(here.error())
                .while_doing("write to '{}', which was removed or replaced since this run began",
                             store_.directory());
        }
        const auto committed =
            store_.commit(std::move(manifest), {{.rank = Rank{0}, .bytes = image_}},
                          {.keep_last = options_.keep_last});
        if (!committed) return committed.error();
        return {};
    };
    if (const auto committed = commit(); !committed) {
        const Error error = Error(committed.error())
                                .consequence(
                                    "Training goes on; the next checkpoint is tried as "
                                    "planned");
        if (is_finishing_) final_result_ = error;
        return error;
    }
    durable_ = {report_.step, report_.epoch};
    return Sealing::kSealed;
}

Result<void> StandaloneRun::snapshot_abort(const std::string&) {
    state_began_ = false;
    return {};
}

Result<Wanted> StandaloneRun::finish() {
    is_finishing_ = true;
    return Wanted{.snapshot = durable_ != std::pair{report_.step, report_.epoch}};
}

Result<void> StandaloneRun::finish_wait() {
    if (!final_result_) return std::exchange(final_result_, {});
    if (is_finishing_ && durable_ == std::pair{report_.step, report_.epoch}) return {};
    return make_error(ErrorKind::kIo,
                      "the last state (step {}, epoch {}) is not durable: no snapshot of it was "
                      "sealed after pawl_finish",
                      report_.step, report_.epoch);
}

}  // namespace

Result<std::unique_ptr<Run>> run_standalone(const AttachOptions& options, const Shared& shared) {
    const auto world_size = world_size_from_environment();
    if (!world_size) return world_size.error();
    if (*world_size != 1) {
        return make_error(
            ErrorKind::kUnsupported,
            "a run of {} ranks needs pawld, which keeps them at one step: start it with "
            "'pawl run --ranks {} -- COMMAND'",
            *world_size, *world_size);
    }
    auto run = std::make_unique<StandaloneRun>(options, shared);
    if (const auto opened = run->open(); !opened) {
        return Error(opened.error())
            .while_doing("use the checkpoint directory '{}'", options.checkpoint_directory);
    }
    return std::unique_ptr<Run>(std::move(run));
}

}  // namespace pawl::client
