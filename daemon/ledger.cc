// See ledger.h.
#include "daemon/ledger.h"

#include <algorithm>

namespace pawl::daemon {
namespace {

journal::CheckpointRecord record_of(const checkpoint::Manifest& manifest) {
    return {.sequence = manifest.sequence,
            .step = manifest.step,
            .epoch = manifest.epoch,
            .state = journal::CheckpointState::kCommitted,
            .reason = std::string(to_string(manifest.reason)),
            .bytes = manifest.total_bytes(),
            .time = manifest.time};
}

}  // namespace

Result<void> JournalLedger::committed(const checkpoint::Manifest& manifest) {
    return journal_.put_checkpoint(job_, record_of(manifest));
}

Result<void> JournalLedger::quarantined(const checkpoint::CheckpointName& name,
                                        const std::string& why) {
    return change(name, journal::CheckpointState::kQuarantined, why);
}

Result<void> JournalLedger::removed(const checkpoint::CheckpointName& name,
                                    const std::string& why) {
    return change(name, journal::CheckpointState::kRemoved, why);
}

Result<void> JournalLedger::abandoned(const checkpoint::CheckpointName& name,
                                      const std::string& why) {
    return change(name, journal::CheckpointState::kRemoved, "abandoned: " + why);
}

Result<void> JournalLedger::change(const checkpoint::CheckpointName& name,
                                   journal::CheckpointState state, const std::string& why) {
    const auto known = journal_.checkpoints(job_);
    if (!known) return known.error();
    journal::CheckpointRecord record{
        .sequence = name.sequence, .step = name.step, .time = clock_.wall_now()};
    const auto found =
        std::ranges::find(*known, name.sequence, &journal::CheckpointRecord::sequence);
    if (found != known->end()) record = *found;
    record.state = state;
    record.detail = why;
    return journal_.put_checkpoint(job_, record);
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
        if (found != known->end() && found->state == journal::CheckpointState::kCommitted) continue;
        const auto text = read_text(fs, join_path(one.path, checkpoint::kManifestName),
                                    checkpoint::kManifestBytesMax);
        if (!text) continue;  // verification will say what is wrong with it
        const auto manifest = checkpoint::read_manifest(*text);
        if (!manifest) continue;
        RETURN_IF_ERROR(journal.put_checkpoint(job, record_of(*manifest)));
        ++added;
    }
    // The other way round: a kill came between a removal or a quarantine and its record.
    for (journal::CheckpointRecord record : *known) {
        if (record.state != journal::CheckpointState::kCommitted) continue;
        const bool is_there = std::ranges::any_of(listed, [&](const checkpoint::Listed& one) {
            return one.name.sequence == record.sequence;
        });
        if (is_there) continue;
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

}  // namespace pawl::daemon
