// Questions to the journal: which records of a job, from where on, and how many.
//
// Pure: what a record must be like to be wanted. The journal reads, see journal.h.
#pragma once

#include "base/units.h"
#include "journal/record.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace pawl::journal {

enum class Table { kEvents, kProgress, kEpochs, kIncarnations, kCheckpoints };

struct Query {
    std::string job;
    // Those of [since, until). An incarnation counts for as long as it ran, a checkpoint by the
    // time that it was written.
    std::optional<WallTime> since;
    std::optional<WallTime> until;
    // An event's kind; a checkpoint's or incarnation's state; "progress" or "epoch_end". "": any.
    std::string kind;
    // Of events: this one and what is worse.
    std::optional<Severity> severity;
    // Without a cursor: the newest `limit`. With one: the first `limit` behind it.
    std::optional<std::string> after;
    std::size_t limit = 20;
};

// Records in their order, and where to go on. Whoever asks again with `next` misses none that is
// appended later and gets none twice.
template <class Record>
struct Page {
    std::vector<Record> records;
    std::string next;
    bool has_more = false;         // there are more that are wanted already
    std::uint64_t unreadable = 0;  // passed over, because they were damaged
    std::string damage;            // the first of them
};

[[nodiscard]] bool is_wanted(const Query& query, const ProgressRecord& record);
[[nodiscard]] bool is_wanted(const Query& query, const IncarnationRecord& record);
[[nodiscard]] bool is_wanted(const Query& query, const CheckpointRecord& record);
[[nodiscard]] bool is_wanted(const Query& query, const EventRecord& record);

}  // namespace pawl::journal
