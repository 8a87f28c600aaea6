// See crash_point.h.
#include "base/crash_point.h"

#ifdef PAWL_CRASH_POINTS

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <cstdlib>
#include <string>

namespace pawl {
namespace {

struct Wanted {
    std::string name;
    int occurrence = 1;
};

Wanted wanted_from_environment() {
    const char* text = std::getenv("PAWL_CRASH_POINT");  // NOLINT(concurrency-mt-unsafe): read once
    if (text == nullptr) return {};
    Wanted wanted{.name = text};
    if (const auto mark = wanted.name.rfind('#'); mark != std::string::npos) {
        // What is no number is the first occurrence.
        std::from_chars(wanted.name.data() + mark + 1, wanted.name.data() + wanted.name.size(),
                        wanted.occurrence);
        wanted.name.resize(mark);
    }
    return wanted;
}

}  // namespace

void crash_point(std::string_view name) {
    static const Wanted wanted = wanted_from_environment();
    static std::atomic<int> seen{0};
    if (wanted.name.empty() || name != wanted.name) return;
    if (++seen == wanted.occurrence) ::kill(::getpid(), SIGKILL);
}

}  // namespace pawl

#endif
