// See watches.h.
#include "adopt/watches.h"

#include <errno.h>
#include <sys/inotify.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

namespace pawl::adopt {
namespace {

// A file is whole when it is closed, or moved there. IN_CREATE: directories that appear, hard links
// and symlinks.
constexpr std::uint32_t kMask = IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_DELETE_SELF |
                                IN_MOVE_SELF | IN_ONLYDIR | IN_EXCL_UNLINK;
constexpr std::size_t kEventBytes = std::size_t{16} << 10;  // taken at once
constexpr std::uint32_t kAlways = IN_ISDIR | IN_DELETE_SELF | IN_MOVE_SELF | IN_Q_OVERFLOW;

// A file; where a name has just appeared also a symlink in the place of a directory.
bool may_concern(const std::vector<Pattern>& patterns, std::uint32_t mask,
                 const std::string& name) {
    const bool has_appeared = (mask & (IN_CREATE | IN_MOVED_TO)) != 0;
    return std::ranges::any_of(patterns, [&](const Pattern& pattern) {
        if (!pattern.is_series) return pattern.components.back() == name;
        const auto first = has_appeared ? pattern.components.begin() : pattern.components.end() - 1;
        return std::any_of(first, pattern.components.end(), [&name](const std::string& component) {
            return matches(component, name);
        });
    });
}

}  // namespace

Result<Watches> Watches::make() {
    UniqueFd fd(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    if (!fd.is_open()) {
        return error_from_errno(
            "watch the files that the script saves (the kernel's limit is in "
            "/proc/sys/fs/inotify/max_user_instances)");
    }
    return Watches(std::move(fd));
}

bool Watches::take(const std::vector<Pattern>& patterns) {
    alignas(inotify_event) std::array<char, kEventBytes> buffer{};
    bool concerns = false;
    while (true) {
        const ssize_t bytes = ::read(fd_.get(), buffer.data(), buffer.size());
        if (bytes < 0 && errno == EINTR) continue;
        if (bytes <= 0) return concerns;
        for (std::size_t at = 0; at < static_cast<std::size_t>(bytes);) {
            inotify_event event{};
            std::memcpy(&event, buffer.data() + at, sizeof event);
            const std::string name =
                event.len == 0 ? "" : std::string(buffer.data() + at + sizeof event);
            concerns =
                concerns || (event.mask & kAlways) != 0 || may_concern(patterns, event.mask, name);
            at += sizeof event + event.len;
        }
    }
}

Result<void> Watches::watch(const std::string& directory) {
    if (!fd_.is_open()) return {};
    std::string before;
    while (true) {
        std::string nearest = directory;
        while (::inotify_add_watch(fd_.get(), nearest.c_str(), kMask) < 0) {
            const bool is_missing = errno == ENOENT || errno == ENOTDIR;
            if (!is_missing || nearest == "/") {
                return error_from_errno(
                    "watch directory '{}' (the kernel's limit is in "
                    "/proc/sys/fs/inotify/max_user_watches)",
                    nearest);
            }
            const auto slash = nearest.find_last_of('/');
            nearest = slash == 0 || slash == std::string::npos ? "/" : nearest.substr(0, slash);
        }
        // One below it may have appeared before its watch was set, so all are tried once more. From
        // now on the appearance of the next one is seen.
        if (nearest == directory || nearest == before) return {};
        before = std::move(nearest);
    }
}

}  // namespace pawl::adopt
