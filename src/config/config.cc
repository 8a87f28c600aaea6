// load() and parse() (see config.h): the front of the loader.
#include "config/config.h"

#include "config/loader.h"

namespace pawl::config {

Result<Loaded> load_files(const std::string& path, const Surroundings& surroundings) {
    const auto text = surroundings.read(path);
    if (!text) {
        return Error(text.error())
            .consequence(
                "Name a file that this user may read; configs/pawld.yaml is an example with every "
                "key.");
    }
    return Loader(surroundings).load(*text, path);
}

Result<DaemonConfig> load(const std::string& path) {
    auto loaded = load_files(path, *make_surroundings());
    if (!loaded) return loaded.error();
    return std::move(loaded->config);
}

Result<DaemonConfig> parse(std::string_view yaml, const std::string& path) {
    const auto surroundings = make_surroundings();
    auto loaded = Loader(*surroundings).load({.text = std::string(yaml), .identity = path}, path);
    if (!loaded) return loaded.error();
    return std::move(loaded->config);
}

}  // namespace pawl::config
