// The HTTP API on a Unix socket (docs/formats.md, "Control"; docs/api.yaml). Its own threads; it
// knows no job. Routes are here, the limits to what a client may do in http.h and listener.h.
#pragma once

#include "base/result.h"
#include "base/units.h"
#include "control/listener.h"

#include <functional>
#include <map>
#include <memory>
#include <string>

namespace pawl::control {

// A question to the journal: "events", "progress", "epochs", "incarnations" or "checkpoints" of a
// job, with the parameters of the URL as they were given.
struct HistoryRequest {
    std::string job;
    std::string table;
    std::map<std::string, std::string> parameters;
};

// Called on the server's threads; all must be thread-safe and, but for a
// rollback, quick.
struct Handlers {
    std::function<std::string()> status_json;
    // `verb` is "checkpoint" or "stop", and returns once the request has been taken; or
    // "rollback/TARGET", which returns when it is done.
    std::function<Result<void>(const std::string& job, const std::string& verb)> command;
    // Returns the changes as JSON, once they are made. May take seconds.
    std::function<Result<std::string>()> reload;
    // Returns JSON.
    std::function<Result<std::string>(const HistoryRequest& request)> history;
};

class Server {
public:
    // Replaces a stale socket; 0660.
    [[nodiscard]] static Result<std::unique_ptr<Server>> start(const std::string& socket_path,
                                                               Handlers handlers,
                                                               ListenerLimits limits = {});
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

private:
    struct Implementation;
    explicit Server(std::unique_ptr<Implementation> implementation);
    std::unique_ptr<Implementation> implementation_;
};

// The target of a GET that asks so.
[[nodiscard]] std::string target_of(const HistoryRequest& request);

struct Response {
    int http_status = 0;
    std::string body;
};
enum class Method { kGet, kPost };
// For the tool. kNotFound if nobody listens.
[[nodiscard]] Result<Response> call(const std::string& socket_path, Method method,
                                    const std::string& target, seconds limit = seconds{10});

}  // namespace pawl::control
