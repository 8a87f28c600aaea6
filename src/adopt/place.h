// Place: the script's own directories. What is there, and how a file gets there whole.
//
// Not through the FileSystem seam: these are the user's files, with their modes, times and
// symlinks. Blocks; for workers.
#pragma once

#include "base/file_system.h"
#include "base/result.h"
#include "checkpoint/manifest.h"

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace pawl::adopt {

// By which a file that has changed is told from one that has not.
struct Facts {
    std::uint64_t device = 0;
    std::uint64_t inode = 0;
    std::uint64_t bytes = 0;
    std::int64_t modified_ns = 0;
    std::int64_t changed_ns = 0;
    std::uint32_t mode = 0;  // permission bits

    friend bool operator==(const Facts&, const Facts&) = default;
};

// Of a regular file; nullopt if there is none. Symlinks are followed.
[[nodiscard]] Result<std::optional<Facts>> facts_of(const std::string& path);

// Where a symlink, or a chain of them, leads: also to what is not there yet. A script that saves
// through it writes there.
[[nodiscard]] Result<std::string> final_path(std::string path);

// How many torn versions of a file stay beside it; the oldest makes room.
inline constexpr std::size_t kTornMax = 3;

// Gives the file the name ".NAME.WHY-N" beside it, which no pattern matches that does not ask for
// it. Returns the new path. Durable when it returns.
[[nodiscard]] Result<std::string> set_aside(const std::string& path, std::string_view why);

struct PutBack {
    const ByteSource& source;
    const checkpoint::FileEntry& entry;
    const checkpoint::AdoptedFile& file;
    std::string path;        // final
    std::string_view aside;  // what is there is set aside, and why ("torn"); "": it is replaced
};

// Order: a temporary name beside it, data (each chunk has the digest that the manifest says), mode
// and time, sync; what is there is set aside; rename; the directory is synced. So a full disk fails
// with everything as it was, and the script never finds half a file. Makes directories that are
// missing. Returns where the file that was there is now, or "".
[[nodiscard]] Result<std::string> put_back(const PutBack& wanted);

}  // namespace pawl::adopt
