// See store.h.
#include "checkpoint/store.h"

#include "base/crash_point.h"
#include "checkpoint/pin.h"
#include "checkpoint/rollback.h"
#include "checkpoint/set_aside.h"

#include <algorithm>
#include <array>

namespace pawl::checkpoint {
namespace {

std::string summary_of(const Verification& verification) {
    if (verification.damages.empty()) return "no manifest";
    const std::size_t more = verification.damages.size() - 1;
    const std::string first = verification.damages.front().describe();
    return more == 0 ? first : fmt::format("{} (and {} more)", first, more);
}

Candidate candidate_of(const Manifest& manifest) {
    return {.sequence = manifest.sequence,
            .step = manifest.step,
            .epoch = manifest.epoch,
            .bytes = manifest.total_bytes(),
            .metrics = manifest.metrics};
}

}  // namespace

Store::Store(FileSystem& fs, const Clock& clock, Ledger& ledger, std::string directory,
             std::string job)
    : fs_(fs),
      clock_(clock),
      ledger_(ledger),
      directory_(std::move(directory)),
      job_(std::move(job)) {
}

Result<void> Store::open() {
    const auto open_in_order = [this]() -> Result<void> {
        RETURN_IF_ERROR(create_directories(fs_, directory_));
        RETURN_IF_ERROR(sweep());
        const auto decided = read_rollback(fs_, directory_);
        if (!decided) return decided.error();
        if (!decided->has_value()) return {};
        auto completed = complete_rollback((*decided)->to, (*decided)->through);
        if (!completed) return completed.error();
        completed_rollback_ = std::move(*completed);
        return {};
    };
    auto opened = open_in_order();
    if (!opened) {
        return Error(opened.error()).while_doing("open the checkpoint directory of job '{}'", job_);
    }
    return {};
}

Result<void> Store::sweep() {
    const auto entries = fs_.list_directory(directory_);
    if (!entries) return entries.error();
    for (const DirectoryEntry& entry : *entries) {
        if (!entry.name.starts_with(kTemporaryPrefix)) continue;
        // The sequence of an attempt is used up, even when the attempt is swept away.
        if (const auto sequence = sequence_in(entry.name)) set_sequence_floor(*sequence);
        const std::string path = join_path(directory_, entry.name);
        const std::string name = entry.name.substr(kTemporaryPrefix.size());
        // Retention had taken it away when it was pinned, and was killed before it gave it back.
        const auto pinned = is_pinned(fs_, path);
        if (!pinned) return pinned.error();
        if (*pinned && parse_checkpoint_name(name)) {
            RETURN_IF_ERROR(fs_.rename(path, join_path(directory_, name)));
            RETURN_IF_ERROR(fs_.sync_directory(directory_));
            continue;
        }
        RETURN_IF_ERROR(remove_tree(fs_, path));
    }
    return {};
}

Result<std::vector<Listed>> list_checkpoints(FileSystem& fs, const std::string& directory) {
    const auto entries = fs.list_directory(directory);
    if (!entries) return entries.error();
    std::vector<Listed> listed;
    for (const DirectoryEntry& entry : *entries) {
        const auto name = parse_checkpoint_name(entry.name);
        if (!name || entry.type != FileType::kDirectory) continue;
        listed.push_back({.name = *name, .path = join_path(directory, entry.name)});
    }
    std::ranges::sort(listed, std::ranges::greater{},
                      [](const Listed& one) { return one.name.sequence; });
    return listed;
}

Result<Manifest> read_manifest_of(FileSystem& fs, const std::string& path) {
    const auto text = read_text(fs, join_path(path, kManifestName), kManifestBytesMax);
    if (!text) return text.error();
    return read_manifest(*text);
}

bool is_named(const CheckpointName& name, const std::string& text) {
    return to_string(name) == text || fmt::format("{}", name.sequence) == text;
}

Result<std::vector<Listed>> Store::list() const {
    return list_checkpoints(fs_, directory_);
}

bool Store::has_set_aside() const {
    return std::ranges::any_of(
        std::array{kQuarantineName, kAbandonedName}, [this](std::string_view place) {
            const auto set_aside = fs_.list_directory(join_path(directory_, place));
            return set_aside && !set_aside->empty();
        });
}

Result<Choice> Store::choose() {
    const auto listed = list();
    if (!listed) return listed.error();
    Choice choice;
    choice.some_existed = !listed->empty();
    for (const Listed& checkpoint : *listed) {
        auto verification = verify(fs_, checkpoint.path);
        if (!verification) return verification.error();
        choice.bytes_verified += verification->bytes_read;
        if (verification->is_valid()) {
            verified_.insert(checkpoint.name.sequence);
            known_[checkpoint.name.sequence] = candidate_of(*verification->manifest);
            choice.chosen = std::move(verification->manifest);
            choice.path = checkpoint.path;
            point_latest_at(to_string(checkpoint.name), choice.warnings);
            if (const auto told = ledger_.verified(checkpoint.name); !told)
                choice.warnings.push_back(told.error().text());
            return choice;
        }
        auto rejected = quarantine(checkpoint, *verification);
        if (!rejected) {  // it stays where it is, and the one before it is as good
            choice.warnings.push_back(rejected.error().text());
            choice.rejected.push_back({.name = checkpoint.name, .why = summary_of(*verification)});
            continue;
        }
        if (const auto told = ledger_.quarantined(checkpoint.name, rejected->why); !told) {
            choice.warnings.push_back(told.error().text());
        }
        choice.rejected.push_back(std::move(*rejected));
    }
    // A link to what was set aside would lead people nowhere.
    if (const auto unlinked = fs_.remove(join_path(directory_, kLatestName)); !unlinked) {
        choice.warnings.push_back(unlinked.error().text());
    }
    if (choice.some_existed) return choice;
    choice.some_existed = has_set_aside();
    if (!choice.some_existed) choice.missing = ledger_.known();
    return choice;
}

Result<Rejected> Store::quarantine(const Listed& checkpoint, const Verification& verification) {
    Rejected rejected{.name = checkpoint.name, .why = summary_of(verification)};
    verified_.erase(checkpoint.name.sequence);
    known_.erase(checkpoint.name.sequence);
    auto moved = move_aside(fs_, directory_, to_string(checkpoint.name), kQuarantineName);
    if (!moved) {
        return Error(moved.error())
            .while_doing("quarantine the damaged checkpoint '{}'", checkpoint.path);
    }
    rejected.moved_to = std::move(*moved);
    // Without a stamp its time there begins when retention next comes by.
    static_cast<void>(stamp_aside(fs_, rejected.moved_to, clock_.wall_now(), rejected.why));
    return rejected;
}

void Store::note_verified(Sequence sequence) {
    verified_.insert(sequence);
}

Result<std::optional<Rejected>> Store::confirm_damage(const CheckpointName& name) {
    const auto listed = list();
    if (!listed) return listed.error();
    const auto found = std::ranges::find(*listed, name, &Listed::name);
    if (found == listed->end()) return std::optional<Rejected>{};
    const auto verification = verify(fs_, found->path);
    if (!verification) return verification.error();
    if (verification->is_valid()) {
        verified_.insert(name.sequence);
        return std::optional<Rejected>{};
    }
    verified_.erase(name.sequence);
    Rejected rejected{.name = name, .why = summary_of(*verification)};
    if (!another_is_valid(name)) return std::optional{std::move(rejected)};
    auto moved = quarantine(*found, *verification);
    if (!moved) return moved.error();
    // The newest of those that are left.
    std::vector<std::string> ignored;
    for (const Listed& one : *listed) {
        if (one.name == name) continue;
        // A link for people: the next commit moves it in any case.
        point_latest_at(to_string(one.name), ignored);
        break;
    }
    // The next start makes the journal agree with the directory.
    static_cast<void>(ledger_.quarantined(name, moved->why));
    return std::optional{std::move(*moved)};
}

bool Store::another_is_valid(const CheckpointName& name) {
    const auto listed = list();
    if (!listed) return false;
    const auto is_other = [&name](const Listed& one) { return one.name != name; };
    for (const Listed& one : *listed) {
        if (is_other(one) && verified_.contains(one.name.sequence)) return true;
    }
    for (const Listed& one : *listed) {
        if (!is_other(one)) continue;
        const auto verification = verify(fs_, one.path);
        if (!verification || !verification->is_valid()) continue;
        verified_.insert(one.name.sequence);
        return true;
    }
    return false;
}

Result<Sequence> Store::next_sequence() {
    Sequence highest = sequence_floor_;
    for (const std::string& place : {directory_, join_path(directory_, kQuarantineName),
                                     join_path(directory_, kAbandonedName)}) {
        const auto entries = fs_.list_directory(place);
        if (!entries) {
            if (place != directory_ && entries.error().kind() == ErrorKind::kNotFound) continue;
            return entries.error();
        }
        for (const DirectoryEntry& entry : *entries) {
            if (const auto sequence = sequence_in(entry.name))
                highest = std::max(highest, *sequence);
        }
    }
    sequence_floor_ = highest.next();
    return sequence_floor_;
}

Result<Committed> Store::commit(Manifest manifest, const std::vector<RankImage>& images,
                                const RetentionPolicy& retention) {
    return commit_files(std::move(manifest), images, retention);
}

Result<Committed> Store::commit(Manifest manifest, const std::vector<KnownFile>& files,
                                const RetentionPolicy& retention) {
    return commit_files(std::move(manifest), files, retention);
}

template <class Files>
Result<Committed> Store::commit_files(Manifest manifest, const Files& files,
                                      const RetentionPolicy& retention) {
    const MonotonicTime began = clock_.monotonic_now();
    const auto sequence = next_sequence();
    if (!sequence)
        return Error(sequence.error()).while_doing("number the next checkpoint of job '{}'", job_);
    manifest.job = job_;
    manifest.sequence = *sequence;
    manifest.time = clock_.wall_now();
    auto written = checkpoint::commit(fs_, directory_, std::move(manifest), files);
    if (!written) return written.error();

    // From here on the checkpoint is safe; what fails is a warning.
    Committed committed{.manifest = std::move(*written)};
    const std::string name = to_string({.sequence = *sequence, .step = committed.manifest.step});
    committed.path = join_path(directory_, name);
    verified_.insert(*sequence);
    known_[*sequence] = candidate_of(committed.manifest);
    if (const auto told = ledger_.committed(committed.manifest); !told) {
        committed.warnings.push_back(told.error().text());
    }
    crash_point("commit: journalled");
    std::vector<std::string> link_warnings;
    point_latest_at(name, link_warnings);
    crash_point("commit: latest moved");
    retain(retention, committed);
    // A disk that was full has room now; and what `latest` still names may just have been removed.
    if (!link_warnings.empty()) point_latest_at(name, committed.warnings);
    crash_point("commit: retention done");
    committed.duration = clock_.monotonic_now() - began;
    return committed;
}

void Store::point_latest_at(const std::string& name, std::vector<std::string>& warnings) {
    const auto linked = fs_.replace_link(name, join_path(directory_, kLatestName));
    if (!linked) warnings.push_back(linked.error().text());
}

std::vector<std::string> Store::apply_retention(const RetentionPolicy& retention) {
    Committed nothing;
    retain(retention, nothing);
    return nothing.warnings;
}

// What is committed, as far as its manifests can be read. What can't be is left to verification.
Result<std::vector<Candidate>> Store::candidates() {
    const auto listed = list();
    if (!listed) return listed.error();
    std::map<Sequence, Candidate> known;
    std::vector<Candidate> candidates;
    for (const Listed& checkpoint : *listed) {
        auto found = known_.find(checkpoint.name.sequence);
        if (found == known_.end()) {
            const auto manifest = read_manifest_of(fs_, checkpoint.path);
            if (!manifest) continue;
            found = known_.emplace(checkpoint.name.sequence, candidate_of(*manifest)).first;
        }
        Candidate candidate = found->second;
        candidate.sequence = checkpoint.name.sequence;
        known.emplace(candidate.sequence, candidate);
        const auto pinned = is_pinned(fs_, checkpoint.path);
        if (!pinned) return pinned.error();
        candidate.is_pinned = *pinned;
        candidates.push_back(std::move(candidate));
    }
    known_ = std::move(known);  // without those that are gone
    return candidates;
}

void Store::retain(const RetentionPolicy& policy, Committed& committed) {
    const auto known = candidates();
    const auto listed = list();
    if (!known || !listed) {
        committed.warnings.push_back(known ? listed.error().text() : known.error().text());
        return;
    }
    const RetentionPlan plan = plan_retention(*known, verified_, policy);
    for (const Sequence sequence : plan.removable) {
        const auto found = std::ranges::find(*listed, sequence,
                                             [](const Listed& one) { return one.name.sequence; });
        if (found == listed->end()) continue;
        const auto removed = remove(*found);
        if (!removed) committed.warnings.push_back(removed.error().text());
        if (removed && *removed) committed.removed.push_back(found->name);
    }
    const bool is_over = plan.bytes_over > 0;
    if (is_over && !is_over_limit_) {
        committed.warnings.push_back(fmt::format(
            "the checkpoints that must stay have {}, which is {} above the limit: the newest, the "
            "newest verified, pinned ones and those kept for their step, epoch or metric",
            format_bytes(plan.bytes_kept), format_bytes(plan.bytes_over)));
    }
    is_over_limit_ = is_over;
    remove_expired(committed);
}

// Renamed first: a kill in the middle must not leave a half-removed directory under a name that
// looks committed. Nor a power cut: the rename is durable before anything in it goes.
Result<void> Store::remove_durably(const std::string& path, const std::string& doomed) {
    if (path != doomed) RETURN_IF_ERROR(fs_.rename(path, doomed));
    crash_point("retention: renamed");
    RETURN_IF_ERROR(fs_.sync_directory(directory_));
    return remove_tree(fs_, doomed);
}

// False: it was pinned while it was being taken away, and has its name again.
Result<bool> Store::remove(const Listed& checkpoint) {
    const std::string name = to_string(checkpoint.name);
    const std::string doomed = join_path(directory_, fmt::format("{}{}", kTemporaryPrefix, name));
    RETURN_IF_ERROR(fs_.rename(checkpoint.path, doomed));
    const auto pinned = is_pinned(fs_, doomed);
    if (!pinned || *pinned) {
        RETURN_IF_ERROR(fs_.rename(doomed, checkpoint.path));
        RETURN_IF_ERROR(fs_.sync_directory(directory_));
        return pinned ? Result<bool>(false) : Result<bool>(pinned.error());
    }
    RETURN_IF_ERROR(remove_durably(doomed, doomed));
    verified_.erase(checkpoint.name.sequence);
    RETURN_IF_ERROR(ledger_.removed(checkpoint.name, "retention"));
    return true;
}

// Of what was set aside long ago, and only while something newer is known to be good.
void Store::remove_expired(Committed& committed) {
    const auto listed = list();
    if (!listed) return;  // it has been said
    std::optional<Sequence> newest;
    for (const Listed& one : *listed) {
        if (!newest && verified_.contains(one.name.sequence)) newest = one.name.sequence;
    }
    if (!newest) return;
    for (const std::string_view place : {kQuarantineName, kAbandonedName}) {
        const auto asides = list_aside(fs_, directory_, place);
        if (!asides) {
            committed.warnings.push_back(asides.error().text());
            continue;
        }
        for (const Aside& one : *asides) {
            const auto expired = is_expired(fs_, one, *newest, clock_.wall_now());
            if (expired && !*expired) continue;
            const std::string doomed =
                join_path(directory_, fmt::format("{}{}", kTemporaryPrefix, one.name));
            const auto removed =
                expired ? remove_durably(one.path, doomed) : Result<void>(expired.error());
            if (removed) {
                committed.expired.push_back(one.path);
            } else {
                committed.warnings.push_back(removed.error().text());
            }
        }
    }
}

}  // namespace pawl::checkpoint
