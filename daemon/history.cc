// See history.h.
#include "daemon/history.h"

#include "base/clock.h"
#include "config/config.h"
#include "journal/records.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <optional>
#include <vector>

namespace pawl::daemon {
namespace {

using Json = nlohmann::ordered_json;

Json json_of(const auto& record) {
    return Json::parse(journal::encode(record));
}

Json seconds_between(const std::optional<WallTime>& begin, const std::optional<WallTime>& end) {
    if (!begin || !end) return nullptr;
    return std::chrono::duration<double>(*end - *begin).count();
}

// What is in the record, and what follows from it.
Json answer_of(const journal::EventRecord& record) {
    return json_of(record);
}
Json answer_of(const journal::ProgressRecord& record) {
    Json json = json_of(record);
    json["epoch_end"] = record.is_epoch_end;
    return json;
}
Json answer_of(const journal::IncarnationRecord& record) {
    Json json = json_of(record);
    json["seconds"] = seconds_between(record.started, record.ended);
    // A trainer that is attached may report a step below the one that it was told to go on from.
    json["steps_done"] = nullptr;
    if (record.last_step) {
        json["steps_done"] = std::max(record.last_step->value, record.resumed_step.value) -
                             record.resumed_step.value;
    }
    return json;
}
Json answer_of(const journal::CheckpointRecord& record) {
    Json json = json_of(record);
    json["snapshot_seconds"] = seconds_between(record.asked, record.snapshotted);
    json["durable_seconds"] = seconds_between(record.snapshotted, record.durable);
    json["write_seconds"] = seconds_between(record.time, record.durable);
    return json;
}

template <class Record>
Result<std::string> answer_of(const control::HistoryRequest& request,
                              const Result<journal::Page<Record>>& page) {
    if (!page) return page.error();
    Json records = Json::array();
    for (const Record& record : page->records)
        records.push_back(answer_of(record));
    const Json answer = {
        {"job", request.job}, {"table", request.table},     {"records", std::move(records)},
        {"next", page->next}, {"has_more", page->has_more}, {"unreadable", page->unreadable}};
    return answer.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Error not_understood(std::string_view name, std::string_view value, std::string_view expected) {
    return make_error(ErrorKind::kInvalidArgument, "{}: expected {}, found '{}'", name, expected,
                      value);
}

Result<void> take(journal::Query& query, const std::string& name, const std::string& value,
                  WallTime now) {
    if (name == "kind") {
        query.kind = value;
    } else if (name == "severity") {
        query.severity = journal::severity_named(value);
        if (!query.severity) return not_understood(name, value, "info, warning or error");
    } else if (name == "since" || name == "until") {
        const auto moment = moment_of(value, now);
        if (!moment) return Error(moment.error()).while_doing("take '{}'", name);
        (name == "since" ? query.since : query.until) = *moment;
    } else if (name == "after") {
        query.after = value;
    } else if (name == "limit") {
        const char* const end = value.data() + value.size();
        const auto parsed = std::from_chars(value.data(), end, query.limit);
        if (parsed.ec != std::errc() || parsed.ptr != end || query.limit > kHistoryLimitMax) {
            return not_understood(name, value, fmt::format("a number up to {}", kHistoryLimitMax));
        }
    } else {
        return make_error(ErrorKind::kInvalidArgument,
                          "there is no parameter '{}': there are kind, severity, since, until, "
                          "after and limit",
                          name);
    }
    return {};
}

}  // namespace

Result<WallTime> moment_of(std::string_view text, WallTime now) {
    constexpr std::string_view kWhole = "0000-01-01T00:00:00.000Z";
    constexpr std::array<std::size_t, 4> kLengths = {10, 16, 19, 24};
    const bool is_date = text.size() > 4 && text[4] == '-';
    if (is_date && std::ranges::find(kLengths, text.size()) != kLengths.end()) {
        const auto time = parse_time(std::string(text) + std::string(kWhole.substr(text.size())));
        // What does not exist, as the 31st of February, would come back as another day.
        if (time && format_time(*time).starts_with(text)) return *time;
    }
    const auto ago = config::parse_duration(text);
    if (!is_date && ago) return now - std::chrono::duration_cast<milliseconds>(*ago);
    return make_error(ErrorKind::kInvalidArgument,
                      "expected how long ago, such as 90s, 2h or 1d12h, or a time in UTC, such as "
                      "2026-11-24 or 2026-11-24T10:00, found '{}'",
                      text);
}

Result<journal::Query> query_of(const control::HistoryRequest& request, WallTime now) {
    journal::Query query{.job = request.job, .limit = kHistoryLimit};
    for (const auto& [name, value] : request.parameters)
        RETURN_IF_ERROR(take(query, name, value, now));
    if (query.severity && request.table != "events") {
        return make_error(ErrorKind::kInvalidArgument,
                          "only events have a severity, '{}' have none", request.table);
    }
    return query;
}

Result<std::string> answer_history(const journal::Journal& journal,
                                   const control::HistoryRequest& request, WallTime now) {
    const auto query = query_of(request, now);
    if (!query) return query.error();
    const auto jobs = journal.jobs();
    if (!jobs) return jobs.error();
    if (std::ranges::find(*jobs, request.job) == jobs->end()) {
        return make_error(ErrorKind::kNotFound, "the journal knows no job '{}'{}{}", request.job,
                          jobs->empty() ? "" : ": there are ", fmt::join(*jobs, ", "));
    }
    if (request.table == "events") return answer_of(request, journal.find_events(*query));
    if (request.table == "progress") return answer_of(request, journal.find_progress(*query));
    if (request.table == "epochs") return answer_of(request, journal.find_epochs(*query));
    if (request.table == "incarnations")
        return answer_of(request, journal.find_incarnations(*query));
    if (request.table == "checkpoints") return answer_of(request, journal.find_checkpoints(*query));
    return make_error(ErrorKind::kNotFound, "the journal has no table '{}'", request.table);
}

}  // namespace pawl::daemon
