// See available_memory.h.
#include "staging/available_memory.h"

#include "base/clock.h"
#include "base/fd.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>

namespace pawl::staging {
namespace {

// Of each limit, kept free for the processes that need memory just then.
constexpr std::uint64_t kReserveMin = std::uint64_t{32} << 20;
constexpr std::uint64_t kReservePart = 50;

std::string read_small(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    std::string text;
    if (!fd.is_open()) return text;
    std::array<char, 8192> buffer{};
    ssize_t got = 0;
    while ((got = ::read(fd.get(), buffer.data(), buffer.size())) > 0)
        text.append(buffer.data(), static_cast<std::size_t>(got));
    return text;
}

std::optional<std::uint64_t> number_at(std::string_view text) {
    const std::size_t begin = text.find_first_not_of(" \t");
    if (begin == std::string_view::npos) return std::nullopt;
    std::uint64_t number = 0;
    const auto [end, code] =
        std::from_chars(text.data() + begin, text.data() + text.size(), number);
    if (code != std::errc{}) return std::nullopt;
    return number;
}

// The number behind `name`, which begins a line.
std::optional<std::uint64_t> field(std::string_view text, std::string_view name) {
    std::size_t at = text.starts_with(name) ? 0 : text.find("\n" + std::string(name));
    if (at == std::string_view::npos) return std::nullopt;
    if (text[at] == '\n') ++at;
    return number_at(text.substr(at + name.size()));
}

std::uint64_t less(std::uint64_t from, std::uint64_t what) {
    return from - std::min(from, what);
}

struct Names {
    const char* limit;
    const char* used;
    const char* droppable;  // clean file pages that nobody has used lately
};
constexpr Names kVersion2{"memory.max", "memory.current", "inactive_file "};
constexpr Names kVersion1{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "};

// "max", or a file that is not there: no limit.
void consider(std::optional<AvailableMemory>& least, const std::string& directory,
              const std::string& cgroup, const Names& names) {
    const auto limit = number_at(read_small(directory + "/" + names.limit));
    const auto used = number_at(read_small(directory + "/" + names.used));
    if (!limit || !used) return;
    const auto droppable = field(read_small(directory + "/memory.stat"), names.droppable);
    const std::uint64_t left = less(*limit, less(*used, droppable.value_or(0)));
    if (!least || left < least->bytes)
        least = AvailableMemory{.bytes = left, .of = "cgroup '" + cgroup + "'"};
}

void consider_with_parents(std::optional<AvailableMemory>& least, const std::string& mount,
                           std::string cgroup, const Names& names) {
    while (true) {
        consider(least, cgroup == "/" ? mount : mount + cgroup, cgroup, names);
        const auto slash = cgroup.find_last_of('/');
        if (cgroup == "/" || slash == std::string::npos) return;
        cgroup = slash == 0 ? "/" : cgroup.substr(0, slash);
    }
}

}  // namespace

std::optional<AvailableMemory> available_memory(const std::string& root) {
    std::optional<AvailableMemory> least;
    if (const auto kib = field(read_small(root + "/proc/meminfo"), "MemAvailable:"))
        least = AvailableMemory{.bytes = *kib * 1024, .of = "the machine"};
    // "0::/path" is of version 2; "4:memory:/path" is of version 1, under a mount of its own.
    const std::string own = read_small(root + "/proc/self/cgroup");
    std::string_view rest = own;
    while (!rest.empty()) {
        const std::string_view line = rest.substr(0, rest.find('\n'));
        rest.remove_prefix(std::min(rest.size(), line.size() + 1));
        const auto first = line.find(':');
        const auto second = first == std::string_view::npos ? first : line.find(':', first + 1);
        if (second == std::string_view::npos) continue;
        const std::string controllers(line.substr(first + 1, second - first - 1));
        const std::string path(line.substr(second + 1));
        if (controllers.empty()) {
            consider_with_parents(least, root + "/sys/fs/cgroup", path, kVersion2);
        } else if (("," + controllers + ",").find(",memory,") != std::string::npos) {
            consider_with_parents(least, root + "/sys/fs/cgroup/memory", path, kVersion1);
        }
    }
    return least;
}

Result<void> check_fits(std::uint64_t bytes, const std::optional<AvailableMemory>& available) {
    if (!available) return {};
    const std::uint64_t reserve = std::max(kReserveMin, available->bytes / kReservePart);
    if (bytes <= less(available->bytes, reserve)) return {};
    return make_error(ErrorKind::kNoSpace,
                      "an arena of {} does not fit: {} has {} left, of which {} are kept free",
                      format_bytes(bytes), available->of, format_bytes(available->bytes),
                      format_bytes(std::min(reserve, available->bytes)));
}

}  // namespace pawl::staging
