// What systemd is told, by a real datagram socket; above all when it does not read.
#include "daemon/service_manager.h"

#include "base/fd.h"

#include <gtest/gtest.h>

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace pawl::daemon {
namespace {

// Listens at an abstract name, as systemd may.
class Listener {
public:
    Listener() {
        const std::string name = "pawl-test-notify-" + std::to_string(::getpid());
        sockaddr_un address = {};
        address.sun_family = AF_UNIX;
        std::memcpy(address.sun_path + 1, name.data(), name.size());
        const auto length =
            static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
        EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
        // NOLINTNEXTLINE(concurrency-mt-unsafe): this test has one thread
        EXPECT_EQ(::setenv("NOTIFY_SOCKET", ("@" + name).c_str(), 1), 0);
    }
    ~Listener() {
        // NOLINTNEXTLINE(concurrency-mt-unsafe): this test has one thread
        ::unsetenv("NOTIFY_SOCKET");
    }
    Listener(const Listener&) = delete;
    Listener& operator=(const Listener&) = delete;

    std::vector<std::string> read_all() {
        std::vector<std::string> messages;
        std::array<char, 4096> buffer = {};
        ssize_t bytes = 0;
        while ((bytes = ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT)) > 0)
            messages.emplace_back(buffer.data(), static_cast<std::size_t>(bytes));
        return messages;
    }

private:
    UniqueFd socket_{::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
};

TEST(ServiceManager, TellsWhatItIsTold) {
    Listener listener;
    Loop loop;
    ServiceManager manager(loop, [] { return std::string("all is well"); });

    manager.ready();
    manager.stopping();

    EXPECT_EQ(listener.read_all(),
              (std::vector<std::string>{"READY=1", "STATUS=all is well\n", "STOPPING=1",
                                        "STATUS=all is well\nEXTEND_TIMEOUT_USEC=30000000\n"}));
}

TEST(ServiceManager, WaitsForNobodyAndTellsTheNewestStateOnceThereIsRoom) {
    Listener listener;
    Loop loop;
    ServiceManager manager(loop, [] { return std::string("busy"); });
    manager.ready();
    for (int i = 0; i < 1000; ++i)
        manager.reloaded();
    EXPECT_LT(listener.read_all().size(), 1000u) << "the queue was never full";
    for (int i = 0; i < 1000; ++i)
        manager.reloaded();

    manager.stopping();
    static_cast<void>(listener.read_all());
    manager.stopping();

    EXPECT_EQ(listener.read_all().front(), "STOPPING=1");
}

TEST(ServiceManager, DoesNothingWhereNobodyListens) {
    Loop loop;
    ServiceManager manager(loop, [] { return std::string(); });

    manager.ready();
    manager.stopping();
}

}  // namespace
}  // namespace pawl::daemon
