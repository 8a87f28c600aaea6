// Where things are, and what a daemon is asked: status and the requests to a job. The commands that
// look at files are in checkpoint_commands.h, journal_commands.h and log_commands.h. Each prints to
// standard output and returns the exit code.
#pragma once

#include "base/result.h"

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

}  // namespace pawl::tools
