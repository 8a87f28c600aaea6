// Journal records as text for people: at most 80 columns, one heading a day.
//
// Pure: records in, text out.
#pragma once

#include "journal/record.h"

#include <cstddef>
#include <string>
#include <string_view>

namespace pawl::tools {

inline constexpr std::size_t kColumns = 80;

// Text broken at blanks into lines of at most `columns`; all but the first begin with `indent`
// blanks, the first is to stand behind as many characters. On its own where a word is longer.
[[nodiscard]] std::string wrapped(std::string_view text, std::size_t indent, std::size_t columns);

// Remembers the day that was named last, and whether there was a heading.
class JournalText {
public:
    [[nodiscard]] std::string of(const journal::EventRecord& record);
    [[nodiscard]] std::string of(const journal::ProgressRecord& record);
    [[nodiscard]] std::string of(const journal::IncarnationRecord& record);
    [[nodiscard]] std::string of(const journal::CheckpointRecord& record);

private:
    [[nodiscard]] std::string day_of(WallTime time);
    [[nodiscard]] std::string heading(std::string_view text);

    std::string day_;
    bool has_heading_ = false;
};

}  // namespace pawl::tools
