// Surroundings: what a configuration may refer to beside its own text. The real one reads files and
// this process's environment; tests hand in maps.
#pragma once

#include "base/result.h"

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace pawl::config {

inline constexpr std::size_t kFileBytesMax = std::size_t{1} << 20;

struct FileText {
    std::string text;      // of a file above kFileBytesMax: one byte more than allowed
    std::string identity;  // the same for every name of one file
};

class Surroundings {
public:
    virtual ~Surroundings() = default;
    [[nodiscard]] virtual std::optional<std::string> variable(const std::string& name) const = 0;
    // A regular file. Never waits for a FIFO or a device.
    [[nodiscard]] virtual Result<FileText> read(const std::string& path) const = 0;
    // The files that match a pattern with '*', '?' or '[', sorted; none is no error.
    [[nodiscard]] virtual Result<std::vector<std::string>> find(
        const std::string& pattern) const = 0;
};

[[nodiscard]] std::unique_ptr<Surroundings> make_surroundings();

}  // namespace pawl::config
