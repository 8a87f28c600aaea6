// See records.h.
#include "journal/records.h"

#include "base/invariant.h"

#include <nlohmann/json.hpp>

#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

namespace pawl::journal {
namespace {

// Fields in the order in which they are written: a person reads them in a terminal.
using Json = nlohmann::ordered_json;

constexpr char kEndOfName = '\0';
constexpr char kProgressKind = '\0';
constexpr char kEpochEndKind = '\1';

constexpr std::array<std::string_view, 2> kProgressKinds = {"progress", "epoch_end"};
constexpr std::array<std::string_view, 3> kIncarnationStates = {"starting", "running", "ended"};
constexpr std::array<std::string_view, 3> kCheckpointStates = {"committed", "quarantined",
                                                               "removed"};
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

std::string dump(const Json& json) {
    constexpr int kOneLine = -1;
    return json.dump(kOneLine, ' ', false, Json::error_handler_t::replace);
}

template <class Enum, std::size_t count>
std::string name_of(Enum value, const std::array<std::string_view, count>& names) {
    const auto index = static_cast<std::size_t>(value);
    invariant(index < count, "an enumerator has a name in the journal");
    return std::string(names.at(index));
}

// JSON has no word for the three losses that a diverged training reports.
Json json_of_loss(double loss) {
    if (std::isnan(loss)) return nullptr;
    if (std::isinf(loss)) return loss > 0 ? "inf" : "-inf";
    return loss;
}

template <class Value>
Json json_of(const std::optional<Value>& value) {
    if (!value) return nullptr;
    if constexpr (std::is_same_v<Value, WallTime>) {
        return format_time(*value);
    } else {
        return value->value;
    }
}

// Takes fields out of a JSON object and remembers the first that was not as it must be, so that a
// decoder reads like the record; finish() is where that error comes out.
class Fields {
public:
    explicit Fields(std::string_view text) : Fields(Json::parse(text, nullptr, false)) {}
    explicit Fields(Json object) : object_(std::move(object)) {
        if (!object_.is_object()) fail("it is no JSON object");
    }

    std::uint64_t number(const char* name) {
        const Json& field = at(name);
        if (field.is_number_unsigned()) return field.get<std::uint64_t>();
        fail("field '{}' is no whole number from 0", name);
        return 0;
    }

    std::int64_t signed_number(const char* name) {
        const Json& field = at(name);
        constexpr auto kMax = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
        const bool fits = !field.is_number_unsigned() || field.get<std::uint64_t>() <= kMax;
        if (field.is_number_integer() && fits) return field.get<std::int64_t>();
        fail("field '{}' is no whole number of 64 bits", name);
        return 0;
    }

    double loss(const char* name) {
        const Json& field = at(name);
        if (field.is_null()) return std::numeric_limits<double>::quiet_NaN();
        if (field == "inf") return std::numeric_limits<double>::infinity();
        if (field == "-inf") return -std::numeric_limits<double>::infinity();
        if (field.is_number()) return field.get<double>();
        fail("field '{}' is no number, null, \"inf\" or \"-inf\"", name);
        return 0;
    }

    std::string text(const char* name) {
        const Json& field = at(name);
        if (field.is_string()) return field.get<std::string>();
        fail("field '{}' is no text", name);
        return {};
    }

    WallTime time(const char* name) {
        const Result<WallTime> time = parse_time(text(name));
        if (time) return *time;
        fail("field '{}' is no time: {}", name, time.error().message());
        return {};
    }

    template <class Enum, std::size_t count>
    Enum one_of(const char* name, const std::array<std::string_view, count>& names) {
        const std::string word = text(name);
        for (std::size_t index = 0; index < count; ++index) {
            if (names.at(index) == word) return static_cast<Enum>(index);
        }
        fail("field '{}' has a value unknown here: '{}'", name, word);
        return {};
    }

    bool is_null(const char* name) { return at(name).is_null(); }

    std::vector<Fields> list(const char* name) {
        const Json& field = at(name);
        std::vector<Fields> items;
        if (!field.is_array()) fail("field '{}' is no list", name);
        if (field.is_array()) {
            for (const Json& item : field)
                items.emplace_back(item);
        }
        return items;
    }

    // For what was found wrong in an item of a list.
    void take_failure(const Fields& item) {
        if (!failure_) failure_ = item.failure_;
    }

    template <class Record>
    Result<Record> finish(Record record) {
        if (failure_) return make_error(ErrorKind::kCorrupt, "{}", *failure_);
        return record;
    }

private:
    const Json& at(const char* name) const {
        static const Json kMissing(Json::value_t::discarded);
        if (!object_.is_object()) return kMissing;
        const auto field = object_.find(name);
        return field == object_.end() ? kMissing : *field;
    }

    template <class... Args>
    void fail(fmt::format_string<Args...> format, Args&&... args) {
        if (!failure_) failure_ = fmt::format(format, std::forward<Args>(args)...);
    }

    Json object_;
    std::optional<std::string> failure_;
};

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

bool is_epoch_end(std::string_view progress_key) {
    return !progress_key.empty() && progress_key.back() == kEpochEndKind;
}

std::string encode(const ProgressRecord& record) {
    return dump({{"incarnation", record.incarnation.value},
                 {"step", record.step.value},
                 {"kind", kProgressKinds.at(record.is_epoch_end ? 1 : 0)},
                 {"epoch", record.epoch.value},
                 {"loss", json_of_loss(record.loss)},
                 {"time", format_time(record.time)}});
}

std::string encode(const IncarnationRecord& record) {
    Json ranks = Json::array();
    for (const RankProcess& process : record.ranks) {
        ranks.push_back({{"rank", process.rank.value},
                         {"pid", process.pid},
                         {"start_ticks", process.start_ticks}});
    }
    return dump({{"incarnation", record.incarnation.value},
                 {"state", name_of(record.state, kIncarnationStates)},
                 {"ranks", std::move(ranks)},
                 {"resumed_from", json_of(record.resumed_from)},
                 {"resumed_step", record.resumed_step.value},
                 {"started", format_time(record.started)},
                 {"ended", json_of(record.ended)},
                 {"cause", record.cause}});
}

std::string encode(const CheckpointRecord& record) {
    return dump({{"sequence", record.sequence.value},
                 {"step", record.step.value},
                 {"epoch", record.epoch.value},
                 {"state", name_of(record.state, kCheckpointStates)},
                 {"reason", record.reason},
                 {"bytes", record.bytes},
                 {"time", format_time(record.time)},
                 {"detail", record.detail}});
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
        .is_epoch_end = fields.one_of<Kind>("kind", kProgressKinds) == Kind::kEpochEnd});
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
    for (Fields& process : fields.list("ranks")) {
        record.ranks.push_back({.rank = Rank{process.number("rank")},
                                .pid = process.signed_number("pid"),
                                .start_ticks = process.number("start_ticks")});
        fields.take_failure(process);
    }
    return fields.finish(std::move(record));
}

template <>
Result<CheckpointRecord> decode<CheckpointRecord>(std::string_view value) {
    Fields fields(value);
    return fields.finish(
        CheckpointRecord{.sequence = Sequence{fields.number("sequence")},
                         .step = Step{fields.number("step")},
                         .epoch = Epoch{fields.number("epoch")},
                         .state = fields.one_of<CheckpointState>("state", kCheckpointStates),
                         .reason = fields.text("reason"),
                         .bytes = fields.number("bytes"),
                         .time = fields.time("time"),
                         .detail = fields.text("detail")});
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
