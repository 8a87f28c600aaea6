// Watches: the kernel's word that something has changed in the script's directories.
//
// What has changed is found by looking: an event is only a reason to look. So events that were lost
// (an overflow) or that came before a watch was set cost nothing but a look. Linux only: inotify.
#pragma once

#include "adopt/pattern.h"
#include "base/fd.h"
#include "base/result.h"

#include <string>
#include <vector>

namespace pawl::adopt {

class Watches {
public:
    [[nodiscard]] static Result<Watches> make();
    // Watches nothing, for where there can be no watch.
    Watches() = default;

    // Of the loop: becomes readable when there is something to take.
    [[nodiscard]] int descriptor() const { return fd_.get(); }
    // Takes all events; whether one of them may concern a file of a pattern.
    [[nodiscard]] bool take(const std::vector<Pattern>& patterns);

    // Of a worker. The directory, or the nearest one above it that is there. Once set, a watch
    // stays until its directory is gone.
    Result<void> watch(const std::string& directory);

private:
    explicit Watches(UniqueFd fd) : fd_(std::move(fd)) {}

    UniqueFd fd_;
};

}  // namespace pawl::adopt
