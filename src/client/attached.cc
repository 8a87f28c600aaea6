// See attached.h: steps, snapshots, the end.
#include "client/attached.h"

namespace pawl::client {

using staging::Access;

// ---- steps ----

void AttachedRun::write_progress(staging::Phase phase) {
    progress_.phase = phase;
    progress_.time = clock_.monotonic_now();
    staging::write(*progress_page_, progress_);
}

void AttachedRun::report(const Report& report) {
    progress_.step = report.step;
    progress_.epoch = report.epoch;
    progress_.loss = report.loss;
    write_progress(staging::Phase::kTraining);
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

Result<Wanted> AttachedRun::wanted(Moment moment) {
    refresh_control();
    if (control_.request == 0 || control_.request == answered_request_)
        return Wanted{.stop = control_.should_stop};
    bool due =
        moment == Moment::kEpochEnd && control_.at_epoch && progress_.epoch >= *control_.at_epoch;
    if (control_.at_step) {
        due = due || progress_.step == *control_.at_step;
        if (!due && progress_.step > *control_.at_step) {
            answered_request_ = control_.request;
            RETURN_IF_ERROR(
                send(staging::SnapshotPassed{.request = control_.request, .step = progress_.step}));
        }
    }
    return Wanted{.snapshot = due, .stop = control_.should_stop};
}

Result<Wanted> AttachedRun::step(const Report& given) {
    report(given);
    if (is_inert()) return Wanted{};
    return wanted(Moment::kStep);
}

Result<Wanted> AttachedRun::epoch_end(const Report& given, const Metrics& metrics) {
    report(given);
    if (is_inert()) return Wanted{};
    RETURN_IF_ERROR(send(staging::EpochEnded{
        .step = given.step, .epoch = given.epoch, .loss = given.loss, .metrics = metrics}));
    return wanted(Moment::kEpochEnd);
}

Result<Wanted> AttachedRun::poll(PollPhase phase) {
    write_progress(phase == PollPhase::kEvaluation ? staging::Phase::kEvaluation
                                                   : staging::Phase::kTraining);
    if (is_inert()) return Wanted{};
    return wanted(Moment::kBetween);
}

// ---- snapshots ----

Result<Run::Asked> AttachedRun::request_checkpoint() {
    if (is_inert()) return Asked{.wanted = {}, .why_not = inert_reason()};
    if (open_slot_) return begun_already();
    // A rank that waits here is between two steps: alone, it is asked for the state as it is.
    write_progress(staging::Phase::kEvaluation);
    RETURN_IF_ERROR(send(staging::CheckpointWanted{}));
    while (true) {
        auto received = receive();
        if (!received) return received.error();
        if (auto* answer = std::get_if<staging::CheckpointAnswer>(&received->message)) {
            const auto actions = wanted(Moment::kBetween);
            if (!actions) return actions.error();
            return Asked{.wanted = *actions, .why_not = std::move(answer->why_not)};
        }
        note(received->message);
    }
}

Result<std::span<std::byte>> AttachedRun::snapshot_begin(std::uint64_t bytes) {
    if (is_inert()) return std::span<std::byte>{};
    if (open_slot_) return begun_already();
    answered_request_ = control_.request;
    write_progress(staging::Phase::kSaving);
    if (const auto acquired = acquire_slot(bytes); !acquired) {
        if (!is_inert()) RETURN_IF_ERROR(skip(acquired.error().text()));
        return acquired.error();
    }
    if (!open_slot_) {
        RETURN_IF_ERROR(skip("both arenas are still being made durable"));
        return std::span<std::byte>{};
    }
    open_bytes_ = bytes;
    return slots_.at(*open_slot_).mapping.bytes().first(bytes);
}

// A slot of ours that is large enough; else the first that has no arena yet or is to be made
// larger, in which pawld may have one ready; else, when it is urgent, the first that comes back.
Result<void> AttachedRun::acquire_slot(std::uint64_t bytes) {
    RETURN_IF_ERROR(drain_messages());
    while (true) {
        std::optional<std::size_t> too_small;
        for (std::size_t i = 0; i < slots_.size(); ++i) {
            const Slot& slot = slots_.at(i);
            if (!slot.is_ours) continue;
            if (slot.mapping.bytes().size() >= bytes) {
                open_slot_ = i;
                return {};
            }
            if (!too_small) too_small = i;
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
    slots_.at(slot).mapping = staging::Mapping();
    while (true) {
        auto received = receive();
        if (!received) return received.error();
        if (const auto* granted = std::get_if<staging::ArenaGranted>(&received->message)) {
            if (granted->slot != slot || granted->bytes < bytes ||
                received->descriptors.size() != 1) {
                return give_up(make_error(ErrorKind::kCancelled,
                                          "pawld granted another arena than was asked for"));
            }
            const int fd = received->descriptors.front().get();
            if (const auto sealed = staging::check_sealed_memory(fd, granted->bytes); !sealed) {
                return give_up(Error(sealed.error()).while_doing("use the arena that pawld sent"));
            }
            auto mapping = staging::Mapping::of(fd, 0, granted->bytes, Access::kReadWrite);
            if (!mapping) return mapping.error();
            RETURN_IF_ERROR(mapping->keep_from_children());
            mapping->touch();
            slots_.at(slot).mapping = std::move(*mapping);
            return {};
        }
        if (const auto* refused = std::get_if<staging::ArenaRefused>(&received->message)) {
            return make_error(ErrorKind::kNoSpace, "no arena of {} bytes: {}", bytes, refused->why)
                .consequence("Training goes on without this snapshot");
        }
        note(received->message);
    }
}

Result<Run::Sealing> AttachedRun::snapshot_seal(const Metrics& metrics) {
    if (is_inert()) {
        open_slot_.reset();
        return Sealing::kSkipped;
    }
    if (!open_slot_) {
        return make_error(ErrorKind::kInvalidArgument,
                          "no snapshot is begun: pawl_snapshot_begin comes first");
    }
    Slot& slot = slots_.at(*open_slot_);
    // From here until the slot is given back, a stray write faults in this process.
    if (const auto sealed = slot.mapping.protect(Access::kReadOnly); !sealed) {
        RETURN_IF_ERROR(skip(sealed.error().text()));
        return sealed.error();
    }
    slot.is_ours = false;
    const auto sent = send(staging::SnapshotSealed{.request = answered_request_,
                                                   .slot = static_cast<std::uint32_t>(*open_slot_),
                                                   .bytes = open_bytes_,
                                                   .step = progress_.step,
                                                   .epoch = progress_.epoch,
                                                   .metrics = metrics});
    if (!sent && !is_inert()) {
        // It was not sent at all: the slot is as it was before the begin.
        slot.is_ours = slot.mapping.protect(Access::kReadWrite).has_value();
        RETURN_IF_ERROR(skip(sent.error().text()));
        return sent.error();
    }
    open_slot_.reset();
    write_progress(staging::Phase::kTraining);
    if (!sent) return sent.error();
    return Sealing::kSealed;
}

// Also of a snapshot that could not even be begun: the request is waiting for an answer.
Result<void> AttachedRun::snapshot_abort(const std::string& why) {
    const bool is_due = control_.request != 0 && control_.request != answered_request_;
    if (!open_slot_ && !is_due) return {};
    if (!open_slot_) answered_request_ = control_.request;
    return skip(why);
}

Result<void> AttachedRun::skip(const std::string& why) {
    open_slot_.reset();
    ++progress_.snapshots_skipped;
    write_progress(staging::Phase::kTraining);
    if (is_inert()) return {};
    constexpr std::size_t kWhyBytesMax = 4096;
    return send(
        staging::SnapshotSkipped{.request = answered_request_, .why = why.substr(0, kWhyBytesMax)});
}

// ---- the end ----

Result<Wanted> AttachedRun::finish() {
    if (is_inert()) return Wanted{};
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
    while (!is_inert() && !final_verdict_) {
        auto received = receive();
        if (!received) {
            return Error(received.error()).while_doing("wait for the final checkpoint");
        }
        note(received->message);
        refresh_control();
        if (control_.should_stop && !final_verdict_) {
            return make_error(ErrorKind::kCancelled,
                              "stopped before the final checkpoint was durable");
        }
    }
    if (final_verdict_) return *final_verdict_;
    return make_error(ErrorKind::kCancelled,
                      "whether the final checkpoint is durable is not known: {}", inert_reason());
}

}  // namespace pawl::client
