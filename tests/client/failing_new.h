// Want of memory on demand: while a MemoryFor is there, this thread's allocations of kLargeBytes
// and more fail after so many. Replaces operator new of the whole program, the libraries' calls
// included. Other threads, a fake daemon's say, are not touched.
//
// Smaller ones never fail here: nlohmann's json allocates in its destructors, so where those fail
// the process ends whatever we do (docs/client.md, "Want of memory").
#pragma once

#include <cstddef>

namespace pawl::fakes {

inline constexpr std::size_t kLargeBytes = 1024;

class MemoryFor {
public:
    explicit MemoryFor(long allocations);
    ~MemoryFor();
    MemoryFor(const MemoryFor&) = delete;
    MemoryFor& operator=(const MemoryFor&) = delete;

    // Whether an allocation of this thread has failed since the last MemoryFor began.
    [[nodiscard]] static bool has_failed();
};

}  // namespace pawl::fakes
