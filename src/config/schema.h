// What is written from the table of keys for others: a JSON schema for editors, a reference for
// people.
#pragma once

#include <string>

namespace pawl::config {

// JSON Schema, draft 2020-12. Says less than the parser: neither ranges of durations and sizes, nor
// relations between keys. Of an included file: "#/$defs/included_file".
[[nodiscard]] std::string json_schema();

// docs/configuration.md.
[[nodiscard]] std::string reference();

}  // namespace pawl::config
