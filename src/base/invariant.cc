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
    std::array<char, 512> text = {};
    const int length =
        std::snprintf(text.data(), text.size(), "pawl: broken invariant at %s:%d: %.*s\n", file,
                      line, static_cast<int>(what.size()), what.data());
    if (length > 0) {
        // Nothing can be done when even this fails.
        [[maybe_unused]] const ssize_t written =
            ::write(STDERR_FILENO, text.data(), static_cast<size_t>(length));
    }
    if (g_failure == InvariantFailure::kThrow) throw BrokenInvariant{};
    std::abort();
}

}  // namespace pawl
