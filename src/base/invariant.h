// invariant(): our own mistakes, checked in every build.
//
// A failed invariant ends the process at once: trainers go on, systemd starts the daemon again, and
// nothing is written by code that had lost its mind. libpawl installs a handler that makes the
// client inert instead, because a library never ends its host.
#pragma once

#include <array>
#include <string_view>

namespace pawl {

// No macro, yet the report names file and line.
void invariant(bool holds, std::string_view what, const char* file = __builtin_FILE(),
               int line = __builtin_LINE());

// What is thrown instead of a report on standard error. Needs no memory but its own.
struct BrokenInvariant {
    std::array<char, 512> text{};
};

enum class InvariantFailure { kAbort, kThrow };
// kThrow raises BrokenInvariant, for libpawl, which catches it at its C border. Set once, at load.
void set_invariant_failure(InvariantFailure failure);

}  // namespace pawl
