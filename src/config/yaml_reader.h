// YAML with types: every value knows its key and its position, and says so when it is not what was
// expected. Reads no file. Nothing here outlives the parse that made it.
#pragma once

#include "base/result.h"
#include "config/job_check.h"

#include <yaml-cpp/node/node.h>

#include <algorithm>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace pawl::config {

// As editors count: from 1.
struct Position {
    int line = 1;
    int column = 1;
};

[[nodiscard]] Position position_of(const YAML::Mark& mark);

// The file under parse: its name, the base of its relative paths, and where each key stands.
class Source {
public:
    Source(std::string file, std::string directory);

    [[nodiscard]] const std::string& directory() const { return directory_; }
    void remember(const KeyPath& key, Position position) { positions_[key] = position; }

    // "FILE:LINE:COLUMN: text"
    [[nodiscard]] Error error_at(Position position, std::string_view text) const;
    // "FILE:LINE:COLUMN: key 'jobs.lm': text", at the key. One that is not written has its default,
    // which the text then says, and the position of the nearest key around it.
    [[nodiscard]] Error error_for(const KeyPath& key, std::string_view text) const;

private:
    std::string file_;
    std::string directory_;
    std::map<KeyPath, Position> positions_;
};

struct Entry;

template <class Enum>
struct Choice {
    std::string_view name;
    Enum value;
};

// Borrows its Source.
class Value {
public:
    // `key_position` stands in for the value's own where it has none of use: nothing, or a map.
    Value(Source& source, const YAML::Node& node, KeyPath key, Position key_position);

    [[nodiscard]] Result<std::string> text() const;
    // Absolute, without "." and ".." and a slash at its end.
    [[nodiscard]] Result<std::string> path() const;
    [[nodiscard]] Result<std::uint64_t> number(const Numbers& range) const;
    [[nodiscard]] Result<nanoseconds> duration(const Durations& range) const;
    [[nodiscard]] Result<std::vector<std::string>> list_of_text(std::string_view expected) const;
    // In the order of the file; no key appears twice.
    [[nodiscard]] Result<std::vector<Entry>> entries(std::string_view expected) const;

    template <class Enum>
    [[nodiscard]] Result<Enum> one_of(
        std::type_identity_t<std::span<const Choice<Enum>>> choices) const {
        std::vector<std::string_view> names;
        for (const Choice<Enum>& choice : choices) {
            if (node_.IsScalar() && node_.Scalar() == choice.name) return choice.value;
            names.push_back(choice.name);
        }
        return unexpected_choice(names);
    }

    // "…: expected EXPECTED, found 'two'"
    [[nodiscard]] Error unexpected(std::string_view expected) const;
    [[nodiscard]] Error missing(std::string_view name, std::string_view expected) const;
    [[nodiscard]] Error unknown(const Entry& entry, std::span<const std::string_view> known) const;

private:
    [[nodiscard]] Error unexpected_choice(std::span<const std::string_view> names) const;
    [[nodiscard]] Error error(std::string_view text) const;

    Source* source_;
    YAML::Node node_;
    KeyPath key_;
    Position position_;
};

struct Entry {
    std::string name;
    Position position;  // of the key
    Value value;
};

// One key that a map may hold. A map is read by its table of these alone, so the keys that are
// known and the keys that are read cannot differ.
template <class Target>
struct Field {
    std::string_view name;
    Result<void> (*read)(const Value&, Target&);
    std::string_view required_as;  // what it must hold; empty: the key may be left out
};

template <class Target>
Result<void> read_fields(const Value& value,
                         std::type_identity_t<std::span<const Field<Target>>> fields,
                         Target& target) {
    std::vector<std::string_view> known;
    for (const Field<Target>& field : fields)
        known.push_back(field.name);
    auto entries = value.entries(fmt::format("a map with the keys {}", fmt::join(known, ", ")));
    if (!entries) return entries.error();
    for (const Entry& entry : *entries) {
        const auto field =
            std::find_if(fields.begin(), fields.end(),
                         [&entry](const Field<Target>& each) { return each.name == entry.name; });
        if (field == fields.end()) return value.unknown(entry, known);
        RETURN_IF_ERROR(field->read(entry.value, target));
    }
    for (const Field<Target>& field : fields) {
        const bool is_there =
            std::any_of(entries->begin(), entries->end(),
                        [&field](const Entry& each) { return each.name == field.name; });
        if (!is_there && !field.required_as.empty()) {
            return value.missing(field.name, field.required_as);
        }
    }
    return {};
}

// Ends a Field's read: the value into its member, or the error up. Numbers were checked to fit.
template <class T, class Target>
Result<void> store(Result<T> value, Target& target) {
    if (!value) return value.error();
    target = static_cast<Target>(*std::move(value));
    return {};
}

}  // namespace pawl::config
