// See records.h.
#include "journal/records.h"

#include "journal/json_fields.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

namespace pawl::journal {
namespace {

constexpr char kEndOfName = '\0';
constexpr char kProgressKind = '\0';
constexpr char kEpochEndKind = '\1';

constexpr std::array<std::string_view, 2> kProgressKinds = {"progress", "epoch_end"};
constexpr std::array<std::string_view, 3> kIncarnationStates = {"starting", "running", "ended"};
constexpr std::array<std::string_view, 4> kCheckpointStates = {"committed", "quarantined",
                                                               "removed", "abandoned"};
constexpr std::array<std::string_view, 3> kSeverities = {"info", "warning", "error"};

void append_big_endian(std::string& key, std::uint64_t number) {
    for (unsigned shift = 64; shift > 0; shift -= 8) {
        key.push_back(static_cast<char>(static_cast<unsigned char>(number >> (shift - 8))));
    }
}

std::string key_with(const std::string& job, std::uint64_t number) {
    std::string key = job;
    key.push_back(kEndOfName);
    append_big_endian(key, number);
    return key;
}

}  // namespace

Result<void> check_job_name(const std::string& job) {
    if (!job.empty() && job.find(kEndOfName) == std::string::npos) return {};
    return make_error(ErrorKind::kInvalidArgument,
                      "a job's name must not be empty or hold a zero byte");
}

KeyRange keys_of(const std::string& job) {
    return {.begin = job + kEndOfName, .end = job + static_cast<char>(kEndOfName + 1)};
}

std::string key_of(const std::string& job, const ProgressRecord& record) {
    std::string key = key_with(job, record.incarnation.value);
    append_big_endian(key, record.step.value);
    key.push_back(record.is_epoch_end ? kEpochEndKind : kProgressKind);
    return key;
}

std::string key_of(const std::string& job, const IncarnationRecord& record) {
    return key_with(job, record.incarnation.value);
}

std::string key_of(const std::string& job, const CheckpointRecord& record) {
    return key_with(job, record.sequence.value);
}

std::string key_of(const std::string& job, const EventRecord& record) {
    return key_with(job, record.number);
}

namespace {

// The numbers of a key behind "JOB 00".
std::optional<std::uint64_t> number_at(std::string_view numbers, std::size_t offset) {
    if (numbers.size() < offset + sizeof(std::uint64_t)) return std::nullopt;
    std::uint64_t number = 0;
    for (const char byte : numbers.substr(offset, sizeof number))
        number = number << 8U | static_cast<unsigned char>(byte);
    return number;
}

std::string_view numbers_in(std::string_view key) {
    const std::size_t end = key.find(kEndOfName);
    return end == std::string_view::npos ? std::string_view() : key.substr(end + 1);
}

// Digits up to `separator`, which is taken too; all of the text without one.
std::optional<std::uint64_t> take_number(std::string_view& text, char separator) {
    const std::size_t end = std::min(text.find(separator), text.size());
    const std::string_view digits = text.substr(0, end);
    std::uint64_t number = 0;
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (digits.empty() || parsed.ec != std::errc() || parsed.ptr != digits.data() + digits.size())
        return std::nullopt;
    text.remove_prefix(std::min(end + 1, text.size()));
    return number;
}

}  // namespace

std::optional<std::uint64_t> number_in(std::string_view key) {
    return number_at(numbers_in(key), 0);
}

std::string cursor_of(std::string_view key) {
    const std::string_view numbers = numbers_in(key);
    const auto first = number_at(numbers, 0);
    if (!first) return {};
    const auto second = number_at(numbers, sizeof(std::uint64_t));
    if (!second) return fmt::format("{}", *first);
    return fmt::format("{}.{}.{}", *first, *second, is_epoch_end(key) ? 1 : 0);
}

Result<std::string> key_after(const std::string& job, std::string_view cursor, KeyShape shape) {
    const auto refuse = [cursor] {
        return make_error(
            ErrorKind::kInvalidArgument,
            "'{}' is no cursor of this table: take 'next' of an earlier answer, or start", cursor);
    };
    if (cursor == kStartCursor) return keys_of(job).begin;
    std::string_view rest = cursor;
    const auto first = take_number(rest, '.');
    if (!first) return refuse();
    std::string key = key_with(job, *first);
    if (shape == KeyShape::kProgress) {
        const auto second = take_number(rest, '.');
        const auto kind = take_number(rest, '.');
        if (!second || !kind || *kind > 1) return refuse();
        append_big_endian(key, *second);
        key.push_back(*kind == 1 ? kEpochEndKind : kProgressKind);
    }
    if (!rest.empty() || cursor.back() == '.') return refuse();
    key.push_back('\0');  // the first key behind it
    return key;
}

bool is_epoch_end(std::string_view progress_key) {
    return !progress_key.empty() && progress_key.back() == kEpochEndKind;
}

namespace {

Json json_of(const std::optional<RankExit>& exit) {
    if (!exit) return nullptr;
    Json json = {{"text", exit->text}};
    if (exit->code) json["code"] = *exit->code;
    if (exit->signal) json["signal"] = *exit->signal;
    return json;
}

// The times of a checkpoint's life, in its order.
using Moment = std::pair<const char*, std::optional<WallTime> CheckpointRecord::*>;
constexpr std::array<Moment, 9> kMoments = {Moment{"asked", &CheckpointRecord::asked},
                                            Moment{"snapshotted", &CheckpointRecord::snapshotted},
                                            Moment{"durable", &CheckpointRecord::durable},
                                            Moment{"verified", &CheckpointRecord::verified},
                                            Moment{"scrubbed", &CheckpointRecord::scrubbed},
                                            Moment{"pinned", &CheckpointRecord::pinned},
                                            Moment{"quarantined", &CheckpointRecord::quarantined},
                                            Moment{"removed", &CheckpointRecord::removed},
                                            Moment{"abandoned", &CheckpointRecord::abandoned}};

}  // namespace

std::string encode(const ProgressRecord& record) {
    Json json = {{"incarnation", record.incarnation.value},
                 {"step", record.step.value},
                 {"kind", kProgressKinds.at(record.is_epoch_end ? 1 : 0)},
                 {"epoch", record.epoch.value},
                 {"loss", json_of_loss(record.loss)},
                 {"time", format_time(record.time)}};
    if (!record.metrics.empty()) json["metrics"] = json_of_numbers(record.metrics);
    return dump(json);
}

std::string encode(const IncarnationRecord& record) {
    Json ranks = Json::array();
    for (const RankProcess& process : record.ranks) {
        ranks.push_back({{"rank", process.rank.value},
                         {"pid", process.pid},
                         {"start_ticks", process.start_ticks},
                         {"exit", json_of(process.exit)}});
        if (process.output_begin) ranks.back()["output_begin"] = *process.output_begin;
    }
    return dump({{"incarnation", record.incarnation.value},
                 {"state", name_of(record.state, kIncarnationStates)},
                 {"ranks", std::move(ranks)},
                 {"resumed_from", json_of(record.resumed_from)},
                 {"resumed_step", record.resumed_step.value},
                 {"last_step", json_of(record.last_step)},
                 {"started", format_time(record.started)},
                 {"ended", json_of(record.ended)},
                 {"cause", record.cause}});
}

std::string encode(const CheckpointRecord& record) {
    Json json = {
        {"sequence", record.sequence.value}, {"step", record.step.value},
        {"epoch", record.epoch.value},       {"state", name_of(record.state, kCheckpointStates)},
        {"reason", record.reason},           {"bytes", record.bytes},
        {"time", format_time(record.time)},  {"detail", record.detail}};
    if (!record.directory.empty()) json["directory"] = record.directory;
    if (record.incarnation) json["incarnation"] = record.incarnation->value;
    if (record.request) json["request"] = *record.request;
    for (const auto& [name, moment] : kMoments) {
        if (record.*moment) json[name] = format_time(*(record.*moment));
    }
    return dump(json);
}

std::string encode(const EventRecord& record) {
    return dump({{"number", record.number},
                 {"time", format_time(record.time)},
                 {"severity", name_of(record.severity, kSeverities)},
                 {"kind", record.kind},
                 {"text", record.text}});
}

template <>
Result<ProgressRecord> decode<ProgressRecord>(std::string_view value) {
    enum class Kind { kProgress, kEpochEnd };
    Fields fields(value);
    return fields.finish(ProgressRecord{
        .incarnation = Incarnation{fields.number("incarnation")},
        .step = Step{fields.number("step")},
        .epoch = Epoch{fields.number("epoch")},
        .loss = fields.loss("loss"),
        .time = fields.time("time"),
        .is_epoch_end = fields.one_of<Kind>("kind", kProgressKinds) == Kind::kEpochEnd,
        .metrics = fields.numbers_if_any("metrics")});
}

template <>
Result<IncarnationRecord> decode<IncarnationRecord>(std::string_view value) {
    Fields fields(value);
    IncarnationRecord record{.incarnation = Incarnation{fields.number("incarnation")},
                             .state = fields.one_of<IncarnationState>("state", kIncarnationStates),
                             .resumed_step = Step{fields.number("resumed_step")},
                             .started = fields.time("started"),
                             .cause = fields.text("cause")};
    if (!fields.is_null("resumed_from")) {
        record.resumed_from = Sequence{fields.number("resumed_from")};
    }
    if (!fields.is_null("ended")) record.ended = fields.time("ended");
    if (const auto step = fields.number_if_any("last_step")) record.last_step = Step{*step};
    for (Fields& process : fields.list("ranks")) {
        RankProcess& rank = record.ranks.emplace_back();
        rank.rank = Rank{process.number("rank")};
        rank.pid = process.signed_number("pid");
        rank.start_ticks = process.number("start_ticks");
        rank.output_begin = process.number_if_any("output_begin");
        if (process.has("exit")) {
            Fields exit = process.object("exit");
            rank.exit = RankExit{.code = exit.signed_number_if_any("code"),
                                 .signal = exit.signed_number_if_any("signal"),
                                 .text = exit.text("text")};
            process.take_failure(exit);
        }
        fields.take_failure(process);
    }
    return fields.finish(std::move(record));
}

template <>
Result<CheckpointRecord> decode<CheckpointRecord>(std::string_view value) {
    Fields fields(value);
    CheckpointRecord record{.sequence = Sequence{fields.number("sequence")},
                            .step = Step{fields.number("step")},
                            .epoch = Epoch{fields.number("epoch")},
                            .state = fields.one_of<CheckpointState>("state", kCheckpointStates),
                            .reason = fields.text("reason"),
                            .bytes = fields.number("bytes"),
                            .time = fields.time("time"),
                            .detail = fields.text("detail"),
                            .directory = fields.text_if_any("directory"),
                            .request = fields.number_if_any("request")};
    if (const auto number = fields.number_if_any("incarnation"))
        record.incarnation = Incarnation{*number};
    for (const auto& [name, moment] : kMoments)
        record.*moment = fields.time_if_any(name);
    return fields.finish(std::move(record));
}

template <>
Result<EventRecord> decode<EventRecord>(std::string_view value) {
    Fields fields(value);
    return fields.finish(EventRecord{.number = fields.number("number"),
                                     .time = fields.time("time"),
                                     .severity = fields.one_of<Severity>("severity", kSeverities),
                                     .kind = fields.text("kind"),
                                     .text = fields.text("text")});
}

std::string_view name_of(IncarnationState state) {
    return kIncarnationStates.at(static_cast<std::size_t>(state));
}

std::string_view name_of(CheckpointState state) {
    return kCheckpointStates.at(static_cast<std::size_t>(state));
}

std::string_view name_of(Severity severity) {
    return kSeverities.at(static_cast<std::size_t>(severity));
}

std::optional<Severity> severity_named(std::string_view name) {
    const auto* const found = std::find(kSeverities.begin(), kSeverities.end(), name);
    if (found == kSeverities.end()) return std::nullopt;
    return static_cast<Severity>(found - kSeverities.begin());
}

std::string encode_job(WallTime first_seen) {
    return dump({{"first_seen", format_time(first_seen)}});
}

std::string encode_format(std::uint64_t version) {
    return dump({{"version", version}});
}

Result<std::uint64_t> decode_format(std::string_view value) {
    Fields fields(value);
    return fields.finish(fields.number("version"));
}

}  // namespace pawl::journal
