// Arguments that are added to a command, depending on whether there is something to resume from:
// words with placeholders. Touches nothing.
#pragma once

#include "base/result.h"

#include <string>
#include <string_view>
#include <vector>

namespace pawl::config {

enum class Start { kResumed, kFresh };

// As a shell splits words: blanks, '…', "…" and backslashes; nothing else means anything.
[[nodiscard]] Result<std::vector<std::string>> split_words(std::string_view text);

// What is wrong with a placeholder, or "". `{checkpoint}` is the only one there is, and only where
// something is resumed. Braces around anything but a name are no placeholder.
[[nodiscard]] std::string placeholder_problem(const std::vector<std::string>& words, Start start);

[[nodiscard]] std::vector<std::string> filled_in(const std::vector<std::string>& words,
                                                 std::string_view checkpoint);

}  // namespace pawl::config
