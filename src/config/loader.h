// Loader: the files of one load to one configuration. Main file, then what it includes, then the
// jobs, whose defaults may stand in any of them.
//
// Who may say what: the daemon's own keys, only the main file; `defaults`, one file; `jobs` and
// `include`, all. Two jobs of one name are an error that names both places.
#pragma once

#include "config/keys.h"
#include "config/reading.h"

#include <deque>
#include <optional>
#include <string>
#include <vector>

namespace pawl::config {

class Loader {
public:
    // Borrows the surroundings.
    explicit Loader(const Surroundings& surroundings) : reading_(surroundings) {}

    [[nodiscard]] Result<Loaded> load(const FileText& main, const std::string& path);

private:
    struct File {
        Source source;
        std::string identity;
        std::string included_at;  // "FILE:LINE:COLUMN", or empty: the main file
        std::size_t depth = 0;
        const File* parent = nullptr;
    };

    Result<void> read_file(const FileText& text, const File& file);
    Result<void> read_root(const Value& root, const File& file);
    Result<void> take_jobs(const Value& jobs);
    Result<void> include(const Value& written, const File& file);
    Result<void> include_path(const Value& written, const std::string& path, const File& file);
    Result<void> read_jobs();
    Result<void> read_job(const Entry& entry);
    [[nodiscard]] Result<void> check_required(const JobConfig& job,
                                              std::span<const Field<JobConfig>> fields,
                                              const KeyPath& above) const;
    void complete();
    [[nodiscard]] Result<void> check() const;
    [[nodiscard]] Result<void> check_directories_differ() const;

    Reading reading_;
    std::deque<File> files_;  // where they are: values borrow their sources
    DaemonConfig daemon_;
    std::optional<Value> defaults_;
    std::vector<Entry> jobs_;
    std::vector<std::string> job_directories_;  // of the files that have them
    bool has_includes_ = false;
};

}  // namespace pawl::config
