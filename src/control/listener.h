// Listener: takes connections, reads a request from each, has it answered, and writes the answer.
//
// One thread reads and writes for all connections, and waits for none: a client that is slow,
// silent or rude costs its own connection only. Requests are answered on a few threads beside it,
// because a handler may wait for the daemon's loop.
#pragma once

#include "base/fd.h"
#include "base/units.h"
#include "control/http.h"

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

namespace pawl::control {

struct ListenerLimits {
    // One more, and the one that has kept us waiting longest for its request has to go.
    std::size_t connections_max = 64;
    nanoseconds request_within = seconds{10};  // from its connection to its last byte
    nanoseconds answer_within = seconds{30};   // to be read by the client
    std::size_t handlers = 4;                  // requests that are answered at once
};

class Listener {
public:
    // Thread-safe; what it throws is answered with 500.
    using Handler = std::function<Answer(const Request&)>;

    // Sockets that are bound and listen.
    Listener(std::vector<UniqueFd> sockets, Handler handler, ListenerLimits limits);
    // Ends connections; waits for handlers that are at work.
    ~Listener();
    Listener(const Listener&) = delete;
    Listener& operator=(const Listener&) = delete;

private:
    class Implementation;
    std::unique_ptr<Implementation> implementation_;
};

}  // namespace pawl::control
