// JobRunner: one job, wired. Its policy and its coordinator decide; this carries out and reports
// back.
//
// On the loop's thread. Long work goes to workers: `checkpoint_worker` (commit, verification),
// `arena_worker` (allocation) and `journal_worker`. What they answer comes back through the loop,
// tagged with its incarnation. A restart's verification queues behind a commit that is under way:
// it sees its result.
#pragma once

#include "adopt/adopter.h"
#include "base/clock.h"
#include "base/file_lock.h"
#include "base/file_system.h"
#include "base/loop.h"
#include "base/worker.h"
#include "checkpoint/coordinator.h"
#include "checkpoint/store.h"
#include "config/config.h"
#include "control/status.h"
#include "daemon/journal_queue.h"
#include "daemon/ledger.h"
#include "daemon/rank.h"
#include "daemon/reporter.h"
#include "daemon/scrubber.h"
#include "journal/journal.h"
#include "staging/attendance.h"
#include "staging/complaints.h"
#include "staging/server.h"
#include "supervisor/job_policy.h"
#include "supervisor/process.h"

#include <cstdint>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace pawl::daemon {

// What the daemon hands to each job; all outlive it.
struct JobServices {
    Loop& loop;
    const Clock& clock;
    FileSystem& fs;
    supervisor::ProcessRunner& processes;
    journal::Journal& journal;
    Worker& journal_worker;  // for what must be written; history goes through the queue
    JournalQueue& history;
    Reporter& reporter;
    std::string state_directory;
    std::vector<std::string> environment;  // the daemon's own, NAME=VALUE
    std::function<void()> changed;         // what status() says has changed
    std::function<void()> concluded;       // a job has stopped
};

class JobRunner {
public:
    JobRunner(config::JobConfig config, JobServices services);
    ~JobRunner();
    JobRunner(const JobRunner&) = delete;
    JobRunner& operator=(const JobRunner&) = delete;

    // Directories, lock, history. Blocks; on any thread, before anything else is called.
    Result<void> open();
    // The ranks' socket.
    Result<void> listen();
    // Removes ranks that a dead daemon left, then starts.
    void start();
    void request_stop(const std::string& by);
    // An event of the job: shown and kept.
    void report(ReportLevel level, const std::string& kind, const std::string& said);
    // An event of the job's that was not its own doing: kept, not shown.
    void note(ReportLevel level, const std::string& kind, const std::string& text);
    Result<void> request_checkpoint();
    // What applies at once does, what applies at a launch waits for the next one.
    void reconfigure(const config::JobConfig& wanted);
    // An event of the job: what a reload has changed.
    void note(ReportLevel level, const std::string& text);
    // Once it has concluded, before it is destroyed while the loop runs: lets go of its socket, and
    // calls back on the loop when no task that it has posted is left anywhere.
    void settle(std::function<void()> done);
    // A sequence or a checkpoint's name. Refused unless the job has stopped; else the answer comes
    // from the checkpoint worker, whether the loop still runs or not.
    [[nodiscard]] Result<std::future<Result<void>>> request_rollback(const std::string& target);

    [[nodiscard]] const std::string& name() const { return config_.name; }
    [[nodiscard]] const config::JobConfig& config() const { return config_; }
    [[nodiscard]] bool is_concluded() const {
        return std::holds_alternative<supervisor::Stopped>(job_.state);
    }
    [[nodiscard]] bool is_draining() const {
        return std::holds_alternative<supervisor::Draining>(job_.state);
    }
    [[nodiscard]] std::optional<supervisor::Stopped> outcome() const;
    [[nodiscard]] control::JobStatus status() const;
    [[nodiscard]] std::size_t processes_running() const;

private:
    // The ranks of one launch. Null when none is launched.
    struct Launch {
        Incarnation number;
        std::vector<RankHolder> ranks;
        std::optional<checkpoint::Choice> verdict;
        std::unique_ptr<checkpoint::Coordinator> coordinator;  // once there is a verdict
        staging::Attendance attendance;
        bool all_attached = false;
        bool is_spawned = false;
        bool is_killing = false;
        bool is_over = false;  // nothing of it is left
        WallTime started;
        std::string cause;
        std::map<std::uint64_t, WallTime> asked;  // when each request was first published
        std::string resume_path;                  // of an adopted file that is in its place
    };

    // job.cc: policy and its actions
    void happened(const supervisor::Event& event);
    void act(const supervisor::Action& action);
    // On the journal worker; a failure costs history, nothing else. The journal says so itself.
    // A write may be carried out when the job is gone: it is given what it needs.
    using JournalWrite = Result<void>(journal::Journal& journal, const std::string& job);
    void write_journal(std::function<JournalWrite> write);
    [[nodiscard]] Result<void> read_history();
    void check_history();
    void wake();
    void conclude();

    // job_reload.cc: another configuration, and the way out
    void take_pending_config();
    void settle_round(int rounds, const std::function<void()>& done);
    [[nodiscard]] static supervisor::JobPolicy policy_of(const config::JobConfig& config);

    // job_launch.cc: ranks as processes
    void launch(Incarnation number);
    void journal_then_spawn(Incarnation number);
    void spawn_ranks(Incarnation number);
    void skip_ranks(Incarnation number);
    Result<void> spawn_rank(RankHolder& rank, const RankEnvironment& environment);
    void rank_may_have_exited(Incarnation number, Rank id);
    void kill_everything(Incarnation number);
    void check_gone(Incarnation number);
    void stop_leftovers();
    void kill_and_watch(const std::vector<pid_t>& pids, const std::function<void()>& when_ended);
    void put_incarnation(journal::IncarnationState state);
    [[nodiscard]] std::vector<pid_t> pids() const;

    // job_verdict.cc: what to resume from
    void verdict_reached(Incarnation number, Result<checkpoint::Choice> choice);
    void say_what_was_found(const checkpoint::Choice& choice);
    [[nodiscard]] std::optional<std::string> why_refused(const checkpoint::Choice& choice);

    // job_adopt.cc: scripts that are not changed
    [[nodiscard]] bool is_adopting() const { return !config_.checkpoint.adopt.empty(); }
    [[nodiscard]] bool waits_for_verdict() const;
    [[nodiscard]] adopt::Settings adopt_settings() const;
    void choose_then_spawn(Incarnation number);
    void prepared(Incarnation number, const adopt::Prepared& prepared);
    [[nodiscard]] std::vector<std::string> command_of(Rank rank) const;
    void begin_adopting();
    [[nodiscard]] adopt::Context adopt_context() const;
    void saved_files_may_have_changed();
    void look_at_saved_files();
    void look_for_the_last_time(Incarnation number);
    void looked(const adopt::Looked& looked);

    // job_session.cc: who may speak as which rank
    void received(staging::SessionId session, const staging::RankMessage& message);
    void lost(staging::SessionId session, const std::string& why);
    void greeted(staging::SessionId session, const staging::Hello& hello);
    [[nodiscard]] std::string why_refused(staging::SessionId session,
                                          const staging::Hello& hello) const;
    [[nodiscard]] std::string why_foreign(pid_t pid, Rank rank) const;
    void complain(const std::string& text);
    void break_off(RankHolder& rank, const std::string& why);
    void useless(const std::string& why);
    void send_verdict(RankHolder& rank);
    void broadcast(const staging::DaemonMessage& message);
    void watch_sessions(MonotonicTime now);
    [[nodiscard]] RankHolder* rank_of(staging::SessionId session);

    // job_arenas.cc: the memory for snapshots
    void arena_requested(RankHolder& rank, const staging::ArenaRequest& request);
    void give_arena(RankHolder& rank, std::uint32_t slot_number);
    void make_arenas_for_resume();
    void make_arena_ahead(RankHolder& rank, std::uint64_t bytes);
    void post_arena(RankHolder& rank, std::uint32_t slot_number, std::uint64_t bytes);
    void arena_made(Incarnation number, Rank id, std::uint32_t slot_number,
                    Result<std::shared_ptr<Arena>> arena);
    void drop_arenas(std::vector<std::shared_ptr<Arena>> arenas);

    // job_snapshot.cc: snapshots, progress
    void snapshot_sealed(RankHolder& rank, const staging::SnapshotSealed& message);
    void epoch_ended(const RankHolder& rank, const staging::EpochEnded& message);
    void checkpoint_wanted(const RankHolder& rank);
    void carry_out(const checkpoint::CoordinatorActions& actions);
    void persist(const checkpoint::Persist& work);
    void persisted(Incarnation number, const checkpoint::Persist& work,
                   const Result<checkpoint::Committed>& result);
    void advance();  // the coordinator, by time
    void tick();
    void journal_progress();
    [[nodiscard]] checkpoint::Position position();

    // job_checkpoints.cc: cadence, scrub, rollback
    [[nodiscard]] checkpoint::CadencePolicy cadence();
    void learn_failures();
    void note_stall(const staging::Progress& last);
    void note_cost(nanoseconds write);
    void plan_first_scrub();
    void replan_scrub();
    void stop_scrubbing();
    void scrub();
    void scrubbed(const checkpoint::Scrubbed& result);
    void look_at_suspects();
    void suspect_judged(const checkpoint::CheckpointName& name,
                        const Result<std::optional<checkpoint::Rejected>>& found);
    Result<void> roll_back_to(const std::string& target);
    void rolled_back(const checkpoint::RolledBack& done);

    config::JobConfig config_;
    std::optional<config::JobConfig> pending_config_;  // for the next launch
    JobServices services_;
    supervisor::JobPolicy policy_;
    supervisor::Job job_;
    std::string job_key_;
    std::string socket_path_;
    std::optional<FileLock> directory_lock_;
    std::size_t checkpoints_reconciled_ = 0;
    std::string history_unread_;  // why the journal could not be read, if so
    JournalLedger ledger_;
    checkpoint::Store store_;
    std::unique_ptr<staging::RankServer> server_;
    std::unique_ptr<Launch> launch_;
    // Processes that outlived their ranks, watched until they are gone.
    struct Leftover {
        UniqueFd pidfd;
        std::unique_ptr<FdWatcher> watcher;
    };
    std::vector<Leftover> leftovers_;
    bool is_reclaiming_ = false;  // of a daemon that died
    Timer wake_timer_;
    Timer tick_timer_;
    Timer advance_timer_;

    // What checkpoints cost and how often the job fails, for the automatic cadence.
    std::optional<nanoseconds> checkpoint_cost_;
    nanoseconds stall_{};  // the longest since the last commit
    checkpoint::FailureHistory failures_;
    nanoseconds said_interval_{};

    Timer scrub_timer_;
    Timer suspect_timer_;
    bool is_scrubbing_ = false;
    std::vector<checkpoint::CheckpointName> suspects_;

    // Null until files are adopted. The watches outlive their watcher.
    struct Adoption {
        adopt::Watches watches;
        std::unique_ptr<FdWatcher> watcher;
        std::unique_ptr<adopt::Adopter> adopter;  // of the checkpoint worker
        std::vector<adopt::Pattern> patterns;
        bool is_looking = false;
        bool looks_again = false;
    };
    std::unique_ptr<Adoption> adoption_;

    // For status and journal.
    std::optional<WallTime> scrubbed_;
    std::uint64_t damaged_found_ = 0;  // by scrubs, since the daemon started
    std::optional<control::CheckpointStatus> newest_checkpoint_;
    std::uint64_t checkpoints_committed_ = 0;
    std::uint64_t attempts_started_ = 0;  // of earlier incarnations
    std::uint64_t attempts_failed_ = 0;
    staging::Complaints complaints_;
    staging::Complaints attempt_complaints_{30};
    std::uint64_t launches_ = 0;
    std::string last_event_;
    Step shown_step_;
    Epoch shown_epoch_;
    double shown_loss_ = 0;
    double steps_per_second_ = 0;
    Step rate_step_;
    MonotonicTime rate_time_;
    Step journalled_step_;
    MonotonicTime journalled_time_;

    // Last, so that they are joined first: their tasks use what is above. Arenas have a worker of
    // their own, because a rank waits for them while a commit may be under way.
    Worker arena_worker_;
    Worker checkpoint_worker_;
    std::unique_ptr<Scrubber> scrubber_;  // its answers use the worker before it
};

// What the configuration says of retention.
[[nodiscard]] checkpoint::RetentionPolicy retention_of(const config::CheckpointConfig& config);

[[nodiscard]] control::CheckpointStatus checkpoint_status(const checkpoint::Manifest& manifest,
                                                          const std::string& path,
                                                          const std::string& verified);

}  // namespace pawl::daemon
