// See origin.h. Two means, each for what the other does not reach: a page that the kernel hands to
// children wiped (so also to those of clone(2), and without a handler having run), and a handler of
// pthread_atfork(3), since nothing else closes a descriptor at fork. The handler runs in the child
// alone, takes no lock and allocates nothing.
#include "client/origin.h"

#include <pthread.h>

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include <new>

namespace pawl::client {
namespace {

using Mark = std::atomic<std::uint64_t>;
static_assert(Mark::is_always_lock_free, "read in signal handlers and forked children");

// The library's only state besides the threads' error texts: a fork handler gets no argument.
std::atomic<Mark*> g_mark{nullptr};  // the number of this process; 0 in a child that has none yet
std::atomic<std::uint64_t> g_last_number{0};  // inherited, so no child takes an ancestor's
std::atomic<Origin*> g_first{nullptr};

constexpr std::size_t kPageBytes = 4096;

}  // namespace

void Origin::in_child() noexcept {
    if (Mark* const mark = g_mark.load()) mark->store(0);  // a kernel before 4.14 wipes nothing
    for (Origin* origin = g_first.load(); origin != nullptr; origin = origin->next_)
        origin->let_go();
}

// 0, or why not (an errno).
int install_fork_handler() {
    void* const page =
        ::mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return errno;
    // What fails here fails on an old kernel; the handler does it there.
    ::madvise(page, kPageBytes, MADV_WIPEONFORK);
    g_mark = new (page) Mark(0);
    return ::pthread_atfork(nullptr, nullptr, &Origin::in_child);
}

Result<void> Origin::enroll() {
    static const int failed = install_fork_handler();
    if (failed != 0) return error_from_code(failed, "prepare for forked children");
    Mark& mark = *g_mark.load();
    std::uint64_t number = mark.load();
    if (number == 0) {
        const std::uint64_t next = g_last_number.fetch_add(1) + 1;
        if (mark.compare_exchange_strong(number, next)) number = next;
    }
    process_ = number;
    if (is_listed_) return {};
    is_listed_ = true;
    next_ = g_first.load();
    while (!g_first.compare_exchange_weak(next_, this)) {
    }
    return {};
}

bool Origin::is_here() const noexcept {
    const Mark* const mark = g_mark.load(std::memory_order_relaxed);
    return mark != nullptr && mark->load(std::memory_order_relaxed) == process_;
}

void Origin::let_go() noexcept {
    const int fd = descriptor_.exchange(-1);
    if (fd >= 0) ::close(fd);
}

}  // namespace pawl::client
