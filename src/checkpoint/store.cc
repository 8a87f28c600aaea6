// See store.h.
#include "checkpoint/store.h"

#include "base/crash_point.h"

#include <algorithm>

namespace pawl::checkpoint {
namespace {

std::string summary_of(const Verification& verification) {
    if (verification.damages.empty()) return "no manifest";
    const std::size_t more = verification.damages.size() - 1;
    const std::string first = verification.damages.front().describe();
    return more == 0 ? first : fmt::format("{} (and {} more)", first, more);
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
        const auto entries = fs_.list_directory(directory_);
        if (!entries) return entries.error();
        for (const DirectoryEntry& entry : *entries) {
            if (!entry.name.starts_with(kTemporaryPrefix)) continue;
            // The sequence of an attempt is used up, even when the attempt is swept away.
            if (const auto sequence = sequence_in(entry.name)) set_sequence_floor(*sequence);
            RETURN_IF_ERROR(remove_tree(fs_, join_path(directory_, entry.name)));
        }
        return {};
    };
    auto opened = open_in_order();
    if (!opened) {
        return Error(opened.error()).while_doing("open the checkpoint directory of job '{}'", job_);
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

Result<std::vector<Listed>> Store::list() const {
    return list_checkpoints(fs_, directory_);
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
            choice.chosen = std::move(verification->manifest);
            choice.path = checkpoint.path;
            point_latest_at(to_string(checkpoint.name), choice.warnings);
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
    if (!choice.some_existed) {
        const auto quarantined = fs_.list_directory(join_path(directory_, kQuarantineName));
        choice.some_existed = quarantined && !quarantined->empty();
    }
    return choice;
}

Result<Rejected> Store::quarantine(const Listed& checkpoint, const Verification& verification) {
    const auto move_in_order = [&]() -> Result<std::string> {
        const std::string quarantine = join_path(directory_, kQuarantineName);
        RETURN_IF_ERROR(create_directories(fs_, quarantine));
        const std::string name = to_string(checkpoint.name);
        constexpr int kNamesMax = 1000;
        for (int i = 1; i <= kNamesMax; ++i) {
            const std::string target =
                join_path(quarantine, i == 1 ? name : fmt::format("{}.{}", name, i));
            const auto renamed = fs_.rename(checkpoint.path, target);
            if (!renamed && renamed.error().kind() == ErrorKind::kAlreadyExists) continue;
            if (!renamed) return renamed.error();
            crash_point("quarantine: renamed");
            RETURN_IF_ERROR(fs_.sync_directory(quarantine));
            RETURN_IF_ERROR(fs_.sync_directory(directory_));
            return target;
        }
        return make_error(ErrorKind::kAlreadyExists, "'{}' holds {} of this name already",
                          quarantine, kNamesMax);
    };
    auto moved = move_in_order();
    if (!moved) {
        return Error(moved.error())
            .while_doing("quarantine the damaged checkpoint '{}'", checkpoint.path);
    }
    return Rejected{.name = checkpoint.name, .why = summary_of(verification), .moved_to = *moved};
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
    const MonotonicTime began = clock_.monotonic_now();
    const auto sequence = next_sequence();
    if (!sequence)
        return Error(sequence.error()).while_doing("number the next checkpoint of job '{}'", job_);
    manifest.job = job_;
    manifest.sequence = *sequence;
    manifest.time = clock_.wall_now();
    auto written = checkpoint::commit(fs_, directory_, std::move(manifest), images);
    if (!written) return written.error();

    // From here on the checkpoint is safe; what fails is a warning.
    Committed committed{.manifest = std::move(*written)};
    const std::string name = to_string({.sequence = *sequence, .step = committed.manifest.step});
    committed.path = join_path(directory_, name);
    verified_.insert(*sequence);
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

void Store::retain(const RetentionPolicy& policy, Committed& committed) {
    const auto listed = list();
    if (!listed) {
        committed.warnings.push_back(listed.error().text());
        return;
    }
    std::vector<Sequence> sequences;
    for (const Listed& checkpoint : *listed)
        sequences.push_back(checkpoint.name.sequence);
    const std::vector<Sequence> gone = removable(sequences, verified_, policy);
    for (const Listed& checkpoint : *listed) {
        if (std::ranges::find(gone, checkpoint.name.sequence) == gone.end()) continue;
        // Renamed first: a kill in the middle must not leave a half-removed directory that looks
        // committed.
        const std::string doomed = join_path(
            directory_, fmt::format("{}{}", kTemporaryPrefix, to_string(checkpoint.name)));
        auto removed = fs_.rename(checkpoint.path, doomed);
        crash_point("retention: renamed");
        // Nor a power cut: the rename is durable before anything in it goes.
        if (removed) removed = fs_.sync_directory(directory_);
        if (removed) removed = remove_tree(fs_, doomed);
        if (removed) removed = ledger_.removed(checkpoint.name, "retention");
        if (!removed) {
            committed.warnings.push_back(removed.error().text());
            continue;
        }
        committed.removed.push_back(checkpoint.name);
    }
}

}  // namespace pawl::checkpoint
