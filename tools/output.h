// What all commands print with: standard output, text or JSON.
#pragma once

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdio>
#include <string_view>

namespace pawl::tools {

inline constexpr int kExitDamaged = 65;  // EX_DATAERR

inline void print(std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
}

inline void print_json(const nlohmann::json& object) {
    print(object.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

inline nlohmann::json number_or_null(double number) {
    return std::isfinite(number) ? nlohmann::json(number) : nlohmann::json(nullptr);
}

}  // namespace pawl::tools
