// Crash points: named places at which a test ends the process as SIGKILL would.
//
// Compiled in with PAWL_CRASH_POINTS (every preset but release). A test sets
// PAWL_CRASH_POINT="commit: after data" or "commit: after data#3" (the third time it is reached),
// and the process kills itself there. Without the variable a crash point costs one read of a bool.
#pragma once

#include <string_view>

namespace pawl {

#ifdef PAWL_CRASH_POINTS
void crash_point(std::string_view name);
#else
inline void crash_point(std::string_view) {
}
#endif

}  // namespace pawl
