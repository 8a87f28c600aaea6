// Text that comes from a file or goes into one: checked before it is used, made safe before it is
// shown.
#pragma once

#include <string>
#include <string_view>

namespace pawl::torchfile {

// As Python's strict codec: no overlong form, no surrogate, nothing above U+10FFFF.
[[nodiscard]] bool is_valid_utf8(std::string_view text);

// As Python's codec with 'surrogatepass', by which str is pickled: surrogates are let through.
[[nodiscard]] bool is_valid_str(std::string_view text);

// For messages: what a hostile file calls itself must not reach a terminal or a log as it is.
[[nodiscard]] std::string printable(std::string_view text);

// UTF-8 of one line: control characters and what is no UTF-8 as \n, \x1b, \udcff.
[[nodiscard]] std::string escaped(std::string_view text);

}  // namespace pawl::torchfile
