// ${NAME} and ${NAME:-DEFAULT} in a value. Core: looks nothing up itself.
#pragma once

#include "base/result.h"

#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace pawl::config {

// The kernel takes no argument and no variable that is longer (MAX_ARG_STRLEN).
inline constexpr std::size_t kValueBytesMax = std::size_t{128} << 10;

using Lookup = std::function<std::optional<std::string>(const std::string& name)>;

//   ${NAME}            the variable; one that is not set is an error
//   ${NAME:-DEFAULT}   DEFAULT if it is not set or empty; as it stands, up to the next '}'
//   $$                 a dollar
// Any other dollar stays: "$HOME" and "$(date)" are for a shell that the command may start. What a
// variable holds is not looked at again. Errors read "expected …" or "the variable … is not set".
[[nodiscard]] Result<std::string> expand(std::string_view text, const Lookup& lookup);

// The inverse for a text without variables: dollars doubled.
[[nodiscard]] std::string escape(std::string_view text);

}  // namespace pawl::config
