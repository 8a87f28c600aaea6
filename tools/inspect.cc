// See inspect.h.
#include "tools/inspect.h"

#include "base/file_system.h"
#include "control/server.h"
#include "control/status.h"
#include "tools/output.h"

#include <nlohmann/json.hpp>

#include <unistd.h>

namespace pawl::tools {
namespace {

using nlohmann::json;

}  // namespace

std::string state_directory_of(const Place& place) {
    if (!place.state_directory.empty()) return place.state_directory;
    return ::access(".pawl", F_OK) == 0 ? ".pawl" : "/var/lib/pawl";
}

std::string checkpoint_directory_of(const Place& place) {
    if (!place.checkpoint_directory.empty()) return place.checkpoint_directory;
    return join_path(state_directory_of(place), "checkpoints");
}

std::string socket_of(const Place& place) {
    if (!place.socket.empty()) return place.socket;
    const std::string usual = join_path(state_directory_of(place), "pawld.sock");
    const std::string of_service = "/run/pawl/pawld.sock";
    const bool is_service = place.state_directory.empty() && ::access(usual.c_str(), F_OK) != 0;
    return is_service && ::access(of_service.c_str(), F_OK) == 0 ? of_service : usual;
}

// ---- the daemon ----

Result<int> show_status(const Place& place, Format format) {
    const auto response = control::call(socket_of(place), control::Method::kGet, "/v1/status");
    if (!response) {
        return Error(response.error())
            .while_doing("ask for the status")
            .consequence("Is pawld running? Its history: pawl journal");
    }
    if (format == Format::kJson) {
        print(response->body);
        return 0;
    }
    const auto status = control::status_from_json(response->body);
    if (!status) return status.error();
    print(control::to_text(*status));
    return 0;
}

Result<int> command_job(const Place& place, const std::string& verb) {
    std::string job = place.job;
    if (job.empty()) {
        const auto response = control::call(socket_of(place), control::Method::kGet, "/v1/status");
        if (!response) return response.error();
        const auto status = control::status_from_json(response->body);
        if (!status) return status.error();
        if (status->jobs.size() != 1) {
            return make_error(ErrorKind::kInvalidArgument,
                              "the daemon has {} jobs: name one with --job", status->jobs.size());
        }
        job = status->jobs.front().name;
    }
    const auto response = control::call(socket_of(place), control::Method::kPost,
                                        fmt::format("/v1/jobs/{}/{}", job, verb));
    if (!response) return response.error();
    if (response->http_status == 202) {
        const char* const answer =
            verb == "stop" ? "job '{}' is asked to save and stop"
                           : "job '{}' is asked for a checkpoint; 'pawl status' shows the newest";
        print(fmt::format(fmt::runtime(answer), job) + "\n");
        return 0;
    }
    const json body = json::parse(response->body, nullptr, /*allow_exceptions=*/false);
    const ErrorKind kind = response->http_status == 404 ? ErrorKind::kNotFound : ErrorKind::kBusy;
    return make_error(kind, "{}",
                      body.is_object() ? body.value("error", response->body) : response->body);
}

}  // namespace pawl::tools
