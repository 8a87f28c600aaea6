// Adopter: before the script starts. What is newer is kept, what is torn is set aside, and the
// newest version is put back.
//
// Order: newer versions are committed first, then files are put back. A kill in between leaves
// what the next start prepares in the same way.
#include "adopt/adopter.h"
#include "base/clock.h"
#include "checkpoint/name.h"
#include "checkpoint/set_aside.h"

#include <algorithm>
#include <limits>

namespace pawl::adopt {

using checkpoint::Manifest;

std::string why_foreign(const Settings& settings, const checkpoint::Choice& choice) {
    if (settings.patterns.empty() || !choice.chosen) return "";
    if (!choice.chosen->is_adopted()) {
        return fmt::format(
            "checkpoint '{}' is of ranks that attach, and this job keeps the files that its script "
            "saves",
            choice.path);
    }
    std::vector<std::string> paths;
    for (const checkpoint::AdoptedFile& file : choice.chosen->adopted) {
        const std::string path = whole_path(file.path, settings.working_directory);
        for (const std::string& text : settings.patterns) {
            if (matches(pattern_of(text, settings.working_directory), path)) return "";
        }
        paths.push_back(file.path);
    }
    return fmt::format("checkpoint '{}' holds '{}', and this job keeps '{}'", choice.path,
                       fmt::join(paths, "', '"), fmt::join(settings.patterns, "', '"));
}

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
    if (prepared.impossible) return prepared;
    std::vector<Content> contents;
    std::map<std::size_t, Member> newer;
    for (const Place& place : all) {
        contents.push_back(content_of(place));
        const Situation situation{
            .content = contents.back(),
            .has_version = newest_version(place.found.path).file != nullptr,
            .is_newer = is_newer(place, contents.back()) && !newer.contains(place.pattern)};
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
        if (auto again = look_again(all[i], contents[i]); !again)
            prepared.impossible = again.error();
        if (!prepared.impossible) settle(all[i], contents[i], prepared);
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
        if (!found.files.empty()) found_.insert(settings_.patterns[i]);
        if (found.failed && kept.file != nullptr) {
            prepared.impossible = found.failed;
            return all;
        }
        bool has_kept = kept.file == nullptr;
        for (Found& one : found.files) {
            if (pattern_of_path(one.path) != i) continue;
            const bool is_kept = newest_version(one.path).file != nullptr;
            has_kept = has_kept || is_kept;
            // The older files of a series are not read from end to end: there may be many.
            const bool is_used = !patterns_[i].is_series || is_kept || kept.file == nullptr ||
                                 one.facts.modified_ns >= kept.file->modified_ns;
            auto examined = is_used ? examine(fs_, one.final) : glance(fs_, one.final);
            if (!examined) {
                if (is_kept) {
                    prepared.impossible = examined.error();
                    return all;
                }
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
        if (!manifest || !manifest->is_adopted()) continue;
        const auto stamp = facts_of(join_path(one.path, checkpoint::kSetAsideName));
        for (checkpoint::AdoptedFile& file : manifest->adopted) {
            file.modified_ns = stamp && stamp->has_value()
                                   ? (*stamp)->modified_ns
                                   : std::numeric_limits<std::int64_t>::max();
        }
        abandoned_.push_back(std::move(*manifest));
    }
}

// The latest time that what is in the place has in one of them; nullopt: it is in none.
std::optional<std::int64_t> Adopter::time_in(const std::vector<Manifest>& manifests,
                                             const Place& place) const {
    const checkpoint::FileEntry& entry = place.examined.entry;
    std::optional<std::int64_t> time;
    for (const Manifest& manifest : manifests) {
        for (std::size_t i = 0; i < manifest.adopted.size(); ++i) {
            const checkpoint::FileEntry& file = manifest.files[i];
            if (file.bytes == entry.bytes && file.chunks == entry.chunks &&
                whole_path(manifest.adopted[i].path, settings_.working_directory) ==
                    place.found.path)
                time = std::max(time.value_or(std::numeric_limits<std::int64_t>::min()),
                                manifest.adopted[i].modified_ns);
        }
    }
    return time;
}

bool Adopter::has_older(const std::string& path) const {
    return std::ranges::any_of(older_, [&](const Manifest& manifest) {
        return std::ranges::any_of(manifest.adopted, [&](const checkpoint::AdoptedFile& file) {
            return whole_path(file.path, settings_.working_directory) == path;
        });
    });
}

// A time that it does not have from its script: a copy that was brought back by hand, and touched.
bool Adopter::is_newer(const Place& place, Content content) const {
    const Version kept = newest_version(place.pattern);
    const std::int64_t modified_ns = place.found.facts.modified_ns;
    if (content != Content::kOlder && content != Content::kRolledBack) {
        if (kept.file == nullptr) return true;
        // In a series a time that is still to come is of a clock that was set back since.
        const std::int64_t now_ns =
            SystemClock().wall_now().time_since_epoch() / std::chrono::nanoseconds(1);
        const bool is_ahead = patterns_[place.pattern].is_series && modified_ns > now_ns &&
                              kept.file->modified_ns <= now_ns;
        return modified_ns >= kept.file->modified_ns && !is_ahead;
    }
    const auto own = time_in(content == Content::kOlder ? older_ : abandoned_, place);
    return own && modified_ns > *own &&
           (kept.file == nullptr || modified_ns > kept.file->modified_ns);
}

Content Adopter::content_of(const Place& place) {
    if (!place.is_there) return Content::kAbsent;
    switch (place.examined.wholeness) {
        case Wholeness::kAbsent:
            return Content::kAbsent;
        case Wholeness::kTorn: {
            // By its own name it is a version that was torn at once: the script would load it.
            const bool is_kept =
                newest_version(place.found.path).file != nullptr || has_older(place.found.path);
            const bool is_marker =
                patterns_[place.pattern].is_series && place.examined.facts.bytes == 0 && !is_kept;
            return is_marker ? Content::kEmpty : Content::kTorn;
        }
        case Wholeness::kForeign:
        case Wholeness::kChanging:  // somebody else writes it now: not ours to judge
            return Content::kForeign;
        case Wholeness::kWhole:
            break;
    }
    if (place.examined.entry.chunks.empty()) return Content::kOlder;  // a glance: of a series
    if (newest_ && time_in({*newest_}, place)) return Content::kNewest;
    if (time_in(older_, place)) return Content::kOlder;
    if (time_in(abandoned_, place)) return Content::kRolledBack;
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
                                  .path = place.moved_path(),
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

// Of two names for one file the second finds it put back.
Result<void> Adopter::look_again(Place& place, Content& content) {
    const auto facts = facts_of(place.found.final);
    if (!facts) return facts.error();
    if (place.is_there && *facts == place.examined.facts) return {};
    if (!place.is_there && !facts->has_value()) return {};
    auto examined = examine(fs_, place.found.final);
    if (!examined) return examined.error();
    place.is_there = facts->has_value();
    place.found.facts = examined->facts;
    place.examined = std::move(*examined);
    content = content_of(place);
    return {};
}

// Of a series it is in no checkpoint, though it seems to have come after the one that counts.
void Adopter::say_passed_over(const Place& place, Prepared& prepared) {
    const Version kept = newest_version(place.pattern);
    if (kept.file == nullptr || !patterns_[place.pattern].is_series) return;
    const Facts& facts = place.examined.facts;
    const auto of_kept = facts_of(whole_path(kept.file->path, settings_.working_directory));
    const bool is_later = facts.modified_ns < kept.file->modified_ns && of_kept &&
                          of_kept->has_value() && facts.changed_ns > (*of_kept)->changed_ns;
    if (facts.modified_ns <= kept.file->modified_ns && !is_later) return;
    if (has_older(place.found.path) ||
        !said_.insert(fmt::format("passed over {}", place.pattern)).second)
        return;
    prepared.looked.notes.push_back(
        {Gravity::kWarning,
         fmt::format("'{}' has an {} time and is passed over: '{}' of checkpoint {} counts. If it "
                     "is the newest all the same, give it a new time (touch) and start again",
                     shown_path(place.found.path, settings_.working_directory),
                     is_later ? "older" : "impossible", kept.file->path, newest_->sequence)});
}

// Links that lead to what was set aside lead to the newest of their series: a script that goes by
// one would begin again.
void Adopter::lead_elsewhere(const Place& place, Prepared& prepared) {
    const Version kept = newest_version(place.pattern);
    if (kept.file == nullptr) return;
    const std::string target = whole_path(kept.file->path, settings_.working_directory);
    for (const std::string& link : place.found.links) {
        if (const auto done = fs_.replace_link(target, link); !done) {
            prepared.impossible = done.error();
            return;
        }
        prepared.looked.notes.push_back(
            {Gravity::kWarning,
             fmt::format("'{}' led to it, and leads to '{}' now",
                         shown_path(link, settings_.working_directory), kept.file->path)});
    }
}

// What is about to give way, as a person would say it.
std::string Adopter::said_of(const Place& place) const {
    const auto quoted = [this](const std::string& path) {
        return fmt::format("'{}'", shown_path(path, settings_.working_directory));
    };
    if (place.moved_path() == place.found.path) return quoted(place.found.path);
    return fmt::format("{}, where {} leads,", quoted(place.found.final), quoted(place.found.path));
}

void Adopter::settle(const Place& place, Content content, Prepared& prepared) {
    const std::string shown = said_of(place);
    const bool has_newest = newest_version(place.found.path).file != nullptr;
    bool has_version = has_newest;
    // Torn, it is worth the version before, from whichever checkpoint has one.
    if (content == Content::kTorn) has_version = has_version || has_older(place.found.path);
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
            if (content == Content::kOlder || content == Content::kUnknown)
                say_passed_over(place, prepared);
            if (place.is_there) {
                seen_[place.found.path] = {.facts = place.examined.facts,
                                           .wholeness = place.examined.wholeness};
                note_resume();
            }
            return;
        case Measure::kSetAside: {
            auto aside = set_aside(place.moved_path(), why);
            if (!aside) {
                prepared.impossible = aside.error();
                return;
            }
            say(Gravity::kWarning,
                content == Content::kTorn
                    ? fmt::format("{} is torn ({}), and there is no checkpoint of it: set "
                                  "aside as '{}'",
                                  shown, place.examined.why, *aside)
                    : fmt::format("{} is of what was rolled back: set aside as '{}'", shown,
                                  *aside));
            return lead_elsewhere(place, prepared);
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
    if (const auto facts = facts_of(place.found.path); facts && facts->has_value())
        seen_[place.found.path] = {.facts = **facts, .wholeness = Wholeness::kWhole};
    if (content == Content::kTorn) {
        return say(Gravity::kWarning,
                   fmt::format("{} was torn while it was saved ({}): set aside as '{}', and put "
                               "back from {}",
                               shown, place.examined.why, *aside, from));
    }
    if (measure == Measure::kReplace) {
        return say(Gravity::kWarning,
                   content == Content::kRolledBack
                       ? fmt::format("{} is of what was rolled back: set aside as '{}', and put "
                                     "back from {}",
                                     shown, *aside, from)
                       : fmt::format("{} is older than {}, which was put back; what was there is "
                                     "now '{}'",
                                     shown, from, *aside));
    }
    say(Gravity::kInfo, fmt::format("{} was put back from {}", shown, from));
}

}  // namespace pawl::adopt
