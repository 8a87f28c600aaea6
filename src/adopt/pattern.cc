// See pattern.h.
#include "adopt/pattern.h"

#include "checkpoint/name.h"
#include "torchfile/text.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <filesystem>

namespace pawl::adopt {
namespace {

bool has_wildcard(std::string_view text) {
    return text.find_first_of("*?[") != std::string_view::npos;
}

std::vector<std::string> components_of(const std::string& path) {
    std::vector<std::string> components;
    for (std::size_t begin = 0; begin < path.size();) {
        const std::size_t end = std::min(path.find('/', begin), path.size());
        if (end > begin) components.push_back(path.substr(begin, end - begin));
        begin = end + 1;
    }
    return components;
}

std::string joined(std::string_view directory, std::string_view name) {
    return fmt::format("{}{}{}", directory, directory.ends_with('/') ? "" : "/", name);
}

std::string normal(const std::string& path) {
    std::string text = std::filesystem::path(path).lexically_normal().string();
    while (text.size() > 1 && text.ends_with('/'))
        text.pop_back();
    return text;
}

// A manifest is JSON, and says of a name what can be said in UTF-8: no other is given to a file.
std::string without_what_cannot_be_said(std::string name) {
    const bool is_text = torchfile::is_valid_utf8(name);
    for (char& character : name) {
        const auto byte = static_cast<unsigned char>(character);
        if (byte < ' ' || byte == 0x7f || (byte >= 0x80 && !is_text)) character = '_';
    }
    return name;
}

bool is_taken(const std::string& name, const std::vector<std::string>& names) {
    return name == checkpoint::kManifestName || name == checkpoint::kPinName ||
           name == checkpoint::kSetAsideName || std::ranges::find(names, name) != names.end();
}

}  // namespace

Pattern pattern_of(std::string_view text, std::string_view working_directory) {
    Pattern pattern{.is_series = has_wildcard(text)};
    if (!pattern.is_series) {
        const std::string path = whole_path(text, working_directory);
        const std::size_t slash = path.find_last_of('/');
        pattern.directory = slash == 0 ? "/" : path.substr(0, slash);
        pattern.components = {path.substr(slash + 1)};
        return pattern;
    }
    // ".." is taken away in the pattern alone, before it meets a directory whose name may look like
    // one.
    const std::string below = normal(std::string(text));
    std::vector<std::string> components = components_of(below);
    const auto first = std::ranges::find_if(components, has_wildcard);
    std::string fixed = below.starts_with('/') ? "/" : std::string(working_directory);
    for (auto it = components.begin(); it != first; ++it)
        fixed = joined(fixed, *it);
    pattern.directory = whole_path(fixed, working_directory);
    pattern.components.assign(first, components.end());
    return pattern;
}

bool matches(std::string_view component, const std::string& name) {
    return ::fnmatch(std::string(component).c_str(), name.c_str(), FNM_PERIOD) == 0;
}

bool matches(const Pattern& pattern, const std::string& path) {
    const std::string prefix = joined(pattern.directory, "");
    if (!path.starts_with(prefix)) return false;
    const std::vector<std::string> names = components_of(path.substr(prefix.size()));
    if (names.size() != pattern.components.size()) return false;
    for (std::size_t i = 0; i < names.size(); ++i) {
        const bool is_same = pattern.is_series ? matches(pattern.components[i], names[i])
                                               : pattern.components[i] == names[i];
        if (!is_same) return false;
    }
    return true;
}

std::string shown_path(const std::string& path, std::string_view working_directory) {
    const std::string prefix = joined(working_directory, "");
    return path.starts_with(prefix) ? path.substr(prefix.size()) : path;
}

std::string whole_path(std::string_view shown, std::string_view working_directory) {
    if (shown.starts_with('/')) return normal(std::string(shown));
    return normal(joined(working_directory, shown));
}

std::vector<std::string> names_in_checkpoint(const std::vector<std::string>& paths) {
    constexpr std::size_t kNameBytesMax = 240;  // 255, less a number
    std::vector<std::string> names;
    for (const std::string& path : paths) {
        const std::string own = path.substr(path.find_last_of('/') + 1);
        std::string name = without_what_cannot_be_said(own);
        for (std::size_t number = 2; is_taken(name, names) || name.size() > kNameBytesMax; ++number)
            name = fmt::format("{}-{}", number,
                               without_what_cannot_be_said(own.substr(0, kNameBytesMax - 20)));
        names.push_back(std::move(name));
    }
    return names;
}

}  // namespace pawl::adopt
