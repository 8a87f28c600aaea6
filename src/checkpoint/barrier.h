// The commit barrier: have all ranks sealed a snapshot of one step for one request? Core.
//
//   open --sealed by all, one step--> complete
//   open --a rank had passed the step, or was an epoch's end further--> the target moves ahead;
//          what was sealed is given back
//   open --a rank skipped, sealed another step, or is gone--> failed; the attempt is abandoned
#pragma once

#include "base/units.h"

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace pawl::checkpoint {

struct Sealed {
    Rank rank;
    std::uint32_t slot = 0;
    Step step;
    Epoch epoch;
    std::uint64_t bytes = 0;

    friend bool operator==(const Sealed&, const Sealed&) = default;
};

struct Waiting {
    friend bool operator==(const Waiting&, const Waiting&) = default;
};
// A new step that all ranks must be told; `released` were sealed for the old one.
struct Moved {
    Step to;
    std::vector<Sealed> released;
    friend bool operator==(const Moved&, const Moved&) = default;
};
struct Complete {
    std::vector<Sealed> sealed;  // by rank
    friend bool operator==(const Complete&, const Complete&) = default;
};
struct Failed {
    std::string why;
    std::vector<Sealed> released;
    friend bool operator==(const Failed&, const Failed&) = default;
};
using BarrierVerdict = std::variant<Waiting, Moved, Complete, Failed>;

class Barrier {
public:
    Barrier(std::uint64_t request, std::uint64_t world_size);

    [[nodiscard]] std::uint64_t request() const { return request_; }
    [[nodiscard]] bool has_sealed() const;  // whether any rank has
    [[nodiscard]] std::vector<Rank> missing() const;

    [[nodiscard]] BarrierVerdict sealed(const Sealed& snapshot);
    // `rank` says it had completed `step` steps already, more than the target. `furthest` is the
    // furthest step that any rank is known to have completed.
    [[nodiscard]] BarrierVerdict passed(Rank rank, Step step, Step furthest);
    [[nodiscard]] BarrierVerdict skipped(Rank rank, const std::string& why);
    // After Moved: late answers to the old request no longer count.
    void move_to_request(std::uint64_t request) { request_ = request; }
    // Gives up, whatever the state: what was sealed comes back to be released.
    [[nodiscard]] std::vector<Sealed> abandon();

private:
    std::uint64_t request_;
    std::vector<std::optional<Sealed>> ranks_;
    std::uint64_t moves_ = 0;
};

}  // namespace pawl::checkpoint
