// YAML with types: every value knows its key and its position, and says so when it is not what was
// expected. Reads no file. Nothing here outlives the load that made it.
#pragma once

#include "base/result.h"
#include "config/limits.h"
#include "config/reading.h"

#include <yaml-cpp/yaml.h>

#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace pawl::config {

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
    Value(const Source& source, const YAML::Node& node, KeyPath key, Position key_position);

    [[nodiscard]] const Source& source() const { return *source_; }
    [[nodiscard]] Position position() const { return position_; }
    [[nodiscard]] bool is_list() const { return node_.IsSequence(); }

    // Each fills in the variables.
    [[nodiscard]] Result<std::string> text(std::string_view expected = "a text") const;
    // Absolute, without "." and ".." and a slash at its end.
    [[nodiscard]] Result<std::string> path() const;
    [[nodiscard]] Result<std::uint64_t> number(const Numbers& range) const;
    [[nodiscard]] Result<nanoseconds> duration(const Durations& range) const;
    [[nodiscard]] Result<std::uint64_t> size(const Sizes& range) const;
    [[nodiscard]] Result<std::vector<std::string>> list_of_text(std::string_view expected) const;
    template <class Enum>
    [[nodiscard]] Result<Enum> one_of(
        std::type_identity_t<std::span<const Choice<Enum>>> choices) const;

    // In the order of the file; no key appears twice.
    [[nodiscard]] Result<std::vector<Entry>> entries(std::string_view expected) const;
    [[nodiscard]] Result<std::vector<Value>> items(std::string_view expected) const;

    // "…: expected EXPECTED, found 'two'"
    [[nodiscard]] Error unexpected(std::string_view expected) const;
    [[nodiscard]] Error unknown(const Entry& entry, std::span<const std::string_view> known) const;
    [[nodiscard]] Error error(std::string_view text) const;

private:
    [[nodiscard]] Error unexpected(std::string_view expected, const std::string& expanded) const;
    [[nodiscard]] Error unexpected_choice(std::span<const std::string_view> names,
                                          const std::string& expanded) const;

    const Source* source_;
    YAML::Node node_;
    KeyPath key_;
    Position position_;
};

struct Entry {
    std::string name;
    Position position;  // of the key
    Value value;
};

template <class Enum>
Result<Enum> Value::one_of(std::type_identity_t<std::span<const Choice<Enum>>> choices) const {
    std::vector<std::string_view> names;
    for (const Choice<Enum>& choice : choices)
        names.push_back(choice.name);
    if (!node_.IsScalar()) return unexpected_choice(names, "");
    const auto written = text();
    if (!written) return written.error();
    for (const Choice<Enum>& choice : choices) {
        if (*written == choice.name) return choice.value;
    }
    return unexpected_choice(names, *written);
}

}  // namespace pawl::config
