// Adopter: before the script starts. What is newer is kept, what is torn is set aside, and the
// newest version is put back.
//
// Order: newer versions are committed first, then files are put back. A kill in between leaves
// what the next start prepares in the same way.
#include "adopt/adopter.h"
#include "checkpoint/set_aside.h"

#include <algorithm>

namespace pawl::adopt {

using checkpoint::Manifest;

Prepared Adopter::prepare(const Settings& settings, checkpoint::Choice& choice,
                          const Context& context) {
    settings_ = settings;
    patterns_.clear();
    for (const std::string& text : settings.patterns)
        patterns_.push_back(pattern_of(text, settings.working_directory));
    seen_.clear();
    newest_.reset();
    if (choice.chosen && choice.chosen->is_adopted()) {
        newest_ = choice.chosen;
        newest_path_ = choice.path;
    }
    read_others();

    Prepared prepared;
    std::vector<Place> all = places(prepared);
    std::vector<Content> contents;
    std::map<std::size_t, Member> newer;
    for (const Place& place : all) {
        contents.push_back(content_of(place));
        const Version kept = newest_version(place.pattern);
        const bool is_newer =
            kept.file == nullptr || place.found.facts.modified_ns >= kept.file->modified_ns;
        const Situation situation{.content = contents.back(),
                                  .has_version = newest_version(place.found.path).file != nullptr,
                                  .is_newer = is_newer && !newer.contains(place.pattern)};
        if (contents.back() == Content::kNewest || contents.back() == Content::kOlder)
            numbers_[place.found.path] = place.examined.numbers;
        if (measure_for(situation) == Measure::kAdopt) {
            newer.emplace(place.pattern, Member{.path = place.found.path,
                                                .final = place.found.final,
                                                .examined = place.examined});
        }
    }
    if (!newer.empty()) commit(newer, context, prepared.looked);
    if (prepared.looked.committed) {
        choice.chosen = newest_;
        choice.path = newest_path_;
        choice.some_existed = true;
    }
    for (std::size_t i = 0; i < all.size(); ++i) {
        const auto member = newer.find(all[i].pattern);
        // It stays, also if there was no room for a checkpoint of it.
        const bool stays = member != newer.end() && member->second.path == all[i].found.path;
        if (stays) {
            if (prepared.resume_path.empty()) prepared.resume_path = all[i].found.path;
            seen_[all[i].found.path] = {
                .facts = all[i].examined.facts,
                .wholeness = prepared.looked.committed ? Wholeness::kWhole : Wholeness::kAbsent};
            continue;
        }
        settle(all[i], contents[i], prepared);
        if (prepared.impossible) return prepared;
    }
    older_.clear();
    older_paths_.clear();
    abandoned_.clear();
    return prepared;
}

// Every file that a pattern names, and every place that the newest checkpoint has a file for; in
// the order of the patterns, of a series the newest first.
std::vector<Adopter::Place> Adopter::places(Prepared& prepared) {
    std::vector<Place> all;
    for (std::size_t i = 0; i < patterns_.size(); ++i) {
        const Version kept = newest_version(i);
        auto found = find(patterns_[i], prepared.looked);
        if (!found) {
            prepared.looked.notes.push_back({Gravity::kWarning, found.error().text()});
            continue;
        }
        bool has_kept = kept.file == nullptr;
        for (Found& one : *found) {
            if (pattern_of_path(one.path) != i) continue;
            const bool is_kept = newest_version(one.path).file != nullptr;
            has_kept = has_kept || is_kept;
            // The older files of a series are not read from end to end: there may be many.
            const bool is_used = !patterns_[i].is_series || is_kept || kept.file == nullptr ||
                                 one.facts.modified_ns >= kept.file->modified_ns;
            auto examined = is_used ? examine(fs_, one.final) : glance(fs_, one.final);
            if (!examined) {
                prepared.looked.notes.push_back({Gravity::kWarning, examined.error().text()});
                continue;
            }
            all.push_back({.pattern = i,
                           .found = std::move(one),
                           .is_there = true,
                           .examined = std::move(*examined)});
        }
        if (has_kept) continue;
        Place missing{.pattern = i};
        missing.found.path = whole_path(kept.file->path, settings_.working_directory);
        const auto final = final_path(missing.found.path);
        missing.found.final = final ? *final : missing.found.path;
        all.push_back(std::move(missing));
    }
    return all;
}

// Manifests of what else the directory has. What can't be read is no help, and no harm.
void Adopter::read_others() {
    older_.clear();
    older_paths_.clear();
    abandoned_.clear();
    const auto listed = store_.list();
    for (const checkpoint::Listed& one : listed ? *listed : std::vector<checkpoint::Listed>{}) {
        auto manifest = checkpoint::read_manifest_of(fs_, one.path);
        if (!manifest || !manifest->is_adopted()) continue;
        if (newest_ && manifest->sequence == newest_->sequence) continue;
        older_.push_back(std::move(*manifest));
        older_paths_.push_back(one.path);
    }
    const auto asides = checkpoint::list_aside(fs_, store_.directory(), checkpoint::kAbandonedName);
    for (const checkpoint::Aside& one : asides ? *asides : std::vector<checkpoint::Aside>{}) {
        auto manifest = checkpoint::read_manifest_of(fs_, one.path);
        if (manifest && manifest->is_adopted()) abandoned_.push_back(std::move(*manifest));
    }
}

bool Adopter::is_in(const std::vector<Manifest>& manifests, const checkpoint::FileEntry& entry,
                    const std::string& path) const {
    for (const Manifest& manifest : manifests) {
        for (std::size_t i = 0; i < manifest.adopted.size(); ++i) {
            const checkpoint::FileEntry& file = manifest.files[i];
            if (file.bytes == entry.bytes && file.chunks == entry.chunks &&
                whole_path(manifest.adopted[i].path, settings_.working_directory) == path)
                return true;
        }
    }
    return false;
}

Content Adopter::content_of(const Place& place) {
    if (!place.is_there) return Content::kAbsent;
    switch (place.examined.wholeness) {
        case Wholeness::kAbsent:
            return Content::kAbsent;
        case Wholeness::kTorn:
            return Content::kTorn;
        case Wholeness::kForeign:
        case Wholeness::kChanging:  // somebody else writes it now: not ours to judge
            return Content::kForeign;
        case Wholeness::kWhole:
            break;
    }
    if (place.examined.entry.chunks.empty()) return Content::kOlder;  // a glance: of a series
    const checkpoint::FileEntry& entry = place.examined.entry;
    if (newest_ && is_in({*newest_}, entry, place.found.path)) return Content::kNewest;
    if (is_in(older_, entry, place.found.path)) return Content::kOlder;
    if (is_in(abandoned_, entry, place.found.path)) return Content::kRolledBack;
    return Content::kUnknown;
}

// From the newest checkpoint that has a version for the place. `from` says which; NotFound: none.
Result<std::string> Adopter::put_back_version(const Place& place, std::string_view aside,
                                              std::string& from) {
    const auto from_one = [&](const Manifest& manifest,
                              const std::string& path) -> Result<std::string> {
        for (std::size_t i = 0; i < manifest.adopted.size(); ++i) {
            if (whole_path(manifest.adopted[i].path, settings_.working_directory) !=
                place.found.path)
                continue;
            const auto source = fs_.open_file(join_path(path, manifest.files[i].name));
            if (!source) return source.error();
            from = fmt::format("checkpoint {}", manifest.sequence);
            auto done = put_back({.source = **source,
                                  .entry = manifest.files[i],
                                  .file = manifest.adopted[i],
                                  .path = place.found.final,
                                  .aside = aside});
            if (!done) return done;
            return done;
        }
        return make_error(ErrorKind::kNotFound, "no checkpoint has it");
    };
    if (newest_) {
        auto done = from_one(*newest_, newest_path_);
        if (!from.empty() || done) return done;
    }
    for (std::size_t i = 0; i < older_.size(); ++i) {
        auto done = from_one(older_[i], older_paths_[i]);
        // A damaged one is found out by its digests, and the one before is as good.
        if (done || (!from.empty() && done.error().kind() != ErrorKind::kCorrupt)) return done;
    }
    return make_error(ErrorKind::kNotFound, "no checkpoint has it");
}

void Adopter::settle(const Place& place, Content content, Prepared& prepared) {
    const std::string shown = shown_path(place.found.path, settings_.working_directory);
    const bool has_newest = newest_version(place.found.path).file != nullptr;
    bool has_version = has_newest;
    // Torn, it is worth the version before, from whichever checkpoint has one.
    if (content == Content::kTorn) {
        has_version = has_version || std::ranges::any_of(older_, [&](const Manifest& manifest) {
                          return std::ranges::any_of(
                              manifest.adopted, [&](const checkpoint::AdoptedFile& file) {
                                  return whole_path(file.path, settings_.working_directory) ==
                                         place.found.path;
                              });
                      });
    }
    const Measure measure = measure_for({.content = content, .has_version = has_version});
    const auto say = [&](Gravity gravity, std::string text) {
        prepared.looked.notes.push_back({gravity, std::move(text)});
    };
    const bool is_resumed = has_newest || content == Content::kForeign;
    const auto note_resume = [&] {
        if (is_resumed && prepared.resume_path.empty()) prepared.resume_path = place.found.path;
    };
    const std::string_view why = content == Content::kTorn         ? "torn"
                                 : content == Content::kRolledBack ? "rolled-back"
                                                                   : "replaced";
    switch (measure) {
        case Measure::kLeave:
        case Measure::kAdopt:
            if (content == Content::kForeign && place.examined.wholeness == Wholeness::kForeign)
                say_foreign(place.found.path, place.examined.why, prepared.looked);
            if (place.is_there) {
                seen_[place.found.path] = {.facts = place.examined.facts,
                                           .wholeness = place.examined.wholeness};
                note_resume();
            }
            return;
        case Measure::kSetAside: {
            auto aside = set_aside(place.found.final, why);
            if (!aside) {
                prepared.impossible = aside.error();
                return;
            }
            return say(Gravity::kWarning,
                       content == Content::kTorn
                           ? fmt::format("'{}' is torn ({}), and there is no checkpoint of it: set "
                                         "aside as '{}'",
                                         shown, place.examined.why, *aside)
                           : fmt::format("'{}' is of what was rolled back: set aside as '{}'",
                                         shown, *aside));
        }
        case Measure::kPutBack:
        case Measure::kReplace:
            break;
    }
    std::string from;
    auto aside = put_back_version(place, measure == Measure::kReplace ? why : "", from);
    if (!aside) {
        prepared.impossible = std::move(aside).error();
        return;
    }
    note_resume();
    if (const auto facts = facts_of(place.found.final); facts && facts->has_value())
        seen_[place.found.path] = {.facts = **facts, .wholeness = Wholeness::kWhole};
    if (content == Content::kTorn) {
        return say(Gravity::kWarning,
                   fmt::format("'{}' was torn while it was saved ({}): set aside as '{}', and put "
                               "back from {}",
                               shown, place.examined.why, *aside, from));
    }
    if (measure == Measure::kReplace) {
        return say(Gravity::kWarning,
                   fmt::format("'{}' is older than {}, which was put back; what was there is now "
                               "'{}'",
                               shown, from, *aside));
    }
    say(Gravity::kInfo, fmt::format("'{}' was put back from {}", shown, from));
}

}  // namespace pawl::adopt
