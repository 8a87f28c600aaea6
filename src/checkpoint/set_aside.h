// What is moved out of the way: whole, into quarantine/ or abandoned/, and not for ever.
//
// Each directory there says in set-aside.json when it came and why. Its age is counted from that;
// one without (a kill came between the move and the stamp) is stamped when it is next looked at. So
// a clock that was set back lets it stay longer, and never goes by what the file system says.
#pragma once

#include "base/file_system.h"
#include "checkpoint/name.h"

#include <string>
#include <string_view>
#include <vector>

namespace pawl::checkpoint {

inline constexpr std::chrono::hours kSetAsideFor{7 * 24};

// Moves `directory`/`name` to `directory`/`place`/`name`, or `name`.2, … if that is taken. Durable
// when it returns. Returns the new path.
[[nodiscard]] Result<std::string> move_aside(FileSystem& fs, const std::string& directory,
                                             const std::string& name, std::string_view place);

// Says when and why. Replaces nothing: the first stamp counts.
Result<void> stamp_aside(FileSystem& fs, const std::string& path, WallTime now,
                         const std::string& why);

// One that is in quarantine/ or abandoned/.
struct Aside {
    std::string path;
    std::string name;
    Sequence sequence;
};

// In the order of their names; other names, and files, are passed over.
[[nodiscard]] Result<std::vector<Aside>> list_aside(FileSystem& fs, const std::string& directory,
                                                    std::string_view place);

// Whether one may go: it was set aside kSetAsideFor ago, is not pinned, and its sequence is below
// `newest`, so that no sequence is ever used again. Stamps what has no stamp.
[[nodiscard]] Result<bool> is_expired(FileSystem& fs, const Aside& one, Sequence newest,
                                      WallTime now);

}  // namespace pawl::checkpoint
