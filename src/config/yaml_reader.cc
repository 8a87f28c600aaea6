// See yaml_reader.h.
#include "config/yaml_reader.h"

#include "config/config.h"
#include "config/document.h"
#include "config/size.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>
#include <numeric>
#include <optional>
#include <system_error>
#include <utility>

namespace pawl::config {

namespace {

// What a key or an item costs beside its text (see Reading::take).
constexpr std::size_t kEntryBytes = 64;

std::string found(const YAML::Node& node) {
    switch (node.Type()) {
        case YAML::NodeType::Scalar:
            return in_quotes(node.Scalar());
        case YAML::NodeType::Sequence:
            return node.size() == 0 ? "an empty list" : "a list";
        case YAML::NodeType::Map:
            return node.size() == 0 ? "an empty map" : "a map";
        case YAML::NodeType::Null:
        case YAML::NodeType::Undefined:
            break;
    }
    return "nothing";
}

KeyPath below(KeyPath key, std::string name) {
    key.push_back(std::move(name));
    return key;
}

// Digits alone: neither sign, nor octal, nor 1e3, about which YAML's versions disagree.
std::optional<std::uint64_t> whole_number(std::string_view text) {
    if (text.empty() || (text.size() > 1 && text.front() == '0')) return std::nullopt;
    std::uint64_t number = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (code != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return number;
}

// Levenshtein's distance, one row at a time.
std::size_t edit_distance(std::string_view from, std::string_view to) {
    std::vector<std::size_t> row(to.size() + 1);
    std::iota(row.begin(), row.end(), std::size_t{0});
    for (std::size_t i = 1; i <= from.size(); ++i) {
        std::size_t diagonal = std::exchange(row[0], i);
        for (std::size_t j = 1; j <= to.size(); ++j) {
            const std::size_t replaced = diagonal + (from[i - 1] == to[j - 1] ? 0 : 1);
            diagonal = row[j];
            row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
        }
    }
    return row.back();
}

// What follows the key's name: a question, or a full stop.
std::string suggestion(std::string_view name, std::span<const std::string_view> known) {
    constexpr std::size_t kDistanceMax = 2;
    constexpr std::size_t kNameBytesMax = 64;  // what is longer is no slip of a finger
    if (name.size() > kNameBytesMax) return ".";
    std::string_view nearest;
    std::size_t distance_min = kDistanceMax + 1;
    for (const std::string_view candidate : known) {
        const std::size_t distance = edit_distance(name, candidate);
        if (distance < distance_min && distance < std::min(name.size(), candidate.size())) {
            nearest = candidate;
            distance_min = distance;
        }
    }
    return nearest.empty() ? "." : fmt::format("; did you mean '{}'?", nearest);
}

}  // namespace

Value::Value(const Source& source, const YAML::Node& node, KeyPath key, Position key_position)
    : source_(&source), node_(node), key_(std::move(key)), position_(key_position) {
    if (node_.IsScalar() || node_.IsSequence()) position_ = position_of(node_.Mark());
}

Result<std::string> Value::text(std::string_view expected) const {
    if (!node_.IsScalar()) return unexpected(expected);
    // "\0" in YAML; arguments, variables and paths would end there without a word.
    if (node_.Scalar().find('\0') != std::string::npos) return unexpected("a text without NUL");
    auto expanded = source_->reading().expand(node_.Scalar());
    if (!expanded) return error(expanded.error().message());
    return expanded;
}

Result<std::string> Value::path() const {
    auto written = text();
    if (!written) return written.error();
    if (written->empty()) return unexpected("a path", *written);
    if (written->front() == '~')
        return unexpected("a path without '~', which only a shell expands", *written);
    std::string path =
        (std::filesystem::path(source_->directory()) / *written).lexically_normal().string();
    while (path.size() > 1 && path.back() == '/')
        path.pop_back();
    return path;
}

Result<std::uint64_t> Value::number(const Numbers& range) const {
    const auto written = text(describe(range));
    if (!written) return written.error();
    const std::optional<std::uint64_t> number = whole_number(*written);
    if (!number || !range.contains(*number)) return unexpected(describe(range), *written);
    return *number;
}

Result<nanoseconds> Value::duration(const Durations& range) const {
    const auto written = text(describe(range));
    if (!written) return written.error();
    const auto duration = parse_duration(*written);
    if (!duration || !range.contains(*duration)) return unexpected(describe(range), *written);
    return *duration;
}

Result<std::uint64_t> Value::size(const Sizes& range) const {
    const auto written = text(describe(range));
    if (!written) return written.error();
    const auto bytes = parse_bytes(*written);
    if (!bytes || !range.contains(*bytes)) return unexpected(describe(range), *written);
    return *bytes;
}

Result<std::vector<std::string>> Value::list_of_text(std::string_view expected) const {
    const auto values = items(expected);
    if (!values) return values.error();
    std::vector<std::string> texts;
    for (const Value& value : *values) {
        auto text = value.text();
        if (!text) return text.error();
        texts.push_back(*std::move(text));
    }
    return texts;
}

Result<std::vector<Value>> Value::items(std::string_view expected) const {
    if (!node_.IsSequence()) return unexpected(expected);
    std::vector<Value> values;
    for (const YAML::Node& item : node_) {
        if (const auto taken = source_->reading().take(kEntryBytes); !taken)
            return error(taken.error().message());
        values.emplace_back(*source_, item, key_, position_of(item.Mark()));
    }
    return values;
}

Result<std::vector<Entry>> Value::entries(std::string_view expected) const {
    if (!node_.IsMap()) return unexpected(expected);
    std::vector<Entry> entries;
    std::map<std::string, Position> seen;  // yaml-cpp hands out a key as often as it is written
    for (const auto& pair : node_) {
        const Position position = position_of(pair.first.Mark());
        if (!pair.first.IsScalar()) {
            return source_->error_at(
                position, fmt::format("expected a name as key, found {}", found(pair.first)));
        }
        const std::string& name = pair.first.Scalar();
        if (const auto taken = source_->reading().take(kEntryBytes + name.size()); !taken)
            return error(taken.error().message());
        const KeyPath key = below(key_, name);
        const auto [first, is_new] = seen.emplace(name, position);
        if (!is_new) {
            return source_->error_at(
                position, fmt::format("key {}: written twice, first in line {}", in_text(key),
                                      first->second.line));
        }
        source_->reading().remember(key, {.source = source_, .position = position});
        entries.push_back(Entry{name, position, Value(*source_, pair.second, key, position)});
    }
    return entries;
}

Error Value::unexpected(std::string_view expected) const {
    return error(fmt::format("expected {}, found {}", expected, found(node_)));
}

Error Value::unexpected(std::string_view expected, const std::string& expanded) const {
    if (expanded == node_.Scalar()) return unexpected(expected);
    return error(fmt::format("expected {}, found {}, which is {} here", expected, found(node_),
                             in_quotes(expanded)));
}

Error Value::unknown(const Entry& entry, std::span<const std::string_view> known) const {
    return source_->error_at(
        entry.position,
        fmt::format("unknown key {}{} Known keys here: {}", in_text(below(key_, entry.name)),
                    suggestion(entry.name, known), fmt::join(known, ", ")));
}

Error Value::unexpected_choice(std::span<const std::string_view> names,
                               const std::string& expanded) const {
    const auto but_last = names.first(names.size() - 1);
    const std::string expected = fmt::format("{} or {}", fmt::join(but_last, ", "), names.back());
    return node_.IsScalar() ? unexpected(expected, expanded) : unexpected(expected);
}

Error Value::error(std::string_view text) const {
    if (key_.empty()) return source_->error_at(position_, text);
    return source_->error_at(position_, fmt::format("key {}: {}", in_text(key_), text));
}

}  // namespace pawl::config
