// See messages.h. Each message type lists its fields once, in `fields`, for both directions.
#include "staging/messages.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <type_traits>

namespace pawl::staging {
namespace {

using nlohmann::json;

// ---- one value ----
template <class Tag>
void put(json& to, const Count<Tag>& count) {
    to = count.value;
}
void put(json& to, std::uint64_t number) {
    to = number;
}
void put(json& to, std::uint32_t number) {
    to = number;
}
// JSON has no NaN; null stands for it.
void put(json& to, double number) {
    to = std::isfinite(number) ? json(number) : json(nullptr);
}
void put(json& to, const std::string& text) {
    to = text;
}
template <class T>
void put(json& to, const std::optional<T>& value) {
    if (value) {
        put(to, *value);
    } else {
        to = nullptr;
    }
}
void put(json& to, const std::map<std::string, double>& numbers) {
    to = json::object();
    for (const auto& [name, number] : numbers)
        put(to[name], number);
}

// nlohmann's get<> takes true, -1 and 1.5 for counts, and cuts what is too large.
struct WrongField : std::runtime_error {
    using std::runtime_error::runtime_error;
};
std::uint64_t count_of(const json& from, std::uint64_t max) {
    if (!from.is_number_unsigned() || from.get<std::uint64_t>() > max)
        throw WrongField("a count is no whole number from 0 to " + std::to_string(max));
    return from.get<std::uint64_t>();
}
void get(const json& from, std::uint64_t& number) {
    number = count_of(from, std::numeric_limits<std::uint64_t>::max());
}
void get(const json& from, std::uint32_t& number) {
    number = static_cast<std::uint32_t>(count_of(from, std::numeric_limits<std::uint32_t>::max()));
}
template <class Tag>
void get(const json& from, Count<Tag>& count) {
    count.value = count_of(from, kCountMax);
}
void get(const json& from, double& number) {
    number = from.is_null() ? std::nan("") : from.get<double>();
}
void get(const json& from, std::string& text) {
    text = from.get<std::string>();
    const auto is_control = [](unsigned char byte) { return byte < 0x20 || byte == 0x7f; };
    std::ranges::replace_if(text, is_control, ' ');
    if (text.size() <= kTextBytesMax) return;
    std::size_t end = kTextBytesMax;
    // Not in the middle of a character: its further bytes are 10xxxxxx.
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0U) == 0x80U)
        --end;
    text.resize(end);
}
template <class T>
void get(const json& from, std::optional<T>& value) {
    if (from.is_null()) return;
    value.emplace();
    get(from, *value);
}
void get(const json& from, std::map<std::string, double>& numbers) {
    if (!from.is_object()) throw WrongField("metrics are no object");
    for (const auto& [name, number] : from.items())
        get(number, numbers[name]);
}

// ---- the fields of each message ----
template <class Message>
struct Fields;

#define PAWL_MESSAGE(Type, ...)                                              \
    template <>                                                              \
    struct Fields<Type> {                                                    \
        static constexpr const char* kName = #Type;                          \
        template <class Self, class Visit>                                   \
        static void visit([[maybe_unused]] Self& self, const Visit& field) { \
            __VA_ARGS__                                                      \
        }                                                                    \
    };

PAWL_MESSAGE(Hello, field("protocol", self.protocol); field("rank", self.rank);
             field("incarnation", self.incarnation); field("world_size", self.world_size);
             field("framework", self.framework);)
PAWL_MESSAGE(ArenaRequest, field("slot", self.slot); field("bytes", self.bytes);)
PAWL_MESSAGE(SnapshotSealed, field("request", self.request); field("slot", self.slot);
             field("bytes", self.bytes); field("step", self.step); field("epoch", self.epoch);
             field("metrics", self.metrics);)
PAWL_MESSAGE(SnapshotPassed, field("request", self.request); field("step", self.step);)
PAWL_MESSAGE(SnapshotSkipped, field("request", self.request); field("why", self.why);)
PAWL_MESSAGE(EpochEnded, field("step", self.step); field("epoch", self.epoch);
             field("loss", self.loss); field("metrics", self.metrics);)
PAWL_MESSAGE(Finishing, field("step", self.step); field("epoch", self.epoch);)
PAWL_MESSAGE(CheckpointWanted, static_cast<void>(field);)
PAWL_MESSAGE(Welcome, field("job", self.job);)
PAWL_MESSAGE(Refused, field("why", self.why);)
PAWL_MESSAGE(Resume, field("sequence", self.sequence); field("step", self.step);
             field("epoch", self.epoch); field("path", self.path);)
PAWL_MESSAGE(ArenaGranted, field("slot", self.slot); field("bytes", self.bytes);)
PAWL_MESSAGE(ArenaRefused, field("slot", self.slot); field("why", self.why);)
PAWL_MESSAGE(SlotReleased, field("slot", self.slot);)
PAWL_MESSAGE(TakeSnapshot, field("request", self.request);)
PAWL_MESSAGE(SnapshotDurable, field("sequence", self.sequence); field("step", self.step);
             field("epoch", self.epoch);)
PAWL_MESSAGE(SnapshotFailed, field("request", self.request); field("why", self.why);)
PAWL_MESSAGE(CheckpointAnswer, field("why_not", self.why_not);)
#undef PAWL_MESSAGE

template <class Variant>
std::string encode_any(const Variant& message) {
    return std::visit(
        [](const auto& self) {
            using Message = std::decay_t<decltype(self)>;
            json object = {{"type", Fields<Message>::kName}};
            Fields<Message>::visit(
                self, [&](const char* name, const auto& value) { put(object[name], value); });
            return object.dump(-1, ' ', false, json::error_handler_t::replace);
        },
        message);
}

template <class Message>
Message decode_as(const json& object) {
    Message message;
    Fields<Message>::visit(message,
                           [&](const char* name, auto& value) { get(object.at(name), value); });
    return message;
}

// The parser repeats what it read, whatever that was; here it is for logs and terminals.
Error not_a_message(std::string what) {
    constexpr std::size_t kWhatMax = 200;
    if (what.size() > kWhatMax) what = what.substr(0, kWhatMax) + "...";
    std::ranges::replace_if(
        what, [](unsigned char byte) { return byte < 0x20 || byte > 0x7e; }, '?');
    return make_error(ErrorKind::kInvalidArgument, "not a message of the trainer protocol: {}",
                      what);
}

template <class Variant, std::size_t kIndex = 0>
Result<Variant> decode_type(const json& object, const std::string& type) {
    if constexpr (kIndex < std::variant_size_v<Variant>) {
        using Message = std::variant_alternative_t<kIndex, Variant>;
        if (type == Fields<Message>::kName) return Variant{decode_as<Message>(object)};
        return decode_type<Variant, kIndex + 1>(object, type);
    } else {
        return not_a_message(fmt::format("unknown message type '{}'", type));
    }
}

template <class Variant>
Result<Variant> decode_any(std::string_view text) {
    try {
        const json object = json::parse(text);
        return decode_type<Variant>(object, object.at("type").get<std::string>());
    } catch (const json::exception& error) {
        return not_a_message(error.what());
    } catch (const WrongField& error) {
        return not_a_message(error.what());
    }
}

}  // namespace

std::string encode(const RankMessage& message) {
    return encode_any(message);
}
std::string encode(const DaemonMessage& message) {
    return encode_any(message);
}
Result<RankMessage> decode_rank_message(std::string_view text) {
    return decode_any<RankMessage>(text);
}
Result<DaemonMessage> decode_daemon_message(std::string_view text) {
    return decode_any<DaemonMessage>(text);
}

}  // namespace pawl::staging
