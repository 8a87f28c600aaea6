// Questions to the journal as URLs and command lines ask them, and the answers as JSON.
//
// Used by the daemon for its HTTP API and by the tool when it reads a journal itself: so both
// understand and answer the same. docs/formats.md, "Control"; docs/api.yaml.
#pragma once

#include "base/result.h"
#include "base/units.h"
#include "control/server.h"
#include "journal/journal.h"

#include <cstddef>
#include <string>
#include <string_view>

namespace pawl::daemon {

inline constexpr std::size_t kHistoryLimit = 100;  // without a limit
inline constexpr std::size_t kHistoryLimitMax = 10'000;

// "2h": so long before `now`. "2026-11-24", "2026-11-24T10:00", "2026-11-24T10:00:00",
// "2026-11-24T10:00:00.000Z": UTC.
[[nodiscard]] Result<WallTime> moment_of(std::string_view text, WallTime now);

// kInvalidArgument for a parameter that is unknown or says nothing; kNotFound for another table.
[[nodiscard]] Result<journal::Query> query_of(const control::HistoryRequest& request, WallTime now);

// {"job", "table", "records", "next", "has_more", "unreadable"}. kNotFound: the journal knows no
// such job.
[[nodiscard]] Result<std::string> answer_history(const journal::Journal& journal,
                                                 const control::HistoryRequest& request,
                                                 WallTime now);

}  // namespace pawl::daemon
