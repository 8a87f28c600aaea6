// See server.h. cpp-httplib speaks HTTP; routes and texts are ours.
#include "control/server.h"

#include "base/units.h"

#include <httplib.h>
#include <nlohmann/json.hpp>

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <thread>

namespace pawl::control {
namespace {

using nlohmann::json;

int http_status_of(ErrorKind kind) {
    switch (kind) {
        case ErrorKind::kInvalidArgument:
            return 400;
        case ErrorKind::kNotFound:
            return 404;
        case ErrorKind::kBusy:
            return 409;
        default:
            return 500;
    }
}

void answer_error(httplib::Response& response, int status, const std::string& text) {
    response.status = status;
    response.set_content(json{{"error", text}}.dump() + "\n", "application/json");
}

// sockaddr_un holds 107 bytes; longer paths are reached through their directory's descriptor.
struct ShortPath {
    int directory = -1;
    std::string text;

    explicit ShortPath(const std::string& path) : text(path) {
        if (path.size() < 100) return;
        const auto slash = path.find_last_of('/');
        directory = ::open(path.substr(0, slash + 1).c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (directory >= 0)
            text = fmt::format("/proc/self/fd/{}/{}", directory, path.substr(slash + 1));
    }
    ~ShortPath() {
        if (directory >= 0) ::close(directory);
    }
    ShortPath(const ShortPath&) = delete;
    ShortPath& operator=(const ShortPath&) = delete;
};

}  // namespace

struct Server::Implementation {
    httplib::Server http;
    std::thread thread;
    std::atomic<bool> has_ended{false};
    std::string socket_path;
    Handlers handlers;

    void add_routes() {
        http.Get("/healthz", [](const httplib::Request&, httplib::Response& response) {
            response.set_content("ok\n", "text/plain");
        });
        http.Get("/v1/status", [this](const httplib::Request&, httplib::Response& response) {
            response.set_content(handlers.status_json(), "application/json");
        });
        http.Post(R"(/v1/jobs/([A-Za-z0-9._-]+)/(checkpoint|stop|rollback/[A-Za-z0-9-]+))",
                  [this](const httplib::Request& request, httplib::Response& response) {
                      const auto done = handlers.command(request.matches[1], request.matches[2]);
                      if (!done) {
                          return answer_error(response, http_status_of(done.error().kind()),
                                              done.error().text());
                      }
                      response.status = 202;
                      response.set_content("{}\n", "application/json");
                  });
        http.Post("/v1/reload", [this](const httplib::Request&, httplib::Response& response) {
            const auto changes = handlers.reload();
            if (!changes) {
                return answer_error(response, http_status_of(changes.error().kind()),
                                    changes.error().text());
            }
            response.set_content(*changes, "application/json");
        });
        http.set_error_handler([](const httplib::Request& request, httplib::Response& response) {
            if (!response.body.empty()) return;
            const char* const what = response.status == 404
                                         ? "no such thing"
                                         : "bad request (a POST needs a Content-Length)";
            answer_error(response, response.status,
                         fmt::format("{}: {} {}", what, request.method, request.path));
        });
    }
};

Server::Server(std::unique_ptr<Implementation> implementation)
    : implementation_(std::move(implementation)) {
}

Result<std::unique_ptr<Server>> Server::start(const std::string& socket_path, Handlers handlers) {
    auto implementation = std::make_unique<Implementation>();
    implementation->socket_path = socket_path;
    implementation->handlers = std::move(handlers);
    httplib::Server& http = implementation->http;
    http.set_address_family(AF_UNIX);
    http.set_payload_max_length(64 * 1024);
    http.set_keep_alive_max_count(1);
    http.new_task_queue = [] { return new httplib::ThreadPool(4); };
    implementation->add_routes();
    if (::unlink(socket_path.c_str()) != 0 && errno != ENOENT) {
        return error_from_errno("remove old control socket '{}'", socket_path);
    }
    constexpr int kAnyPort = 80;  // httplib wants one; a Unix socket has none
    const ShortPath path(socket_path);
    if (!http.bind_to_port(path.text.c_str(), kAnyPort)) {
        return error_from_errno("listen on control socket '{}'", socket_path);
    }
    if (::chmod(socket_path.c_str(), 0660) != 0)
        return error_from_errno("restrict '{}'", socket_path);
    Implementation* const raw = implementation.get();
    implementation->thread = std::thread([raw] {
        raw->http.listen_after_bind();
        raw->has_ended = true;
    });
    // httplib 0.11 can be stopped only once it runs, and tells no one when that is.
    while (!http.is_running() && !raw->has_ended)
        std::this_thread::yield();
    return std::unique_ptr<Server>(new Server(std::move(implementation)));
}

Server::~Server() {
    implementation_->http.stop();
    implementation_->thread.join();
    ::unlink(implementation_->socket_path.c_str());
}

Result<Response> call(const std::string& socket_path, Method method, const std::string& target,
                      seconds limit) {
    struct stat information = {};
    if (::stat(socket_path.c_str(), &information) != 0) {
        return error_from_errno("find the daemon's control socket '{}'", socket_path);
    }
    const ShortPath path(socket_path);
    httplib::Client client(path.text);
    client.set_address_family(AF_UNIX);
    client.set_connection_timeout(2);
    client.set_read_timeout(limit.count());
    auto result = method == Method::kGet ? client.Get(target) : client.Post(target);
    // The server's queue of five is full for a moment when many ask at once.
    constexpr int kTriesMax = 10;
    for (int i = 1; i < kTriesMax && !result && result.error() == httplib::Error::Connection; ++i) {
        std::this_thread::sleep_for(milliseconds{10});
        result = method == Method::kGet ? client.Get(target) : client.Post(target);
    }
    if (!result) {
        return make_error(ErrorKind::kNotFound, "no daemon answers at '{}': {}", socket_path,
                          httplib::to_string(result.error()));
    }
    return Response{.http_status = result->status, .body = result->body};
}

}  // namespace pawl::control
