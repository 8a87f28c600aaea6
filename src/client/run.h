// Run: what the C ABI is made of; one implementation under a daemon, one without.
//
// client (libpawl): includes base, torchfile, staging, checkpoint; nothing includes it. Starts no
// thread, installs no signal handler, prints nothing.
#pragma once

#include "base/result.h"
#include "base/units.h"

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

class Run {
public:
    virtual ~Run() = default;

    [[nodiscard]] virtual Rank rank() const = 0;
    [[nodiscard]] virtual std::uint64_t world_size() const = 0;
    [[nodiscard]] virtual bool is_attached() const = 0;
    [[nodiscard]] virtual const ResumePoint& resume_point() const = 0;
    virtual void release_resume() = 0;

    [[nodiscard]] virtual Wanted step(const Report& report) = 0;
    [[nodiscard]] virtual Wanted epoch_end(const Report& report, const Metrics& metrics) = 0;
    enum class PollPhase { kTraining, kEvaluation };
    [[nodiscard]] virtual Wanted poll(PollPhase phase) = 0;

    // An empty span: no snapshot this time.
    [[nodiscard]] virtual Result<std::span<std::byte>> snapshot_begin(std::uint64_t bytes) = 0;
    virtual Result<void> snapshot_seal(const Metrics& metrics) = 0;
    virtual void snapshot_abort(const std::string& why) = 0;

    [[nodiscard]] virtual Result<Wanted> finish() = 0;
    virtual Result<void> finish_wait() = 0;
    virtual void request_stop() noexcept = 0;
};

// Under the daemon whose socket is named, as the rank that the environment (RANK, WORLD_SIZE,
// PAWL_INCARNATION) says.
[[nodiscard]] Result<std::unique_ptr<Run>> attach_to_daemon(const std::string& socket,
                                                            const AttachOptions& options);
[[nodiscard]] Result<std::unique_ptr<Run>> run_standalone(const AttachOptions& options);

// A whole number from the environment; nullopt if unset or empty, an error if it is none.
[[nodiscard]] Result<std::optional<std::uint64_t>> number_from_environment(const char* name);

}  // namespace pawl::client
