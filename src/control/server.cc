// See server.h. cpp-httplib is the client only: its server (0.11) reads a head of any length, and a
// few silent clients keep all its threads.
#include "control/server.h"

#include "base/fd.h"
#include "base/units.h"

#include <httplib.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace pawl::control {
namespace {

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

Answer answer_of(const Error& error) {
    return error_answer(http_status_of(error.kind()), error.text());
}

using Parts = std::vector<std::string>;
constexpr std::array<std::string_view, 2> kVerbs = {"checkpoint", "stop"};
constexpr std::array<std::string_view, 5> kTables = {"events", "progress", "epochs", "incarnations",
                                                     "checkpoints"};

template <std::size_t count>
bool is_one_of(std::string_view word, const std::array<std::string_view, count>& words) {
    return std::ranges::find(words, word) != words.end();
}

bool is_job_name(std::string_view name) {
    constexpr std::string_view kLetters =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    return !name.empty() && name.find_first_not_of(kLetters) == std::string_view::npos;
}

constexpr int kBacklog = 128;

const struct sockaddr* generic(const struct sockaddr_un* address) {
    const void* const untyped = address;
    return static_cast<const struct sockaddr*>(untyped);
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
    std::string socket_path;
    Handlers handlers;
    std::unique_ptr<Listener> listener;

    [[nodiscard]] Answer answer(const Request& request) const {
        const auto& parts = request.parts;
        const bool is_get = request.method == "GET";
        if (is_get && parts == Parts{"healthz"})
            return {.body = "ok\n", .content_type = "text/plain"};
        if (is_get && parts == Parts{"v1", "status"}) return {.body = handlers.status_json()};
        const bool is_post = request.method == "POST";
        if (is_post && parts == Parts{"v1", "reload"}) {
            const auto changes = handlers.reload();
            return changes ? Answer{.body = *changes} : answer_of(changes.error());
        }
        const bool is_of_job =
            parts.size() == 4 && parts[0] == "v1" && parts[1] == "jobs" && is_job_name(parts[2]);
        if (is_of_job && is_one_of(parts[3], kTables) && is_get) return history(request);
        if (is_of_job && is_one_of(parts[3], kVerbs) && is_post) {
            const auto done = handlers.command(parts[2], parts[3]);
            return done ? Answer{.http_status = 202, .body = "{}\n"} : answer_of(done.error());
        }
        const bool is_rollback = parts.size() == 5 && parts[0] == "v1" && parts[1] == "jobs" &&
                                 is_job_name(parts[2]) && parts[3] == "rollback";
        if (is_rollback && is_post) {
            const auto done = handlers.command(parts[2], fmt::format("rollback/{}", parts[4]));
            return done ? Answer{.http_status = 202, .body = "{}\n"} : answer_of(done.error());
        }
        return error_answer(404, fmt::format("no such thing: {} {}", request.method, request.path));
    }

    [[nodiscard]] Answer history(const Request& request) const {
        const auto answer = handlers.history(
            {.job = request.parts[2], .table = request.parts[3], .parameters = request.parameters});
        return answer ? Answer{.body = *answer} : answer_of(answer.error());
    }
};

Server::Server(std::unique_ptr<Implementation> implementation)
    : implementation_(std::move(implementation)) {
}

Result<std::unique_ptr<Server>> Server::start(const std::string& socket_path, Handlers handlers,
                                              ListenerLimits limits) {
    if (::unlink(socket_path.c_str()) != 0 && errno != ENOENT) {
        return error_from_errno("remove old control socket '{}'", socket_path);
    }
    UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket.is_open()) return error_from_errno("make control socket '{}'", socket_path);
    const ShortPath path(socket_path);
    struct sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    if (path.text.size() >= sizeof address.sun_path) {
        return make_error(ErrorKind::kInvalidArgument,
                          "the control socket '{}' can't be reached by a name "
                          "short enough for a socket",
                          socket_path);
    }
    path.text.copy(&address.sun_path[0], path.text.size());
    // Restricted before it listens: nobody else connects in between.
    if (::bind(socket.get(), generic(&address), sizeof address) != 0 ||
        ::chmod(socket_path.c_str(), 0660) != 0 || ::listen(socket.get(), kBacklog) != 0) {
        return error_from_errno("listen on control socket '{}'", socket_path);
    }
    auto implementation = std::make_unique<Implementation>();
    implementation->socket_path = socket_path;
    implementation->handlers = std::move(handlers);
    std::vector<UniqueFd> sockets;
    sockets.push_back(std::move(socket));
    const Implementation* const raw = implementation.get();
    implementation->listener = std::make_unique<Listener>(
        std::move(sockets), [raw](const Request& request) { return raw->answer(request); }, limits);
    return std::unique_ptr<Server>(new Server(std::move(implementation)));
}

Server::~Server() {
    implementation_->listener.reset();
    ::unlink(implementation_->socket_path.c_str());
}

std::string target_of(const HistoryRequest& request) {
    std::string target = fmt::format("/v1/jobs/{}/{}", request.job, request.table);
    char separator = '?';
    for (const auto& [name, value] : request.parameters) {
        target += fmt::format("{}{}=", std::exchange(separator, '&'), name);
        for (const char letter : value) {
            const bool is_plain =
                (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') ||
                (letter >= '0' && letter <= '9') || letter == '-' || letter == '.' || letter == '_';
            target += is_plain ? std::string(1, letter)
                               : fmt::format("%{:02X}", static_cast<unsigned char>(letter));
        }
    }
    return target;
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
    // A server that has many at once closes one that it has not begun with.
    constexpr int kTriesMax = 10;
    for (int i = 1; i < kTriesMax && !result && result.error() == httplib::Error::Connection; ++i) {
        std::this_thread::sleep_for(milliseconds{10});
        result = method == Method::kGet ? client.Get(target) : client.Post(target);
    }
    if (!result) {
        const std::string why = result.error() == httplib::Error::Connection
                                    ? "nobody listens there"
                                    : httplib::to_string(result.error());
        return make_error(ErrorKind::kNotFound, "no daemon answers at '{}': {}", socket_path, why);
    }
    return Response{.http_status = result->status, .body = result->body};
}

}  // namespace pawl::control
