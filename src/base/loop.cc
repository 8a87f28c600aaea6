// See loop.h.
#include "base/loop.h"

#include "base/invariant.h"

#include <algorithm>
#include <utility>

namespace pawl {

namespace detail {
void close_box(uv_handle_t* handle, void (*free_box)(uv_handle_t*)) {
    uv_close(handle, free_box);
}
}  // namespace detail

namespace {

template <class UvHandle>
// NOLINTNEXTLINE(performance-unnecessary-value-param): moved, in every instance
detail::BoxPointer<UvHandle> make_box(std::function<void(int)> callback) {
    detail::BoxPointer<UvHandle> box(new detail::HandleBox<UvHandle>);
    box->handle.data = box.get();
    box->callback = std::move(callback);
    return box;
}

template <class UvHandle>
void call(UvHandle* handle, int argument) {
    auto* box = static_cast<detail::HandleBox<UvHandle>*>(handle->data);
    if (!box->callback) return;
    // A copy, because the callback may destroy its own handle.
    const auto callback = box->callback;
    callback(argument);
}

std::uint64_t milliseconds_of(nanoseconds duration) {
    // Rounded up, so that a timer never fires before its time.
    const auto ms =
        std::chrono::ceil<milliseconds>(std::max(duration, nanoseconds::zero())).count();
    return static_cast<std::uint64_t>(ms);
}

}  // namespace

Loop::Loop() {
    invariant(uv_loop_init(&loop_) == 0, "the event loop starts");
    wake_.data = this;
    invariant(uv_async_init(&loop_, &wake_,
                            [](uv_async_t* wake) { static_cast<Loop*>(wake->data)->drain(); }) == 0,
              "the event loop's wake-up handle starts");
}

Loop::~Loop() {
    {
        // Whom these tasks were for is gone.
        const std::lock_guard lock(tasks_mutex_);
        tasks_.clear();
    }
    uv_close(reinterpret_cast<uv_handle_t*>(&wake_), nullptr);
    uv_run(&loop_, UV_RUN_DEFAULT);
    invariant(uv_loop_close(&loop_) == 0, "every handle of the event loop was closed");
}

void Loop::run() {
    uv_run(&loop_, UV_RUN_DEFAULT);
    const std::lock_guard lock(tasks_mutex_);
    stopping_ = false;
}

void Loop::stop() {
    {
        const std::lock_guard lock(tasks_mutex_);
        stopping_ = true;
    }
    uv_async_send(&wake_);
}

void Loop::post(std::function<void()> task) {
    {
        const std::lock_guard lock(tasks_mutex_);
        tasks_.push_back(std::move(task));
    }
    uv_async_send(&wake_);
}

void Loop::drain() {
    std::vector<std::function<void()>> tasks;
    bool stopping = false;
    {
        const std::lock_guard lock(tasks_mutex_);
        tasks.swap(tasks_);
        stopping = stopping_;
    }
    for (const auto& task : tasks)
        task();
    if (stopping) uv_stop(&loop_);
}

Timer::Timer(Loop& loop, std::function<void()> callback)
    : box_(make_box<uv_timer_t>([callback = std::move(callback)](int) { callback(); })) {
    uv_timer_init(loop.raw(), &box_->handle);
}

void Timer::start(nanoseconds delay) {
    uv_update_time(box_->handle.loop);
    uv_timer_start(
        &box_->handle, [](uv_timer_t* timer) { call(timer, 0); }, milliseconds_of(delay), 0);
}

void Timer::start_repeating(nanoseconds period) {
    const std::uint64_t ms = milliseconds_of(period);
    uv_update_time(box_->handle.loop);
    uv_timer_start(
        &box_->handle, [](uv_timer_t* timer) { call(timer, 0); }, ms, ms);
}

void Timer::stop() {
    uv_timer_stop(&box_->handle);
}

FdWatcher::FdWatcher(Loop& loop, int fd, std::function<void(int)> callback)
    : box_(make_box<uv_poll_t>(std::move(callback))) {
    invariant(uv_poll_init(loop.raw(), &box_->handle, fd) == 0, "a descriptor can be watched");
}

void FdWatcher::watch(int events) {
    uv_poll_start(&box_->handle, events, [](uv_poll_t* poll, int status, int seen) {
        call(poll, status < 0 ? status : seen);
    });
}

void FdWatcher::stop() {
    uv_poll_stop(&box_->handle);
}

SignalWatcher::SignalWatcher(Loop& loop, int signal, std::function<void()> callback)
    : box_(make_box<uv_signal_t>([callback = std::move(callback)](int) { callback(); })) {
    invariant(uv_signal_init(loop.raw(), &box_->handle) == 0, "a signal handle starts");
    uv_signal_start(
        &box_->handle, [](uv_signal_t* handle, int number) { call(handle, number); }, signal);
}

}  // namespace pawl
