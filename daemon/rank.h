// A rank of the running incarnation, as the daemon holds it: process, session, pages, arenas.
#pragma once

#include "base/loop.h"
#include "staging/memory.h"
#include "staging/messages.h"
#include "staging/pages.h"
#include "staging/server.h"
#include "supervisor/process.h"

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace pawl::daemon {

// Shared by the loop and, while it is persisted, the checkpoint worker: it outlives its
// incarnation.
struct Arena {
    UniqueFd memory;
    staging::Mapping mapping;
};

// An arena that the rank has not asked for yet.
enum class Ahead { kNo, kBeingMade, kMade };

struct RankSlot {
    std::shared_ptr<Arena> arena;
    bool is_sealed = false;  // the daemon's until it is released
    Ahead ahead = Ahead::kNo;
    std::optional<std::uint64_t> requested_bytes;  // the rank waits for an arena of so many

    [[nodiscard]] bool is_the_ranks() const {
        return arena != nullptr && !is_sealed && ahead == Ahead::kNo;
    }
};

struct RankHolder {
    Rank rank;
    std::string output_path;
    std::optional<std::uint64_t> output_begin;  // of this incarnation's part
    std::optional<supervisor::Spawned> process;
    std::unique_ptr<FdWatcher> exit_watcher;  // of process->pidfd, so after it
    bool has_exited = false;
    std::optional<supervisor::ExitStatus> exit;

    std::optional<staging::SessionId> session;
    UniqueFd pages;
    staging::Mapping pages_mapping;
    staging::ProgressPage* progress_page = nullptr;
    staging::ControlPage* control_page = nullptr;
    staging::Progress last;
    MonotonicTime heard;                   // when its page was last seen to change
    bool has_reported = false;             // has written its progress page at least once
    bool has_verdict = false;              // was told what to resume from
    std::optional<MonotonicTime> hung_up;  // it let go of its session, and runs on
    std::string framework;
    std::array<RankSlot, staging::kSlots> slots;

    [[nodiscard]] bool is_running() const { return process.has_value() && !has_exited; }

    // New pages for a session that has just said hello.
    Result<void> make_pages(const std::string& job);
    // Takes what the page says, if it can be read just now. kInvalidArgument if it says what can't
    // be.
    Result<void> read_progress(MonotonicTime now);
    void write_control(const staging::Control& control) const;
    [[nodiscard]] std::uint64_t arena_bytes() const;
    // Its arenas, which it loses: unmapping much memory takes long, and belongs on a worker.
    [[nodiscard]] std::vector<std::shared_ptr<Arena>> take_arenas();
};

// What torchrun would set, and what pawl adds; on top of `base` (NAME=VALUE), which loses every
// PAWL_* and systemd variable of the daemon's own.
struct RankEnvironment {
    std::string job;
    std::string job_key;
    std::string socket_path;
    Incarnation incarnation;
    std::uint64_t world_size = 1;
    bool is_distributed = true;  // false: without torchrun's variables
    std::uint16_t master_port = 0;
    std::uint32_t restarts_max = 0;
};
[[nodiscard]] std::vector<std::string> environment_of(const RankEnvironment& given, Rank rank,
                                                      const std::vector<std::string>& base);

// In [0, 1): spreads restarts of jobs that failed together.
[[nodiscard]] double draw_jitter();

// A TCP port on loopback that nobody uses just now.
[[nodiscard]] Result<std::uint16_t> free_port();

}  // namespace pawl::daemon
