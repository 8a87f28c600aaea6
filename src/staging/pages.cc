// See pages.h. The seqlock follows H. Boehm, "Can seqlocks get along with programming language
// memory models?" (2012): relaxed fields between an acquire and a release fence.
#include "staging/pages.h"

#include <algorithm>

namespace pawl::staging {
namespace {

constexpr std::uint64_t kUrgent = 1;
constexpr std::uint64_t kStop = 2;
constexpr auto kRelaxed = std::memory_order_relaxed;

template <class Write>
void write_locked(SharedWord& generation, const Write& write_fields) {
    const std::uint64_t before = generation.load(kRelaxed) & ~std::uint64_t{1};
    generation.store(before + 1, kRelaxed);
    std::atomic_thread_fence(std::memory_order_release);
    write_fields();
    generation.store(before + 2, std::memory_order_release);
}

template <class T, class Read>
std::optional<T> read_locked(const SharedWord& generation, const Read& read_fields) {
    for (int i = 0; i < kReadsMax; ++i) {
        const std::uint64_t before = generation.load(std::memory_order_acquire);
        if (before % 2 != 0) continue;
        const T value = read_fields();
        std::atomic_thread_fence(std::memory_order_acquire);
        if (generation.load(kRelaxed) == before) return value;
    }
    return std::nullopt;
}

template <class T>
std::optional<T> optional_count(std::uint64_t word) {
    if (word == kNone) return std::nullopt;
    return T{word};
}

}  // namespace

std::string_view name_of(Phase phase) {
    switch (phase) {
        case Phase::kStarting:
            return "starting";
        case Phase::kTraining:
            return "training";
        case Phase::kEvaluation:
            return "evaluation";
        case Phase::kSaving:
            return "saving";
        case Phase::kFinished:
            return "finished";
    }
    return "unknown";
}

void write(ProgressPage& page, const Progress& progress) {
    write_locked(page.generation, [&] {
        page.step.store(progress.step.value, kRelaxed);
        page.epoch.store(progress.epoch.value, kRelaxed);
        page.loss_bits.store(std::bit_cast<std::uint64_t>(progress.loss), kRelaxed);
        page.phase.store(static_cast<std::uint64_t>(progress.phase), kRelaxed);
        page.time_ns.store(static_cast<std::uint64_t>(progress.time.time_since_epoch().count()),
                           kRelaxed);
        page.snapshots_skipped.store(progress.snapshots_skipped, kRelaxed);
    });
}

std::optional<Progress> read(const ProgressPage& page) {
    return read_locked<Progress>(page.generation, [&] {
        const std::uint64_t phase = page.phase.load(kRelaxed);
        return Progress{
            .step = Step{page.step.load(kRelaxed)},
            .epoch = Epoch{page.epoch.load(kRelaxed)},
            .loss = std::bit_cast<double>(page.loss_bits.load(kRelaxed)),
            .phase =
                static_cast<Phase>(std::min(phase, static_cast<std::uint64_t>(Phase::kFinished))),
            .time =
                MonotonicTime{nanoseconds{static_cast<std::int64_t>(page.time_ns.load(kRelaxed))}},
            .snapshots_skipped = page.snapshots_skipped.load(kRelaxed)};
    });
}

void write(ControlPage& page, const Control& control) {
    write_locked(page.generation, [&] {
        page.request.store(control.request, kRelaxed);
        page.at_step.store(control.at_step ? control.at_step->value : kNone, kRelaxed);
        page.at_epoch.store(control.at_epoch ? control.at_epoch->value : kNone, kRelaxed);
        page.flags.store((control.is_urgent ? kUrgent : 0) | (control.should_stop ? kStop : 0),
                         kRelaxed);
    });
}

std::optional<Control> read(const ControlPage& page) {
    return read_locked<Control>(page.generation, [&] {
        const std::uint64_t flags = page.flags.load(kRelaxed);
        return Control{.request = page.request.load(kRelaxed),
                       .at_step = optional_count<Step>(page.at_step.load(kRelaxed)),
                       .at_epoch = optional_count<Epoch>(page.at_epoch.load(kRelaxed)),
                       .is_urgent = (flags & kUrgent) != 0,
                       .should_stop = (flags & kStop) != 0};
    });
}

}  // namespace pawl::staging
