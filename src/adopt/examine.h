// Examine: is a file, as it is now, a whole version that a script has saved?
#pragma once

#include "adopt/place.h"
#include "base/file_system.h"
#include "checkpoint/manifest.h"
#include "checkpoint/transfer.h"

#include <string>

namespace pawl::adopt {

enum class Wholeness {
    kWhole,
    kTorn,     // cut short, or a record does not have its CRC
    kForeign,  // a format without checksums, or none that pawl knows
    kAbsent,
    kChanging,  // it was written to meanwhile: an event will follow
};

struct Examined {
    Wholeness wholeness = Wholeness::kAbsent;
    std::string why;  // of what is torn; of what is foreign, with what may be done
    Facts facts;
    checkpoint::FileEntry entry;   // of a whole one: size and digests, without a name
    checkpoint::Imported numbers;  // of a whole one: what its keys say, if its pickle is small
};

// `path` is final. Reads the file once, from end to end: the bytes that are digested are those
// whose CRCs hold. Needs a few MiB, and room for the values of a small pickle, whatever the file's
// size. An error says nothing of the file.
[[nodiscard]] Result<Examined> examine(FileSystem& fs, const std::string& path);

// The zip directory alone: for files of a series that nobody is about to use. Never kWhole for one
// that was cut short.
[[nodiscard]] Result<Examined> glance(FileSystem& fs, const std::string& path);

}  // namespace pawl::adopt
