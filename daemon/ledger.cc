// See ledger.h.
#include "daemon/ledger.h"

#include <algorithm>
#include <utility>

namespace pawl::daemon {
namespace {

journal::CheckpointRecord record_of(const checkpoint::Manifest& manifest) {
    return {.sequence = manifest.sequence,
            .step = manifest.step,
            .epoch = manifest.epoch,
            .state = journal::CheckpointState::kCommitted,
            .reason = std::string(to_string(manifest.reason)),
            .bytes = manifest.total_bytes(),
            .time = manifest.time,
            .incarnation = manifest.incarnation};
}

Result<checkpoint::Manifest> manifest_of(FileSystem& fs, const checkpoint::Listed& one) {
    const auto text = read_text(fs, join_path(one.path, checkpoint::kManifestName),
                                checkpoint::kManifestBytesMax);
    if (!text) return text.error();
    return checkpoint::read_manifest(*text);
}

}  // namespace

// A failure is in the journal's health.
Result<void> JournalLedger::committed(const checkpoint::Manifest& manifest) {
    journal::CheckpointRecord record = record_of(manifest);
    record.directory = directory_;
    record.durable = clock_.wall_now();
    if (const auto origin = std::exchange(origin_, std::nullopt)) {
        record.request = origin->request;
        record.asked = origin->asked;
        record.snapshotted = origin->snapshotted;
    }
    static_cast<void>(journal_.put_checkpoint(job_, record));
    return {};
}

// Where the journal can't be read it says so itself, and knows of none.
std::vector<checkpoint::CheckpointName> JournalLedger::known() {
    std::vector<checkpoint::CheckpointName> names;
    const auto known = journal_.checkpoints(job_);
    if (!known) return names;
    for (const journal::CheckpointRecord& record : *known) {
        if (record.state == journal::CheckpointState::kCommitted && record.directory == directory_)
            names.push_back({.sequence = record.sequence, .step = record.step});
    }
    std::ranges::sort(names, {}, &checkpoint::CheckpointName::sequence);
    return names;
}

Result<void> JournalLedger::quarantined(const checkpoint::CheckpointName& name,
                                        const std::string& why) {
    change(name, [&](journal::CheckpointRecord& record) {
        record.state = journal::CheckpointState::kQuarantined;
        record.detail = why;
        record.quarantined = clock_.wall_now();
    });
    return {};
}

Result<void> JournalLedger::removed(const checkpoint::CheckpointName& name,
                                    const std::string& why) {
    change(name, [&](journal::CheckpointRecord& record) {
        record.state = journal::CheckpointState::kRemoved;
        record.detail = why;
        record.removed = clock_.wall_now();
    });
    return {};
}

Result<void> JournalLedger::abandoned(const checkpoint::CheckpointName& name,
                                      const std::string& why) {
    change(name, [&](journal::CheckpointRecord& record) {
        record.state = journal::CheckpointState::kAbandoned;
        record.detail = why;
        record.abandoned = clock_.wall_now();
    });
    return {};
}

Result<void> JournalLedger::verified(const checkpoint::CheckpointName& name) {
    change(name, [&](journal::CheckpointRecord& record) { record.verified = clock_.wall_now(); });
    return {};
}

Result<void> JournalLedger::scrubbed(const checkpoint::CheckpointName& name) {
    change(name, [&](journal::CheckpointRecord& record) { record.scrubbed = clock_.wall_now(); });
    return {};
}

Result<void> JournalLedger::pinned(const checkpoint::CheckpointName& name) {
    change(name, [&](journal::CheckpointRecord& record) { record.pinned = clock_.wall_now(); });
    return {};
}

Result<void> JournalLedger::unpinned(const checkpoint::CheckpointName& name) {
    change(name, [&](journal::CheckpointRecord& record) { record.pinned.reset(); });
    return {};
}

void JournalLedger::change(const checkpoint::CheckpointName& name, const Change& change) {
    journal::CheckpointRecord record{
        .sequence = name.sequence, .step = name.step, .time = clock_.wall_now()};
    const auto known = journal_.checkpoint(job_, name.sequence);
    if (known && *known) record = **known;
    change(record);
    static_cast<void>(journal_.put_checkpoint(job_, record));
}

Result<std::size_t> reconcile(journal::Journal& journal, FileSystem& fs, const std::string& job,
                              const checkpoint::Store& store) {
    const auto listing = store.list();
    if (!listing) return listing.error();
    const std::vector<checkpoint::Listed>& listed = *listing;
    const auto known = journal.checkpoints(job);
    if (!known) return known.error();
    std::size_t added = 0;
    for (const checkpoint::Listed& one : listed) {
        const auto found =
            std::ranges::find(*known, one.name.sequence, &journal::CheckpointRecord::sequence);
        const bool is_committed =
            found != known->end() && found->state == journal::CheckpointState::kCommitted;
        if (is_committed && found->directory == store.directory()) continue;
        const auto manifest = manifest_of(fs, one);
        if (!manifest) continue;  // verification will say what is wrong with it
        journal::CheckpointRecord record = record_of(*manifest);
        if (found != known->end()) {  // someone has put it back
            record = *found;
            record.state = journal::CheckpointState::kCommitted;
            record.detail.clear();
            record.quarantined = record.removed = record.abandoned = std::nullopt;
        }
        record.directory = store.directory();
        RETURN_IF_ERROR(journal.put_checkpoint(job, record));
        if (!is_committed) ++added;
    }
    const bool is_blank = listed.empty() && !store.has_set_aside();
    // The other way round: a kill came between a removal or a quarantine and its record.
    for (journal::CheckpointRecord record : *known) {
        if (record.state != journal::CheckpointState::kCommitted) continue;
        const bool is_there = std::ranges::any_of(listed, [&](const checkpoint::Listed& one) {
            return one.name.sequence == record.sequence;
        });
        const bool is_elsewhere =
            !record.directory.empty() && record.directory != store.directory();
        if (is_there || is_elsewhere || is_blank) continue;
        const std::string name =
            to_string(checkpoint::CheckpointName{.sequence = record.sequence, .step = record.step});
        const std::string quarantine = join_path(store.directory(), checkpoint::kQuarantineName);
        const auto set_aside = fs.status(join_path(quarantine, name));
        const bool is_quarantined = set_aside && set_aside->has_value();
        record.state = is_quarantined ? journal::CheckpointState::kQuarantined
                                      : journal::CheckpointState::kRemoved;
        const auto abandoned =
            fs.status(join_path(join_path(store.directory(), checkpoint::kAbandonedName), name));
        record.detail = "no longer in the directory";
        if (abandoned && abandoned->has_value()) record.detail = "abandoned: found there";
        if (is_quarantined) record.detail = "found in quarantine; its set-aside.json says why";
        RETURN_IF_ERROR(journal.put_checkpoint(job, record));
    }
    return added;
}

std::optional<Incarnation> last_incarnation_in(FileSystem& fs, const checkpoint::Store& store) {
    std::optional<Incarnation> last;
    const auto listing = store.list();
    if (!listing) return last;
    for (const checkpoint::Listed& one : *listing) {
        const auto manifest = manifest_of(fs, one);
        if (manifest) last = std::max(last.value_or(manifest->incarnation), manifest->incarnation);
    }
    return last;
}

}  // namespace pawl::daemon
