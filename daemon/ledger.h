// JournalLedger: tells the journal what a store has done. Called on the checkpoint worker's thread.
#pragma once

#include "base/clock.h"
#include "checkpoint/store.h"
#include "journal/journal.h"

#include <string>

namespace pawl::daemon {

class JournalLedger final : public checkpoint::Ledger {
public:
    // All outlive the ledger.
    JournalLedger(journal::Journal& journal, const Clock& clock, std::string job)
        : journal_(journal), clock_(clock), job_(std::move(job)) {}

    Result<void> committed(const checkpoint::Manifest& manifest) override;
    Result<void> quarantined(const checkpoint::CheckpointName& name,
                             const std::string& why) override;
    Result<void> removed(const checkpoint::CheckpointName& name, const std::string& why) override;
    Result<void> abandoned(const checkpoint::CheckpointName& name, const std::string& why) override;

private:
    [[nodiscard]] Result<void> change(const checkpoint::CheckpointName& name,
                                      journal::CheckpointState state, const std::string& why);

    journal::Journal& journal_;
    const Clock& clock_;
    std::string job_;
};

// Makes the journal's catalogue agree with the directory: adds what it does not know (a new
// machine, a lost journal, a kill between the commit and its record), and calls removed what is no
// longer there. Reads manifests, verifies nothing. Returns how many were added.
[[nodiscard]] Result<std::size_t> reconcile(journal::Journal& journal, FileSystem& fs,
                                            const std::string& job, const checkpoint::Store& store);

}  // namespace pawl::daemon
