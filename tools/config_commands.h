// The commands about configuration: check, show, schema, reference, diff, and reload. All but
// reload work with no daemon running. Each prints to standard output and returns the exit code; 78
// for a configuration that is wrong.
#pragma once

#include "base/result.h"
#include "tools/inspect.h"

#include <string>

namespace pawl::tools {

Result<int> check_config(const std::string& path, Format format);
Result<int> show_config(const std::string& path, Format format);
Result<int> show_schema();
Result<int> show_reference();
// What a reload would make of the step from one file to the other.
Result<int> compare_configs(const std::string& from, const std::string& to, Format format);

// The daemon reads its configuration again.
Result<int> reload_daemon(const Place& place, Format format);

}  // namespace pawl::tools
