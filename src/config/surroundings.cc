// See surroundings.h. The only file of this room that touches the disk or the environment.
#include "config/surroundings.h"

#include "base/fd.h"

#include <glob.h>
#include <stdlib.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace pawl::config {

namespace {

class RealSurroundings final : public Surroundings {
public:
    [[nodiscard]] std::optional<std::string> variable(const std::string& name) const override {
        // Nothing in this process changes its environment.
        const char* const value = ::getenv(name.c_str());  // NOLINT(concurrency-mt-unsafe)
        return value == nullptr ? std::nullopt : std::optional<std::string>(value);
    }
    [[nodiscard]] Result<FileText> read(const std::string& path) const override;
    [[nodiscard]] Result<std::vector<std::string>> find(const std::string& pattern) const override;
};

Result<FileText> RealSurroundings::read(const std::string& path) const {
    // O_NONBLOCK: a FIFO is refused below, and must not stop us here.
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (!fd.is_open()) return error_from_errno("cannot read configuration '{}'", path);
    struct stat status = {};
    if (::fstat(fd.get(), &status) != 0) {
        return error_from_errno("cannot read configuration '{}'", path);
    }
    if (!S_ISREG(status.st_mode)) {
        return make_error(ErrorKind::kInvalidArgument,
                          "cannot read configuration '{}': not a regular file", path);
    }
    // One byte more than allowed, which is refused with the file's position.
    std::string text(kFileBytesMax + 1, '\0');
    std::size_t bytes = 0;
    while (bytes < text.size()) {
        const ssize_t count = ::read(fd.get(), text.data() + bytes, text.size() - bytes);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return error_from_errno("cannot read configuration '{}'", path);
        if (count == 0) break;
        bytes += static_cast<std::size_t>(count);
    }
    text.resize(bytes);
    return FileText{.text = std::move(text),
                    .identity = fmt::format("{}:{}", status.st_dev, status.st_ino)};
}

Result<std::vector<std::string>> RealSurroundings::find(const std::string& pattern) const {
    // GLOB_ERR: a directory that may not be listed is not an empty one.
    glob_t found = {};
    errno = 0;
    const int code = ::glob(pattern.c_str(), GLOB_ERR, nullptr, &found);
    const std::unique_ptr<glob_t, void (*)(glob_t*)> owned(&found, ::globfree);
    if (code == GLOB_NOMATCH) return std::vector<std::string>{};
    if (code != 0) return error_from_errno("cannot look for configurations '{}'", pattern);
    return std::vector<std::string>(found.gl_pathv, found.gl_pathv + found.gl_pathc);
}

}  // namespace

std::unique_ptr<Surroundings> make_surroundings() {
    return std::make_unique<RealSurroundings>();
}

}  // namespace pawl::config
