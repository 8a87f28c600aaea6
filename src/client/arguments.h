// What comes from outside: the caller's structs, of whatever pawl.h they were compiled with, and
// the environment.
//
// client: see run.h. docs/client.md, "Structs" and "Environment".
#pragma once

#include "client/run.h"
#include "pawl/pawl.h"

#include <cstring>

namespace pawl::client {

// No struct of pawl.h comes near: a larger size was never set by anybody.
inline constexpr std::size_t kStructBytesMax = 4096;

// The caller's struct may be of an older or newer pawl.h: the part that both know is taken, the
// rest is as in `missing`. It must hold its first `needed` bytes.
template <class Struct>
Result<Struct> copy_known(const Struct& given, std::size_t needed, const char* name,
                          Struct missing = {}) {
    const std::size_t size = given.struct_size;
    if (size < needed || size > kStructBytesMax) {
        return make_error(ErrorKind::kInvalidArgument,
                          "{}.struct_size is {}: set it to sizeof({}), which is {} in this "
                          "version and never below {}. Nothing was done",
                          name, size, name, sizeof(Struct), needed);
    }
    std::memcpy(&missing, &given, std::min(size, sizeof missing));
    return missing;
}

[[nodiscard]] Metrics metrics_of(const pawl_metric* metrics, std::size_t count);

// `given` may be null. The environment wins.
[[nodiscard]] Result<AttachOptions> options_of(const pawl_attach_options* given);

// nullptr if it is unset or empty.
[[nodiscard]] const char* environment(const char* name);
// A whole number; nullopt if unset or empty, an error if it is none.
[[nodiscard]] Result<std::optional<std::uint64_t>> number_from_environment(const char* name);
// At least 1; 1 if unset.
[[nodiscard]] Result<std::uint64_t> world_size_from_environment();

}  // namespace pawl::client
