// A file's text to one YAML document. Refuses what yaml-cpp would misread, loop on or drop.
#pragma once

#include "config/reading.h"

#include <yaml-cpp/yaml.h>

#include <exception>
#include <string>

namespace pawl::config {

[[nodiscard]] Position position_of(const YAML::Mark& mark);

// An empty text gives a null node. May throw as yaml-cpp does: call it in guarded().
[[nodiscard]] Result<YAML::Node> read_document(const std::string& text, const Source& source);

// Runs `read`, a Result; what yaml-cpp throws, whenever its nodes are asked, becomes an error of
// this file.
template <class Read>
[[nodiscard]] auto guarded(const Source& source, Read read) -> decltype(read()) {
    try {
        return read();
    } catch (const YAML::Exception& exception) {
        return source.error_at(position_of(exception.mark),
                               fmt::format("not valid YAML: {}", exception.msg));
    } catch (const std::exception& exception) {
        return make_error(ErrorKind::kInternal, "cannot parse configuration '{}': {}",
                          source.file(), exception.what());
    }
}

}  // namespace pawl::config
