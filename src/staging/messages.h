// The messages of the trainer protocol: one JSON object a SEQPACKET message, descriptors beside it.
// docs/formats.md, "Trainer protocol". Rare: a few a snapshot, none a step.
#pragma once

#include "base/result.h"
#include "base/units.h"

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

namespace pawl::staging {

inline constexpr std::uint64_t kProtocolVersion = 1;
inline constexpr std::size_t kMessageBytesMax = std::size_t{64} * 1024;
inline constexpr std::uint32_t kSlots =
    2;  // arenas a rank: one is persisted while the next is filled
// The largest step, epoch, rank or incarnation that is believed: what is above was never counted.
// Far from where sums overflow, and exact in every JSON reader.
inline constexpr std::uint64_t kCountMax = std::uint64_t{1} << 53;

// ---- from a rank ----
struct Hello {
    std::uint64_t protocol = kProtocolVersion;
    Rank rank;
    Incarnation incarnation;
    std::uint64_t world_size = 1;
    std::string framework;  // "LibTorch 1.13.1"
    friend bool operator==(const Hello&, const Hello&) = default;
};
// Asks for a slot of at least `bytes`; the rank owns that slot, or there is none yet.
struct ArenaRequest {
    std::uint32_t slot = 0;
    std::uint64_t bytes = 0;
    friend bool operator==(const ArenaRequest&, const ArenaRequest&) = default;
};
// A complete snapshot. The slot is the daemon's until Released.
struct SnapshotSealed {
    std::uint64_t request = 0;
    std::uint32_t slot = 0;
    std::uint64_t bytes = 0;
    Step step;
    Epoch epoch;
    std::map<std::string, double> metrics;
    friend bool operator==(const SnapshotSealed&, const SnapshotSealed&) = default;
};
struct SnapshotPassed {
    std::uint64_t request = 0;
    Step step;  // completed when the request was seen
    friend bool operator==(const SnapshotPassed&, const SnapshotPassed&) = default;
};
struct SnapshotSkipped {
    std::uint64_t request = 0;
    std::string why;
    friend bool operator==(const SnapshotSkipped&, const SnapshotSkipped&) = default;
};
// An epoch has ended: always a record of its own in the journal.
struct EpochEnded {
    Step step;
    Epoch epoch;  // completed
    double loss = 0;
    std::map<std::string, double> metrics;
    friend bool operator==(const EpochEnded&, const EpochEnded&) = default;
};
// Training is complete at `step`; the rank waits for the final checkpoint.
struct Finishing {
    Step step;
    Epoch epoch;
    friend bool operator==(const Finishing&, const Finishing&) = default;
};
// The trainer wants a checkpoint now. The rank waits for CheckpointAnswer.
struct CheckpointWanted {
    friend bool operator==(const CheckpointWanted&, const CheckpointWanted&) = default;
};

using RankMessage = std::variant<Hello, ArenaRequest, SnapshotSealed, SnapshotPassed,
                                 SnapshotSkipped, EpochEnded, Finishing, CheckpointWanted>;

// ---- from the daemon ----
// With one descriptor: the pages.
struct Welcome {
    std::string job;
    friend bool operator==(const Welcome&, const Welcome&) = default;
};
struct Refused {
    std::string why;
    friend bool operator==(const Refused&, const Refused&) = default;
};
// The verdict. With one descriptor (the rank's file) if there is a checkpoint.
struct Resume {
    std::optional<Sequence> sequence;  // none: begin at step 0
    Step step;
    Epoch epoch;
    std::string path;
    friend bool operator==(const Resume&, const Resume&) = default;
};
// With one descriptor: the arena.
struct ArenaGranted {
    std::uint32_t slot = 0;
    std::uint64_t bytes = 0;
    friend bool operator==(const ArenaGranted&, const ArenaGranted&) = default;
};
struct ArenaRefused {
    std::uint32_t slot = 0;
    std::string why;
    friend bool operator==(const ArenaRefused&, const ArenaRefused&) = default;
};
struct SlotReleased {
    std::uint32_t slot = 0;
    friend bool operator==(const SlotReleased&, const SlotReleased&) = default;
};
// To ranks that wait in Finishing: take the snapshot that the control page asks for.
struct TakeSnapshot {
    std::uint64_t request = 0;
    friend bool operator==(const TakeSnapshot&, const TakeSnapshot&) = default;
};
struct SnapshotDurable {
    Sequence sequence;
    Step step;
    Epoch epoch;
    friend bool operator==(const SnapshotDurable&, const SnapshotDurable&) = default;
};
struct SnapshotFailed {
    std::uint64_t request = 0;
    std::string why;
    friend bool operator==(const SnapshotFailed&, const SnapshotFailed&) = default;
};
// To the rank that sent CheckpointWanted: the control page says at which step all take it, or why
// there is none.
struct CheckpointAnswer {
    std::string why_not;  // "": it is asked for
    friend bool operator==(const CheckpointAnswer&, const CheckpointAnswer&) = default;
};

using DaemonMessage =
    std::variant<Welcome, Refused, Resume, ArenaGranted, ArenaRefused, SlotReleased, TakeSnapshot,
                 SnapshotDurable, SnapshotFailed, CheckpointAnswer>;

[[nodiscard]] std::string encode(const RankMessage& message);
[[nodiscard]] std::string encode(const DaemonMessage& message);
// kInvalidArgument on anything that is no message of this protocol: unknown fields are ignored.
// Texts come out on one line and cut to kTextBytesMax, since they end up in events and manifests.
inline constexpr std::size_t kTextBytesMax = 1024;
[[nodiscard]] Result<RankMessage> decode_rank_message(std::string_view text);
[[nodiscard]] Result<DaemonMessage> decode_daemon_message(std::string_view text);

}  // namespace pawl::staging
