// Damaged journals: how one is told from none, how it is set aside, and how many are kept.
//
// Of this room only. Touches directories, opens no database.
#pragma once

#include "base/file_system.h"
#include "base/result.h"
#include "base/units.h"

#include <cstddef>
#include <string>
#include <vector>

namespace pawl::journal {

// Whether a database was begun in the directory. kCorrupt if it has lost the file that says so.
Result<bool> holds_database(FileSystem& fs, const std::string& path);

// Renames a damaged journal that nobody holds to PATH.damaged-TIME, and says to what.
Result<std::string> move_aside(FileSystem& fs, const std::string& path, WallTime now);

// Removes the oldest of those that were moved aside, down to `kept`, and says which.
Result<std::vector<std::string>> prune_damaged(FileSystem& fs, const std::string& path,
                                               std::size_t kept);

}  // namespace pawl::journal
