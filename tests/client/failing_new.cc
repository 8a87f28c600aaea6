// See failing_new.h. A file of its own: the compiler would look through these into malloc, and take
// new and delete for a mismatch.
#include "tests/client/failing_new.h"

#include <cstddef>
#include <cstdlib>
#include <new>

namespace {

constexpr long kNever = -1;
// Large allocations that still succeed; kNever: all do.
thread_local long t_left = kNever;
thread_local bool t_has_failed = false;

void* allocate(std::size_t bytes, std::size_t alignment) {
    const bool is_large = bytes >= pawl::fakes::kLargeBytes;
    if (is_large && t_left == 0) {
        t_has_failed = true;
        throw std::bad_alloc();
    }
    if (is_large && t_left > 0) --t_left;
    void* const memory =
        alignment <= alignof(std::max_align_t)
            ? std::malloc(bytes == 0 ? 1 : bytes)
            : std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}

}  // namespace

void* operator new(std::size_t bytes) {
    return allocate(bytes, 1);
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
    return allocate(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
    std::free(memory);
}

namespace pawl::fakes {

MemoryFor::MemoryFor(long allocations) {
    t_has_failed = false;
    t_left = allocations;
}

MemoryFor::~MemoryFor() {
    t_left = kNever;
}

bool MemoryFor::has_failed() {
    return t_has_failed;
}

}  // namespace pawl::fakes
