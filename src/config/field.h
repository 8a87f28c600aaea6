// Field: one key of the configuration, and all that is known of it. The parser, the JSON schema,
// the reference, `pawl config show`, the checks of a job from the command line and the comparison
// of two configurations walk the same tables of fields (keys.cc), so they cannot disagree.
#pragma once

#include "config/config.h"
#include "config/duration.h"
#include "config/size.h"
#include "config/yaml_reader.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace pawl::config {

using Json = nlohmann::ordered_json;

enum class Kind {
    kNumber,
    kDuration,
    kSize,
    kPath,
    kText,
    kChoice,
    kWords,
    kArguments,  // words as well, and there may be none
    kPatterns,   // one path or a list of paths, with wildcards; taken as they are written
    kVariables,
    kMap,
    // What the loader reads itself, since it spans files and jobs:
    kFiles,
    kJob,
    kJobs,
};

struct Type {
    Kind kind = Kind::kMap;
    Numbers numbers{};
    Durations durations{};
    Sizes sizes{};
    std::span<const std::string_view> choices{};
    std::string_view word{};  // that a duration may be instead: "auto", "off"
};

// What is said of a key.
struct Key {
    std::string_view name;
    std::string_view about;  // whole sentences, on one line
    Applies applies = Applies::kAtOnce;
    std::string_view required_as{};  // what it must hold; empty: the key may be left out
    std::string_view default_as{};   // where the value of a new Target does not say it
};

template <class Target>
struct Field {
    Key key;
    Type type;
    Result<void> (*read)(const Value&, const Type&, Target&) = nullptr;
    Json (*show)(const Target&) = nullptr;  // null: not set
    // "expected …, found …" of a value that no file gave.
    std::optional<std::string> (*problem)(const Type&, const Target&) = nullptr;
    void (*copy)(const Target& from, Target& to) = nullptr;
    std::span<const Field> children{};  // of a kMap
};

// ---- how fields are made: each takes a stateless lambda that names the member ----

namespace detail {

template <class T>
std::optional<T> value_of(const T& member) {
    return member;
}
template <class T>
std::optional<T> value_of(const std::optional<T>& member) {
    return member;
}

// Ends a read: the value into its member, or the error up. Numbers were checked to fit.
template <class T, class Member>
Result<void> store(Result<T> value, Member& member) {
    if (!value) return value.error();
    member = static_cast<Member>(*std::move(value));
    return {};
}

template <class T, class Tag, class Written>
std::optional<std::string> out_of(const Range<T, Tag>& range, const std::optional<Written>& value,
                                  const std::string& text) {
    if (!value || range.contains(*value)) return std::nullopt;
    return fmt::format("expected {}, found '{}'", describe(range), text);
}

template <class Target, class Get>
void copy(const Target& from, Target& to) {
    Get{}(to) = Get{}(from);
}

template <const auto& Choices>
constexpr auto names_of() {
    std::array<std::string_view, std::size(Choices)> names;
    std::transform(Choices.begin(), Choices.end(), names.begin(),
                   [](const auto& choice) { return choice.name; });
    return names;
}
template <const auto& Choices>
inline constexpr auto kNames = names_of<Choices>();

}  // namespace detail

template <class Target, class Get>
constexpr Field<Target> number(Get, Numbers range, Key key) {
    return {.key = key,
            .type = {.kind = Kind::kNumber, .numbers = range},
            .read =
                [](const Value& value, const Type& type, Target& target) {
                    return detail::store(value.number(type.numbers), Get{}(target));
                },
            .show =
                [](const Target& target) {
                    const auto value = detail::value_of(Get{}(target));
                    return value ? Json(*value) : Json();
                },
            .problem =
                [](const Type& type, const Target& target) {
                    const auto value = detail::value_of(Get{}(target));
                    return detail::out_of(type.numbers, value,
                                          value ? fmt::format("{}", *value) : "");
                },
            .copy = detail::copy<Target, Get>};
}

template <class Target, class Get>
constexpr Field<Target> duration(Get, Durations range, Key key) {
    return {.key = key,
            .type = {.kind = Kind::kDuration, .durations = range},
            .read =
                [](const Value& value, const Type& type, Target& target) {
                    return detail::store(value.duration(type.durations), Get{}(target));
                },
            .show =
                [](const Target& target) {
                    const auto value = detail::value_of(Get{}(target));
                    return value ? Json(exact_duration(*value)) : Json();
                },
            .problem =
                [](const Type& type, const Target& target) {
                    const auto value = detail::value_of(Get{}(target));
                    return detail::out_of(type.durations, value,
                                          value ? exact_duration(*value) : "");
                },
            .copy = detail::copy<Target, Get>};
}

template <class Target, class Get>
constexpr Field<Target> size(Get, Sizes range, Key key) {
    return {
        .key = key,
        .type = {.kind = Kind::kSize, .sizes = range},
        .read = [](const Value& value, const Type& type,
                   Target& target) { return detail::store(value.size(type.sizes), Get{}(target)); },
        .show =
            [](const Target& target) {
                const auto value = detail::value_of(Get{}(target));
                return value ? Json(exact_bytes(*value)) : Json();
            },
        .problem =
            [](const Type& type, const Target& target) {
                const auto value = detail::value_of(Get{}(target));
                return detail::out_of(type.sizes, value, value ? exact_bytes(*value) : "");
            },
        .copy = detail::copy<Target, Get>};
}

template <class Target, class Get>
constexpr Field<Target> path(Get, Key key) {
    return {.key = key,
            .type = {.kind = Kind::kPath},
            .read = [](const Value& value, const Type&,
                       Target& target) { return detail::store(value.path(), Get{}(target)); },
            .show =
                [](const Target& target) {
                    const std::string& text = Get{}(target);
                    return text.empty() ? Json() : Json(text);
                },
            .copy = detail::copy<Target, Get>};
}

// Whether the value is this word, and no duration at all.
inline bool is_word(const Value& value, std::string_view word) {
    const auto text = value.text();
    return text && *text == word;
}

template <class Target, const auto& Choices, class Get>
constexpr Field<Target> choice(Get, Key key) {
    return {.key = key,
            .type = {.kind = Kind::kChoice, .choices = detail::kNames<Choices>},
            .read =
                [](const Value& value, const Type&, Target& target) {
                    using Enum = std::remove_cvref_t<decltype(Get{}(target))>;
                    return detail::store(value.one_of<Enum>(Choices), Get{}(target));
                },
            .show =
                [](const Target& target) {
                    const auto found = std::find_if(
                        Choices.begin(), Choices.end(),
                        [&target](const auto& each) { return each.value == Get{}(target); });
                    return found == Choices.end() ? Json() : Json(found->name);
                },
            .copy = detail::copy<Target, Get>};
}

inline constexpr std::string_view kWordsExpected = "a list of words, such as [python3, train.py]";

template <class Target, class Get>
constexpr Field<Target> words(Get, Key key) {
    return {.key = key,
            .type = {.kind = Kind::kWords},
            .read =
                [](const Value& value, const Type&, Target& target) {
                    return detail::store(value.list_of_text(kWordsExpected), Get{}(target));
                },
            .show = [](const Target& target) { return Json(Get{}(target)); },
            .copy = detail::copy<Target, Get>};
}

template <class Target, class Get>
constexpr Field<Target> arguments(Get, Key key) {
    return {.key = key,
            .type = {.kind = Kind::kArguments},
            .read =
                [](const Value& value, const Type&, Target& target) {
                    return detail::store(
                        value.list_of_text("a list of words, such as [--resume, \"{checkpoint}\"]"),
                        Get{}(target));
                },
            .show =
                [](const Target& target) {
                    return Get{}(target).empty() ? Json() : Json(Get{}(target));
                },
            .copy = detail::copy<Target, Get>};
}

template <class Target, class Get>
constexpr Field<Target> patterns(Get, Key key) {
    return {.key = key,
            .type = {.kind = Kind::kPatterns},
            .read = [](const Value& value, const Type&, Target& target) -> Result<void> {
                constexpr std::string_view kExpected =
                    "a path or a list of paths, such as checkpoint.pth or runs/*.pth";
                if (value.is_list())
                    return detail::store(value.list_of_text(kExpected), Get{}(target));
                auto one = value.text(kExpected);
                if (!one) return one.error();
                Get{}(target) = {*std::move(one)};
                return {};
            },
            .show =
                [](const Target& target) {
                    return Get{}(target).empty() ? Json() : Json(Get{}(target));
                },
            .copy = detail::copy<Target, Get>};
}

// Added to those that are there: a job's own win over those of `defaults` one by one.
template <class Target, class Get>
constexpr Field<Target> variables(Get, Key key) {
    return {.key = key,
            .type = {.kind = Kind::kVariables},
            .read = [](const Value& value, const Type&, Target& target) -> Result<void> {
                const auto entries =
                    value.entries("a map of variables, such as {OMP_NUM_THREADS: \"2\"}");
                if (!entries) return entries.error();
                for (const Entry& entry : *entries) {
                    RETURN_IF_ERROR(detail::store(entry.value.text(), Get{}(target)[entry.name]));
                }
                return {};
            },
            .show = [](const Target& target) { return Json(Get{}(target)); },
            .copy = detail::copy<Target, Get>};
}

template <class Target>
constexpr Field<Target> map(std::span<const Field<Target>> children, Key key) {
    return {.key = key, .type = {.kind = Kind::kMap}, .children = children};
}

template <class Target>
constexpr Field<Target> of_loader(Kind kind, Key key) {
    return {.key = key, .type = {.kind = kind}};
}

// ---- how tables are walked ----

template <class Target>
Result<const Field<Target>*> field_of(const Value& map, const Entry& entry,
                                      std::span<const Field<Target>> fields) {
    std::vector<std::string_view> known;
    for (const Field<Target>& field : fields) {
        if (field.key.name == entry.name) return &field;
        known.push_back(field.key.name);
    }
    return map.unknown(entry, known);
}

template <class Target>
std::string map_of(std::span<const Field<Target>> fields) {
    std::vector<std::string_view> known;
    for (const Field<Target>& field : fields)
        known.push_back(field.key.name);
    return fmt::format("a map with the keys {}", fmt::join(known, ", "));
}

// What is written, and nothing else: neither defaults nor whether what is required is there.
template <class Target>
Result<void> read_fields(const Value& value, std::span<const Field<Target>> fields,
                         Target& target) {
    const auto entries = value.entries(map_of(fields));
    if (!entries) return entries.error();
    for (const Entry& entry : *entries) {
        const auto field = field_of(value, entry, fields);
        if (!field) return field.error();
        if ((*field)->type.kind == Kind::kMap) {
            RETURN_IF_ERROR(read_fields(entry.value, (*field)->children, target));
        } else {
            RETURN_IF_ERROR((*field)->read(entry.value, (*field)->type, target));
        }
    }
    return {};
}

// Each field that holds a value, with its path ("checkpoint.keep_last").
template <class Target, class Visit>
void for_each_field(std::span<const Field<Target>> fields, Visit visit,
                    const std::string& above = "") {
    for (const Field<Target>& field : fields) {
        const std::string path = above + std::string(field.key.name);
        if (field.type.kind == Kind::kMap) {
            for_each_field(field.children, visit, path + ".");
        } else if (field.show != nullptr) {
            visit(field, path);
        }
    }
}

}  // namespace pawl::config
