// A clock that is turned by hand, forwards and back.
#pragma once

#include "base/clock.h"

namespace pawl::fakes {

class HandClock final : public Clock {
public:
    [[nodiscard]] MonotonicTime monotonic_now() const override { return monotonic; }
    [[nodiscard]] WallTime wall_now() const override { return wall; }

    MonotonicTime monotonic{seconds{1000}};
    WallTime wall{milliseconds{1'795'517'672'262}};
};

}  // namespace pawl::fakes
