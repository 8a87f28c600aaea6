// See config_commands.h.
#include "tools/config_commands.h"

#include "config/changes.h"
#include "config/config.h"
#include "config/schema.h"
#include "config/show.h"
#include "control/server.h"

#include <nlohmann/json.hpp>

#include <cstdio>

namespace pawl::tools {
namespace {

using nlohmann::ordered_json;

constexpr int kExitConfiguration = 78;  // EX_CONFIG

void print(std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
}

void print_json(const ordered_json& object) {
    print(object.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n");
}

Result<config::Loaded> load(const std::string& path) {
    return config::load_files(path, *config::make_surroundings());
}

int refused(const Error& error) {
    std::fprintf(stderr, "pawl: %s\n", error.text().c_str());
    return kExitConfiguration;
}

void print_changes(const std::vector<std::string>& texts, std::string_view none) {
    if (texts.empty()) print(fmt::format("{}\n", none));
    for (const std::string& text : texts)
        print(text + "\n");
}

}  // namespace

Result<int> check_config(const std::string& path, Format format) {
    const auto loaded = load(path);
    if (format == Format::kText) {
        if (!loaded) return refused(loaded.error());
        print(config::in_brief(*loaded));
        return 0;
    }
    ordered_json object = {{"path", path}, {"valid", loaded.has_value()}};
    if (loaded) {
        object["files"] = loaded->files;
        object["jobs"] = ordered_json::array();
        for (const config::JobConfig& job : loaded->config.jobs)
            object["jobs"].push_back(job.name);
    } else {
        object["error"] = loaded.error().text();
    }
    print_json(object);
    return loaded ? 0 : kExitConfiguration;
}

Result<int> show_config(const std::string& path, Format format) {
    const auto loaded = load(path);
    if (!loaded) return refused(loaded.error());
    print(format == Format::kJson ? config::to_json(loaded->config)
                                  : config::to_yaml(loaded->config));
    return 0;
}

Result<int> show_schema() {
    print(config::json_schema());
    return 0;
}

Result<int> show_reference() {
    print(config::reference());
    return 0;
}

Result<int> compare_configs(const std::string& from, const std::string& to, Format format) {
    const auto current = load(from);
    if (!current) return refused(current.error());
    const auto wanted = load(to);
    if (!wanted) return refused(wanted.error());
    const auto plan = config::plan_reload(current->config, wanted->config, {});
    if (format == Format::kJson) {
        print(config::to_json(plan.changes));
        return 0;
    }
    std::vector<std::string> texts;
    for (const config::Change& change : plan.changes)
        texts.push_back(change.text());
    print_changes(texts, "no differences");
    return 0;
}

Result<int> reload_daemon(const Place& place, Format format) {
    const auto response = control::call(socket_of(place), control::Method::kPost, "/v1/reload");
    if (!response) {
        return Error(response.error())
            .while_doing("have the configuration reloaded")
            .consequence("Is pawld running? Its socket can be named with --socket");
    }
    const auto object = ordered_json::parse(response->body, nullptr, /*allow_exceptions=*/false);
    if (!object.is_object()) {
        return make_error(ErrorKind::kInternal, "the daemon's answer to a reload is no JSON: {}",
                          response->body);
    }
    constexpr int kOk = 200;
    constexpr int kBadRequest = 400;  // what is wrong with the file
    if (response->http_status != kOk) {
        const std::string why = object.value("error", "no reason given");
        if (response->http_status == kBadRequest)
            return refused(Error(ErrorKind::kInvalidArgument, why));
        return make_error(ErrorKind::kBusy, "{}", why);
    }
    if (format == Format::kJson) {
        print(response->body);
        return 0;
    }
    std::vector<std::string> texts;
    for (const auto& change : object.value("changes", ordered_json::array()))
        texts.push_back(change.value("text", ""));
    print_changes(texts, "reloaded; nothing has changed");
    return 0;
}

}  // namespace pawl::tools
