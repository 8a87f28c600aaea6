// A configuration written out: what holds once includes, defaults and variables are filled in.
#pragma once

#include "config/config.h"

#include <string>

namespace pawl::config {

// YAML that parse() reads as just this configuration.
[[nodiscard]] std::string to_yaml(const DaemonConfig& config);
[[nodiscard]] std::string to_json(const DaemonConfig& config);
// For people: what was understood, a few lines a job.
[[nodiscard]] std::string in_brief(const Loaded& loaded);

}  // namespace pawl::config
