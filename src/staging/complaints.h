// Complaints: what is said of those who may not attach, so many times and no more. Core.
//
// A process that tries again and again must not fill the journal: of a window's complaints the
// first few are said, and the next window begins with how many were not.
#pragma once

#include "base/units.h"

#include <optional>
#include <string>

namespace pawl::staging {

class Complaints {
public:
    static constexpr nanoseconds kWindow = std::chrono::minutes{1};

    explicit Complaints(std::uint64_t per_window = 10) : per_window_(per_window) {}

    // The text to say, or none.
    [[nodiscard]] std::optional<std::string> about(const std::string& text, MonotonicTime now);

private:
    std::uint64_t per_window_;
    std::optional<MonotonicTime> since_;
    std::uint64_t said_ = 0;
    std::uint64_t unsaid_ = 0;
};

}  // namespace pawl::staging
