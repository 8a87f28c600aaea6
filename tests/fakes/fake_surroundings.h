// FakeSurroundings: files and variables in maps. A pattern is a directory and "*": it matches all
// files there. A path in `unreadable` fails with the errno's error.
#pragma once

#include "config/surroundings.h"

#include <map>
#include <string>

namespace pawl::fakes {

class FakeSurroundings final : public config::Surroundings {
public:
    std::map<std::string, std::string> files;
    std::map<std::string, std::string> variables;
    std::map<std::string, int> unreadable;
    std::map<std::string, std::string> links;  // another name of a file

    [[nodiscard]] std::optional<std::string> variable(const std::string& name) const override {
        const auto found = variables.find(name);
        return found == variables.end() ? std::nullopt : std::optional(found->second);
    }
    [[nodiscard]] Result<config::FileText> read(const std::string& path) const override {
        const std::string what = fmt::format("cannot read configuration '{}'", path);
        const auto linked = links.find(path);
        const std::string& target = linked == links.end() ? path : linked->second;
        if (const auto code = unreadable.find(target); code != unreadable.end())
            return error_from_code(code->second, what);
        const auto found = files.find(target);
        if (found == files.end()) return error_from_code(ENOENT, what);
        return config::FileText{.text = found->second, .identity = target};
    }
    [[nodiscard]] Result<std::vector<std::string>> find(const std::string& pattern) const override {
        const std::string directory = pattern.substr(0, pattern.find('*'));
        if (const auto code = unreadable.find(directory); code != unreadable.end()) {
            return error_from_code(code->second,
                                   fmt::format("cannot look for configurations '{}'", pattern));
        }
        std::vector<std::string> matches;
        for (const auto& [path, text] : files) {
            if (path.starts_with(directory)) matches.push_back(path);
        }
        return matches;
    }
};

}  // namespace pawl::fakes
