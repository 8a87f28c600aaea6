// Run: what the C ABI is made of; one implementation under a daemon, one without.
//
// client (libpawl): includes base, torchfile, staging, checkpoint; nothing includes it. Starts no
// thread, installs no signal handler, prints nothing. What a caller can get wrong comes back as an
// error, and exceptions are stopped in pawl.cc.
#pragma once

#include "base/result.h"
#include "base/units.h"
#include "client/origin.h"

#include <atomic>
#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>

namespace pawl::client {

struct AttachOptions {
    std::string framework;
    // Standalone only.
    std::string checkpoint_directory = "checkpoints";
    std::string job = "standalone";
    std::optional<std::uint64_t> every_steps;
    std::optional<std::uint64_t> every_epochs;
    std::optional<nanoseconds> every_time;
    std::uint32_t keep_last = 3;
};

// What a run shares with its handle, which outlives it.
struct Shared {
    Origin& origin;
    const std::atomic<bool>& stop_requested;
};

struct Report {
    Step step;
    Epoch epoch;
    double loss = 0;
};

struct ResumePoint {
    std::span<const std::byte> image;  // empty: begin at step 0
    Sequence sequence;
    Step step;
    Epoch epoch;
};

struct Wanted {
    bool snapshot = false;
    bool stop = false;
};

using Metrics = std::map<std::string, double>;

[[nodiscard]] inline Error begun_already() {
    return make_error(ErrorKind::kInvalidArgument,
                      "a snapshot is begun already: seal or abort it first. It stays as it is");
}

class Run {
public:
    virtual ~Run() = default;

    [[nodiscard]] virtual Rank rank() const = 0;
    [[nodiscard]] virtual std::uint64_t world_size() const = 0;
    [[nodiscard]] virtual bool is_attached() const = 0;
    [[nodiscard]] virtual const ResumePoint& resume_point() const = 0;
    virtual void release_resume() = 0;

    // An inert run wants nothing, and fails no more: only the call that found the daemon gone does.
    [[nodiscard]] virtual Result<Wanted> step(const Report& report) = 0;
    [[nodiscard]] virtual Result<Wanted> epoch_end(const Report& report,
                                                   const Metrics& metrics) = 0;
    enum class PollPhase { kTraining, kEvaluation };
    [[nodiscard]] virtual Result<Wanted> poll(PollPhase phase) = 0;

    // A checkpoint wanted by the trainer: to be taken now, or at a step that step() will name.
    struct Asked {
        Wanted wanted;
        std::string why_not;  // "": it was asked for
    };
    [[nodiscard]] virtual Result<Asked> request_checkpoint() = 0;

    // An empty span: no snapshot this time.
    [[nodiscard]] virtual Result<std::span<std::byte>> snapshot_begin(std::uint64_t bytes) = 0;
    enum class Sealing { kSealed, kSkipped };
    [[nodiscard]] virtual Result<Sealing> snapshot_seal(const Metrics& metrics) = 0;
    virtual Result<void> snapshot_abort(const std::string& why) = 0;

    [[nodiscard]] virtual Result<Wanted> finish() = 0;
    virtual Result<void> finish_wait() = 0;

    // "" while it works; else what became of it.
    [[nodiscard]] virtual const char* inert_reason() const noexcept = 0;
    // An exception (want of memory, a mistake of ours) has ended a call in the middle.
    virtual void interrupted(const char* why) noexcept = 0;
    // In a forked child, before the destructor: session, lock and arenas are the parent's.
    virtual void forget() noexcept = 0;
};

// Under the daemon whose socket is named, as the rank that the environment (RANK, WORLD_SIZE,
// PAWL_INCARNATION) says.
[[nodiscard]] Result<std::unique_ptr<Run>> attach_to_daemon(const std::string& socket,
                                                            const AttachOptions& options,
                                                            const Shared& shared);
[[nodiscard]] Result<std::unique_ptr<Run>> run_standalone(const AttachOptions& options,
                                                          const Shared& shared);

}  // namespace pawl::client
