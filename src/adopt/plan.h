// Plan: what becomes of a file before the script starts. Core: decides, touches nothing.
#pragma once

#include <string_view>

namespace pawl::adopt {

// What is in the file's place.
enum class Content {
    kAbsent,
    kTorn,        // no whole version: the script was killed while it saved, or the disk lost a part
    kForeign,     // of a format that has no checksums: nothing can be said of it
    kNewest,      // what the newest checkpoint has
    kOlder,       // what an older checkpoint has
    kRolledBack,  // what somebody has rolled back from
    kEmpty,       // of a series, without a byte, and in no checkpoint: a lock or a marker
    kUnknown,     // whole, and in no checkpoint
};

struct Situation {
    Content content = Content::kAbsent;
    bool has_version = false;  // a checkpoint has one for this place
    // Of what is in no checkpoint: not older than the newest that is kept, or none is. Of what was
    // kept or rolled back: somebody has given it a new time since, and so wants it.
    bool is_newer = false;
};

enum class Measure {
    kLeave,
    kAdopt,     // becomes a checkpoint, and stays
    kPutBack,   // a version takes its place; nothing is lost
    kSetAside,  // moved out of the way, and nothing takes its place
    kReplace,   // moved out of the way, and a version takes its place
};

[[nodiscard]] Measure measure_for(const Situation& situation);

}  // namespace pawl::adopt
