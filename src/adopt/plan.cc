// See plan.h.
#include "adopt/plan.h"

namespace pawl::adopt {

Measure measure_for(const Situation& situation) {
    switch (situation.content) {
        case Content::kAbsent:
            return situation.has_version ? Measure::kPutBack : Measure::kLeave;
        case Content::kTorn:
            return situation.has_version ? Measure::kReplace : Measure::kSetAside;
        case Content::kForeign:
        case Content::kNewest:
        case Content::kEmpty:
            return Measure::kLeave;
        case Content::kOlder:
            // A power cut gave an older version back. In a series it is its own file.
            if (situation.is_newer) return Measure::kAdopt;
            return situation.has_version ? Measure::kReplace : Measure::kLeave;
        case Content::kRolledBack:
            if (situation.is_newer) return Measure::kAdopt;
            return situation.has_version ? Measure::kReplace : Measure::kSetAside;
        case Content::kUnknown:
            break;
    }
    if (situation.is_newer) return Measure::kAdopt;
    return situation.has_version ? Measure::kReplace : Measure::kLeave;
}

}  // namespace pawl::adopt
