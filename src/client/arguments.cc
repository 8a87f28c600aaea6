// See arguments.h.
#include "client/arguments.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <limits>
#include <string_view>

namespace pawl::client {
namespace {

constexpr const char* kWhatNow = "Correct it or unset it; nothing was done";

Result<std::optional<std::uint64_t>> setting(const char* name, std::uint64_t given,
                                             std::uint64_t max) {
    auto value = number_from_environment(name);
    if (!value) return value;
    const bool is_from_environment = value->has_value();
    if (is_from_environment) given = **value;  // 0 turns it off
    if (given > max) {
        return make_error(ErrorKind::kInvalidArgument, "{}{}={} is too large: at most {}",
                          is_from_environment ? "environment variable " : "option for ", name,
                          given, max)
            .consequence("{}", kWhatNow);
    }
    return given != 0 ? std::optional{given} : std::nullopt;
}

// The rule of the daemon's configuration, so that any run can go on under a daemon.
bool is_job_name(std::string_view name) {
    constexpr std::size_t kBytesMax = 64;
    constexpr std::string_view kAllowed =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    return !name.empty() && name.size() <= kBytesMax && name.front() != '.' &&
           name.front() != '-' && name.find_first_not_of(kAllowed) == std::string_view::npos;
}

Result<void> check_job_name(const AttachOptions& options) {
    if (is_job_name(options.job)) return {};
    return make_error(ErrorKind::kInvalidArgument,
                      "PAWL_JOB='{}' is no job's name: 1 to 64 letters, digits, '.', '_' or '-', "
                      "not beginning with '.' or '-'",
                      options.job)
        .consequence("{}", kWhatNow);
}

}  // namespace

const char* environment(const char* name) {
    // NOLINTNEXTLINE(concurrency-mt-unsafe): documented: attach while no other thread sets
    // variables
    const char* value = std::getenv(name);
    return value != nullptr && *value != '\0' ? value : nullptr;
}

Result<std::optional<std::uint64_t>> number_from_environment(const char* name) {
    const char* text = environment(name);
    if (text == nullptr) return std::optional<std::uint64_t>{};
    std::uint64_t number = 0;
    const char* const end = text + std::strlen(text);
    const auto [stop, code] = std::from_chars(text, end, number);
    if (code != std::errc{} || stop != end) {
        return make_error(ErrorKind::kInvalidArgument,
                          "environment variable {}='{}' is no whole number", name, text)
            .consequence("{}", kWhatNow);
    }
    return std::optional{number};
}

Result<std::uint64_t> world_size_from_environment() {
    const auto number = number_from_environment("WORLD_SIZE");
    if (!number) return number.error();
    const std::uint64_t world_size = number->value_or(1);
    if (world_size == 0) {
        return make_error(ErrorKind::kInvalidArgument,
                          "environment variable WORLD_SIZE='0': there is at least one rank")
            .consequence("{}", kWhatNow);
    }
    return world_size;
}

Metrics metrics_of(const pawl_metric* metrics, std::size_t count) {
    Metrics map;
    if (metrics == nullptr) return map;
    for (std::size_t i = 0; i < count; ++i) {
        if (metrics[i].name != nullptr) map[metrics[i].name] = metrics[i].value;
    }
    return map;
}

Result<AttachOptions> options_of(const pawl_attach_options* given) {
    pawl_attach_options known{};
    if (given != nullptr) {
        auto copied = copy_known(*given, sizeof given->struct_size, "pawl_attach_options");
        if (!copied) return copied.error();
        known = *copied;
    }
    AttachOptions options;
    if (known.framework != nullptr) options.framework = known.framework;
    if (known.checkpoint_directory != nullptr && *known.checkpoint_directory != '\0')
        options.checkpoint_directory = known.checkpoint_directory;
    if (known.job != nullptr && *known.job != '\0') options.job = known.job;
    if (const char* value = environment("PAWL_CHECKPOINT_DIRECTORY"))
        options.checkpoint_directory = value;
    if (const char* value = environment("PAWL_JOB")) options.job = value;
    RETURN_IF_ERROR(check_job_name(options));
    constexpr std::uint64_t kAny = std::numeric_limits<std::uint64_t>::max();
    // A hundred years: in nanoseconds still a number of 64 bits.
    constexpr std::uint64_t kMillisecondsMax = 100ULL * 365 * 24 * 3600 * 1000;
    const auto every_steps = setting("PAWL_EVERY_STEPS", known.every_steps, kAny);
    if (!every_steps) return every_steps.error();
    const auto every_epochs = setting("PAWL_EVERY_EPOCHS", known.every_epochs, kAny);
    if (!every_epochs) return every_epochs.error();
    const auto every_ms = setting("PAWL_EVERY_MS", known.every_ms, kMillisecondsMax);
    if (!every_ms) return every_ms.error();
    const auto keep_last =
        setting("PAWL_KEEP_LAST", known.keep_last, std::numeric_limits<std::uint32_t>::max());
    if (!keep_last) return keep_last.error();
    options.every_steps = *every_steps;
    options.every_epochs = *every_epochs;
    if (*every_ms) options.every_time = milliseconds{**every_ms};
    if (!options.every_steps && !options.every_epochs && !options.every_time) {
        options.every_time = std::chrono::minutes{10};
    }
    options.keep_last = static_cast<std::uint32_t>(keep_last->value_or(3));
    return options;
}

}  // namespace pawl::client
