// pawl journal: what happened. Asks the daemon, which has the newest records, and reads the journal
// itself where no daemon answers. Changes nothing.
#pragma once

#include "base/result.h"
#include "journal/record.h"
#include "tools/inspect.h"

#include <map>
#include <string>
#include <vector>

namespace pawl::tools {

enum class Follows { kNo, kYes };

// `table`: "events", "progress", "epochs", "incarnations", "checkpoints". `parameters` as in the
// URL of the HTTP API. JSON is the API's answer; while following, a record a line.
Result<int> show_journal(const Place& place, const std::string& table,
                         const std::map<std::string, std::string>& parameters, Follows follows,
                         Format format);

// All of the job's, in order.
[[nodiscard]] Result<std::vector<journal::IncarnationRecord>> incarnations_of(const Place& place);

}  // namespace pawl::tools
