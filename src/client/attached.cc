// A run under a daemon: pages, arenas and the trainer protocol, seen from the rank.
// docs/formats.md, "Trainer protocol".
#include "base/clock.h"
#include "base/invariant.h"
#include "client/run.h"
#include "staging/memory.h"
#include "staging/messages.h"
#include "staging/pages.h"
#include "staging/socket.h"

#include <sys/stat.h>

#include <array>
#include <deque>

namespace pawl::client {
namespace {

using staging::Access;
using staging::Mapping;

// One of the two arenas of a rank.
struct Slot {
    Mapping mapping;
    bool is_ours = true;  // else the daemon is persisting it
};

struct Received {
    staging::DaemonMessage message;
    std::vector<UniqueFd> descriptors;
};

class AttachedRun final : public Run {
public:
    AttachedRun(UniqueFd socket, Rank rank, std::uint64_t world_size)
        : socket_(std::move(socket)), rank_(rank), world_size_(world_size) {}

    // Hello, Welcome with the pages, Resume with the verdict.
    Result<void> greet(const AttachOptions& options, Incarnation incarnation);

    [[nodiscard]] Rank rank() const override { return rank_; }
    [[nodiscard]] std::uint64_t world_size() const override { return world_size_; }
    [[nodiscard]] bool is_attached() const override { return true; }
    [[nodiscard]] const ResumePoint& resume_point() const override { return resume_; }
    void release_resume() override {
        resume_.image = {};
        resume_mapping_ = Mapping();
    }

    [[nodiscard]] Wanted step(const Report& report) override;
    [[nodiscard]] Wanted epoch_end(const Report& report, const Metrics& metrics) override;
    [[nodiscard]] Wanted poll(PollPhase phase) override;
    [[nodiscard]] Result<std::span<std::byte>> snapshot_begin(std::uint64_t bytes) override;
    Result<void> snapshot_seal(const Metrics& metrics) override;
    void snapshot_abort(const std::string& why) override;
    [[nodiscard]] Result<Wanted> finish() override;
    Result<void> finish_wait() override;
    void request_stop() noexcept override {}  // the daemon drains

private:
    enum class Moment { kStep, kEpochEnd, kBetween };

    void write_progress(staging::Phase phase);
    [[nodiscard]] Wanted wanted(Moment moment);
    void refresh_control();
    [[nodiscard]] Result<void> send(const staging::RankMessage& message);
    [[nodiscard]] Result<Received> receive();
    // What any message means besides being awaited: slots come back.
    void note(const staging::DaemonMessage& message);
    void drain_messages();
    [[nodiscard]] Result<void> acquire_slot(std::uint64_t bytes);
    [[nodiscard]] Result<void> request_arena(std::size_t slot, std::uint64_t bytes);
    [[nodiscard]] Result<void> map_pages(int fd);
    [[nodiscard]] Result<void> map_resume(const staging::Resume& resume, int fd);

    UniqueFd socket_;
    Rank rank_;
    std::uint64_t world_size_;
    SystemClock clock_;
    Mapping progress_mapping_;
    Mapping control_mapping_;
    staging::ProgressPage* progress_page_ = nullptr;
    const staging::ControlPage* control_page_ = nullptr;
    ResumePoint resume_;
    Mapping resume_mapping_;

    staging::Progress progress_;
    staging::Control control_;
    std::uint64_t control_generation_ = ~std::uint64_t{0};
    std::uint64_t answered_request_ = 0;
    bool is_inert_ = false;

    std::array<Slot, staging::kSlots> slots_;
    std::optional<std::size_t> open_slot_;
    std::uint64_t open_bytes_ = 0;
    std::uint64_t final_request_ = 0;
    bool is_finishing_ = false;
    std::optional<Result<void>> final_verdict_;
};

Result<void> AttachedRun::greet(const AttachOptions& options, Incarnation incarnation) {
    RETURN_IF_ERROR(send(staging::Hello{.rank = rank_,
                                        .incarnation = incarnation,
                                        .world_size = world_size_,
                                        .framework = options.framework}));
    while (true) {
        auto received = receive();
        if (!received) return received.error();
        auto& [message, descriptors] = *received;
        if (const auto* refused = std::get_if<staging::Refused>(&message)) {
            return make_error(ErrorKind::kInvalidArgument, "pawld refused this rank: {}",
                              refused->why);
        }
        if (std::holds_alternative<staging::Welcome>(message) && descriptors.size() == 1) {
            RETURN_IF_ERROR(map_pages(descriptors.front().get()));
        } else if (const auto* resume = std::get_if<staging::Resume>(&message)) {
            if (progress_page_ == nullptr) {
                return make_error(ErrorKind::kInvalidArgument,
                                  "pawld sent a verdict before its pages");
            }
            if (resume->sequence && descriptors.size() != 1) {
                return make_error(ErrorKind::kInvalidArgument, "pawld sent no file to resume from");
            }
            return resume->sequence ? map_resume(*resume, descriptors.front().get())
                                    : Result<void>{};
        }
    }
}

Result<void> AttachedRun::map_pages(int fd) {
    RETURN_IF_ERROR(staging::check_sealed_memory(fd, staging::kPagesBytes));
    auto progress = Mapping::of(fd, 0, staging::kPageBytes, Access::kReadWrite);
    if (!progress) return progress.error();
    auto control = Mapping::of(fd, staging::kPageBytes, staging::kPageBytes, Access::kReadOnly);
    if (!control) return control.error();
    RETURN_IF_ERROR(progress->keep_from_children());
    RETURN_IF_ERROR(control->keep_from_children());
    progress_mapping_ = std::move(*progress);
    control_mapping_ = std::move(*control);
    progress_page_ = reinterpret_cast<staging::ProgressPage*>(progress_mapping_.bytes().data());
    control_page_ = reinterpret_cast<const staging::ControlPage*>(control_mapping_.bytes().data());
    return {};
}

Result<void> AttachedRun::map_resume(const staging::Resume& resume, int fd) {
    struct stat information = {};
    if (::fstat(fd, &information) != 0) return error_from_errno("look at the file to resume from");
    auto mapping =
        Mapping::of(fd, 0, static_cast<std::uint64_t>(information.st_size), Access::kReadOnly);
    if (!mapping)
        return Error(mapping.error()).while_doing("open '{}' to resume from", resume.path);
    RETURN_IF_ERROR(mapping->keep_from_children());
    resume_mapping_ = std::move(*mapping);
    resume_ = {.image = resume_mapping_.bytes(),
               .sequence = *resume.sequence,
               .step = resume.step,
               .epoch = resume.epoch};
    progress_.step = resume.step;
    progress_.epoch = resume.epoch;
    return {};
}

// ---- steps ----

void AttachedRun::write_progress(staging::Phase phase) {
    progress_.phase = phase;
    progress_.time = clock_.monotonic_now();
    staging::write(*progress_page_, progress_);
}

void AttachedRun::refresh_control() {
    const std::uint64_t generation = control_page_->generation.load(std::memory_order_acquire);
    if (generation == control_generation_) return;
    // The daemon is writing just now: what it says is seen at the next step.
    if (const auto control = staging::read(*control_page_)) {
        control_ = *control;
        control_generation_ = generation;
    }
}

Wanted AttachedRun::wanted(Moment moment) {
    refresh_control();
    if (control_.request == 0 || control_.request == answered_request_)
        return {.stop = control_.should_stop};
    bool due =
        moment == Moment::kEpochEnd && control_.at_epoch && progress_.epoch >= *control_.at_epoch;
    if (control_.at_step) {
        due = due || progress_.step == *control_.at_step;
        if (!due && progress_.step > *control_.at_step) {
            answered_request_ = control_.request;
            if (!send(
                    staging::SnapshotPassed{.request = control_.request, .step = progress_.step})) {
                is_inert_ = true;
            }
        }
    }
    return {.snapshot = due, .stop = control_.should_stop};
}

Wanted AttachedRun::step(const Report& report) {
    progress_.step = report.step;
    progress_.epoch = report.epoch;
    progress_.loss = report.loss;
    write_progress(staging::Phase::kTraining);
    if (is_inert_) return {};
    return wanted(Moment::kStep);
}

Wanted AttachedRun::epoch_end(const Report& report, const Metrics& metrics) {
    progress_.step = report.step;
    progress_.epoch = report.epoch;
    progress_.loss = report.loss;
    write_progress(staging::Phase::kTraining);
    if (is_inert_) return {};
    const auto sent = send(staging::EpochEnded{
        .step = report.step, .epoch = report.epoch, .loss = report.loss, .metrics = metrics});
    if (!sent) {
        is_inert_ = true;
        return {};
    }
    return wanted(Moment::kEpochEnd);
}

Wanted AttachedRun::poll(PollPhase phase) {
    write_progress(phase == PollPhase::kEvaluation ? staging::Phase::kEvaluation
                                                   : staging::Phase::kTraining);
    if (is_inert_) return {};
    return wanted(Moment::kBetween);
}

// ---- snapshots ----

Result<std::span<std::byte>> AttachedRun::snapshot_begin(std::uint64_t bytes) {
    if (is_inert_) return std::span<std::byte>{};
    invariant(!open_slot_.has_value(), "one snapshot is begun at a time");
    answered_request_ = control_.request;
    write_progress(staging::Phase::kSaving);
    if (const auto acquired = acquire_slot(bytes); !acquired) {
        snapshot_abort(acquired.error().text());
        return acquired.error();
    }
    if (!open_slot_) {
        snapshot_abort("both arenas are still being made durable");
        return std::span<std::byte>{};
    }
    open_bytes_ = bytes;
    return slots_.at(*open_slot_).mapping.bytes().first(bytes);
}

// A slot of ours that is large enough; else one that has no arena yet or one of ours to be made
// larger; else, when it is urgent, the first that comes back.
Result<void> AttachedRun::acquire_slot(std::uint64_t bytes) {
    drain_messages();
    while (true) {
        std::optional<std::size_t> too_small;
        for (std::size_t i = 0; i < slots_.size(); ++i) {
            const Slot& slot = slots_.at(i);
            if (!slot.is_ours) continue;
            if (slot.mapping.bytes().size() >= bytes) {
                open_slot_ = i;
                return {};
            }
            too_small = i;
        }
        if (too_small) {
            RETURN_IF_ERROR(request_arena(*too_small, bytes));
            open_slot_ = too_small;
            return {};
        }
        if (!control_.is_urgent) return {};
        const auto received = receive();
        if (!received) return received.error();
        note(received->message);
    }
}

Result<void> AttachedRun::request_arena(std::size_t slot, std::uint64_t bytes) {
    RETURN_IF_ERROR(
        send(staging::ArenaRequest{.slot = static_cast<std::uint32_t>(slot), .bytes = bytes}));
    slots_.at(slot).mapping = Mapping();
    while (true) {
        auto received = receive();
        if (!received) return received.error();
        if (const auto* granted = std::get_if<staging::ArenaGranted>(&received->message)) {
            if (granted->slot != slot || granted->bytes < bytes ||
                received->descriptors.size() != 1) {
                return make_error(ErrorKind::kInvalidArgument,
                                  "pawld granted another arena than was asked for");
            }
            const int fd = received->descriptors.front().get();
            RETURN_IF_ERROR(staging::check_sealed_memory(fd, granted->bytes));
            auto mapping = Mapping::of(fd, 0, granted->bytes, Access::kReadWrite);
            if (!mapping) return mapping.error();
            RETURN_IF_ERROR(mapping->keep_from_children());
            slots_.at(slot).mapping = std::move(*mapping);
            return {};
        }
        if (const auto* refused = std::get_if<staging::ArenaRefused>(&received->message)) {
            return make_error(ErrorKind::kNoSpace, "no arena of {} bytes: {}", bytes, refused->why);
        }
        note(received->message);
    }
}

Result<void> AttachedRun::snapshot_seal(const Metrics& metrics) {
    if (is_inert_) return {};
    invariant(open_slot_.has_value(), "a snapshot is begun before it is sealed");
    Slot& slot = slots_.at(*open_slot_);
    // From here until the slot is given back, a stray write faults in this process.
    if (const auto sealed = slot.mapping.protect(Access::kReadOnly); !sealed) {
        snapshot_abort(sealed.error().text());
        return sealed.error();
    }
    slot.is_ours = false;
    const auto sent = send(staging::SnapshotSealed{.request = answered_request_,
                                                   .slot = static_cast<std::uint32_t>(*open_slot_),
                                                   .bytes = open_bytes_,
                                                   .step = progress_.step,
                                                   .epoch = progress_.epoch,
                                                   .metrics = metrics});
    open_slot_.reset();
    write_progress(staging::Phase::kTraining);
    return sent;
}

void AttachedRun::snapshot_abort(const std::string& why) {
    open_slot_.reset();
    ++progress_.snapshots_skipped;
    write_progress(staging::Phase::kTraining);
    if (is_inert_) return;
    if (!send(staging::SnapshotSkipped{.request = answered_request_, .why = why})) is_inert_ = true;
}

// ---- the end ----

Result<Wanted> AttachedRun::finish() {
    if (is_inert_) return Wanted{};
    is_finishing_ = true;
    write_progress(staging::Phase::kFinished);
    RETURN_IF_ERROR(send(staging::Finishing{.step = progress_.step, .epoch = progress_.epoch}));
    while (!final_verdict_) {
        auto received = receive();
        if (!received) return received.error();
        note(received->message);
        refresh_control();
        if (control_.should_stop) return Wanted{.stop = true};
        if (const auto* take = std::get_if<staging::TakeSnapshot>(&received->message)) {
            final_request_ = take->request;
            control_.request = take->request;
            control_.is_urgent = true;
            return Wanted{.snapshot = true};
        }
    }
    return Wanted{};
}

Result<void> AttachedRun::finish_wait() {
    while (!is_inert_ && !final_verdict_) {
        auto received = receive();
        if (!received) return received.error();
        note(received->message);
        refresh_control();
        if (control_.should_stop && !final_verdict_) {
            return make_error(ErrorKind::kCancelled,
                              "stopped before the final checkpoint was durable");
        }
    }
    if (final_verdict_) return *final_verdict_;
    return make_error(ErrorKind::kCancelled,
                      "pawld is gone: whether the final checkpoint is durable is not known");
}

// ---- messages ----

Result<void> AttachedRun::send(const staging::RankMessage& message) {
    auto sent = staging::send_packet(socket_.get(), staging::encode(message), {});
    if (!sent) is_inert_ = true;
    return sent;
}

Result<Received> AttachedRun::receive() {
    auto packet = staging::receive_packet(socket_.get(), staging::Wait::kBlock);
    if (!packet) {
        is_inert_ = true;
        return packet.error();
    }
    if ((*packet)->text.empty()) {
        is_inert_ = true;
        return make_error(ErrorKind::kCancelled,
                          "pawld closed the connection; training goes on without it");
    }
    auto message = staging::decode_daemon_message((*packet)->text);
    if (!message) {
        is_inert_ = true;
        return message.error();
    }
    return Received{.message = std::move(*message),
                    .descriptors = std::move((*packet)->descriptors)};
}

void AttachedRun::drain_messages() {
    while (!is_inert_) {
        auto packet = staging::receive_packet(socket_.get(), staging::Wait::kNoBlock);
        if (packet && !packet->has_value()) return;
        if (!packet || (*packet)->text.empty()) {
            is_inert_ = true;
            return;
        }
        const auto message = staging::decode_daemon_message((*packet)->text);
        if (message) note(*message);
    }
}

void AttachedRun::note(const staging::DaemonMessage& message) {
    if (const auto* released = std::get_if<staging::SlotReleased>(&message)) {
        if (released->slot >= slots_.size()) return;
        Slot& slot = slots_.at(released->slot);
        // Only a mapping that can be written to is a slot of ours again.
        slot.is_ours =
            slot.mapping.is_mapped() && slot.mapping.protect(Access::kReadWrite).has_value();
    }
    if (!is_finishing_) return;
    if (const auto* durable = std::get_if<staging::SnapshotDurable>(&message)) {
        if (durable->step == progress_.step && durable->epoch == progress_.epoch)
            final_verdict_ = Result<void>{};
    }
    if (const auto* failed = std::get_if<staging::SnapshotFailed>(&message)) {
        if (failed->request == final_request_) {
            final_verdict_ = Result<void>(make_error(
                ErrorKind::kIo, "the final checkpoint did not become durable: {}", failed->why));
        }
    }
}

}  // namespace

Result<std::unique_ptr<Run>> attach_to_daemon(const std::string& socket,
                                              const AttachOptions& options) {
    const auto attach = [&]() -> Result<std::unique_ptr<Run>> {
        const auto rank = number_from_environment("RANK");
        if (!rank) return rank.error();
        const auto world_size = number_from_environment("WORLD_SIZE");
        if (!world_size) return world_size.error();
        const auto incarnation = number_from_environment("PAWL_INCARNATION");
        if (!incarnation) return incarnation.error();
        auto connection = staging::connect_to(socket);
        if (!connection) return connection.error();
        auto run = std::make_unique<AttachedRun>(std::move(*connection), Rank{rank->value_or(0)},
                                                 world_size->value_or(1));
        RETURN_IF_ERROR(run->greet(options, Incarnation{incarnation->value_or(0)}));
        return std::unique_ptr<Run>(std::move(run));
    };
    auto attached = attach();
    if (!attached) return Error(attached.error()).while_doing("attach to pawld at '{}'", socket);
    return attached;
}

}  // namespace pawl::client
