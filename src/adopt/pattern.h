// Patterns: which files a script saves. Core: compares names, touches nothing.
//
// adopt: scripts that are not changed. What they save is kept as checkpoints, and put back before
// they start again (docs/design.md, "Scripts that are not changed"). The daemon and tools may
// include it; it includes base, torchfile and checkpoint.
//
//   pattern   which files          examine   is one whole?
//   plan      what becomes of one  place     the directories that the script writes to
//   watches   what has changed     adopter   versions in, the newest one back
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pawl::adopt {

// A path without a wildcard is one file, which the script writes again and again. One with '*', '?'
// or '[…]' is a series: each version has a name of its own, and the newest of them counts.
struct Pattern {
    std::string directory;                // absolute; without wildcards
    std::vector<std::string> components;  // below it; the last one is a file's
    bool is_series = false;

    friend bool operator==(const Pattern&, const Pattern&) = default;
};

// `text` is absolute, or starts at the working directory, whose own name is taken as it is.
[[nodiscard]] Pattern pattern_of(std::string_view text, std::string_view working_directory);

// Of one component. A name that begins with '.' has to be asked for, so what was set aside is none.
[[nodiscard]] bool matches(std::string_view component, const std::string& name);
[[nodiscard]] bool matches(const Pattern& pattern, const std::string& path);

// The working directory is left out of what lies below it, as a person would say it.
[[nodiscard]] std::string shown_path(const std::string& path, std::string_view working_directory);
[[nodiscard]] std::string whole_path(std::string_view shown, std::string_view working_directory);

// The names that files have in a checkpoint: their own, with a number before one that is taken, and
// '_' for what is a control character or no UTF-8.
[[nodiscard]] std::vector<std::string> names_in_checkpoint(const std::vector<std::string>& paths);

}  // namespace pawl::adopt
