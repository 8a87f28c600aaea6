// Reading: what the files of one load share (variables, a budget, where each key stands), and
// Source, one of these files. Nothing here outlives the load that made it.
#pragma once

#include "base/result.h"
#include "config/limits.h"
#include "config/surroundings.h"

#include <map>
#include <string>
#include <string_view>

namespace pawl::config {

// As editors count: from 1. Columns are bytes.
struct Position {
    int line = 1;
    int column = 1;
};

class Reading;

// A file under parse: its name and the base of its relative paths.
class Source {
public:
    // Borrows `reading`.
    Source(Reading& reading, std::string file, std::string directory);

    [[nodiscard]] Reading& reading() const { return *reading_; }
    [[nodiscard]] const std::string& file() const { return file_; }
    [[nodiscard]] const std::string& directory() const { return directory_; }
    // "FILE:LINE:COLUMN: text"
    [[nodiscard]] Error error_at(Position position, std::string_view text) const;

private:
    Reading* reading_;
    std::string file_;
    std::string directory_;
};

struct Place {
    const Source* source = nullptr;
    Position position;

    [[nodiscard]] std::string text() const;  // "FILE:LINE:COLUMN"
};

class Reading {
public:
    explicit Reading(const Surroundings& surroundings) : surroundings_(surroundings) {}
    Reading(const Reading&) = delete;
    Reading& operator=(const Reading&) = delete;
    ~Reading() = default;

    [[nodiscard]] const Surroundings& surroundings() const { return surroundings_; }
    // The main file: what is written nowhere stands there.
    void begin_with(const Source& source) { main_ = &source; }
    // From here on ${PAWL_JOB} is this job, as its ranks see it; empty: of no job.
    void enter_job(const std::string& name) { job_ = name; }

    void remember(const KeyPath& key, Place place) { places_[key] = place; }
    // A key of a job counts as written if `defaults` has it.
    [[nodiscard]] bool is_written(const KeyPath& key) const;

    // Variables filled in, and counted: aliases, defaults and variables multiply a text, so what
    // comes of one megabyte has a limit of its own. Errors are the text alone.
    [[nodiscard]] Result<std::string> expand(std::string_view text);
    [[nodiscard]] Result<void> take(std::size_t bytes);

    // "FILE:LINE:COLUMN: key 'jobs.lm': text", at the key. One that is not written has its default,
    // which the text then says, and the position of the nearest key around it.
    [[nodiscard]] Error error_for(const KeyPath& key, std::string_view text) const;
    // "…: key 'jobs.lm.command': missing; expected …", at the nearest key around it.
    [[nodiscard]] Error missing(const KeyPath& key, std::string_view expected) const;

private:
    [[nodiscard]] Place nearest(KeyPath key) const;

    const Surroundings& surroundings_;
    const Source* main_ = nullptr;
    std::string job_;
    std::size_t bytes_taken_ = 0;
    std::map<KeyPath, Place> places_;
};

// 'jobs.lm.ranks', for a message.
[[nodiscard]] std::string in_text(const KeyPath& key);

}  // namespace pawl::config
