// AttachedRun: a run under a daemon; pages, arenas and the trainer protocol, seen from the rank.
// docs/formats.md, "Trainer protocol". How it talks to the daemon is in attached_session.cc, what
// it does for the trainer in attached.cc.
//
// client: see run.h. One call at a time (pawl.cc sees to that). A daemon that is gone, or that
// breaks the protocol, is given up: the connection is closed, and the run is inert.
#pragma once

#include "base/clock.h"
#include "base/fd.h"
#include "client/run.h"
#include "staging/memory.h"
#include "staging/messages.h"
#include "staging/pages.h"

#include <array>
#include <string_view>
#include <vector>

namespace pawl::client {

class AttachedRun final : public Run {
public:
    AttachedRun(UniqueFd socket, Rank rank, std::uint64_t world_size, Origin& origin);
    ~AttachedRun() override;
    AttachedRun(const AttachedRun&) = delete;
    AttachedRun& operator=(const AttachedRun&) = delete;

    // Hello, Welcome with the pages, Resume with the verdict.
    Result<void> greet(const AttachOptions& options, Incarnation incarnation);

    [[nodiscard]] Rank rank() const override { return rank_; }
    [[nodiscard]] std::uint64_t world_size() const override { return world_size_; }
    [[nodiscard]] bool is_attached() const override { return true; }
    [[nodiscard]] const ResumePoint& resume_point() const override { return resume_; }
    void release_resume() override {
        resume_.image = {};
        resume_mapping_ = staging::Mapping();
    }

    [[nodiscard]] Result<Wanted> step(const Report& given) override;
    [[nodiscard]] Result<Wanted> epoch_end(const Report& given, const Metrics& metrics) override;
    [[nodiscard]] Result<Wanted> poll(PollPhase phase) override;
    [[nodiscard]] Result<Asked> request_checkpoint() override;
    [[nodiscard]] Result<std::span<std::byte>> snapshot_begin(std::uint64_t bytes) override;
    [[nodiscard]] Result<Sealing> snapshot_seal(const Metrics& metrics) override;
    Result<void> snapshot_abort(const std::string& why) override;
    [[nodiscard]] Result<Wanted> finish() override;
    Result<void> finish_wait() override;

    [[nodiscard]] const char* inert_reason() const noexcept override;
    void interrupted(const char* why) noexcept override { hang_up(why); }
    void forget() noexcept override;

private:
    enum class Moment { kStep, kEpochEnd, kBetween };
    // One of the two arenas of a rank.
    struct Slot {
        staging::Mapping mapping;
        bool is_ours = true;  // else the daemon is persisting it
    };
    struct Received {
        staging::DaemonMessage message;
        std::vector<UniqueFd> descriptors;
    };

    void report(const Report& report);
    void write_progress(staging::Phase phase);
    [[nodiscard]] Result<Wanted> wanted(Moment moment);
    void refresh_control();
    [[nodiscard]] Result<void> acquire_slot(std::uint64_t bytes);
    [[nodiscard]] Result<void> request_arena(std::size_t slot, std::uint64_t bytes);
    // Answers the request with "no snapshot".
    Result<void> skip(const std::string& why);

    [[nodiscard]] bool is_inert() const { return !socket_.is_open(); }
    [[nodiscard]] Result<void> send(const staging::RankMessage& message);
    [[nodiscard]] Result<Received> receive();
    // Takes what has come meanwhile.
    [[nodiscard]] Result<void> drain_messages();
    // What any message means besides being awaited: slots come back.
    void note(const staging::DaemonMessage& message);
    [[nodiscard]] Result<void> map_pages(int fd);
    [[nodiscard]] Result<void> map_resume(const staging::Resume& resume, int fd);
    // The daemon is gone, or can't be trusted: the error to return, once.
    [[nodiscard]] Error give_up(const Error& why);
    void hang_up(std::string_view why) noexcept;

    Origin& origin_;
    UniqueFd socket_;
    Rank rank_;
    std::uint64_t world_size_;
    SystemClock clock_;
    staging::Mapping progress_mapping_;
    staging::Mapping control_mapping_;
    staging::ProgressPage* progress_page_ = nullptr;
    const staging::ControlPage* control_page_ = nullptr;
    ResumePoint resume_;
    staging::Mapping resume_mapping_;
    bool has_verdict_ = false;

    staging::Progress progress_;
    staging::Control control_;
    std::uint64_t control_generation_ = ~std::uint64_t{0};
    std::uint64_t answered_request_ = 0;
    std::array<char, 1024> inert_reason_{};  // no string: it is written where memory is wanting

    std::array<Slot, staging::kSlots> slots_;
    std::optional<std::size_t> open_slot_;
    std::uint64_t open_bytes_ = 0;
    std::uint64_t final_request_ = 0;
    bool is_finishing_ = false;
    std::optional<Result<void>> final_verdict_;
};

}  // namespace pawl::client
