// See inspect.h.
#include "tools/inspect.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/file_system.h"
#include "control/server.h"
#include "control/status.h"
#include "journal/journal.h"
#include "tools/output.h"

#include <nlohmann/json.hpp>

#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdio>

namespace pawl::tools {
namespace {

using nlohmann::json;

// ---- the journal ----

Result<std::unique_ptr<journal::Journal>> open_journal(const Place& place) {
    const std::string path = join_path(state_directory_of(place), "journal");
    auto journal = journal::Journal::open_read_only(path);
    if (!journal) {
        return Error(journal.error())
            .while_doing("read the journal '{}'", path)
            .consequence("Name the state directory with --state-dir");
    }
    return journal;
}

Result<std::string> job_in(const journal::Journal& journal, const Place& place) {
    if (!place.job.empty()) return place.job;
    const auto jobs = journal.jobs();
    if (!jobs) return jobs.error();
    if (jobs->size() == 1) return jobs->front();
    if (jobs->empty()) return make_error(ErrorKind::kNotFound, "the journal knows no job yet");
    return make_error(ErrorKind::kInvalidArgument,
                      "the journal knows the jobs {}: name one with --job", fmt::join(*jobs, ", "));
}

std::string_view name_of(journal::Severity severity) {
    switch (severity) {
        case journal::Severity::kInfo:
            return "info";
        case journal::Severity::kWarning:
            return "warning";
        case journal::Severity::kError:
            return "error";
    }
    return "unknown";
}

std::string_view name_of(journal::CheckpointState state) {
    switch (state) {
        case journal::CheckpointState::kCommitted:
            return "committed";
        case journal::CheckpointState::kQuarantined:
            return "quarantined";
        case journal::CheckpointState::kRemoved:
            return "removed";
    }
    return "unknown";
}

std::string_view name_of(journal::IncarnationState state) {
    switch (state) {
        case journal::IncarnationState::kStarting:
            return "starting";
        case journal::IncarnationState::kRunning:
            return "running";
        case journal::IncarnationState::kEnded:
            return "ended";
    }
    return "unknown";
}

json json_of(const journal::EventRecord& event) {
    return {{"number", event.number},
            {"time", format_time(event.time)},
            {"severity", std::string(name_of(event.severity))},
            {"kind", event.kind},
            {"text", event.text}};
}
std::string text_of(const journal::EventRecord& event) {
    return fmt::format("{}  {:<7}  {}\n", format_time(event.time).substr(0, 19),
                       name_of(event.severity), event.text);
}

json json_of(const journal::ProgressRecord& progress) {
    return {{"incarnation", progress.incarnation.value},
            {"step", progress.step.value},
            {"epoch", progress.epoch.value},
            {"loss", number_or_null(progress.loss)},
            {"time", format_time(progress.time)},
            {"epoch_end", progress.is_epoch_end}};
}
std::string text_of(const journal::ProgressRecord& progress) {
    return fmt::format("{}  incarnation {:<4} step {:<9} epoch {:<5} loss {:<10.6f}{}\n",
                       format_time(progress.time).substr(0, 19), progress.incarnation,
                       progress.step, progress.epoch, progress.loss,
                       progress.is_epoch_end ? " epoch's end" : "");
}

json json_of(const journal::IncarnationRecord& record) {
    json ranks = json::array();
    for (const auto& rank : record.ranks)
        ranks.push_back({{"rank", rank.rank.value}, {"pid", rank.pid}});
    return {
        {"incarnation", record.incarnation.value},
        {"state", std::string(name_of(record.state))},
        {"resumed_from", record.resumed_from ? json(record.resumed_from->value) : json(nullptr)},
        {"resumed_step", record.resumed_step.value},
        {"started", format_time(record.started)},
        {"ended", record.ended ? json(format_time(*record.ended)) : json(nullptr)},
        {"cause", record.cause},
        {"ranks", ranks}};
}
std::string text_of(const journal::IncarnationRecord& record) {
    const std::string from =
        record.resumed_from
            ? fmt::format("from checkpoint {} (step {})", *record.resumed_from, record.resumed_step)
            : "from step 0";
    return fmt::format("{:>4}  {}  {:<8}  {:<32}  {}\n", record.incarnation,
                       format_time(record.started).substr(0, 19), name_of(record.state), from,
                       record.cause);
}

json json_of(const journal::CheckpointRecord& record) {
    return {{"sequence", record.sequence.value}, {"step", record.step.value},
            {"epoch", record.epoch.value},       {"state", std::string(name_of(record.state))},
            {"reason", record.reason},           {"bytes", record.bytes},
            {"time", format_time(record.time)},  {"detail", record.detail}};
}
std::string text_of(const journal::CheckpointRecord& record) {
    return fmt::format("{:>8}  step {:<9} {:<11}  {:<8}  {:>9}  {}\n", record.sequence, record.step,
                       name_of(record.state), record.reason, format_bytes(record.bytes),
                       record.detail);
}

template <class Record>
Result<int> print_records(const Result<std::vector<Record>>& records, std::uint64_t limit,
                          Format format) {
    if (!records) return records.error();
    const std::size_t begin = records->size() > limit ? records->size() - limit : 0;
    json array = json::array();
    for (std::size_t i = begin; i < records->size(); ++i) {
        if (format == Format::kJson) {
            array.push_back(json_of((*records)[i]));
        } else {
            print(text_of((*records)[i]));
        }
    }
    if (format == Format::kJson) print_json(array);
    return 0;
}

// Where the rank's output is: the daemon knows, if one runs; else where `pawl run` puts it.
Result<std::string> output_path_of(const Place& place, std::uint64_t rank) {
    const auto response = control::call(socket_of(place), control::Method::kGet, "/v1/status");
    const auto status = response ? control::status_from_json(response->body)
                                 : Result<control::DaemonStatus>(response.error());
    for (const control::JobStatus& job :
         status ? status->jobs : std::vector<control::JobStatus>{}) {
        if (!place.job.empty() && job.name != place.job) continue;
        if (rank < job.ranks.size()) return job.ranks[rank].output;
    }
    const auto fs = make_posix_file_system();
    const std::string name = fmt::format("rank-{:05}.log", rank);
    const std::string logs = join_path(state_directory_of(place), "logs");
    const std::string of_job =
        join_path(join_path(logs, place.job.empty() ? "." : place.job), name);
    const auto found = fs->status(of_job);
    return found && found->has_value() ? of_job : join_path(logs, name);
}

// Where the last `lines` lines of a text begin.
std::size_t begin_of_last_lines(const std::string& text, std::uint64_t lines) {
    std::size_t position = text.size();
    if (position > 0 && text.back() == '\n') --position;
    for (; position > 0; --position) {
        if (text[position - 1] == '\n' && --lines == 0) return position;
    }
    return 0;
}

Result<int> follow(const std::string& path, std::uint64_t offset) {
    const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.is_open()) return error_from_errno("open '{}'", path);
    const UniqueFd watch(::inotify_init1(IN_CLOEXEC));
    if (!watch.is_open() || ::inotify_add_watch(watch.get(), path.c_str(), IN_MODIFY) < 0) {
        return error_from_errno("watch '{}'", path);
    }
    std::array<char, 8192> buffer{};
    while (true) {
        ssize_t got = 0;
        while ((got = ::pread(file.get(), buffer.data(), buffer.size(),
                              static_cast<off_t>(offset))) > 0) {
            print(std::string_view(buffer.data(), static_cast<std::size_t>(got)));
            offset += static_cast<std::uint64_t>(got);
        }
        std::fflush(stdout);
        if (::read(watch.get(), buffer.data(), buffer.size()) <= 0) return 0;
    }
}

}  // namespace

std::string state_directory_of(const Place& place) {
    if (!place.state_directory.empty()) return place.state_directory;
    return ::access(".pawl", F_OK) == 0 ? ".pawl" : "/var/lib/pawl";
}

std::string checkpoint_directory_of(const Place& place) {
    if (!place.checkpoint_directory.empty()) return place.checkpoint_directory;
    return join_path(state_directory_of(place), "checkpoints");
}

std::string socket_of(const Place& place) {
    if (!place.socket.empty()) return place.socket;
    const std::string usual = join_path(state_directory_of(place), "pawld.sock");
    const std::string of_service = "/run/pawl/pawld.sock";
    const bool is_service = place.state_directory.empty() && ::access(usual.c_str(), F_OK) != 0;
    return is_service && ::access(of_service.c_str(), F_OK) == 0 ? of_service : usual;
}

// ---- the daemon ----

Result<int> show_status(const Place& place, Format format) {
    const auto response = control::call(socket_of(place), control::Method::kGet, "/v1/status");
    if (!response) {
        return Error(response.error())
            .while_doing("ask for the status")
            .consequence("Is pawld running? Its history: pawl journal");
    }
    if (format == Format::kJson) {
        print(response->body);
        return 0;
    }
    const auto status = control::status_from_json(response->body);
    if (!status) return status.error();
    print(control::to_text(*status));
    return 0;
}

Result<int> command_job(const Place& place, const std::string& verb) {
    std::string job = place.job;
    if (job.empty()) {
        const auto response = control::call(socket_of(place), control::Method::kGet, "/v1/status");
        if (!response) return response.error();
        const auto status = control::status_from_json(response->body);
        if (!status) return status.error();
        if (status->jobs.size() != 1) {
            return make_error(ErrorKind::kInvalidArgument,
                              "the daemon has {} jobs: name one with --job", status->jobs.size());
        }
        job = status->jobs.front().name;
    }
    const auto response = control::call(socket_of(place), control::Method::kPost,
                                        fmt::format("/v1/jobs/{}/{}", job, verb));
    if (!response) return response.error();
    if (response->http_status == 202) return 0;
    const json body = json::parse(response->body, nullptr, /*allow_exceptions=*/false);
    const ErrorKind kind = response->http_status == 404 ? ErrorKind::kNotFound : ErrorKind::kBusy;
    return make_error(kind, "{}",
                      body.is_object() ? body.value("error", response->body) : response->body);
}

// ---- the journal, logs ----

Result<int> show_journal(const Place& place, const std::string& table, std::uint64_t limit,
                         Format format) {
    const auto journal = open_journal(place);
    if (!journal) return journal.error();
    const auto job = job_in(**journal, place);
    if (!job) return job.error();
    if (table == "progress") return print_records((*journal)->progress(*job, limit), limit, format);
    if (table == "incarnations")
        return print_records((*journal)->incarnations(*job), limit, format);
    if (table == "checkpoints") return print_records((*journal)->checkpoints(*job), limit, format);
    return print_records((*journal)->events(*job, limit), limit, format);
}

Result<int> show_logs(const Place& place, std::uint64_t rank, std::uint64_t lines, bool follows,
                      Format format) {
    const auto found = output_path_of(place, rank);
    if (!found) return found.error();
    const std::string path = *found;
    const auto fs = make_posix_file_system();
    constexpr std::uint64_t kTailBytes = std::uint64_t{4} << 20;
    const auto file = fs->open_file(path);
    if (!file) return Error(file.error()).while_doing("show the output of rank {}", rank);
    const std::uint64_t size = (*file)->size();
    std::string text(std::min(size, kTailBytes), '\0');
    RETURN_IF_ERROR((*file)->read_at(size - text.size(), std::as_writable_bytes(std::span(text))));
    text.erase(0, begin_of_last_lines(text, lines));
    if (format == Format::kJson) {
        print_json(json{{"rank", rank}, {"path", path}, {"text", text}});
        return 0;
    }
    print(text);
    return follows ? follow(path, size) : Result<int>(0);
}

}  // namespace pawl::tools
