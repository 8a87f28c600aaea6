// RankServer: the daemon's end of the trainer protocol's connections. On the loop's thread; never
// blocks.
//
// Whoever connects is a stranger until the daemon admits it. Strangers are few: with too many the
// oldest is hung up on, so that nobody keeps a rank out by connecting and saying nothing.
#pragma once

#include "base/fd.h"
#include "base/loop.h"
#include "staging/messages.h"

#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace pawl::staging {

using SessionId = std::uint64_t;

// Why a session is lost whose rank has ended, or has let go of it: no fault by itself.
inline constexpr std::string_view kHungUp = "it hung up";

class RankServer {
public:
    // Called on the loop's thread. A session may be closed, and the server's other sessions used,
    // from within; the server itself may not be destroyed.
    struct Handler {
        std::function<void(SessionId, const RankMessage&)> received;
        // The rank hung up, sent rubbish or too much, or stopped reading. Not called after close().
        // pid_of() still answers from within.
        std::function<void(SessionId, const std::string& why)> lost;
    };

    [[nodiscard]] static Result<std::unique_ptr<RankServer>> listen(Loop& loop,
                                                                    const std::string& path,
                                                                    Handler handler);
    ~RankServer();
    RankServer(const RankServer&) = delete;
    RankServer& operator=(const RankServer&) = delete;

    // Descriptors are borrowed for the call. A rank that has stopped reading is lost.
    void send(SessionId session, const DaemonMessage& message, const std::vector<int>& descriptors);
    void close(SessionId session);
    // Hears what was said and not yet read, now. The session may be lost by it.
    void hear(SessionId session);
    // From a stranger to a rank.
    void admit(SessionId session);
    // Who connected; 0 if that is not seen from here, or there is no such session.
    [[nodiscard]] pid_t pid_of(SessionId session) const;

private:
    struct Session {
        UniqueFd socket;
        std::unique_ptr<FdWatcher> watcher;  // before the socket goes
        pid_t pid = 0;
        bool is_admitted = false;
        std::uint64_t window_ms = 0;  // when the count of messages began …
        int messages = 0;             // … and how many there were since
    };

    RankServer(Loop& loop, UniqueFd listener, std::string path, Handler handler);
    void accept_some();
    void make_room();
    [[nodiscard]] bool is_flooding(Session& session);
    void receive_from(SessionId id);
    void lose(SessionId id, const std::string& why);

    Loop& loop_;
    UniqueFd listener_;
    std::string path_;
    Handler handler_;
    std::unique_ptr<FdWatcher> watcher_;
    Timer pause_;  // of accepting, while there is no descriptor to be had
    std::map<SessionId, Session> sessions_;
    SessionId last_session_ = 0;
    // For tasks that are posted to the loop and may come after the server's end.
    std::shared_ptr<RankServer*> self_ = std::make_shared<RankServer*>(this);
};

}  // namespace pawl::staging
