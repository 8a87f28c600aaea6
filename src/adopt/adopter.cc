// Adopter: looking, and what is new into a checkpoint. Before a start: adopter_prepare.cc.
#include "adopt/adopter.h"

#include "base/crash_point.h"
#include "torchfile/text.h"

#include <algorithm>
#include <filesystem>
#include <utility>

namespace pawl::adopt {
namespace {

constexpr std::size_t kMissedSavesMax = 3;  // in a row, until it is said
constexpr std::string_view kWrittenMeanwhile = "it was written to again before it had been copied";

bool has_content(const checkpoint::FileEntry& one, const checkpoint::FileEntry& other) {
    return one.bytes == other.bytes && one.chunk_bytes == other.chunk_bytes &&
           one.chunks == other.chunks;
}

}  // namespace

Looked Adopter::look(const Context& context) {
    Looked looked;
    std::map<std::size_t, Member> changed;
    for (std::size_t i = 0; i < patterns_.size(); ++i) {
        if (auto member = newest_of(i, looked)) changed.emplace(i, std::move(*member));
    }
    if (!changed.empty()) commit(changed, context, looked);
    return looked;
}

std::vector<Note> Adopter::never_found() {
    std::vector<Note> notes;
    for (std::size_t i = 0; i < patterns_.size(); ++i) {
        const std::string& text = settings_.patterns[i];
        if (found_.contains(text) || newest_version(i).file != nullptr) continue;
        if (!said_.insert("never found " + text).second) continue;
        notes.push_back(
            {Gravity::kWarning,
             fmt::format("no file '{}' was ever seen in '{}': nothing of it was kept. Compare the "
                         "name with what the script saves, and where",
                         fmt::join(patterns_[i].components, "/"), patterns_[i].directory)});
    }
    return notes;
}

// ---- what is there ----

Adopter::Finds Adopter::find(const Pattern& pattern, Looked& looked) {
    Finds finds;
    watch_links(pattern.directory, looked);
    find_below(pattern, 0, pattern.directory, finds, looked);
    if (pattern.is_series) drop_second_names(pattern, finds.files);
    std::ranges::sort(finds.files, std::ranges::greater{},
                      [](const Found& one) { return std::pair(one.facts.modified_ns, one.path); });
    return finds;
}

// Of a series a file counts once, also if symlinks lead to it ("latest.pth"): by the name that the
// newest checkpoint has, else by its own.
void Adopter::drop_second_names(const Pattern& pattern, std::vector<Found>& found) const {
    std::error_code code;
    const std::string directory = std::filesystem::weakly_canonical(pattern.directory, code);
    const auto rank = [&](const Found& one, const std::string& file) {
        const bool is_own = directory + one.path.substr(pattern.directory.size()) == file;
        return std::pair(newest_version(one.path).file != nullptr, is_own);
    };
    std::map<std::string, Found> files;
    for (Found& one : found) {
        std::string file = std::filesystem::weakly_canonical(one.final, code);
        if (code) file = one.final;
        const auto [it, is_first] = files.try_emplace(file);
        Found& best = it->second;
        if (is_first) {
            best = std::move(one);
            continue;
        }
        if (rank(one, file) > rank(best, file)) std::swap(one, best);
        best.links.insert(best.links.end(), one.links.begin(), one.links.end());
        if (one.path != one.final) best.links.push_back(one.path);
    }
    found.clear();
    for (auto& [file, one] : files)
        found.push_back(std::move(one));
}

// The watch is set before the directory is read: what comes in between is seen twice, never missed.
void Adopter::find_below(const Pattern& pattern, std::size_t depth, const std::string& directory,
                         Finds& finds, Looked& looked) {
    watch(directory, looked);
    const std::string& component = pattern.components[depth];
    if (!pattern.is_series) return add_file(join_path(directory, component), finds, looked);
    const auto entries = fs_.list_directory(directory);
    if (!entries) {
        if (entries.error().kind() == ErrorKind::kNotFound) return;
        looked.notes.push_back({Gravity::kWarning, entries.error().text()});
        if (!finds.failed) finds.failed = entries.error();
        return;
    }
    const bool is_last = depth + 1 == pattern.components.size();
    for (const DirectoryEntry& entry : *entries) {
        if (!matches(component, entry.name)) continue;
        const std::string path = join_path(directory, entry.name);
        if (is_last) {
            add_file(path, finds, looked);
        } else if (std::error_code code; std::filesystem::is_directory(path, code)) {
            // Also one that a symlink leads to.
            find_below(pattern, depth + 1, path, finds, looked);
        }
    }
}

void Adopter::add_file(const std::string& path, Finds& finds, Looked& looked) {
    if (!can_be_named(path, looked)) return;
    const auto fail = [&](const Error& error) {
        looked.notes.push_back({Gravity::kWarning, error.text()});
        if (!finds.failed && newest_version(path).file != nullptr) finds.failed = error;
    };
    const auto final = final_path(path);
    if (!final) return fail(final.error());
    if (*final != path) {
        looked.final_paths.push_back(*final);
        watch(final->substr(0, final->find_last_of('/') + 1), looked);
    }
    const auto facts = facts_of(*final);
    if (!facts) return fail(facts.error());
    if (facts->has_value())
        finds.files.push_back({.path = path, .final = *final, .facts = **facts, .links = {}});
}

// A symlink to a directory may lead elsewhere from one moment to the next.
void Adopter::watch_links(const std::string& directory, Looked& looked) {
    for (std::size_t end = directory.find('/', 1);; end = directory.find('/', end + 1)) {
        const std::string path = directory.substr(0, end);
        if (std::error_code code; std::filesystem::is_symlink(path, code)) {
            looked.final_paths.push_back(path);
            watch(path.substr(0, path.find_last_of('/') + 1), looked);
        }
        if (end == std::string::npos) return;
    }
}

// What can't be watched is looked at all the same: when something else is seen, and at the end.
void Adopter::watch(const std::string& directory, Looked& looked) {
    const auto watched = watches_.watch(directory);
    if (watched || !said_.insert("watch " + directory).second) return;
    looked.notes.push_back(
        {Gravity::kWarning, fmt::format("{}. What the script saves there is kept when it has "
                                        "ended, and not before",
                                        watched.error().text())});
}

// A manifest could not say where such a file belongs.
bool Adopter::can_be_named(const std::string& path, Looked& looked) {
    const std::string shown = shown_path(path, settings_.working_directory);
    if (torchfile::is_valid_utf8(shown)) return true;
    if (said_.insert(path).second) {
        looked.notes.push_back(
            {Gravity::kWarning,
             fmt::format("'{}' is not kept: its name is no UTF-8. Give it another one. The job is "
                         "supervised all the same",
                         torchfile::escaped(shown))});
    }
    return false;
}

// The first pattern that a path matches has it. One file by name goes before any series.
std::size_t Adopter::pattern_of_path(const std::string& path) const {
    for (const bool is_series : {false, true}) {
        for (std::size_t i = 0; i < patterns_.size(); ++i) {
            if (patterns_[i].is_series == is_series && matches(patterns_[i], path)) return i;
        }
    }
    return patterns_.size();
}

// A version of the pattern that the newest checkpoint does not have, if there is a whole one.
std::optional<Adopter::Member> Adopter::newest_of(std::size_t pattern, Looked& looked) {
    const Finds found = find(patterns_[pattern], looked);
    if (!found.files.empty()) found_.insert(settings_.patterns[pattern]);
    const Version kept = newest_version(pattern);
    const bool is_series = patterns_[pattern].is_series;
    bool is_decided = false;
    std::optional<Member> newest;
    for (const Found& one : found.files) {
        if (pattern_of_path(one.path) != pattern) continue;
        // Unchanged: kept, passed over, or torn, and nobody has written to it since. Of a series
        // what has changed counts, whatever its time: clocks are set back.
        const auto seen = seen_.find(one.path);
        if (seen != seen_.end() && seen->second.facts == one.facts) continue;
        const bool may_be_known =
            (kept.file != nullptr && one.facts.modified_ns < kept.file->modified_ns) ||
            (seen != seen_.end() && seen->second.facts.inode == one.facts.inode);
        if (is_series && (is_decided || (may_be_known && is_known_version(one.facts)))) {
            seen_[one.path] = {.facts = one.facts, .wholeness = Wholeness::kAbsent};
            continue;
        }
        auto examined = examine(fs_, one.final);
        if (!examined) {
            looked.notes.push_back({Gravity::kWarning, examined.error().text()});
            continue;
        }
        if (examined->wholeness == Wholeness::kChanging) {
            missed(pattern, one.path, examined->facts, std::string(kWrittenMeanwhile), looked);
            continue;
        }
        seen_[one.path] = {.facts = examined->facts, .wholeness = examined->wholeness};
        if (examined->wholeness == Wholeness::kTorn)
            missed(pattern, one.path, examined->facts, examined->why, looked);
        if (examined->wholeness == Wholeness::kForeign)
            say_foreign(one.path, examined->why, looked);
        if (examined->wholeness != Wholeness::kWhole) continue;
        const bool is_kept = kept.file != nullptr &&
                             whole_path(kept.file->path, settings_.working_directory) == one.path &&
                             has_content(*kept.entry, examined->entry);
        is_decided = true;
        if (is_kept) {
            missed_.erase(pattern);
            continue;
        }
        newest = {.path = one.path, .final = one.final, .examined = std::move(*examined)};
    }
    return newest;
}

// One that was there before, under this name or another: linked, renamed, or copied with its time.
bool Adopter::is_known_version(const Facts& facts) const {
    return std::ranges::any_of(seen_, [&facts](const auto& seen) {
        return seen.second.facts.bytes == facts.bytes &&
               seen.second.facts.modified_ns == facts.modified_ns;
    });
}

// A file that only grows is one save that takes its time; one that begins anew, or is as long as it
// was, is the next.
void Adopter::missed(std::size_t pattern, const std::string& path, const Facts& facts,
                     const std::string& why, Looked& looked) {
    Missed& missed = missed_[pattern];
    if (facts == missed.last) return;  // nobody has saved it since
    const bool is_next_save = missed.saves == 0 || facts.device != missed.last.device ||
                              facts.inode != missed.last.inode || facts.bytes <= missed.last.bytes;
    if (is_next_save) ++missed.saves;
    missed.last = facts;
    if (missed.saves < kMissedSavesMax || !said_.insert(fmt::format("{} missed", path)).second)
        return;
    const std::string shown = shown_path(path, settings_.working_directory);
    looked.notes.push_back(
        {Gravity::kWarning,
         fmt::format("'{}' was saved {} times in a row and not once could it be kept. The last "
                     "time: {}. Save under a temporary name and rename that to '{}', or save less "
                     "often",
                     shown, missed.saves, why, shown)});
}

void Adopter::say_foreign(const std::string& path, const std::string& why, Looked& looked) {
    if (!said_.insert(path).second) return;
    looked.notes.push_back(
        {Gravity::kWarning, fmt::format("'{}' is not kept: {}. The job is supervised all the same",
                                        shown_path(path, settings_.working_directory), why)});
}

// ---- into a checkpoint ----

Adopter::Version Adopter::newest_version(const std::string& path) const {
    if (!newest_) return {};
    for (std::size_t i = 0; i < newest_->adopted.size(); ++i) {
        if (whole_path(newest_->adopted[i].path, settings_.working_directory) == path)
            return {.file = &newest_->adopted[i], .entry = &newest_->files[i]};
    }
    return {};
}

Adopter::Version Adopter::newest_version(std::size_t pattern) const {
    if (!newest_) return {};
    for (std::size_t i = 0; i < newest_->adopted.size(); ++i) {
        const std::string path = whole_path(newest_->adopted[i].path, settings_.working_directory);
        if (pattern_of_path(path) == pattern)
            return {.file = &newest_->adopted[i], .entry = &newest_->files[i]};
    }
    return {};
}

// What the files say of themselves; else versions are counted.
void Adopter::number(const std::map<std::size_t, Member>& changed,
                     checkpoint::Manifest& manifest) const {
    manifest.step = newest_ ? newest_->step.next() : Step{1};
    manifest.epoch = newest_ ? newest_->epoch : Epoch{};
    for (std::size_t i = 0; i < patterns_.size(); ++i) {
        checkpoint::Imported numbers;
        if (const auto member = changed.find(i); member != changed.end()) {
            numbers = member->second.examined.numbers;
        } else if (const Version kept = newest_version(i); kept.file != nullptr) {
            const auto known =
                numbers_.find(whole_path(kept.file->path, settings_.working_directory));
            if (known != numbers_.end()) numbers = known->second;
        }
        if (!numbers.step && !numbers.epoch) continue;
        if (numbers.epoch) manifest.epoch = *numbers.epoch;
        manifest.step = numbers.step ? *numbers.step : Step{numbers.epoch->value};
        return;
    }
}

void Adopter::commit(const std::map<std::size_t, Member>& changed, const Context& context,
                     Looked& looked) {
    Members members = changed;
    Kepts kept;
    for (std::size_t i = 0; i < patterns_.size(); ++i) {
        const Version version = newest_version(i);
        if (version.file == nullptr || members.contains(i)) continue;
        kept[i] = {.file = *version.file, .entry = *version.entry, .directory = newest_path_};
    }
    bool is_kept_lost = false;
    auto committed = commit_files(members, kept, context, is_kept_lost);
    if (is_kept_lost) {
        if (said_.insert(newest_path_).second) {
            looked.notes.push_back(
                {Gravity::kWarning,
                 fmt::format("the newest checkpoint no longer has what it had: {}. Its files are "
                             "taken from where the script saves them, or from an older checkpoint",
                             committed.error().text())});
        }
        replace_kept(members, kept, looked);
        committed = commit_files(members, kept, context, is_kept_lost);
    }
    if (!committed) {
        for (const auto& [pattern, member] : members)
            seen_.erase(member.path);  // the next look takes them for new once more
        if (committed.error().kind() != ErrorKind::kBusy) {
            looked.failed = committed.error();
            return;
        }
        // Written anew meanwhile: an event will follow, or has.
        for (const auto& [pattern, member] : members) {
            missed(pattern, member.path, member.examined.facts, std::string(kWrittenMeanwhile),
                   looked);
        }
        return;
    }
    crash_point("adopt: committed");
    newest_ = committed->manifest;
    newest_path_ = committed->path;
    for (const auto& [pattern, member] : members) {
        numbers_[member.path] = member.examined.numbers;
        missed_.erase(pattern);
    }
    looked.committed = std::move(*committed);
}

// `is_kept_lost`: it failed for one of those that a checkpoint has, and no longer has.
Result<checkpoint::Committed> Adopter::commit_files(const Members& changed, const Kepts& kept,
                                                    const Context& context, bool& is_kept_lost) {
    is_kept_lost = false;
    checkpoint::Manifest manifest = context.manifest;
    manifest.reason = checkpoint::Reason::kAdopt;
    number(changed, manifest);

    std::vector<checkpoint::KnownFile> files;
    std::vector<std::unique_ptr<ByteSource>> sources;
    std::vector<std::string> paths;
    for (std::size_t i = 0; i < patterns_.size(); ++i) {
        const auto member = changed.find(i);
        const auto version = kept.find(i);
        if (member == changed.end() && version == kept.end()) continue;
        const bool is_kept = member == changed.end();
        auto source =
            fs_.open_file(is_kept ? join_path(version->second.directory, version->second.file.name)
                                  : member->second.final);
        if (!source) {
            is_kept_lost = is_kept && source.error().kind() == ErrorKind::kNotFound;
            return source.error();
        }
        sources.push_back(std::move(*source));
        if (is_kept) {
            paths.push_back(whole_path(version->second.file.path, settings_.working_directory));
            files.push_back({.source = sources.back().get(),
                             .entry = version->second.entry,
                             .is_checkpoints = true});
            manifest.adopted.push_back(version->second.file);
        } else {
            const Examined& examined = member->second.examined;
            paths.push_back(member->second.path);
            files.push_back({.source = sources.back().get(), .entry = examined.entry});
            manifest.adopted.push_back(
                {.mode = examined.facts.mode, .modified_ns = examined.facts.modified_ns});
        }
    }
    const std::vector<std::string> names = names_in_checkpoint(paths);
    for (std::size_t i = 0; i < files.size(); ++i) {
        files[i].entry.name = names[i];
        manifest.adopted[i].name = names[i];
        manifest.adopted[i].path = shown_path(paths[i], settings_.working_directory);
    }
    crash_point("adopt: examined");
    auto committed = store_.commit(std::move(manifest), files, context.retention);
    is_kept_lost = !committed && committed.error().kind() == ErrorKind::kCorrupt;
    return committed;
}

// The newest checkpoint has rotted, or is gone: what it had is looked for elsewhere.
void Adopter::replace_kept(Members& changed, Kepts& kept, Looked& looked) {
    for (const auto& [pattern, lost] : std::exchange(kept, {})) {
        const std::string path = whole_path(lost.file.path, settings_.working_directory);
        if (auto member = whole_on_disk(path)) {
            seen_[path] = {.facts = member->examined.facts, .wholeness = Wholeness::kWhole};
            changed.emplace(pattern, std::move(*member));
        } else if (auto older = whole_in_a_checkpoint(path)) {
            kept.emplace(pattern, std::move(*older));
        } else if (said_.insert(fmt::format("{} in {}", path, newest_path_)).second) {
            looked.notes.push_back(
                {Gravity::kWarning,
                 fmt::format("'{}' is not in the next checkpoint: neither the file nor a version "
                             "of it in a checkpoint is whole",
                             lost.file.path)});
        }
    }
}

std::optional<Adopter::Member> Adopter::whole_on_disk(const std::string& path) {
    const auto final = final_path(path);
    if (!final) return std::nullopt;
    auto examined = examine(fs_, *final);
    if (!examined || examined->wholeness != Wholeness::kWhole) return std::nullopt;
    return Member{.path = path, .final = *final, .examined = std::move(*examined)};
}

// The newest one that is whole, whatever else its checkpoint has.
std::optional<Adopter::Kept> Adopter::whole_in_a_checkpoint(const std::string& path) {
    const auto listed = store_.list();
    for (const checkpoint::Listed& one : listed ? *listed : std::vector<checkpoint::Listed>{}) {
        const auto verified = checkpoint::verify(fs_, one.path);
        if (!verified || !verified->manifest) continue;
        const checkpoint::Manifest& manifest = *verified->manifest;
        for (std::size_t i = 0; i < manifest.adopted.size(); ++i) {
            const checkpoint::AdoptedFile& file = manifest.adopted[i];
            const bool is_whole =
                std::ranges::find(verified->damages, file.name, &checkpoint::Damage::file) ==
                verified->damages.end();
            if (is_whole && whole_path(file.path, settings_.working_directory) == path)
                return Kept{.file = file, .entry = manifest.files[i], .directory = one.path};
        }
    }
    return std::nullopt;
}

}  // namespace pawl::adopt
