// See reading.h. Touches nothing itself: files and variables come through the Surroundings.
#include "config/reading.h"

#include "config/variables.h"

#include <optional>
#include <utility>

namespace pawl::config {

namespace {

constexpr std::size_t kBytesTakenMax = std::size_t{16} << 20;

// {"jobs", "lm", "ranks"} as {"defaults", "ranks"}.
std::optional<KeyPath> in_defaults(const KeyPath& key) {
    if (key.size() < 3 || key.front() != "jobs") return std::nullopt;
    KeyPath path = {"defaults"};
    path.insert(path.end(), key.begin() + 2, key.end());
    return path;
}

}  // namespace

std::string in_text(const KeyPath& key) {
    return in_quotes(fmt::format("{}", fmt::join(key, ".")));
}

Source::Source(Reading& reading, std::string file, std::string directory)
    : reading_(&reading), file_(std::move(file)), directory_(std::move(directory)) {
}

Error Source::error_at(Position position, std::string_view text) const {
    return make_error(ErrorKind::kInvalidArgument, "{}:{}:{}: {}", file_, position.line,
                      position.column, text);
}

std::string Place::text() const {
    return fmt::format("{}:{}:{}", source->file(), position.line, position.column);
}

bool Reading::is_written(const KeyPath& key) const {
    const auto common = in_defaults(key);
    return places_.count(key) > 0 || (common && places_.count(*common) > 0);
}

Result<void> Reading::take(std::size_t bytes) {
    bytes_taken_ += bytes;
    if (bytes_taken_ <= kBytesTakenMax) return {};
    return make_error(ErrorKind::kInvalidArgument,
                      "expected a configuration of at most {} bytes, found more once aliases, "
                      "defaults and variables are filled in",
                      kBytesTakenMax);
}

Result<std::string> Reading::expand(std::string_view text) {
    auto expanded = config::expand(text, [this](const std::string& name) {
        if (name == "PAWL_JOB" && !job_.empty()) return std::optional<std::string>(job_);
        return surroundings_.variable(name);
    });
    if (!expanded) return expanded;
    RETURN_IF_ERROR(take(expanded->size()));
    return expanded;
}

Error Reading::error_for(const KeyPath& key, std::string_view text) const {
    const auto at = [&](const Place& place, std::string_view origin) {
        return place.source->error_at(place.position,
                                      fmt::format("key {}: {}{}", in_text(key), text, origin));
    };
    if (const auto own = places_.find(key); own != places_.end()) return at(own->second, "");
    if (const auto common = in_defaults(key)) {
        const auto found = places_.find(*common);
        if (found != places_.end()) return at(found->second, " (from 'defaults')");
    }
    return at(nearest(key), " (the default)");
}

Error Reading::missing(const KeyPath& key, std::string_view expected) const {
    const Place place = nearest(key);
    return place.source->error_at(
        place.position, fmt::format("key {}: missing; expected {}", in_text(key), expected));
}

Place Reading::nearest(KeyPath key) const {
    for (; !key.empty(); key.pop_back()) {
        const auto known = places_.find(key);
        if (known != places_.end()) return known->second;
        const auto common = in_defaults(key);
        const auto in_common = common ? places_.find(*common) : places_.end();
        if (in_common != places_.end()) return in_common->second;
    }
    return {.source = main_, .position = {}};
}

}  // namespace pawl::config
