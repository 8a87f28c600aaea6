// The commands about checkpoints. Those that look need no daemon and change nothing; pins work
// beside one; rollback and import need the directory for themselves, or the daemon's help.
#pragma once

#include "base/result.h"
#include "checkpoint/store.h"
#include "tools/inspect.h"

#include <CLI/CLI.hpp>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace pawl::tools {

// Words of the command line to calls: sets `action` to what was asked for.
void add_checkpoint_commands(CLI::App& app, std::function<Result<int>()>& action);

// Where the checkpoints are: as given, as the daemon says of the job, else in the state directory.
[[nodiscard]] std::string checkpoint_directory_in_use(const Place& place);

// `name`: a directory's name or path, a sequence number, or "latest".
[[nodiscard]] Result<checkpoint::Listed> find_checkpoint(FileSystem& fs, const Place& place,
                                                         const std::string& name);

// ---- looking: checkpoint_commands.cc ----
Result<int> list_checkpoints(const Place& place, Format format);
Result<int> show_checkpoint(const Place& place, const std::string& name, Format format);
// All of them without a name. Exit code 65 if any is damaged.
Result<int> verify_checkpoints(const Place& place, const std::string& name, Format format);
// Exit code 0 if they hold the same, 1 if not. checkpoint_diff.cc
Result<int> diff_checkpoints(const Place& place, const std::string& a, const std::string& b,
                             Format format);

// ---- changing: checkpoint_changes.cc ----
enum class Pinning { kPin, kUnpin };
Result<int> change_pin(const Place& place, const std::string& name, Pinning pinning, Format format);
Result<int> roll_back(const Place& place, const std::string& target, Format format);
struct ImportOptions {
    std::string file;
    std::optional<std::uint64_t> step;  // instead of what the file says
    std::optional<std::uint64_t> epoch;
};
Result<int> import_checkpoint(const Place& place, const ImportOptions& options, Format format);
Result<int> export_to(const Place& place, const std::string& name, const std::string& target,
                      Format format);

}  // namespace pawl::tools
