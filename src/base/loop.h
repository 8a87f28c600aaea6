// Loop: libuv's event loop, and the handles that pawl uses, each freed by its close callback.
//
// Everything here belongs to the thread that runs the loop, except post() and stop(). Callbacks
// turn what happened into an event and return: they never block.
#pragma once

#include "base/units.h"

#include <uv.h>

#include <functional>
#include <memory>
#include <mutex>
#include <vector>

namespace pawl {

class Loop {
public:
    Loop();
    // All handles made on the loop are gone by now; runs their close callbacks.
    ~Loop();
    Loop(const Loop&) = delete;
    Loop& operator=(const Loop&) = delete;

    // Until stop().
    void run();
    void stop();  // thread-safe
    // Runs `task` on the loop's thread, soon. Thread-safe; tasks keep their order.
    void post(std::function<void()> task);

    [[nodiscard]] uv_loop_t* raw() { return &loop_; }

private:
    void drain();

    uv_loop_t loop_{};
    uv_async_t wake_{};
    std::mutex tasks_mutex_;  // guards tasks_ and stopping_
    std::vector<std::function<void()>> tasks_;
    bool stopping_ = false;
};

namespace detail {
// A libuv handle and the callback that serves it, in one allocation that dies in the close
// callback.
template <class UvHandle>
struct HandleBox {
    UvHandle handle{};
    std::function<void(int)> callback;
};

void close_box(uv_handle_t* handle, void (*free_box)(uv_handle_t*));

template <class UvHandle>
struct CloseBox {
    void operator()(HandleBox<UvHandle>* box) const {
        box->callback = nullptr;
        close_box(reinterpret_cast<uv_handle_t*>(&box->handle), [](uv_handle_t* handle) {
            delete static_cast<HandleBox<UvHandle>*>(handle->data);
        });
    }
};

template <class UvHandle>
using BoxPointer = std::unique_ptr<HandleBox<UvHandle>, CloseBox<UvHandle>>;
}  // namespace detail

class Timer {
public:
    Timer(Loop& loop, std::function<void()> callback);
    void start(nanoseconds delay);
    void start_repeating(nanoseconds period);
    void stop();

private:
    detail::BoxPointer<uv_timer_t> box_;
};

// Watches a descriptor it does not own, which stays open longer than the watcher.
class FdWatcher {
public:
    // `callback` gets UV_READABLE, UV_WRITABLE, UV_DISCONNECT or'ed, or a negative libuv error.
    FdWatcher(Loop& loop, int fd, std::function<void(int)> callback);
    void watch(int events);
    void stop();

private:
    detail::BoxPointer<uv_poll_t> box_;
};

class SignalWatcher {
public:
    SignalWatcher(Loop& loop, int signal, std::function<void()> callback);

private:
    detail::BoxPointer<uv_signal_t> box_;
};

}  // namespace pawl
