// The text of a thread's last failed call. Kept without C++'s allocator and without thread_local:
// it must be there when memory is not, and a library that Python loads has little room for
// thread-local data.
//
// client: see run.h.
#pragma once

#include <string_view>

namespace pawl::client::error_text {

void clear() noexcept;
// "pawl_step: what was wrong". Cut where it is too long.
void set(std::string_view call, std::string_view text) noexcept;
// Valid until the thread's next clear or set.
[[nodiscard]] const char* get() noexcept;

}  // namespace pawl::client::error_text
