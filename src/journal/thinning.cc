// See thinning.h.
#include "journal/thinning.h"

#include <algorithm>

namespace pawl::journal {

bool ProgressThinning::keeps_any(Kind kind) {
    Seen& of_kind = seen(kind);
    ++of_kind.count;
    return of_kind.count <= (kind == Kind::kStep ? kProgressRecordsKept : kEpochEndsKept);
}

// Age is counted from the newest record that is looked at: the clock of a daemon that starts may be
// wrong by years.
bool ProgressThinning::keeps(Kind kind, WallTime time) {
    newest_ = std::max(newest_.value_or(time), time);
    const bool by_minute = kind == Kind::kStep && *newest_ - time < kProgressMinutesKept;
    // An hour's number and a minute's are told apart by their sign: no span of one kind is taken
    // for one of the other.
    const auto since = time.time_since_epoch();
    const std::int64_t span = by_minute
                                  ? std::chrono::floor<std::chrono::minutes>(since).count()
                                  : -1 - std::chrono::floor<std::chrono::hours>(since).count();
    Seen& of_kind = seen(kind);
    if (of_kind.last_span == span) return false;
    of_kind.last_span = span;
    return true;
}

}  // namespace pawl::journal
