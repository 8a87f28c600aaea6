// FakeDaemon: the daemon's end of the trainer protocol on a real socket, in a thread of the test,
// as a script that the test writes. It keeps the protocol as docs/formats.md has it until the
// script ends; then its connection closes, as when pawld is killed. For tests of libpawl.
#pragma once

#include "base/fd.h"
#include "staging/memory.h"
#include "staging/messages.h"
#include "staging/pages.h"
#include "tests/fakes/temporary_directory.h"

#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace pawl::fakes {

// One rank's connection, as the daemon sees it. Used by the script's thread.
class FakeSession {
public:
    explicit FakeSession(UniqueFd socket) : socket_(std::move(socket)) {}

    // The next message; nullopt once the rank has hung up. A rank that says nothing for 20 s fails
    // the test.
    std::optional<staging::RankMessage> receive();
    // As above, of one type; any other message fails the test.
    template <class Message>
    std::optional<Message> expect() {
        const auto message = receive();
        if (!message) return std::nullopt;
        const auto* wanted = std::get_if<Message>(&*message);
        EXPECT_NE(wanted, nullptr) << "the rank said " << staging::encode(*message);
        return wanted == nullptr ? std::nullopt : std::optional(*wanted);
    }
    // A rank that has hung up hears nothing, and the test is none the worse.
    void send(const staging::DaemonMessage& message, const std::vector<int>& descriptors = {});

    // Hello, Welcome; Resume with nothing to resume from.
    void welcome();
    // `control` is what the rank finds at its first step.
    void attach(const staging::Control& control = {}) {
        welcome();
        ask_for(control);
        send(staging::Resume{});
    }
    void ask_for(const staging::Control& control);
    [[nodiscard]] std::optional<staging::Progress> progress() const;
    void grant(const staging::ArenaRequest& request);
    // Answers the ArenaRequest that comes next.
    void grant_arena() {
        const auto request = expect<staging::ArenaRequest>();
        ASSERT_TRUE(request.has_value());
        grant(*request);
    }

private:
    UniqueFd socket_;
    UniqueFd pages_;
    staging::Mapping pages_mapping_;
};

class FakeDaemon {
public:
    using Script = std::function<void(FakeSession&)>;
    // Runs `script` for the first rank that connects, if one does. PAWL_SOCKET names it while it is
    // there.
    explicit FakeDaemon(Script script);
    ~FakeDaemon();
    FakeDaemon(const FakeDaemon&) = delete;
    FakeDaemon& operator=(const FakeDaemon&) = delete;

    // Waits for the script's end: after it the daemon is dead. A rank must have connected, or do
    // so.
    void join();

private:
    TemporaryDirectory place_;
    std::string path_ = place_.path() + "/rank.sock";
    UniqueFd listener_;
    UniqueFd over_;  // an eventfd: nobody will connect any more
    std::thread thread_;
};

}  // namespace pawl::fakes
