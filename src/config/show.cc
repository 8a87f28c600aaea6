// See show.h. Touches nothing.
#include "config/show.h"

#include "config/keys.h"
#include "config/variables.h"

#include <array>
#include <cctype>

namespace pawl::config {

namespace {

template <class Target>
Json json_of(std::span<const Field<Target>> fields, const Target& target) {
    Json object = Json::object();
    for (const Field<Target>& field : fields) {
        const std::string name(field.key.name);
        if (field.type.kind == Kind::kMap) {
            Json inner = json_of(field.children, target);
            if (!inner.empty()) object[name] = std::move(inner);
        } else if (field.show != nullptr) {
            Json value = field.show(target);
            if (!value.is_null()) object[name] = std::move(value);
        }
    }
    return object;
}

Json json_of(const DaemonConfig& config) {
    Json object = json_of(daemon_fields(), config);
    Json jobs = Json::object();
    for (const JobConfig& job : config.jobs)
        jobs[job.name] = json_of(job_fields(), job);
    object["jobs"] = std::move(jobs);
    return object;
}

// Whether every reader of YAML takes it for this text: "info", "10m", "/srv/a-b".
bool is_plain(const std::string& text) {
    constexpr std::array kOtherThanText = {"true", "false", "yes", "no", "on",
                                           "off",  "null",  "y",   "n"};
    if (parse_duration(text) || parse_bytes(text)) return true;
    if (text.empty() ||
        (std::isalpha(static_cast<unsigned char>(text.front())) == 0 && text.front() != '/'))
        return false;
    std::string lower;
    for (const char character : text) {
        const auto byte = static_cast<unsigned char>(character);
        if (std::isalnum(byte) == 0 &&
            std::string_view("/._-").find(character) == std::string_view::npos)
            return false;
        lower += static_cast<char>(std::tolower(byte));
    }
    return std::find(kOtherThanText.begin(), kOtherThanText.end(), lower) == kOtherThanText.end();
}

std::string scalar(const Json& value) {
    if (!value.is_string()) return value.dump();
    const auto text = escape(value.get<std::string>());
    if (is_plain(text)) return text;
    // JSON's strings are YAML's.
    return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

void write_map(const Json& map, const std::string& indent, std::string& text) {
    for (const auto& [name, value] : map.items()) {
        // Job and variable names: a key has no variables to escape.
        text +=
            indent +
            (is_plain(name) && !parse_duration(name) && !parse_bytes(name) ? name
                                                                           : Json(name).dump()) +
            ":";
        if (value.is_object() && !value.empty()) {
            text += "\n";
            write_map(value, indent + "  ", text);
        } else if (value.is_object()) {
            text += " {}\n";
        } else if (value.is_array()) {
            std::vector<std::string> items;
            for (const Json& item : value)
                items.push_back(Json(escape(item.get<std::string>()))
                                    .dump(-1, ' ', false, Json::error_handler_t::replace));
            text += fmt::format(" [{}]\n", fmt::join(items, ", "));
        } else {
            text += " " + scalar(value) + "\n";
        }
    }
}

std::string counted(std::size_t count, std::string_view what) {
    return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
}

std::string cadence_of(const Json& checkpoint) {
    std::vector<std::string> parts;
    const auto add = [&](const char* key, std::string_view unit) {
        if (checkpoint.contains(key)) parts.push_back(scalar(checkpoint[key]) + std::string(unit));
    };
    add("every", "");
    add("every_steps", " steps");
    add("every_epochs", " epochs");
    return fmt::format("{}", fmt::join(parts, " or "));
}

}  // namespace

std::string to_yaml(const DaemonConfig& config) {
    Json object = json_of(config);
    const bool has_jobs = !config.jobs.empty();
    if (!has_jobs) object.erase("jobs");
    std::string text;
    write_map(object, "", text);
    // A file without jobs is taken only if it leaves them to others.
    if (!has_jobs) text += "include: []\n";
    return text;
}

std::string to_json(const DaemonConfig& config) {
    return json_of(config).dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string in_brief(const Loaded& loaded) {
    std::string text = fmt::format(
        "{}: valid, {}{}\n", loaded.files.front(), counted(loaded.config.jobs.size(), "job"),
        loaded.files.size() == 1 ? "" : ", " + counted(loaded.files.size() - 1, "included file"));
    text += fmt::format("  state in '{}', control socket '{}'\n", loaded.config.state_directory,
                        loaded.config.control.socket);
    for (const JobConfig& job : loaded.config.jobs) {
        text += fmt::format("  {}: {}, checkpoints in '{}'\n", job.name, counted(job.ranks, "rank"),
                            job.checkpoint.directory);
        text += fmt::format("    every {}, the last {} kept; up to {} without progress\n",
                            cadence_of(json_of(job_fields(), job)["checkpoint"]),
                            job.checkpoint.keep_last, counted(job.restart.max, "restart"));
    }
    return text;
}

}  // namespace pawl::config
