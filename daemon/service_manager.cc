// See service_manager.h. The protocol is that of sd_notify(3), "Notes"; sd_watchdog_enabled(3).
//
// Not libsystemd's sd_notify(): it waits while the receiver's queue (ten datagrams) is full, and
// the loop may wait for nobody.
#include "daemon/service_manager.h"

#include <fmt/format.h>
#include <systemd/sd-daemon.h>

#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>

namespace pawl::daemon {
namespace {

constexpr nanoseconds kBeatPeriodMax = seconds{5};
constexpr nanoseconds kStopExtension = seconds{30};

}  // namespace

ServiceManager::ServiceManager(Loop& loop, std::function<std::string()> describe)
    : describe_(std::move(describe)), timer_(loop, [this] { beat(); }) {
    // NOLINTNEXTLINE(concurrency-mt-unsafe): the daemon sets no variable
    const char* const address = std::getenv("NOTIFY_SOCKET");
    if (address == nullptr || *address == '\0' ||
        std::strlen(address) >= sizeof(sockaddr_un::sun_path))
        return;
    address_ = address;
    socket_ = UniqueFd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

void ServiceManager::ready() {
    if (address_.empty() || !socket_.is_open()) return;
    tell("READY=1");
    std::uint64_t watchdog_us = 0;
    is_watched_ = ::sd_watchdog_enabled(0, &watchdog_us) > 0;
    nanoseconds period = kBeatPeriodMax;
    if (is_watched_)
        period = std::min(period, nanoseconds{std::chrono::microseconds{watchdog_us / 2}});
    timer_.start_repeating(period);
    beat();
}

void ServiceManager::reloading(MonotonicTime now) {
    const auto now_us =
        std::chrono::duration_cast<std::chrono::microseconds>(now.time_since_epoch()).count();
    tell(fmt::format("RELOADING=1\nMONOTONIC_USEC={}", now_us));
}

void ServiceManager::reloaded() {
    tell("READY=1");
}

void ServiceManager::stopping() {
    is_stopping_ = true;
    tell("STOPPING=1");
    beat();
}

void ServiceManager::tell(std::string_view change) {
    // What was not told yet is of the past: only the newest state counts.
    untold_ = change;
    if (send(untold_)) untold_.clear();
}

void ServiceManager::beat() {
    if (!untold_.empty() && send(untold_)) untold_.clear();
    std::string text = fmt::format("STATUS={}\n", describe_());
    if (is_watched_) text += "WATCHDOG=1\n";
    if (is_stopping_) {
        const auto extension =
            std::chrono::duration_cast<std::chrono::microseconds>(kStopExtension).count();
        text += fmt::format("EXTEND_TIMEOUT_USEC={}\n", extension);
    }
    // One that is not told is followed by the next.
    static_cast<void>(send(text));
}

bool ServiceManager::send(const std::string& text) const {
    if (!socket_.is_open()) return true;
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, address_.data(), address_.size());
    // '@' stands for the zero byte that begins an abstract name, whose length ends it.
    if (address_.front() == '@') address.sun_path[0] = '\0';
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address_.size());
    const ssize_t sent = ::sendto(socket_.get(), text.data(), text.size(), MSG_NOSIGNAL,
                                  reinterpret_cast<const sockaddr*>(&address), length);
    // With a service manager that is gone there is nobody to tell.
    return sent >= 0 || (errno != EAGAIN && errno != ENOBUFS);
}

}  // namespace pawl::daemon
