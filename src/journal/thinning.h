// What of a job's history is kept, so that months of training fit into a bounded journal.
//
// Pure: it is told of records, newest first, and says which stay. Core of the room: no file, no
// clock, no RocksDB.
//
//   progress      all of the newest kProgressRecordsKept; of older ones the last of each minute,
//                 for kProgressMinutesKept; before that the last of each hour
//   ends of       all of the newest kEpochEndsKept; before that the last of each hour
//   epochs
//   events        the newest kEventsKept
//   incarnations  the newest kIncarnationsKept
//   checkpoints   all that exist; of those that were removed the newest kRemovedCheckpointsKept
#pragma once

#include "base/units.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace pawl::journal {

inline constexpr std::size_t kProgressRecordsKept = 100'000;  // a day of one a second
inline constexpr std::chrono::hours kProgressMinutesKept{24 * 30};
inline constexpr std::size_t kEpochEndsKept = 100'000;
inline constexpr std::size_t kEventsKept = 50'000;
inline constexpr std::size_t kIncarnationsKept = 2'000;
inline constexpr std::size_t kRemovedCheckpointsKept = 10'000;

// Looked at now and then, with a write: there may be this many more meanwhile.
inline constexpr std::size_t kProgressRecordsSlack = 10'000;
inline constexpr std::size_t kEventsSlack = 1'000;
inline constexpr std::size_t kIncarnationsSlack = 100;
inline constexpr std::size_t kCheckpointsSlack = 1'000;

// One pass over a job's progress, newest first. What it keeps, a later pass keeps too, until it is
// so old that only hours count.
class ProgressThinning {
public:
    enum class Kind { kStep, kEpochEnd };

    // Whether the next record stays whatever its time is: then there is no need to know it.
    [[nodiscard]] bool keeps_any(Kind kind);
    // Whether a record that keeps_any() did not keep stays.
    [[nodiscard]] bool keeps(Kind kind, WallTime time);

private:
    struct Seen {
        std::size_t count = 0;
        std::optional<std::int64_t> last_span;  // the number of the minute or hour last kept
    };
    [[nodiscard]] Seen& seen(Kind kind) { return kind == Kind::kStep ? steps_ : epoch_ends_; }

    Seen steps_;
    Seen epoch_ends_;
    std::optional<WallTime> newest_;  // of those whose time was told
};

}  // namespace pawl::journal
