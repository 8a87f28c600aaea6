// See invariant.h. Uses nothing that could itself fail: a buffer on the stack and write(2).
#include "base/invariant.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>

namespace pawl {
namespace {

std::atomic<InvariantFailure> g_failure{InvariantFailure::kAbort};

}  // namespace

void set_invariant_failure(InvariantFailure failure) {
    g_failure = failure;
}

void invariant(bool holds, std::string_view what, const char* file, int line) {
    if (holds) [[likely]]
        return;
    BrokenInvariant broken;
    const int length = std::snprintf(broken.text.data(), broken.text.size(),
                                     "pawl: broken invariant at %s:%d: %.*s", file, line,
                                     static_cast<int>(what.size()), what.data());
    if (g_failure == InvariantFailure::kThrow) throw broken;
    if (length > 0) {
        const std::string_view text = broken.text.data();
        // Nothing can be done when even this fails.
        [[maybe_unused]] ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
        written = ::write(STDERR_FILENO, "\n", 1);
    }
    std::abort();
}

}  // namespace pawl
