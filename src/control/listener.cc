// See listener.h.
//
//   accepted ──> reading ── complete ──> answering (a handler's thread) ──> writing ──> closed
//                   └────── refused ──────────────────────────────────────────┘
#include "control/listener.h"

#include "base/clock.h"
#include "base/invariant.h"
#include "base/signals_blocked.h"

#include <pthread.h>

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

namespace pawl::control {
namespace {

// When no descriptor is left for a connection, the next look is so much later.
constexpr nanoseconds kAcceptPause = milliseconds{100};

}  // namespace

class Listener::Implementation {
public:
    Implementation(std::vector<UniqueFd> sockets, Handler handler, ListenerLimits limits)
        : sockets_(std::move(sockets)),
          handler_(std::move(handler)),
          limits_(limits),
          wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
        invariant(wake_.is_open(), "the control server has a descriptor to be woken by");
        const SignalsBlocked blocked;  // they are for the daemon's loop, not for our threads
        for (std::size_t i = 0; i < limits_.handlers; ++i)
            handlers_.emplace_back([this] { handle_requests(); });
        thread_ = std::thread([this] { serve(); });
        ::pthread_setname_np(thread_.native_handle(), "control");
    }

    ~Implementation() {
        {
            const std::lock_guard lock(mutex_);
            is_stopping_ = true;
        }
        work_came_.notify_all();
        wake();
        thread_.join();
        for (std::thread& thread : handlers_)
            thread.join();
    }
    Implementation(const Implementation&) = delete;
    Implementation& operator=(const Implementation&) = delete;

private:
    enum class State { kReading, kAnswering, kWriting };
    struct Connection {
        UniqueFd socket;
        State state = State::kReading;
        RequestReader reader;
        std::string answer;
        std::size_t written = 0;
        MonotonicTime deadline;  // none while it is answered
    };
    using Number = std::uint64_t;  // of a connection; not used again, as a descriptor would be
    using Connections = std::map<Number, Connection>;

    void wake() const {
        const std::uint64_t one = 1;
        // A counter that is full wakes as well.
        static_cast<void>(!::write(wake_.get(), &one, sizeof one));
    }

    // ---- the handlers' threads ----

    void handle_requests() {
        while (true) {
            std::pair<Number, Request> work;
            {
                std::unique_lock lock(mutex_);
                work_came_.wait(lock, [this] { return is_stopping_ || !requests_.empty(); });
                if (is_stopping_) return;
                work = std::move(requests_.front());
                requests_.pop_front();
            }
            std::string answer = to_bytes(answer_to(work.second));
            {
                const std::lock_guard lock(mutex_);
                answers_.emplace_back(work.first, std::move(answer));
            }
            wake();
        }
    }

    Answer answer_to(const Request& request) const {
        try {
            return handler_(request);
        } catch (const std::exception& error) {
            return error_answer(500, error.what());
        }
    }

    // ---- the one thread of all connections ----

    void serve() {
        while (true) {
            {
                const std::lock_guard lock(mutex_);
                if (is_stopping_) return;
            }
            wait();
            take_answers();
            const MonotonicTime now = clock_.monotonic_now();
            std::erase_if(connections_, [now](const auto& one) {
                return one.second.state != State::kAnswering && one.second.deadline <= now;
            });
        }
    }

    void wait() {
        std::vector<struct pollfd> watched = {{.fd = wake_.get(), .events = POLLIN, .revents = 0}};
        const MonotonicTime now = clock_.monotonic_now();
        const bool accepts = accept_after_ <= now;
        MonotonicTime next = accepts ? MonotonicTime::max() : accept_after_;
        if (accepts) {
            for (const UniqueFd& socket : sockets_)
                watched.push_back({.fd = socket.get(), .events = POLLIN, .revents = 0});
        }
        const std::size_t first = watched.size();
        std::vector<Number> numbers;
        for (const auto& [number, connection] : connections_) {
            if (connection.state == State::kAnswering) continue;
            const short events = connection.state == State::kReading ? POLLIN : POLLOUT;
            watched.push_back({.fd = connection.socket.get(), .events = events, .revents = 0});
            numbers.push_back(number);
            next = std::min(next, connection.deadline);
        }
        int timeout_ms = -1;
        if (next != MonotonicTime::max()) {
            const auto left = std::chrono::ceil<milliseconds>(next - now).count();
            timeout_ms = static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000));
        }
        if (::poll(watched.data(), watched.size(), timeout_ms) <= 0) return;
        for (std::size_t i = 0; i < numbers.size(); ++i) {
            if (watched[first + i].revents != 0) go_on(numbers[i]);
        }
        for (std::size_t i = 1; i < first; ++i) {
            if (watched[i].revents != 0) accept_from(watched[i].fd);
        }
        if (watched.front().revents != 0) {
            std::uint64_t count = 0;
            static_cast<void>(!::read(wake_.get(), &count, sizeof count));
        }
    }

    void accept_from(int listening) {
        while (true) {
            UniqueFd socket(::accept4(listening, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
            if (!socket.is_open()) {
                const bool has_no_room = errno == EMFILE || errno == ENFILE || errno == ENOMEM;
                if (has_no_room) accept_after_ = clock_.monotonic_now() + kAcceptPause;
                return;
            }
            if (connections_.size() >= limits_.connections_max && !let_one_go()) continue;
            Connection connection;
            connection.socket = std::move(socket);
            connection.deadline = clock_.monotonic_now() + limits_.request_within;
            connections_.emplace(++last_number_, std::move(connection));
        }
    }

    // The first that was accepted of those who still owe their request.
    bool let_one_go() {
        const auto found = std::ranges::find_if(
            connections_, [](const auto& one) { return one.second.state == State::kReading; });
        if (found == connections_.end()) return false;
        connections_.erase(found);
        return true;
    }

    void go_on(Number number) {
        const auto found = connections_.find(number);
        if (found == connections_.end()) return;
        Connection& connection = found->second;
        const bool is_alive =
            connection.state == State::kReading ? read(number, connection) : write(connection);
        if (!is_alive) connections_.erase(found);
    }

    // False once the connection has ended.
    bool read(Number number, Connection& connection) {
        std::array<char, 16 * 1024> buffer;
        const ssize_t got = ::recv(connection.socket.get(), buffer.data(), buffer.size(), 0);
        if (got < 0) return errno == EAGAIN || errno == EINTR;
        if (got == 0) return false;
        const auto state =
            connection.reader.take(std::string_view(buffer.data(), static_cast<std::size_t>(got)));
        if (state == RequestReader::State::kRefused)
            return begin_writing(connection, to_bytes(connection.reader.refusal()));
        if (state == RequestReader::State::kIncomplete) return true;
        connection.state = State::kAnswering;
        {
            const std::lock_guard lock(mutex_);
            requests_.emplace_back(number, std::move(connection.reader.request()));
        }
        work_came_.notify_one();
        return true;
    }

    void take_answers() {
        std::deque<std::pair<Number, std::string>> answers;
        {
            const std::lock_guard lock(mutex_);
            answers.swap(answers_);
        }
        for (auto& [number, bytes] : answers) {
            const auto found = connections_.find(number);
            if (found == connections_.end()) continue;
            if (!begin_writing(found->second, std::move(bytes))) connections_.erase(found);
        }
    }

    bool begin_writing(Connection& connection, std::string bytes) {
        connection.state = State::kWriting;
        connection.answer = std::move(bytes);
        connection.deadline = clock_.monotonic_now() + limits_.answer_within;
        return write(connection);
    }

    bool write(Connection& connection) {
        while (connection.written < connection.answer.size()) {
            const ssize_t sent =
                ::send(connection.socket.get(), connection.answer.data() + connection.written,
                       connection.answer.size() - connection.written, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (sent < 0) return errno == EAGAIN || errno == EINTR;
            connection.written += static_cast<std::size_t>(sent);
        }
        return false;
    }

    std::vector<UniqueFd> sockets_;
    Handler handler_;
    ListenerLimits limits_;
    SystemClock clock_;
    UniqueFd wake_;

    // Of the serving thread alone.
    Connections connections_;
    Number last_number_ = 0;
    MonotonicTime accept_after_;

    std::mutex mutex_;  // guards what follows
    std::condition_variable work_came_;
    std::deque<std::pair<Number, Request>> requests_;
    std::deque<std::pair<Number, std::string>> answers_;
    bool is_stopping_ = false;

    std::vector<std::thread> handlers_;
    std::thread thread_;
};

Listener::Listener(std::vector<UniqueFd> sockets, Handler handler, ListenerLimits limits)
    : implementation_(
          std::make_unique<Implementation>(std::move(sockets), std::move(handler), limits)) {
}
Listener::~Listener() = default;

}  // namespace pawl::control
