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
constexpr Sizes kKeepBytes{1, kSizeMax};
constexpr Durations kScrubEvery{seconds{1}, 365 * kDay};
constexpr Durations kRankTimeout{seconds{1}, 30 * kDay};
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

constexpr auto kBestModes = std::to_array<Choice<BestMode>>({
    {"min", BestMode::kMin},
    {"max", BestMode::kMax},
});

// ---- a job ----

// Whole or not at all: a part of it that a file writes makes it be there.
KeepBestConfig& best_of(JobConfig& job) {
    if (!job.checkpoint.keep_best) job.checkpoint.keep_best.emplace();
    return *job.checkpoint.keep_best;
}

void copy_best(const JobConfig& from, JobConfig& to) {
    to.checkpoint.keep_best = from.checkpoint.keep_best;
}

constexpr auto kKeepBestFields = std::to_array<Field<JobConfig>>({
    {.key = {.name = "metric",
             .about = "As the trainer reports it at an epoch's end or with a checkpoint.",
             .required_as = "the name of a metric, such as loss"},
     .type = {.kind = Kind::kText},
     .read = [](const Value& value, const Type&,
                JobConfig& job) { return detail::store(value.text(), best_of(job).metric); },
     .show =
         [](const JobConfig& job) {
             return job.checkpoint.keep_best ? Json(job.checkpoint.keep_best->metric) : Json();
         },
     .copy = copy_best},
    {.key = {.name = "mode",
             .about = "Whether less or more is better.",
             .required_as = "min or max"},
     .type = {.kind = Kind::kChoice, .choices = detail::kNames<kBestModes>},
     .read =
         [](const Value& value, const Type&, JobConfig& job) {
             return detail::store(value.one_of<BestMode>(kBestModes), best_of(job).mode);
         },
     .show =
         [](const JobConfig& job) {
             if (!job.checkpoint.keep_best) return Json();
             return Json(job.checkpoint.keep_best->mode == BestMode::kMin ? "min" : "max");
         },
     .copy = copy_best},
    {.key = {.name = "count", .about = "How many of the best stay.", .default_as = "1"},
     .type = {.kind = Kind::kNumber, .numbers = kKeepLast},
     .read =
         [](const Value& value, const Type& type, JobConfig& job) {
             return detail::store(value.number(type.numbers), best_of(job).count);
         },
     .show =
         [](const JobConfig& job) {
             return job.checkpoint.keep_best ? Json(job.checkpoint.keep_best->count) : Json();
         },
     .problem = [](const Type& type, const JobConfig& job) -> std::optional<std::string> {
         if (!job.checkpoint.keep_best) return std::nullopt;
         const std::optional<std::uint64_t> count = job.checkpoint.keep_best->count;
         return detail::out_of(type.numbers, count, fmt::format("{}", *count));
     },
     .copy = copy_best},
});

constexpr Field<JobConfig> kEvery = {
    .key = {.name = "every",
            .about =
                "A checkpoint every so often; `auto` works the time out from what a checkpoint "
                "costs and how often the job fails. Of `every`, `every_steps` and "
                "`every_epochs` each that is written applies, whichever comes first.",
            .default_as = "10m, if none of the three is written"},
    .type = {.kind = Kind::kDuration, .durations = kEveryTime, .word = "auto"},
    .read = [](const Value& value, const Type& type, JobConfig& job) -> Result<void> {
        CadenceConfig& cadence = job.checkpoint.cadence;
        cadence.is_automatic = is_word(value, type.word);
        cadence.every_time.reset();
        if (cadence.is_automatic) return {};
        return detail::store(value.duration(type.durations), cadence.every_time);
    },
    .show =
        [](const JobConfig& job) {
            const CadenceConfig& cadence = job.checkpoint.cadence;
            if (cadence.is_automatic) return Json("auto");
            return cadence.every_time ? Json(exact_duration(*cadence.every_time)) : Json();
        },
    .problem =
        [](const Type& type, const JobConfig& job) {
            const std::optional<nanoseconds>& every = job.checkpoint.cadence.every_time;
            return detail::out_of(type.durations, every, every ? exact_duration(*every) : "");
        },
    .copy =
        [](const JobConfig& from, JobConfig& to) {
            to.checkpoint.cadence.every_time = from.checkpoint.cadence.every_time;
            to.checkpoint.cadence.is_automatic = from.checkpoint.cadence.is_automatic;
        }};

constexpr Field<JobConfig> kScrub = {
    .key = {.name = "scrub_every",
            .about = "How often all checkpoints are read again, to find rot before they are "
                     "needed; `off`: never."},
    .type = {.kind = Kind::kDuration, .durations = kScrubEvery, .word = "off"},
    .read = [](const Value& value, const Type& type, JobConfig& job) -> Result<void> {
        job.checkpoint.scrub_every.reset();
        if (is_word(value, type.word)) return {};
        return detail::store(value.duration(type.durations), job.checkpoint.scrub_every);
    },
    .show =
        [](const JobConfig& job) {
            const std::optional<nanoseconds>& every = job.checkpoint.scrub_every;
            return Json(every ? exact_duration(*every) : "off");
        },
    .problem =
        [](const Type& type, const JobConfig& job) {
            const std::optional<nanoseconds>& every = job.checkpoint.scrub_every;
            return detail::out_of(type.durations, every, every ? exact_duration(*every) : "");
        },
    .copy = [](const JobConfig& from,
               JobConfig& to) { to.checkpoint.scrub_every = from.checkpoint.scrub_every; }};

constexpr auto kCheckpointFields = std::to_array<Field<JobConfig>>({
    path<JobConfig>([](auto& job) -> auto& { return job.checkpoint.directory; },
                    {.name = "directory",
                     .about = "Made if it is missing; no other job may use it.",
                     .applies = Applies::kRestart,
                     .required_as = "a path"}),
    kEvery,
    number<JobConfig>([](auto& job) -> auto& { return job.checkpoint.cadence.every_steps; },
                      kEverySteps,
                      {.name = "every_steps", .about = "A checkpoint every so many steps."}),
    number<JobConfig>([](auto& job) -> auto& { return job.checkpoint.cadence.every_epochs; },
                      kEveryEpochs,
                      {.name = "every_epochs", .about = "A checkpoint every so many epochs."}),
    number<JobConfig>([](auto& job) -> auto& { return job.checkpoint.keep_last; }, kKeepLast,
                      {.name = "keep_last", .about = "So many of the newest checkpoints stay."}),
    number<JobConfig>([](auto& job) -> auto& { return job.checkpoint.keep_every_steps; },
                      kEverySteps,
                      {.name = "keep_every_steps",
                       .about = "Besides, for ever: the first checkpoint at or after each multiple "
                                "of so many steps."}),
    number<JobConfig>([](auto& job) -> auto& { return job.checkpoint.keep_every_epochs; },
                      kEveryEpochs,
                      {.name = "keep_every_epochs",
                       .about = "Besides, for ever: the first checkpoint at or after each multiple "
                                "of so many epochs."}),
    map<JobConfig>(kKeepBestFields,
                   {.name = "keep_best",
                    .about = "Besides, for ever: the best by a metric that the trainer reports."}),
    size<JobConfig>([](auto& job) -> auto& { return job.checkpoint.keep_bytes; }, kKeepBytes,
                    {.name = "keep_bytes",
                     .about = "All checkpoints together: what only `keep_last` wants goes, oldest "
                              "first, until the rest fits. Never the newest, nor what the keys "
                              "above or a pin keep."}),
    kScrub,
    duration<JobConfig>(
        [](auto& job) -> auto& { return job.checkpoint.attempt_timeout; }, kRankTimeout,
        {.name = "attempt_timeout",
         .about = "All ranks snapshot one step. When some have and another gives no sign of life "
                  "for so long (no step, no poll of an evaluation), that attempt is given up and "
                  "training goes on.",
         .applies = Applies::kNextLaunch}),
    choice<JobConfig, kOnNoValidCheckpoint>(
        [](auto& job) -> auto& { return job.checkpoint.on_no_valid_checkpoint; },
        {.name = "on_no_valid_checkpoint",
         .about =
             "When there were checkpoints and none is valid, or the journal knows some and the "
             "directory is empty (its volume is not mounted?). `stop`: the job stops and says "
             "why. `start_fresh`: it begins again at step 0."}),
    patterns<JobConfig>(
        [](auto& job) -> auto& { return job.checkpoint.adopt; },
        {.name = "adopt",
         .about = "Files that a script which knows nothing of pawl saves itself, with torch.save. "
                  "Each whole version is kept as a checkpoint; before each start the newest one is "
                  "put back. They start at the working directory and may hold `*`, `?` and "
                  "`[…]`: such a pattern is a series, of which the newest file counts.",
         .applies = Applies::kNextLaunch}),
});

constexpr auto kStartFields = std::to_array<Field<JobConfig>>({
    duration<JobConfig>([](auto& job) -> auto& { return job.start.attach_timeout; }, kRankTimeout,
                        {.name = "attach_timeout",
                         .about = "From the first rank that attaches until the last has; then all "
                                  "are restarted. Without effect on commands that never attach.",
                         .applies = Applies::kNextLaunch}),
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
    arguments<JobConfig>(
        [](auto& job) -> auto& { return job.on_resume; },
        {.name = "on_resume",
         .about = "Added to the command when there is something to resume from. `{checkpoint}` is "
                  "its path: of the file that was put back (`checkpoint.adopt`), or of the rank's "
                  "file in the newest checkpoint.",
         .applies = Applies::kNextLaunch}),
    arguments<JobConfig>([](auto& job) -> auto& { return job.on_fresh; },
                         {.name = "on_fresh",
                          .about = "Added to the command when there is nothing to resume from.",
                          .applies = Applies::kNextLaunch}),
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
    map<JobConfig>(kStartFields, {.name = "start", .about = "How long ranks may take to start."}),
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
