// See damage.h.
#include "journal/damage.h"

#include "base/clock.h"
#include "journal/rocks.h"

#include <algorithm>
#include <string_view>
#include <tuple>

namespace pawl::journal {
namespace {

constexpr int kDamagedNamesMax = 100;
constexpr const char* kDamagedMark = ".damaged-";

// "000012.sst", "000011.log": not "LOG", and no file of another program.
bool is_database_file(std::string_view name) {
    const std::size_t dot = name.find_first_not_of("0123456789");
    if (dot == 0 || dot == std::string_view::npos) return false;
    return name.substr(dot) == ".sst" || name.substr(dot) == ".log";
}

// "20261124T082558Z"
std::string compact_time(WallTime time) {
    std::string text = format_time(time);
    text.erase(text.find('.'));
    const auto is_mark = [](char letter) { return letter == '-' || letter == ':'; };
    text.erase(std::remove_if(text.begin(), text.end(), is_mark), text.end());
    return text + "Z";
}

std::string parent_of(const std::string& path) {
    const std::size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : path.substr(0, slash + 1);
}

}  // namespace

// Without CURRENT RocksDB would begin anew, and delete the files of the old database as strangers.
Result<bool> holds_database(FileSystem& fs, const std::string& path) {
    const auto current = fs.status(join_path(path, "CURRENT"));
    if (!current) return current.error();
    if (*current) return true;
    const auto entries = fs.list_directory(path);
    if (!entries) return entries.error();
    for (const DirectoryEntry& entry : *entries) {
        if (!is_database_file(entry.name)) continue;
        return make_error(ErrorKind::kCorrupt, "'CURRENT' is missing, though '{}' is there",
                          entry.name);
    }
    return false;
}

// Order: lock, rename, parent. The lock keeps a pawld that has just started from losing its
// journal.
Result<std::string> move_aside(FileSystem& fs, const std::string& path, WallTime now) {
    const Result<DirectoryLock> lock = DirectoryLock::take(path);
    if (!lock) return lock.error();
    const std::string name = path + kDamagedMark + compact_time(now);
    const std::string parent = parent_of(path);
    for (int attempt = 1; attempt <= kDamagedNamesMax; ++attempt) {
        const std::string target = attempt == 1 ? name : fmt::format("{}-{}", name, attempt);
        const Result<void> renamed = fs.rename(path, target);
        if (!renamed && renamed.error().kind() == ErrorKind::kAlreadyExists) continue;
        if (!renamed) return renamed.error();
        RETURN_IF_ERROR(fs.sync_directory(parent));
        return target;
    }
    return make_error(ErrorKind::kAlreadyExists, "'{}' and {} more names like it are taken", name,
                      kDamagedNamesMax - 1);
}

Result<std::vector<std::string>> prune_damaged(FileSystem& fs, const std::string& path,
                                               std::size_t kept) {
    const std::string parent = parent_of(path);
    const std::string beginning = path.substr(path.rfind('/') + 1) + kDamagedMark;  // npos + 1 is 0
    const auto entries = fs.list_directory(parent);
    if (!entries) return entries.error();
    std::vector<std::string> names;
    for (const DirectoryEntry& entry : *entries) {
        if (entry.type == FileType::kDirectory && entry.name.starts_with(beginning))
            names.push_back(entry.name);
    }
    // The time is in the name; "-2" and "-10" of one second come in their order too.
    const auto order = [](const std::string& name) {
        const std::size_t end = name.find('Z', name.find(kDamagedMark));
        return std::tuple(name.substr(0, end), name.size(), name);
    };
    std::ranges::sort(names, {}, order);
    std::vector<std::string> pruned;
    for (std::size_t i = 0; i + kept < names.size(); ++i) {
        RETURN_IF_ERROR(remove_tree(fs, join_path(parent, names[i])));
        pruned.push_back(names[i]);
    }
    return pruned;
}

}  // namespace pawl::journal
