// Adopter: looking, and what is new into a checkpoint. Before a start: adopter_prepare.cc.
#include "adopt/adopter.h"

#include "base/crash_point.h"
#include "torchfile/text.h"

#include <algorithm>

namespace pawl::adopt {
namespace {

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

// ---- what is there ----

Result<std::vector<Adopter::Found>> Adopter::find(const Pattern& pattern, Looked& looked) {
    std::vector<Found> found;
    RETURN_IF_ERROR(find_below(pattern, 0, pattern.directory, found, looked));
    std::ranges::sort(found, std::ranges::greater{},
                      [](const Found& one) { return std::pair(one.facts.modified_ns, one.path); });
    return found;
}

// The watch is set before the directory is read: what comes in between is seen twice, never missed.
Result<void> Adopter::find_below(const Pattern& pattern, std::size_t depth,
                                 const std::string& directory, std::vector<Found>& found,
                                 Looked& looked) {
    RETURN_IF_ERROR(watches_.watch(directory));
    const std::string& component = pattern.components[depth];
    if (!pattern.is_series) {
        add_file(join_path(directory, component), found, looked);
        return {};
    }
    const auto entries = fs_.list_directory(directory);
    if (!entries) {
        if (entries.error().kind() == ErrorKind::kNotFound) return {};
        return entries.error();
    }
    const bool is_last = depth + 1 == pattern.components.size();
    for (const DirectoryEntry& entry : *entries) {
        if (!matches(component, entry.name)) continue;
        const std::string path = join_path(directory, entry.name);
        if (is_last) {
            add_file(path, found, looked);
        } else if (entry.type == FileType::kDirectory) {
            RETURN_IF_ERROR(find_below(pattern, depth + 1, path, found, looked));
        }
    }
    return {};
}

void Adopter::add_file(const std::string& path, std::vector<Found>& found, Looked& looked) {
    if (!can_be_named(path, looked)) return;
    const auto final = final_path(path);
    if (!final) return looked.notes.push_back({Gravity::kWarning, final.error().text()});
    if (*final != path) {
        looked.final_paths.push_back(*final);
        if (const auto watched = watches_.watch(final->substr(0, final->find_last_of('/') + 1));
            !watched)
            looked.notes.push_back({Gravity::kWarning, watched.error().text()});
    }
    const auto facts = facts_of(*final);
    if (!facts) return looked.notes.push_back({Gravity::kWarning, facts.error().text()});
    if (facts->has_value()) found.push_back({.path = path, .final = *final, .facts = **facts});
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
    const auto found = find(patterns_[pattern], looked);
    if (!found) {
        looked.notes.push_back({Gravity::kWarning, found.error().text()});
        return std::nullopt;
    }
    const Version kept = newest_version(pattern);
    for (const Found& one : *found) {
        if (pattern_of_path(one.path) != pattern) continue;
        // Of a series only what is newer counts: the newest may have been removed by its script.
        const bool is_old = patterns_[pattern].is_series && kept.file != nullptr &&
                            one.facts.modified_ns < kept.file->modified_ns;
        if (is_old) return std::nullopt;
        const auto seen = seen_.find(one.path);
        if (seen != seen_.end() && seen->second.facts == one.facts) {
            if (seen->second.wholeness == Wholeness::kWhole) return std::nullopt;
            continue;  // torn, and nobody has written to it since
        }
        auto examined = examine(fs_, one.final);
        if (!examined) {
            looked.notes.push_back({Gravity::kWarning, examined.error().text()});
            continue;
        }
        if (examined->wholeness == Wholeness::kChanging) continue;
        seen_[one.path] = {.facts = examined->facts, .wholeness = examined->wholeness};
        if (examined->wholeness == Wholeness::kForeign)
            say_foreign(one.path, examined->why, looked);
        if (examined->wholeness != Wholeness::kWhole) continue;
        const bool is_kept = kept.file != nullptr &&
                             whole_path(kept.file->path, settings_.working_directory) == one.path &&
                             has_content(*kept.entry, examined->entry);
        if (is_kept) return std::nullopt;
        return Member{.path = one.path, .final = one.final, .examined = std::move(*examined)};
    }
    return std::nullopt;
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
    checkpoint::Manifest manifest = context.manifest;
    manifest.reason = checkpoint::Reason::kAdopt;
    number(changed, manifest);

    std::vector<checkpoint::KnownFile> files;
    std::vector<std::unique_ptr<ByteSource>> sources;
    std::vector<std::string> paths;
    const auto open = [&](const std::string& path) -> Result<void> {
        auto source = fs_.open_file(path);
        if (!source) return source.error();
        sources.push_back(std::move(*source));
        return {};
    };
    const auto gather = [&]() -> Result<void> {
        for (std::size_t i = 0; i < patterns_.size(); ++i) {
            const Version kept = newest_version(i);
            if (const auto member = changed.find(i); member != changed.end()) {
                const Examined& examined = member->second.examined;
                RETURN_IF_ERROR(open(member->second.final));
                paths.push_back(member->second.path);
                files.push_back({.source = sources.back().get(), .entry = examined.entry});
                manifest.adopted.push_back(
                    {.mode = examined.facts.mode, .modified_ns = examined.facts.modified_ns});
            } else if (kept.file != nullptr) {
                RETURN_IF_ERROR(open(join_path(newest_path_, kept.file->name)));
                paths.push_back(whole_path(kept.file->path, settings_.working_directory));
                files.push_back({.source = sources.back().get(), .entry = *kept.entry});
                manifest.adopted.push_back(*kept.file);
            }
        }
        return {};
    };
    const auto forget = [&] {  // the next look takes them for new once more
        for (const auto& [pattern, member] : changed)
            seen_.erase(member.path);
    };
    if (auto gathered = gather(); !gathered) {
        forget();
        looked.failed = gathered.error();
        return;
    }
    const std::vector<std::string> names = names_in_checkpoint(paths);
    for (std::size_t i = 0; i < files.size(); ++i) {
        files[i].entry.name = names[i];
        manifest.adopted[i].name = names[i];
        manifest.adopted[i].path = shown_path(paths[i], settings_.working_directory);
    }
    crash_point("adopt: examined");
    auto committed = store_.commit(std::move(manifest), files, context.retention);
    if (!committed) {
        forget();
        // Written anew meanwhile: an event will follow, or has.
        if (committed.error().kind() != ErrorKind::kBusy) looked.failed = committed.error();
        return;
    }
    crash_point("adopt: committed");
    newest_ = committed->manifest;
    newest_path_ = committed->path;
    for (const auto& [pattern, member] : changed)
        numbers_[member.path] = member.examined.numbers;
    looked.committed = std::move(*committed);
}

}  // namespace pawl::adopt
