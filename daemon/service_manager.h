// ServiceManager: what systemd is told (sd_notify), and when. Does nothing where there is no
// systemd.
#pragma once

#include "base/fd.h"
#include "base/loop.h"

#include <functional>
#include <string>
#include <string_view>

namespace pawl::daemon {

class ServiceManager {
public:
    // `describe` gives the line that `systemctl status` shows; called on the loop's thread.
    ServiceManager(Loop& loop, std::function<std::string()> describe);

    void ready();
    // Around a reload: systemd waits for its end, and `systemctl reload` with it.
    void reloading(MonotonicTime now);
    void reloaded();
    // Repeated by the beat until the loop ends: each time the stop may take a little longer.
    void stopping();

private:
    // From the loop, at half the watchdog's period: a loop that hangs is a daemon to be restarted.
    void beat();
    // A change of state: kept, and told before anything else, while the other side does not read.
    void tell(std::string_view change);
    // False if the other side's queue is full.
    [[nodiscard]] bool send(const std::string& text) const;

    std::function<std::string()> describe_;
    Timer timer_;
    std::string address_;  // $NOTIFY_SOCKET; empty: nobody listens
    UniqueFd socket_;
    std::string untold_;
    bool is_watched_ = false;
    bool is_stopping_ = false;
};

}  // namespace pawl::daemon
