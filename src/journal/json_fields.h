// JSON as the journal writes and reads it: numbers that JSON has no word for, and fields that may
// be wrong.
//
// Of this room only. Pure: no file, no clock.
#pragma once

#include "base/clock.h"
#include "base/invariant.h"
#include "base/result.h"
#include "base/units.h"

#include <nlohmann/json.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace pawl::journal {

// Fields in the order in which they are written: a person reads them in a terminal.
using Json = nlohmann::ordered_json;

inline std::string dump(const Json& json) {
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
inline Json json_of_loss(double loss) {
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

inline Json json_of_numbers(const std::map<std::string, double>& numbers) {
    Json object = Json::object();
    for (const auto& [name, number] : numbers)
        object[name] = json_of_loss(number);
    return object;
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
        fail(R"(field '{}' is no number, null, "inf" or "-inf")", name);
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

    // For a field that an older pawl did not write: false if it is missing, or null.
    bool has(const char* name) { return !at(name).is_null() && !at(name).is_discarded(); }

    std::optional<std::uint64_t> number_if_any(const char* name) {
        return has(name) ? std::optional(number(name)) : std::nullopt;
    }

    std::string text_if_any(const char* name) { return has(name) ? text(name) : std::string(); }
    std::optional<std::int64_t> signed_number_if_any(const char* name) {
        return has(name) ? std::optional(signed_number(name)) : std::nullopt;
    }

    std::optional<WallTime> time_if_any(const char* name) {
        return has(name) ? std::optional(time(name)) : std::nullopt;
    }

    Fields object(const char* name) { return Fields(at(name)); }

    std::map<std::string, double> numbers_if_any(const char* name) {
        std::map<std::string, double> numbers;
        if (!has(name)) return numbers;
        Fields inner = object(name);
        if (inner.object_.is_object()) {
            for (const auto& [key, value] : inner.object_.items())
                numbers[key] = inner.loss(key.c_str());
        }
        take_failure(inner);
        return numbers;
    }

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
    [[nodiscard]] const Json& at(const char* name) const {
        static const Json missing(Json::value_t::discarded);
        if (!object_.is_object()) return missing;
        const auto field = object_.find(name);
        return field == object_.end() ? missing : *field;
    }

    template <class... Args>
    void fail(fmt::format_string<Args...> format, Args&&... args) {
        if (!failure_) failure_ = fmt::format(format, std::forward<Args>(args)...);
    }

    Json object_;
    std::optional<std::string> failure_;
};

}  // namespace pawl::journal
