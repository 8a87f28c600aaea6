// The tables of keys. One place: what is not in them is no key.
#pragma once

#include "config/field.h"

namespace pawl::config {

inline constexpr std::size_t kJobsMax = 256;
inline constexpr std::size_t kJobNameBytesMax = 64;
inline constexpr nanoseconds kEveryTimeDefault = std::chrono::minutes{10};
// For the schema and the reference; job_check.cc and variables.cc hold to them.
inline constexpr std::string_view kJobNamePattern = "^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$";
inline constexpr std::string_view kVariableNamePattern =
    "^(?!PAWL_|RANK$|WORLD_SIZE$|LOCAL_RANK$|LOCAL_WORLD_SIZE$)[A-Za-z_][A-Za-z0-9_]*$";

// Of the main file. `include`, `defaults` and `jobs` may stand in an included file as well.
[[nodiscard]] std::span<const Field<DaemonConfig>> daemon_fields();
// Of a job, and of `defaults`.
[[nodiscard]] std::span<const Field<JobConfig>> job_fields();

// The default of a field as the reference says it; empty: there is none.
template <class Target>
std::string default_of(const Field<Target>& field) {
    if (!field.key.default_as.empty()) return std::string(field.key.default_as);
    if (field.show == nullptr || !field.key.required_as.empty()) return "";
    const Json value = field.show(Target{});
    if (value.is_null()) return "";
    return value.is_string() ? value.get<std::string>() : value.dump();
}

}  // namespace pawl::config
