// See journal_commands.h.
#include "tools/journal_commands.h"

#include "base/clock.h"
#include "base/file_system.h"
#include "control/server.h"
#include "control/status.h"
#include "daemon/history.h"
#include "journal/journal.h"
#include "journal/records.h"
#include "tools/journal_text.h"

#include <nlohmann/json.hpp>

#include <cstdio>
#include <optional>
#include <thread>

namespace pawl::tools {
namespace {

using Json = nlohmann::ordered_json;

constexpr milliseconds kFollowPeriod{500};

// What the daemon answers; nullopt where none does.
Result<std::optional<std::string>> ask_daemon(const Place& place,
                                              const control::HistoryRequest& request) {
    const auto response =
        control::call(socket_of(place), control::Method::kGet, control::target_of(request));
    if (!response) return std::optional<std::string>();
    if (response->http_status == 200) return std::optional(response->body);
    const Json body = Json::parse(response->body, nullptr, /*allow_exceptions=*/false);
    const std::string why = body.is_object() ? body.value("error", response->body) : response->body;
    if (response->http_status == 400) return make_error(ErrorKind::kInvalidArgument, "{}", why);
    if (response->http_status == 404) return make_error(ErrorKind::kNotFound, "{}", why);
    return std::optional<std::string>();  // its journal fails: perhaps we can read it
}

Result<std::unique_ptr<journal::Journal>> open_journal(const Place& place) {
    auto journal =
        journal::Journal::open_read_only(join_path(state_directory_of(place), "journal"));
    if (!journal)
        return Error(journal.error()).consequence("Name the state directory with --state-dir");
    return journal;
}

Result<std::string> ask(const Place& place, const control::HistoryRequest& request) {
    auto answered = ask_daemon(place, request);
    if (!answered) return answered.error();
    if (*answered) return **answered;
    const auto journal = open_journal(place);
    if (!journal) return journal.error();
    return daemon::answer_history(**journal, request, SystemClock().wall_now());
}

// The one that is named, else the only one.
Result<std::string> job_of(const Place& place) {
    if (!place.job.empty()) return place.job;
    std::vector<std::string> names;
    const auto response = control::call(socket_of(place), control::Method::kGet, "/v1/status");
    const auto status = response ? control::status_from_json(response->body)
                                 : Result<control::DaemonStatus>(response.error());
    if (status) {
        for (const control::JobStatus& job : status->jobs)
            names.push_back(job.name);
    } else {
        const auto journal = open_journal(place);
        if (!journal) return journal.error();
        auto jobs = (*journal)->jobs();
        if (!jobs) return jobs.error();
        names = std::move(*jobs);
    }
    if (names.size() == 1) return names.front();
    if (names.empty()) return make_error(ErrorKind::kNotFound, "there is no job yet");
    return make_error(ErrorKind::kInvalidArgument, "there are the jobs {}: name one with --job",
                      fmt::join(names, ", "));
}

template <class Record>
Result<void> add_text(JournalText& text, const Json& records, std::string& shown) {
    for (const Json& item : records) {
        const auto record = journal::decode<Record>(item.dump());
        if (!record) return Error(record.error()).while_doing("understand the daemon's answer");
        shown += text.of(*record);
    }
    return {};
}

Result<std::string> text_of(const std::string& table, const Json& records, JournalText& text) {
    std::string shown;
    Result<void> added;
    if (table == "events") {
        added = add_text<journal::EventRecord>(text, records, shown);
    } else if (table == "incarnations") {
        added = add_text<journal::IncarnationRecord>(text, records, shown);
    } else if (table == "checkpoints") {
        added = add_text<journal::CheckpointRecord>(text, records, shown);
    } else {
        added = add_text<journal::ProgressRecord>(text, records, shown);
    }
    if (!added) return added.error();
    return shown;
}

enum class First { kNo, kYes };

// Prints one answer, and says where to go on.
Result<std::string> show(const std::string& body, const std::string& table, Follows follows,
                         Format format, First first, JournalText& text) {
    const Json answer = Json::parse(body, nullptr, /*allow_exceptions=*/false);
    if (!answer.is_object() || !answer.contains("records") || !answer.contains("next"))
        return make_error(ErrorKind::kInternal, "the daemon's answer is not understood");
    const Json& records = answer.at("records");
    if (format == Format::kJson) {
        std::string shown = body;
        if (follows == Follows::kYes) {
            shown.clear();
            for (const Json& record : records)
                shown += record.dump() + "\n";
        }
        std::fwrite(shown.data(), 1, shown.size(), stdout);
        return answer.value("next", "");
    }
    auto shown = text_of(table, records, text);
    if (!shown) return shown.error();
    if (records.empty() && first == First::kYes && follows == Follows::kNo)
        *shown = "nothing found\n";
    std::fwrite(shown->data(), 1, shown->size(), stdout);
    if (const auto count = answer.value("unreadable", std::uint64_t{0}); count > 0) {
        std::fprintf(stderr, "pawl: %llu damaged %s passed over\n",
                     static_cast<unsigned long long>(count), count == 1 ? "record" : "records");
    }
    return answer.value("next", "");
}

}  // namespace

Result<std::vector<journal::IncarnationRecord>> incarnations_of(const Place& place) {
    const auto job = job_of(place);
    if (!job) return job.error();
    const auto body =
        ask(place, {.job = *job,
                    .table = "incarnations",
                    .parameters = {{"limit", fmt::format("{}", daemon::kHistoryLimitMax)}}});
    if (!body) return body.error();
    const Json answer = Json::parse(*body, nullptr, /*allow_exceptions=*/false);
    std::vector<journal::IncarnationRecord> records;
    for (const Json& item : answer.is_object() ? answer.value("records", Json::array()) : Json()) {
        auto record = journal::decode<journal::IncarnationRecord>(item.dump());
        if (!record) return Error(record.error()).while_doing("understand the daemon's answer");
        records.push_back(std::move(*record));
    }
    return records;
}

Result<int> show_journal(const Place& place, const std::string& table,
                         const std::map<std::string, std::string>& parameters, Follows follows,
                         Format format) {
    const auto job = job_of(place);
    if (!job) return job.error();
    control::HistoryRequest request{.job = *job, .table = table, .parameters = parameters};
    JournalText text;
    const auto body = ask(place, request);
    if (!body) return body.error();
    auto next = show(*body, table, follows, format, First::kYes, text);
    if (!next) return next.error();
    while (follows == Follows::kYes) {
        if (std::fflush(stdout) != 0) return 0;  // nobody reads it any more
        std::this_thread::sleep_for(kFollowPeriod);
        request.parameters["after"] = *next;
        // A daemon that is just being started, or a journal that is: it will be there again.
        const auto more = ask(place, request);
        if (!more) continue;
        next = show(*more, table, follows, format, First::kNo, text);
        if (!next) return next.error();
    }
    return 0;
}

}  // namespace pawl::tools
