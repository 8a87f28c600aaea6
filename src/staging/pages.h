// The progress page and the control page: how a rank and the daemon see each other without a system
// call.
//
//   memfd, sealed against shrinking and growing, 8192 bytes:
//     page 0  ProgressPage  written by the rank, read by the daemon
//     page 1  ControlPage   written by the daemon, read by the rank (its mapping is read-only)
//
// Each page is a seqlock: `generation` is odd while its owner writes. All fields are lock-free
// atomics of 64 bits, so they are the same in both processes and a torn read is seen, not
// undefined. docs/formats.md, "Trainer protocol". What a rank wrote is hostile input: copied, then
// checked.
//
// staging: shared by daemon and client; includes base only.
#pragma once

#include "base/units.h"

#include <atomic>
#include <bit>
#include <cstdint>
#include <optional>
#include <string_view>

namespace pawl::staging {

inline constexpr std::uint64_t kPageBytes = 4096;
inline constexpr std::uint64_t kPagesBytes = 2 * kPageBytes;
inline constexpr std::uint64_t kNone = ~std::uint64_t{0};

enum class Phase : std::uint64_t {
    kStarting = 0,
    kTraining = 1,
    kEvaluation = 2,
    kSaving = 3,
    kFinished = 4
};
[[nodiscard]] std::string_view name_of(Phase phase);  // "training"

// What a rank says of itself.
struct Progress {
    Step step;
    Epoch epoch;
    double loss = 0;
    Phase phase = Phase::kStarting;
    MonotonicTime time;  // CLOCK_MONOTONIC of the report: shared by all processes of a machine
    std::uint64_t snapshots_skipped = 0;

    friend bool operator==(const Progress&, const Progress&) = default;
};

// What the daemon asks of a rank.
struct Control {
    std::uint64_t request = 0;  // 0: none. A rank answers each request once
    std::optional<Step> at_step;
    std::optional<Epoch> at_epoch;
    bool is_urgent = false;  // wait for a free slot instead of skipping
    bool should_stop = false;

    friend bool operator==(const Control&, const Control&) = default;
};

using SharedWord = std::atomic<std::uint64_t>;
static_assert(SharedWord::is_always_lock_free, "shared words work across processes");

struct ProgressPage {
    SharedWord generation;
    SharedWord step;
    SharedWord epoch;
    SharedWord loss_bits;
    SharedWord phase;
    SharedWord time_ns;
    SharedWord snapshots_skipped;
};
static_assert(sizeof(ProgressPage) <= kPageBytes);

struct ControlPage {
    SharedWord generation;
    SharedWord request;
    SharedWord at_step;   // kNone: not by step
    SharedWord at_epoch;  // kNone: not by epoch
    SharedWord flags;     // kUrgent | kStop
};
static_assert(sizeof(ControlPage) <= kPageBytes);

// One writer a page. A reader gets nullopt if it met the writer at work kReadsMax times in a row:
// it looks again later. For a control page that cannot last; a dead rank's progress page may stay
// odd.
inline constexpr int kReadsMax = 64;
void write(ProgressPage& page, const Progress& progress);
void write(ControlPage& page, const Control& control);
[[nodiscard]] std::optional<Progress> read(const ProgressPage& page);
[[nodiscard]] std::optional<Control> read(const ControlPage& page);

}  // namespace pawl::staging
