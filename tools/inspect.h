// The commands that look: status, journal, logs. They change nothing, and all
// but status work with no daemon running. Each prints to standard output and returns the exit code.
#pragma once

#include "base/result.h"

#include <cstdint>
#include <string>

namespace pawl::tools {

enum class Format { kText, kJson };

struct Place {
    std::string state_directory;       // "": .pawl here if there is one, else /var/lib/pawl
    std::string socket;                // "": STATE/pawld.sock
    std::string checkpoint_directory;  // "": STATE/checkpoints
    std::string job;                   // "": the only one
};

[[nodiscard]] std::string state_directory_of(const Place& place);
[[nodiscard]] std::string checkpoint_directory_of(const Place& place);
[[nodiscard]] std::string socket_of(const Place& place);

Result<int> show_status(const Place& place, Format format);
// verb: "checkpoint" or "stop".
Result<int> command_job(const Place& place, const std::string& verb);

// table: "events", "progress", "incarnations", "checkpoints".
Result<int> show_journal(const Place& place, const std::string& table, std::uint64_t limit,
                         Format format);
Result<int> show_logs(const Place& place, std::uint64_t rank, std::uint64_t lines, bool follows,
                      Format format);

}  // namespace pawl::tools
