// See keys.h.
#include "config/keys.h"

#include <array>

namespace pawl::config {

namespace {

constexpr nanoseconds kDay = std::chrono::hours{24};
constexpr Numbers kRanks{1, 1024};
constexpr Sizes kOutputRotateAt{std::uint64_t{64} << 10, std::uint64_t{1} << 40};
constexpr Numbers kEverySteps{1, 1'000'000'000'000};
constexpr Numbers kEveryEpochs{1, 1'000'000};
constexpr Durations kEveryTime{seconds{1}, 365 * kDay};
static_assert(kEveryTime.contains(kEveryTimeDefault));
constexpr Numbers kKeepLast{1, 10'000};
constexpr Numbers kRestarts{0, 10'000};
constexpr Durations kRestartWindow{seconds{1}, 365 * kDay};
constexpr Durations kRestartDelay{milliseconds{1}, kDay};
constexpr Numbers kSameStepFailures{2, 1'000};
constexpr Durations kStopGrace{milliseconds{1}, kDay};

constexpr auto kLogLevels = std::to_array<Choice<LogLevel>>({
    {"debug", LogLevel::kDebug},
    {"info", LogLevel::kInfo},
    {"warning", LogLevel::kWarning},
    {"error", LogLevel::kError},
});

constexpr auto kOnNoValidCheckpoint = std::to_array<Choice<OnNoValidCheckpoint>>({
    {"stop", OnNoValidCheckpoint::kStop},
    {"start_fresh", OnNoValidCheckpoint::kStartFresh},
});

// ---- a job ----

constexpr auto kCheckpointFields = std::to_array<Field<JobConfig>>({
    path<JobConfig>([](auto& job) -> auto& { return job.checkpoint.directory; },
                    {.name = "directory",
                     .about = "Made if it is missing; no other job may use it.",
                     .applies = Applies::kRestart,
                     .required_as = "a path"}),
    duration<JobConfig>([](auto& job) -> auto& { return job.checkpoint.cadence.every_time; },
                        kEveryTime,
                        {.name = "every",
                         .about = "A checkpoint every so often. Of `every`, `every_steps` and "
                                  "`every_epochs` each that is written applies, whichever comes "
                                  "first.",
                         .default_as = "10m, if none of the three is written"}),
    number<JobConfig>([](auto& job) -> auto& { return job.checkpoint.cadence.every_steps; },
                      kEverySteps,
                      {.name = "every_steps", .about = "A checkpoint every so many steps."}),
    number<JobConfig>([](auto& job) -> auto& { return job.checkpoint.cadence.every_epochs; },
                      kEveryEpochs,
                      {.name = "every_epochs", .about = "A checkpoint every so many epochs."}),
    number<JobConfig>([](auto& job) -> auto& { return job.checkpoint.keep_last; }, kKeepLast,
                      {.name = "keep_last", .about = "So many of the newest checkpoints stay."}),
    choice<JobConfig, kOnNoValidCheckpoint>(
        [](auto& job) -> auto& { return job.checkpoint.on_no_valid_checkpoint; },
        {.name = "on_no_valid_checkpoint",
         .about = "When checkpoints exist but none is valid. `stop`: the job stops and says why. "
                  "`start_fresh`: it begins again at step 0."}),
});

constexpr auto kRestartFields = std::to_array<Field<JobConfig>>({
    number<JobConfig>(
        [](auto& job) -> auto& { return job.restart.max; }, kRestarts,
        {.name = "max",
         .about = "So many restarts without progress within `window`; the next failure stops the "
                  "job. 0: never restart."}),
    duration<JobConfig>([](auto& job) -> auto& { return job.restart.window; }, kRestartWindow,
                        {.name = "window", .about = "The time in which restarts are counted."}),
    duration<JobConfig>([](auto& job) -> auto& { return job.restart.delay_initial; }, kRestartDelay,
                        {.name = "delay_initial",
                         .about = "The wait before a restart: doubled with each restart in a row, "
                                  "up to `delay_max`."}),
    duration<JobConfig>([](auto& job) -> auto& { return job.restart.delay_max; }, kRestartDelay,
                        {.name = "delay_max", .about = "The longest wait before a restart."}),
    number<JobConfig>([](auto& job) -> auto& { return job.restart.same_step_max; },
                      kSameStepFailures,
                      {.name = "same_step_max",
                       .about = "So many failures in a row at the same step stop the job: trying "
                                "again won't help."}),
});

constexpr auto kStopFields = std::to_array<Field<JobConfig>>({
    duration<JobConfig>([](auto& job) -> auto& { return job.stop.grace; }, kStopGrace,
                        {.name = "grace",
                         .about = "From the request to stop until the ranks are killed; making the "
                                  "checkpoint is included."}),
    duration<JobConfig>([](auto& job) -> auto& { return job.stop.exit_grace; }, kStopGrace,
                        {.name = "exit_grace",
                         .about = "How long ranks may still take to exit once the checkpoint is "
                                  "durable; not above `grace`."}),
});

constexpr auto kJobFields = std::to_array<Field<JobConfig>>({
    words<JobConfig>(
        [](auto& job) -> auto& { return job.command; },
        {.name = "command",
         .about = "The program and its arguments, one to an item. No shell reads it: write [sh, "
                  "-c, \"…\"] where one should.",
         .applies = Applies::kNextLaunch,
         .required_as = kWordsExpected}),
    path<JobConfig>([](auto& job) -> auto& { return job.working_directory; },
                    {.name = "working_directory",
                     .about = "Where the ranks start.",
                     .applies = Applies::kNextLaunch,
                     .default_as = "the directory of the file that has the job"}),
    variables<JobConfig>(
        [](auto& job) -> auto& { return job.environment; },
        {.name = "environment",
         .about = "Added to pawld's own environment. `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, "
                  "`LOCAL_WORLD_SIZE` and `PAWL_…` are refused: pawl sets them for each rank.",
         .applies = Applies::kNextLaunch}),
    number<JobConfig>([](auto& job) -> auto& { return job.ranks; }, kRanks,
                      {.name = "ranks",
                       .about = "How many processes the job has. A checkpoint resumes with as many "
                                "ranks as made it.",
                       .applies = Applies::kRestart}),
    path<JobConfig>([](auto& job) -> auto& { return job.output_directory; },
                    {.name = "output_directory",
                     .about = "What the ranks print; no other job may use it.",
                     .applies = Applies::kRestart,
                     .default_as = "`logs/NAME` in the state directory"}),
    size<JobConfig>([](auto& job) -> auto& { return job.output_rotate_at; }, kOutputRotateAt,
                    {.name = "output_rotate_at",
                     .about = "A rank's output that has grown to this makes room when the rank is "
                              "started again: it becomes `rank-N.log.1`.",
                     .applies = Applies::kNextLaunch}),
    map<JobConfig>(kCheckpointFields,
                   {.name = "checkpoint",
                    .about = "Where checkpoints go, when they are made, and which stay.",
                    .required_as = "a map with at least the key directory"}),
    map<JobConfig>(kRestartFields,
                   {.name = "restart", .about = "When ranks that failed are started again."}),
    map<JobConfig>(kStopFields, {.name = "stop", .about = "How long an orderly stop may take."}),
});

// ---- the daemon ----

constexpr auto kControlFields = std::to_array<Field<DaemonConfig>>({
    path<DaemonConfig>(
        [](auto& daemon) -> auto& { return daemon.control.socket; },
        {.name = "socket",
         .about = "The Unix socket on which `pawl status` and others speak to pawld; "
                  "at most 107 bytes long.",
         .applies = Applies::kRestart,
         .default_as = "`pawld.sock` in the state directory"}),
});

constexpr auto kDaemonFields = std::to_array<Field<DaemonConfig>>({
    path<DaemonConfig>([](auto& daemon) -> auto& { return daemon.state_directory; },
                       {.name = "state_directory",
                        .about = "The journal, the socket and, unless a job says otherwise, the "
                                 "logs.",
                        .applies = Applies::kRestart}),
    choice<DaemonConfig, kLogLevels>(
        [](auto& daemon) -> auto& { return daemon.log_level; },
        {.name = "log_level", .about = "What pawld logs: this and what is more severe."}),
    map<DaemonConfig>(kControlFields, {.name = "control", .about = "How pawld is spoken to."}),
    of_loader<DaemonConfig>(
        Kind::kFiles,
        {.name = "include",
         .about = "Files with more jobs: a path or a list of paths, which may hold `*`, `?` and "
                  "`[…]`. They start at the directory of the file that names them. A file that is "
                  "named must be there; a pattern may match none."}),
    of_loader<DaemonConfig>(
        Kind::kJob,
        {.name = "defaults",
         .about = "What a job does not say itself. The same keys as a job; only one file may have "
                  "it."}),
    of_loader<DaemonConfig>(
        Kind::kJobs,
        {.name = "jobs",
         .about = "The jobs, each under its name: 1 to 64 letters, digits, `.`, `_` or `-`, not "
                  "beginning with `.` or `-`. At least one, unless files are included."}),
});

}  // namespace

std::span<const Field<DaemonConfig>> daemon_fields() {
    return kDaemonFields;
}

std::span<const Field<JobConfig>> job_fields() {
    return kJobFields;
}

}  // namespace pawl::config
