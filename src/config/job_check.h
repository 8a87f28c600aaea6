// The checks of a complete JobConfig.
//
// Knows no YAML: the same checks serve the file and the command line.
#pragma once

#include "config/config.h"
#include "config/limits.h"

#include <optional>
#include <string>

namespace pawl::config {

struct Problem {
    KeyPath key;       // within the job; empty: its name
    std::string text;  // "expected …, found …"
};

[[nodiscard]] std::optional<Problem> first_problem(const JobConfig& job);

}  // namespace pawl::config
