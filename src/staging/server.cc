// See server.h.
#include "staging/server.h"

#include "staging/socket.h"

#include <unistd.h>

namespace pawl::staging {

// As many as a job can have ranks, and some that come and go.
static constexpr std::size_t kSessionsMax = 4096;

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
      handler_(std::move(handler)) {
    watcher_ = std::make_unique<FdWatcher>(loop_, listener_.get(), [this](int) { accept_all(); });
    watcher_->watch(UV_READABLE);
}

RankServer::~RankServer() {
    for (auto& [id, session] : sessions_)
        session.watcher.reset();
    watcher_.reset();
    ::unlink(path_.c_str());
}

void RankServer::accept_all() {
    while (true) {
        auto accepted = accept_from(listener_.get());
        // Whoever may not attach is hung up on; that he tried is no event of the job.
        if (!accepted && accepted.error().kind() == ErrorKind::kBusy) continue;
        // No descriptor, no memory: the connection stays where it is, and the loop goes on.
        if (!accepted) return;
        if (!accepted->has_value()) return;
        if (sessions_.size() >= kSessionsMax) continue;
        const SessionId id = ++last_session_;
        Session& session = sessions_[id];
        session.socket = std::move(**accepted);
        session.watcher = std::make_unique<FdWatcher>(loop_, session.socket.get(),
                                                      [this, id](int) { receive_from(id); });
        session.watcher->watch(UV_READABLE | UV_DISCONNECT);
    }
}

void RankServer::receive_from(SessionId id) {
    // A rank that floods us gets its turn like any other: a bounded number of messages a wake-up.
    constexpr int kMessagesPerTurn = 16;
    for (int i = 0; i < kMessagesPerTurn; ++i) {
        const auto session = sessions_.find(id);
        if (session == sessions_.end()) return;
        auto packet = receive_packet(session->second.socket.get(), Wait::kNoBlock);
        if (!packet) return lose(id, packet.error().text());
        if (!packet->has_value()) return;
        if ((*packet)->text.empty()) return lose(id, std::string(kHungUp));
        const auto message = decode_rank_message((*packet)->text);
        if (!message) return lose(id, message.error().text());
        handler_.received(id, *message);
    }
}

void RankServer::send(SessionId id, const DaemonMessage& message,
                      const std::vector<int>& descriptors) {
    const auto session = sessions_.find(id);
    if (session == sessions_.end()) return;
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

void RankServer::lose(SessionId id, const std::string& why) {
    const auto session = sessions_.find(id);
    if (session == sessions_.end()) return;
    sessions_.erase(session);
    handler_.lost(id, why);
}

}  // namespace pawl::staging
