// See status.h.
#include "control/status.h"

#include "base/clock.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>

namespace pawl::control {
namespace {

using nlohmann::json;

json number_or_null(double number) {
    return std::isfinite(number) ? json(number) : json(nullptr);
}

template <class Tag>
json count_or_null(const std::optional<Count<Tag>>& count) {
    return count ? json(count->value) : json(nullptr);
}

json json_of(const CheckpointStatus& checkpoint) {
    return {{"sequence", checkpoint.sequence.value},
            {"step", checkpoint.step.value},
            {"epoch", checkpoint.epoch.value},
            {"reason", checkpoint.reason},
            {"bytes", checkpoint.bytes},
            {"time", format_time(checkpoint.time)},
            {"path", checkpoint.path},
            {"verified", checkpoint.verified}};
}

json json_of(const AttemptStatus& attempt) {
    json missing = json::array();
    for (const Rank rank : attempt.missing)
        missing.push_back(rank.value);
    return {{"request", attempt.request},
            {"reason", attempt.reason},
            {"step", count_or_null(attempt.step)},
            {"epoch", count_or_null(attempt.epoch)},
            {"missing", std::move(missing)}};
}

json json_of(const RankStatus& rank) {
    return {{"rank", rank.rank.value},      {"pid", rank.pid},
            {"attached", rank.is_attached}, {"phase", rank.phase},
            {"step", rank.step.value},      {"snapshots_skipped", rank.snapshots_skipped},
            {"output", rank.output}};
}

json json_of(const JournalStatus& journal) {
    return {{"state", journal.is_failing ? "failing" : "writing"},
            {"why", journal.why},
            {"lost", journal.lost},
            {"since", journal.since ? json(format_time(*journal.since)) : json(nullptr)}};
}

json json_of(const JobStatus& job) {
    json ranks = json::array();
    for (const RankStatus& rank : job.ranks)
        ranks.push_back(json_of(rank));
    return {{"name", job.name},
            {"state", job.state},
            {"detail", job.detail},
            {"incarnation", count_or_null(job.incarnation)},
            {"restarts", job.restarts},
            {"world_size", job.world_size},
            {"step", job.step.value},
            {"epoch", job.epoch.value},
            {"loss", number_or_null(job.loss)},
            {"steps_per_second", number_or_null(job.steps_per_second)},
            {"resumed_from", count_or_null(job.resumed_from)},
            {"checkpoint", job.checkpoint ? json_of(*job.checkpoint) : json(nullptr)},
            {"checkpoints_committed", job.checkpoints_committed},
            {"attempts_started", job.attempts_started},
            {"attempts_failed", job.attempts_failed},
            {"scrubbed", job.scrubbed ? json(format_time(*job.scrubbed)) : json(nullptr)},
            {"damaged_found", job.damaged_found},
            {"attempt", job.attempt ? json_of(*job.attempt) : json(nullptr)},
            {"arena_bytes", job.arena_bytes},
            {"checkpoint_directory", job.checkpoint_directory},
            {"last_event", job.last_event},
            {"ranks", std::move(ranks)}};
}

template <class Tag>
std::optional<Count<Tag>> optional_count(const json& value) {
    if (value.is_null()) return std::nullopt;
    return Count<Tag>{value.get<std::uint64_t>()};
}

double number_of(const json& value) {
    return value.is_null() ? std::nan("") : value.get<double>();
}

WallTime time_of(const json& value) {
    return parse_time(value.get<std::string>()).value_or(WallTime{});
}

CheckpointStatus checkpoint_of(const json& from) {
    return {.sequence = Sequence{from.at("sequence").get<std::uint64_t>()},
            .step = Step{from.at("step").get<std::uint64_t>()},
            .epoch = Epoch{from.at("epoch").get<std::uint64_t>()},
            .reason = from.at("reason").get<std::string>(),
            .bytes = from.at("bytes").get<std::uint64_t>(),
            .time = time_of(from.at("time")),
            .path = from.at("path").get<std::string>(),
            .verified = from.at("verified").get<std::string>()};
}

AttemptStatus attempt_of(const json& from) {
    AttemptStatus attempt{.request = from.at("request").get<std::uint64_t>(),
                          .reason = from.at("reason").get<std::string>(),
                          .step = optional_count<StepTag>(from.at("step")),
                          .epoch = optional_count<EpochTag>(from.at("epoch"))};
    for (const json& rank : from.at("missing"))
        attempt.missing.emplace_back(rank.get<std::uint64_t>());
    return attempt;
}

RankStatus rank_of(const json& from) {
    return {.rank = Rank{from.at("rank").get<std::uint64_t>()},
            .pid = from.at("pid").get<std::int64_t>(),
            .is_attached = from.at("attached").get<bool>(),
            .phase = from.at("phase").get<std::string>(),
            .step = Step{from.at("step").get<std::uint64_t>()},
            .snapshots_skipped = from.at("snapshots_skipped").get<std::uint64_t>(),
            .output = from.at("output").get<std::string>()};
}

JournalStatus journal_of(const json& from) {
    JournalStatus journal{.is_failing = from.at("state").get<std::string>() == "failing",
                          .why = from.at("why").get<std::string>(),
                          .lost = from.at("lost").get<std::uint64_t>()};
    if (!from.at("since").is_null()) journal.since = time_of(from.at("since"));
    return journal;
}

JobStatus job_of(const json& from) {
    JobStatus job{.name = from.at("name").get<std::string>(),
                  .state = from.at("state").get<std::string>(),
                  .detail = from.at("detail").get<std::string>(),
                  .incarnation = optional_count<IncarnationTag>(from.at("incarnation")),
                  .restarts = from.at("restarts").get<std::uint64_t>(),
                  .world_size = from.at("world_size").get<std::uint64_t>(),
                  .step = Step{from.at("step").get<std::uint64_t>()},
                  .epoch = Epoch{from.at("epoch").get<std::uint64_t>()},
                  .loss = number_of(from.at("loss")),
                  .steps_per_second = number_of(from.at("steps_per_second")),
                  .resumed_from = optional_count<SequenceTag>(from.at("resumed_from")),
                  .checkpoints_committed = from.at("checkpoints_committed").get<std::uint64_t>(),
                  .attempts_started = from.at("attempts_started").get<std::uint64_t>(),
                  .attempts_failed = from.at("attempts_failed").get<std::uint64_t>(),
                  .damaged_found = from.at("damaged_found").get<std::uint64_t>(),
                  .arena_bytes = from.at("arena_bytes").get<std::uint64_t>(),
                  .checkpoint_directory = from.at("checkpoint_directory").get<std::string>(),
                  .last_event = from.at("last_event").get<std::string>()};
    if (!from.at("checkpoint").is_null()) job.checkpoint = checkpoint_of(from.at("checkpoint"));
    if (!from.at("scrubbed").is_null()) job.scrubbed = time_of(from.at("scrubbed"));
    if (!from.at("attempt").is_null()) job.attempt = attempt_of(from.at("attempt"));
    for (const json& rank : from.at("ranks"))
        job.ranks.push_back(rank_of(rank));
    return job;
}

// ---- text ----

// Whether a byte begins a character of UTF-8.
bool begins_character(char byte) {
    return (static_cast<unsigned char>(byte) & 0xc0U) != 0x80U;
}

// At most `columns` characters and on one line, whatever a rank or a disk had to say.
std::string cut(std::string text, std::size_t columns) {
    const auto is_control = [](unsigned char byte) { return byte < 0x20 || byte == 0x7f; };
    std::ranges::replace_if(text, is_control, ' ');
    std::size_t characters = 0;
    std::size_t end = 0;  // of the text that leaves room for the dots
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (!begins_character(text[i])) continue;
        if (characters == columns - 3) end = i;
        if (characters++ == columns) return text.substr(0, end) + "...";
    }
    return text;
}

void add_line(std::string& text, std::string_view label, const std::string& value) {
    if (value.empty()) return;
    text += fmt::format("  {:<12}{}\n", label, value);
}

std::string progress_of(const JobStatus& job) {
    std::string text = fmt::format("step {}, epoch {}", job.step, job.epoch);
    if (std::isfinite(job.loss)) text += fmt::format(", loss {:.4f}", job.loss);
    if (job.steps_per_second > 0) text += fmt::format(", {:.1f} steps/s", job.steps_per_second);
    return text;
}

std::string checkpoint_line(const CheckpointStatus& checkpoint, WallTime now) {
    return fmt::format("{} at step {}, {}, {}", checkpoint.sequence, checkpoint.step,
                       format_bytes(checkpoint.bytes), format_age(checkpoint.time, now));
}

std::string attempt_line(const AttemptStatus& attempt, std::uint64_t world_size) {
    const std::string target = attempt.step
                                   ? fmt::format("step {}", *attempt.step)
                                   : fmt::format("epoch {}", attempt.epoch.value_or(Epoch{}));
    return fmt::format("{}, {}: {} of {} ranks have sealed", target, attempt.reason,
                       world_size - std::min<std::uint64_t>(world_size, attempt.missing.size()),
                       world_size);
}

std::string ranks_of(const JobStatus& job) {
    std::uint64_t running = 0;
    std::uint64_t attached = 0;
    std::uint64_t skipped = 0;
    for (const RankStatus& rank : job.ranks) {
        if (rank.pid != 0) ++running;
        if (rank.is_attached) ++attached;
        skipped += rank.snapshots_skipped;
    }
    std::string text =
        fmt::format("{} of {} running, {} attached", running, job.world_size, attached);
    if (skipped > 0) text += fmt::format(", {} snapshots skipped", skipped);
    return text;
}

}  // namespace

std::string to_json(const DaemonStatus& status) {
    json jobs = json::array();
    for (const JobStatus& job : status.jobs)
        jobs.push_back(json_of(job));
    const json object = {{"version", status.version},
                         {"pid", status.pid},
                         {"started", format_time(status.started)},
                         {"now", format_time(status.now)},
                         {"state_directory", status.state_directory},
                         {"journal", json_of(status.journal)},
                         {"jobs", std::move(jobs)}};
    return object.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

Result<DaemonStatus> status_from_json(std::string_view text) {
    try {
        const json from = json::parse(text);
        DaemonStatus status{.version = from.at("version").get<std::string>(),
                            .pid = from.at("pid").get<std::int64_t>(),
                            .started = time_of(from.at("started")),
                            .now = time_of(from.at("now")),
                            .state_directory = from.at("state_directory").get<std::string>()};
        if (from.contains("journal")) status.journal = journal_of(from.at("journal"));
        for (const json& job : from.at("jobs"))
            status.jobs.push_back(job_of(job));
        return status;
    } catch (const json::exception& error) {
        return make_error(ErrorKind::kInvalidArgument, "the daemon's status is not understood: {}",
                          error.what());
    }
}

std::string to_text(const DaemonStatus& status) {
    std::string text = fmt::format(
        "pawld {}, pid {}, up {}\n", status.version, status.pid,
        format_duration(std::max(nanoseconds::zero(), nanoseconds{status.now - status.started})));
    if (status.journal.is_failing) {
        text += fmt::format("journal FAILING for {}, {} records lost; training goes on\n",
                            format_duration(status.now - status.journal.since.value_or(status.now)),
                            status.journal.lost);
        add_line(text, "why", cut(status.journal.why, 64));
    }
    for (const JobStatus& job : status.jobs) {
        text += fmt::format("\n{}: {}\n", job.name, job.state);
        add_line(text, "why", cut(job.detail, 64));
        add_line(text, "progress", progress_of(job));
        add_line(text, "checkpoint",
                 job.checkpoint ? checkpoint_line(*job.checkpoint, status.now) : "none yet");
        if (job.checkpoint) {
            add_line(text, "",
                     fmt::format("reason {}, verified {}", job.checkpoint->reason,
                                 job.checkpoint->verified));
        }
        if (job.attempt)
            add_line(text, "attempt", cut(attempt_line(*job.attempt, job.world_size), 64));
        add_line(text, "ranks", ranks_of(job));
        std::string incarnation =
            job.incarnation ? fmt::format("{}", *job.incarnation) : "none yet";
        if (job.incarnation) {
            incarnation += job.resumed_from
                               ? fmt::format(", resumed from checkpoint {}", *job.resumed_from)
                               : ", begun at step 0";
        }
        if (job.restarts > 0) incarnation += fmt::format(", {} restarts", job.restarts);
        add_line(text, "incarnation", incarnation);
        if (job.attempts_failed > 0) {
            add_line(text, "failed", fmt::format("{} checkpoint attempts", job.attempts_failed));
        }
        if (job.scrubbed) {
            add_line(text, "scrubbed", format_age(*job.scrubbed, status.now));
        }
        if (job.damaged_found > 0) {
            add_line(text, "DAMAGED", fmt::format("{} found by scrubs", job.damaged_found));
        }
        if (job.arena_bytes > 0)
            add_line(text, "memory", format_bytes(job.arena_bytes) + " of arenas");
        add_line(text, "directory", job.checkpoint_directory);
        add_line(text, "last event", cut(job.last_event, 64));
    }
    return text;
}

}  // namespace pawl::control
