// Clients that are slow, silent, many or rude, against a real socket: the others are answered.
#include "control/listener.h"

#include "control/server.h"
#include "tests/fakes/temporary_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <functional>
#include <future>
#include <thread>
#include <vector>

namespace pawl::control {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

constexpr const char* kStatus = "GET /v1/status HTTP/1.1\r\n\r\n";

class SlowClients : public testing::Test {
protected:
    void start(
        ListenerLimits limits,
        std::function<std::string()> status = [] { return std::string("{}"); }) {
        auto server = Server::start(path_, {.status_json = std::move(status)}, limits);
        ASSERT_TRUE(server.has_value()) << server.error().text();
        server_ = std::move(*server);
    }
    UniqueFd connect() const {
        UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        struct sockaddr_un address = {};
        address.sun_family = AF_UNIX;
        path_.copy(&address.sun_path[0], sizeof address.sun_path - 1);
        const void* const untyped = &address;
        EXPECT_EQ(
            ::connect(client.get(), static_cast<const struct sockaddr*>(untyped), sizeof address),
            0)
            << std::strerror(errno);
        return client;
    }
    static void send(const UniqueFd& client, std::string_view bytes) {
        EXPECT_EQ(::send(client.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
                  static_cast<ssize_t>(bytes.size()));
    }
    // All until the server hangs up.
    static std::string receive(const UniqueFd& client) {
        std::string all;
        std::array<char, 4096> buffer;
        ssize_t got = 0;
        while ((got = ::recv(client.get(), buffer.data(), buffer.size(), 0)) > 0)
            all.append(buffer.data(), static_cast<std::size_t>(got));
        return all;
    }
    void expect_answered() const {
        const auto response = call(path_, Method::kGet, "/v1/status");
        ASSERT_TRUE(response.has_value()) << response.error().text();
        EXPECT_EQ(response->http_status, 200);
    }

    fakes::TemporaryDirectory directory_;
    std::string path_ = directory_.path() + "/pawld.sock";
    std::unique_ptr<Server> server_;
};

TEST_F(SlowClients, WhoSaysNothingKeepsNobodyElseWaiting) {
    start({.connections_max = 8});
    std::vector<UniqueFd> silent;
    for (int i = 0; i < 100; ++i) {
        silent.push_back(connect());
        send(silent.back(), "GET /v1/sta");
        expect_answered();
    }
}

TEST_F(SlowClients, WhoWaitedLongestHasToGoForOneMore) {
    start({.connections_max = 2});
    const UniqueFd first = connect();
    send(first, "GET ");
    const UniqueFd second = connect();
    send(second, "GET ");

    const UniqueFd third = connect();
    send(third, kStatus);

    EXPECT_THAT(receive(third), StartsWith("HTTP/1.1 200 OK\r\n"));
    EXPECT_THAT(receive(first), IsEmpty());
    send(second, "/v1/status HTTP/1.1\r\n\r\n");
    EXPECT_THAT(receive(second), StartsWith("HTTP/1.1 200 OK\r\n"));
}

TEST_F(SlowClients, ARequestThatIsNotWholeInTimeIsHungUpOn) {
    start({.request_within = milliseconds{50}});
    const UniqueFd client = connect();
    send(client, "GET /v1/status HTTP/1.1\r\n");

    EXPECT_THAT(receive(client), IsEmpty());
    expect_answered();
}

TEST_F(SlowClients, AnAnswerThatNobodyReadsIsGivenUp) {
    start({.answer_within = milliseconds{50}}, [] { return std::string(8U << 20U, 'x'); });
    const UniqueFd client = connect();
    send(client, kStatus);
    // Returns once the server has hung up: with what was on its way, or a reset.
    struct pollfd watched = {.fd = client.get(), .events = POLLRDHUP, .revents = 0};
    ASSERT_EQ(::poll(&watched, 1, 60'000), 1);

    const std::string got = receive(client);

    EXPECT_THAT(got, StartsWith("HTTP/1.1 200 OK\r\n"));
    EXPECT_LT(got.size(), 8U << 20U);
}

TEST_F(SlowClients, WhoReadsSlowlyGetsAllOfALargeAnswer) {
    start({}, [] { return std::string(8U << 20U, 'x'); });
    const UniqueFd client = connect();
    send(client, kStatus);
    expect_answered();

    EXPECT_EQ(receive(client).size(), (8U << 20U) + std::strlen("HTTP/1.1 200 OK\r\n"
                                                                "Content-Type: application/json\r\n"
                                                                "Content-Length: 8388608\r\n"
                                                                "Connection: close\r\n\r\n"));
}

TEST_F(SlowClients, AHandlerThatWaitsKeepsTheOthersGoing) {
    std::promise<void> go_on;
    auto waits = go_on.get_future().share();
    std::atomic<int> asked{0};
    start({.handlers = 2}, [&] {
        if (asked++ == 0) waits.wait();
        return std::string("{}");
    });
    const UniqueFd waiting = connect();
    send(waiting, kStatus);
    while (asked == 0)
        std::this_thread::yield();

    expect_answered();
    expect_answered();
    go_on.set_value();

    EXPECT_THAT(receive(waiting), StartsWith("HTTP/1.1 200 OK\r\n"));
}

TEST_F(SlowClients, RubbishIsAnsweredAndTheNextOneServed) {
    start({});
    for (const std::string& rubbish :
         {std::string("\x16\x03\x01\x02\r\n\r\n"), "GET /" + std::string(100'000, 'a'),
          "POST /v1/jobs/lm/stop HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" +
              std::string(1'000, 'x')}) {
        const UniqueFd client = connect();
        // It may hang up before it has read all.
        static_cast<void>(::send(client.get(), rubbish.data(), rubbish.size(), MSG_NOSIGNAL));
        EXPECT_THAT(receive(client), HasSubstr("\"error\":"));
        expect_answered();
    }
}

TEST_F(SlowClients, WhoHangsUpEarlyHarmsNobody) {
    start({});
    for (int i = 0; i < 50; ++i) {
        const UniqueFd client = connect();
        if (i % 2 == 0) send(client, kStatus);
    }

    expect_answered();
}

TEST_F(SlowClients, EndWithTheServer) {
    start({});
    const UniqueFd client = connect();
    send(client, "GET ");

    server_.reset();

    EXPECT_THAT(receive(client), IsEmpty());
}

}  // namespace
}  // namespace pawl::control
