// JournalLedger: tells the journal what a store has done. Called on the checkpoint worker's thread.
//
// It never fails: a journal that can't be written says so itself, once (journal::Health), and not
// with each checkpoint.
#pragma once

#include "base/clock.h"
#include "checkpoint/store.h"
#include "journal/journal.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace pawl::daemon {

class JournalLedger final : public checkpoint::Ledger {
public:
    // All outlive the ledger.
    JournalLedger(journal::Journal& journal, const Clock& clock, std::string job,
                  std::string directory)
        : journal_(journal),
          clock_(clock),
          job_(std::move(job)),
          directory_(std::move(directory)) {}

    Result<void> committed(const checkpoint::Manifest& manifest) override;
    [[nodiscard]] std::vector<checkpoint::CheckpointName> known() override;
    Result<void> quarantined(const checkpoint::CheckpointName& name,
                             const std::string& why) override;
    Result<void> removed(const checkpoint::CheckpointName& name, const std::string& why) override;
    Result<void> abandoned(const checkpoint::CheckpointName& name, const std::string& why) override;
    Result<void> verified(const checkpoint::CheckpointName& name) override;
    Result<void> scrubbed(const checkpoint::CheckpointName& name) override;
    Result<void> pinned(const checkpoint::CheckpointName& name) override;
    Result<void> unpinned(const checkpoint::CheckpointName& name) override;

    // What came before the next commit: told just before it, on the same thread.
    struct Origin {
        std::uint64_t request = 0;
        std::optional<WallTime> asked;
        std::optional<WallTime> snapshotted;
    };
    void beginning(const Origin& origin) { origin_ = origin; }

private:
    using Change = std::function<void(journal::CheckpointRecord&)>;
    void change(const checkpoint::CheckpointName& name, const Change& change);

    journal::Journal& journal_;
    const Clock& clock_;
    std::string job_;
    std::string directory_;  // the store's
    std::optional<Origin> origin_;
};

// Makes the journal's catalogue agree with the directory: adds what it does not know (a new
// machine, a lost journal, a kill between the commit and its record), and calls removed what is no
// longer there, unless nothing at all is: that may be a volume that is not mounted. Reads
// manifests, verifies nothing. Returns how many were added.
[[nodiscard]] Result<std::size_t> reconcile(journal::Journal& journal, FileSystem& fs,
                                            const std::string& job, const checkpoint::Store& store);

// The highest incarnation that the manifests name: a number is never used again, also when the
// journal is lost.
[[nodiscard]] std::optional<Incarnation> last_incarnation_in(FileSystem& fs,
                                                             const checkpoint::Store& store);

}  // namespace pawl::daemon
