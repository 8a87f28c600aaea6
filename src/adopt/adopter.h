// Adopter: what a script saves, kept as checkpoints of its job.
//
// While the script runs, look() turns each whole version that is new into a checkpoint. Before it
// starts, prepare() keeps what is newer than the newest checkpoint, and puts the newest version of
// each file back where it is missing, torn or old. A checkpoint holds one version of each pattern:
// of a series the newest, of a file that is just being written the one before.
//
// Used on the thread of its Store, which commits, retains and quarantines as ever. Blocks.
#pragma once

#include "adopt/examine.h"
#include "adopt/pattern.h"
#include "adopt/place.h"
#include "adopt/plan.h"
#include "adopt/watches.h"
#include "checkpoint/store.h"

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace pawl::adopt {

struct Settings {
    std::vector<std::string> patterns;
    std::string working_directory;  // absolute

    friend bool operator==(const Settings&, const Settings&) = default;
};

// What a commit needs to know beside the files.
struct Context {
    checkpoint::Manifest manifest;  // world size, incarnation, parent, versions
    checkpoint::RetentionPolicy retention;
};

enum class Gravity { kInfo, kWarning };

struct Note {
    Gravity gravity = Gravity::kInfo;
    std::string text;
};

struct Looked {
    std::optional<checkpoint::Committed> committed;
    std::optional<Error> failed;           // no checkpoint was made of what is new
    std::vector<Note> notes;               // said once
    std::vector<std::string> final_paths;  // symlinks, and where they lead: watched as well
};

struct Prepared {
    Looked looked;
    // Where what the script is to resume from is; empty: there is nothing.
    std::string resume_path;
    std::optional<Error>
        impossible;  // it must not start: it would begin again, or find a torn file
};

// Why what was chosen is of another training than the one whose files these settings name; "" if
// it is not, or nothing is adopted. Its checkpoints would be put back for nothing, and removed to
// make room.
[[nodiscard]] std::string why_foreign(const Settings& settings, const checkpoint::Choice& choice);

class Adopter {
public:
    // All outlive the adopter.
    Adopter(FileSystem& fs, checkpoint::Store& store, Watches& watches)
        : fs_(fs), store_(store), watches_(watches) {}

    // `choice` is what the store has chosen; a version that is newer becomes the choice.
    // Nothing that writes the files runs.
    [[nodiscard]] Prepared prepare(const Settings& settings, checkpoint::Choice& choice,
                                   const Context& context);
    [[nodiscard]] Looked look(const Context& context);
    // Of the script's end: patterns that no file ever had. Said once.
    [[nodiscard]] std::vector<Note> never_found();

private:
    struct Found {
        std::string path;   // as the pattern names it
        std::string final;  // where symlinks lead
        Facts facts;
        std::vector<std::string> links;  // of the same series: second names of the file
    };
    struct Seen {
        Facts facts;
        Wholeness wholeness = Wholeness::kAbsent;
    };
    // Of a pattern: saves in a row of which none could be kept.
    struct Missed {
        std::size_t saves = 0;
        Facts last;
    };
    // A version that is to be in the next checkpoint.
    struct Member {
        std::string path;
        std::string final;
        Examined examined;
    };
    // One that a checkpoint has, and that is to be in the next one too.
    struct Kept {
        checkpoint::AdoptedFile file;
        checkpoint::FileEntry entry;
        std::string directory;  // of the checkpoint
    };
    using Members = std::map<std::size_t, Member>;  // by pattern
    using Kepts = std::map<std::size_t, Kept>;
    // A version that a checkpoint has.
    struct Version {
        const checkpoint::AdoptedFile* file = nullptr;
        const checkpoint::FileEntry* entry = nullptr;
    };
    struct Place {
        std::size_t pattern = 0;
        Found found;
        bool is_there = false;
        Examined examined;

        // Where a version is put, and what gives way to it. A whole file that a link leads to is
        // another's, such as one of a series or the best: only the link gives way.
        [[nodiscard]] const std::string& moved_path() const {
            const bool is_whole = is_there && examined.wholeness == Wholeness::kWhole;
            return is_whole ? found.path : found.final;
        }
    };

    struct Finds {
        std::vector<Found> files;     // newest first for a series
        std::optional<Error> failed;  // there may be more
    };

    [[nodiscard]] Finds find(const Pattern& pattern, Looked& looked);
    void find_below(const Pattern& pattern, std::size_t depth, const std::string& directory,
                    Finds& finds, Looked& looked);
    void drop_second_names(const Pattern& pattern, std::vector<Found>& found) const;
    void add_file(const std::string& path, Finds& finds, Looked& looked);
    void watch(const std::string& directory, Looked& looked);
    void watch_links(const std::string& directory, Looked& looked);
    [[nodiscard]] bool can_be_named(const std::string& path, Looked& looked);
    [[nodiscard]] std::optional<Member> newest_of(std::size_t pattern, Looked& looked);
    [[nodiscard]] bool is_known_version(const Facts& facts) const;
    void missed(std::size_t pattern, const std::string& path, const Facts& facts,
                const std::string& why, Looked& looked);
    void say_foreign(const std::string& path, const std::string& why, Looked& looked);
    [[nodiscard]] std::size_t pattern_of_path(const std::string& path) const;

    void commit(const std::map<std::size_t, Member>& changed, const Context& context,
                Looked& looked);
    [[nodiscard]] Result<checkpoint::Committed> commit_files(const Members& changed,
                                                             const Kepts& kept,
                                                             const Context& context,
                                                             bool& is_kept_lost);
    void replace_kept(Members& changed, Kepts& kept, Looked& looked);
    [[nodiscard]] std::optional<Member> whole_on_disk(const std::string& path);
    [[nodiscard]] std::optional<Kept> whole_in_a_checkpoint(const std::string& path);
    [[nodiscard]] Version newest_version(std::size_t pattern) const;
    [[nodiscard]] Version newest_version(const std::string& path) const;
    void number(const std::map<std::size_t, Member>& changed, checkpoint::Manifest& manifest) const;

    [[nodiscard]] std::vector<Place> places(Prepared& prepared);
    [[nodiscard]] Content content_of(const Place& place);
    [[nodiscard]] bool has_older(const std::string& path) const;
    [[nodiscard]] bool is_newer(const Place& place, Content content) const;
    [[nodiscard]] std::optional<std::int64_t> time_in(
        const std::vector<checkpoint::Manifest>& manifests, const Place& place) const;
    [[nodiscard]] Result<void> look_again(Place& place, Content& content);
    void settle(const Place& place, Content content, Prepared& prepared);
    [[nodiscard]] std::string said_of(const Place& place) const;
    void say_passed_over(const Place& place, Prepared& prepared);
    void lead_elsewhere(const Place& place, Prepared& prepared);
    void read_others();
    [[nodiscard]] Result<std::string> put_back_version(const Place& place, std::string_view aside,
                                                       std::string& from);

    FileSystem& fs_;
    checkpoint::Store& store_;
    Watches& watches_;
    Settings settings_;
    std::vector<Pattern> patterns_;
    std::optional<checkpoint::Manifest> newest_;  // checkpoint with adopted files
    std::string newest_path_;
    std::map<std::string, Seen> seen_;  // by path: as it was when it was last looked at
    std::map<std::string, checkpoint::Imported> numbers_;  // by path, of the newest versions
    std::map<std::size_t, Missed> missed_;                 // by pattern
    std::set<std::string> said_;
    std::set<std::string> found_;  // patterns that have had a file
    // Of the directory, for one prepare(): other checkpoints with adopted files, newest first.
    std::vector<checkpoint::Manifest> older_;
    std::vector<std::string> older_paths_;
    std::vector<checkpoint::Manifest> abandoned_;  // their files have the time of the rollback
};

}  // namespace pawl::adopt
