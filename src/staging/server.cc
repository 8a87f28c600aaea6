// See server.h.
#include "staging/server.h"

#include "staging/socket.h"

#include <unistd.h>

#include <algorithm>

namespace pawl::staging {
namespace {

// A rank says hello as soon as it is connected, so of many that come at once few are strangers for
// long: between two handfuls of accepted ones, hellos are read.
constexpr std::size_t kStrangersMax = 256;
constexpr int kAcceptedPerTurn = 16;
// A rank that floods us gets its turn like any other: a bounded number of messages a wake-up …
constexpr int kMessagesPerTurn = 16;
// … and is no honest one at this rate: a few messages a snapshot, one an epoch.
constexpr int kMessagesMax = 10'000;
constexpr std::uint64_t kWindowMs = 10'000;
constexpr nanoseconds kPause = milliseconds{100};

}  // namespace

Result<std::unique_ptr<RankServer>> RankServer::listen(Loop& loop, const std::string& path,
                                                       Handler handler) {
    auto listener = listen_at(path);
    if (!listener) return listener.error();
    return std::unique_ptr<RankServer>(
        new RankServer(loop, std::move(*listener), path, std::move(handler)));
}

RankServer::RankServer(Loop& loop, UniqueFd listener, std::string path, Handler handler)
    : loop_(loop),
      listener_(std::move(listener)),
      path_(std::move(path)),
      handler_(std::move(handler)),
      pause_(loop, [this] { watcher_->watch(UV_READABLE); }) {
    watcher_ = std::make_unique<FdWatcher>(loop_, listener_.get(), [this](int) { accept_some(); });
    watcher_->watch(UV_READABLE);
}

RankServer::~RankServer() {
    for (auto& [id, session] : sessions_)
        session.watcher.reset();
    watcher_.reset();
    ::unlink(path_.c_str());
}

void RankServer::accept_some() {
    for (int i = 0; i < kAcceptedPerTurn; ++i) {
        auto accepted = accept_from(listener_.get());
        // Whoever may not attach is hung up on; that he tried is no event of the job.
        if (!accepted && accepted.error().kind() == ErrorKind::kBusy) continue;
        if (!accepted) {
            // No descriptor, no memory: the connection stays where it is, and the loop goes on. Not
            // at once again, or it would do nothing else.
            watcher_->stop();
            pause_.start(kPause);
            return;
        }
        if (!accepted->has_value()) return;
        make_room();
        const SessionId id = ++last_session_;
        Session& session = sessions_[id];
        session.socket = std::move((*accepted)->socket);
        session.pid = (*accepted)->pid;
        session.watcher = std::make_unique<FdWatcher>(loop_, session.socket.get(),
                                                      [this, id](int) { receive_from(id); });
        session.watcher->watch(UV_READABLE | UV_DISCONNECT);
    }
}

void RankServer::make_room() {
    const auto is_stranger = [](const auto& one) { return !one.second.is_admitted; };
    if (static_cast<std::size_t>(std::ranges::count_if(sessions_, is_stranger)) < kStrangersMax)
        return;
    const SessionId oldest = std::ranges::find_if(sessions_, is_stranger)->first;
    lose(oldest, "it said no hello, and others wait to say theirs");
}

bool RankServer::is_flooding(Session& session) {
    const std::uint64_t now_ms = uv_now(loop_.raw());
    if (now_ms - session.window_ms >= kWindowMs) {
        session.window_ms = now_ms;
        session.messages = 0;
    }
    return ++session.messages > kMessagesMax;
}

void RankServer::receive_from(SessionId id) {
    for (int i = 0; i < kMessagesPerTurn; ++i) {
        const auto session = sessions_.find(id);
        if (session == sessions_.end() || !session->second.socket.is_open()) return;
        auto packet = receive_packet(session->second.socket.get(), Wait::kNoBlock);
        if (!packet) return lose(id, packet.error().text());
        if (!packet->has_value()) return;
        if ((*packet)->text.empty()) return lose(id, std::string(kHungUp));
        if (is_flooding(session->second)) {
            return lose(id, fmt::format("it sent more than {} messages in {} s", kMessagesMax,
                                        kWindowMs / 1000));
        }
        if (!(*packet)->descriptors.empty())
            return lose(id, "it sent descriptors, which no message of a rank has");
        const auto message = decode_rank_message((*packet)->text);
        if (!message) return lose(id, message.error().text());
        handler_.received(id, *message);
    }
}

void RankServer::send(SessionId id, const DaemonMessage& message,
                      const std::vector<int>& descriptors) {
    const auto session = sessions_.find(id);
    if (session == sessions_.end() || !session->second.socket.is_open()) return;
    const auto sent = send_packet(session->second.socket.get(), encode(message), descriptors);
    if (sent) return;
    // Told from the loop, not from within the caller's own work on the session.
    std::string why = sent.error().text();
    if (sent.error().kind() == ErrorKind::kBusy) why = "it has stopped reading";
    if (sent.error().kind() == ErrorKind::kCancelled) why = kHungUp;
    loop_.post([server = std::weak_ptr(self_), id, why] {
        if (const auto alive = server.lock()) (*alive)->lose(id, why);
    });
}

void RankServer::close(SessionId id) {
    sessions_.erase(id);
}

void RankServer::hear(SessionId id) {
    while (true) {
        const auto session = sessions_.find(id);
        if (session == sessions_.end() || !session->second.socket.is_open()) return;
        const int before = session->second.messages;
        receive_from(id);
        const auto after = sessions_.find(id);
        if (after == sessions_.end() || after->second.messages == before) return;
    }
}

void RankServer::admit(SessionId id) {
    const auto session = sessions_.find(id);
    if (session != sessions_.end()) session->second.is_admitted = true;
}

pid_t RankServer::pid_of(SessionId id) const {
    const auto session = sessions_.find(id);
    return session == sessions_.end() ? 0 : session->second.pid;
}

void RankServer::lose(SessionId id, const std::string& why) {
    const auto session = sessions_.find(id);
    if (session == sessions_.end() || !session->second.socket.is_open()) return;
    // Closed, but known until the handler has returned.
    session->second.watcher.reset();
    session->second.socket.reset();
    handler_.lost(id, why);
    sessions_.erase(id);
}

}  // namespace pawl::staging
