// See service_manager.h. sd_notify(3), sd_watchdog_enabled(3).
#include "daemon/service_manager.h"

#include <fmt/format.h>
#include <systemd/sd-daemon.h>

#include <algorithm>

namespace pawl::daemon {
namespace {

constexpr nanoseconds kBeatPeriodMax = seconds{5};
constexpr nanoseconds kStopExtension = seconds{30};

}  // namespace

ServiceManager::ServiceManager(Loop& loop, std::function<std::string()> describe)
    : describe_(std::move(describe)), timer_(loop, [this] { beat(); }) {
}

void ServiceManager::ready() {
    if (::sd_notify(0, "READY=1") <= 0) return;  // nobody listens
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
    ::sd_notify(0, fmt::format("RELOADING=1\nMONOTONIC_USEC={}", now_us).c_str());
}

void ServiceManager::reloaded() {
    ::sd_notify(0, "READY=1");
}

void ServiceManager::stopping() {
    is_stopping_ = true;
    ::sd_notify(0, "STOPPING=1");
    beat();
}

void ServiceManager::beat() {
    std::string text = fmt::format("STATUS={}\n", describe_());
    if (is_watched_) text += "WATCHDOG=1\n";
    if (is_stopping_) {
        const auto extension =
            std::chrono::duration_cast<std::chrono::microseconds>(kStopExtension).count();
        text += fmt::format("EXTEND_TIMEOUT_USEC={}\n", extension);
    }
    // Without a service manager this is nothing; with one that is gone there is nobody to tell.
    ::sd_notify(0, text.c_str());
}

}  // namespace pawl::daemon
