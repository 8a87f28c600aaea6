// Origin: the process that a run belongs to. A forked data-loader worker has a copy of the run and
// must not disturb its parent's: it is told apart here without a system call, and holds none of the
// descriptors that would keep the session, or a directory's lock, alive after its parent's end.
//
// client: see run.h. docs/client.md, "Forked workers".
#pragma once

#include "base/result.h"

#include <atomic>
#include <cstdint>

namespace pawl::client {

// Never destroyed once enrolled: fork handlers walk the list of all of them.
class Origin {
public:
    Origin() = default;
    Origin(const Origin&) = delete;
    Origin& operator=(const Origin&) = delete;
    ~Origin() = default;

    // This process is the one. Any thread; an origin of its own a call.
    Result<void> enroll();
    // Whether the caller is in that process still. Any thread, any signal handler, any child.
    [[nodiscard]] bool is_here() const noexcept;

    // `fd` (-1: none) is closed in children as they are forked. Said before it is closed here: the
    // number may be another file's at once.
    void close_in_children(int fd) noexcept { descriptor_ = fd; }
    // In a child: closes what fork(2) has passed on, unless that was done already.
    void let_go() noexcept;

private:
    static void in_child() noexcept;
    friend int install_fork_handler();

    std::atomic<int> descriptor_{-1};
    std::uint64_t process_ = 0;
    bool is_listed_ = false;
    Origin* next_ = nullptr;
};

}  // namespace pawl::client
