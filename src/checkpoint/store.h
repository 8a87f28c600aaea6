// Store: one job's checkpoint directory, and everything that is done to it.
//
// The directory alone is the truth: a new machine has it and nothing else, and resumes from it.
// Used from one thread at a time. What it does is told to a Ledger (the journal), whose failures
// never undo or prevent what the directory holds.
#pragma once

#include "base/clock.h"
#include "base/file_system.h"
#include "checkpoint/commit.h"
#include "checkpoint/manifest.h"
#include "checkpoint/name.h"
#include "checkpoint/retention.h"
#include "checkpoint/verify.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace pawl::checkpoint {

// Where a store tells what has become of a checkpoint. Called on the store's thread.
class Ledger {
public:
    virtual ~Ledger() = default;
    virtual Result<void> committed(const Manifest& manifest) = 0;
    virtual Result<void> quarantined(const CheckpointName& name, const std::string& why) = 0;
    virtual Result<void> removed(const CheckpointName& name, const std::string& why) = 0;
    // Those that are known to be in the store's directory: committed there, and not removed since.
    [[nodiscard]] virtual std::vector<CheckpointName> known() { return {}; }
    // Newer than a checkpoint that somebody rolled back to.
    virtual Result<void> abandoned(const CheckpointName& name, const std::string& why) {
        return removed(name, why);
    }
    // Found whole: before something resumes from it, or by a look in passing.
    virtual Result<void> verified(const CheckpointName&) { return {}; }
    virtual Result<void> scrubbed(const CheckpointName&) { return {}; }
    // Retention leaves it alone, or no longer.
    virtual Result<void> pinned(const CheckpointName&) { return {}; }
    virtual Result<void> unpinned(const CheckpointName&) { return {}; }
};

// For those who keep no journal: standalone clients and tests.
class NoLedger final : public Ledger {
public:
    Result<void> committed(const Manifest&) override { return {}; }
    Result<void> quarantined(const CheckpointName&, const std::string&) override { return {}; }
    Result<void> removed(const CheckpointName&, const std::string&) override { return {}; }
};

struct Committed {
    Manifest manifest;
    std::string path;
    nanoseconds duration{};
    std::vector<CheckpointName> removed;  // by retention
    std::vector<std::string> expired;     // of quarantine/ and abandoned/, as paths
    // What went wrong after the commit: the checkpoint is safe all the same.
    std::vector<std::string> warnings;
};

struct Rejected {
    CheckpointName name;
    std::string why;
    std::string moved_to;  // in quarantine
};

struct Choice {
    std::optional<Manifest> chosen;
    std::string path;  // of the chosen one
    std::vector<Rejected> rejected;
    // Whether any checkpoint was ever here: committed or quarantined. If so and none is chosen, the
    // job may not silently begin again.
    bool some_existed = false;
    // There is nothing at all in the directory, and these are known to be there: a volume that is
    // not mounted looks like this. Oldest first.
    std::vector<CheckpointName> missing;
    std::uint64_t bytes_verified = 0;
    std::vector<std::string> warnings;
};

struct Listed {
    CheckpointName name;
    std::string path;
};

struct RolledBack {
    CheckpointName to;
    std::string path;
    std::vector<CheckpointName> abandoned;  // oldest first
    std::vector<std::string> warnings;
};

class Store {
public:
    // All references outlive the store.
    Store(FileSystem& fs, const Clock& clock, Ledger& ledger, std::string directory,
          std::string job);

    // Makes the directory if need be, sweeps .tmp-… and completes a rollback that was decided: only
    // for the one process that writes here.
    Result<void> open();

    // What open() has completed, if a kill had come in between.
    [[nodiscard]] const std::optional<RolledBack>& completed_rollback() const {
        return completed_rollback_;
    }

    // Committed checkpoints, newest sequence first. Changes nothing.
    [[nodiscard]] Result<std::vector<Listed>> list() const;
    // Whether any are in quarantine or abandoned. Changes nothing.
    [[nodiscard]] bool has_set_aside() const;

    // The newest valid checkpoint, at which `latest` then points; those found invalid on the way
    // are moved to quarantine.
    [[nodiscard]] Result<Choice> choose();

    // All six steps. The sequence is given here: above every name in the directory, and above
    // `sequence_floor` (the highest that the journal knows).
    [[nodiscard]] Result<Committed> commit(Manifest manifest, const std::vector<RankImage>& images,
                                           const RetentionPolicy& retention);
    // The same of files that a script has saved; see commit.h.
    [[nodiscard]] Result<Committed> commit(Manifest manifest, const std::vector<KnownFile>& files,
                                           const RetentionPolicy& retention);

    // What the policy lets go of what is there already; nothing before something was verified.
    // Returns what went wrong.
    [[nodiscard]] std::vector<std::string> apply_retention(const RetentionPolicy& retention);

    // Everything newer than `to`, which is verified first, goes whole into abandoned/, and `latest`
    // leads to it. All or nothing (rollback.cc): a kill at any moment leaves a directory that a
    // start resumes as it was before, or as it is after. Nothing else may use the directory
    // meanwhile.
    [[nodiscard]] Result<RolledBack> rollback(Sequence to);

    // A scrub has read all of it and found it valid.
    void note_verified(Sequence sequence);
    // A scrub has found it damaged: verified once more. nullopt if it is not there (any more),
    // valid after all, or an error if that can't be said. If another valid checkpoint is known, or
    // found, it goes to quarantine; else it stays, and moved_to is empty.
    [[nodiscard]] Result<std::optional<Rejected>> confirm_damage(const CheckpointName& name);

    void set_sequence_floor(Sequence floor) { sequence_floor_ = std::max(sequence_floor_, floor); }
    [[nodiscard]] const std::string& directory() const { return directory_; }

private:
    template <class Files>
    [[nodiscard]] Result<Committed> commit_files(Manifest manifest, const Files& files,
                                                 const RetentionPolicy& retention);
    [[nodiscard]] Result<Sequence> next_sequence();
    [[nodiscard]] Result<Rejected> quarantine(const Listed& checkpoint,
                                              const Verification& verification);
    void retain(const RetentionPolicy& policy, Committed& committed);
    [[nodiscard]] Result<std::vector<Candidate>> candidates();
    [[nodiscard]] Result<bool> remove(const Listed& checkpoint);
    void remove_expired(Committed& committed);
    Result<void> remove_durably(const std::string& path, const std::string& doomed);
    [[nodiscard]] Result<void> sweep();
    [[nodiscard]] bool another_is_valid(const CheckpointName& name);
    [[nodiscard]] Result<RolledBack> complete_rollback(Sequence to, Sequence through);
    void point_latest_at(const std::string& name, std::vector<std::string>& warnings);

    FileSystem& fs_;
    const Clock& clock_;
    Ledger& ledger_;
    std::string directory_;
    std::string job_;
    Sequence sequence_floor_;
    std::set<Sequence> verified_;          // by us, since we began: on disk or as we wrote it
    std::map<Sequence, Candidate> known_;  // from manifests, which don't change
    bool is_over_limit_ = false;           // and it has been said
    std::optional<RolledBack> completed_rollback_;
};

// For people: "rolled back to checkpoint 9 (step 900): 3 newer ones are in abandoned/".
[[nodiscard]] std::string describe(const RolledBack& done);

// The manifest of a checkpoint directory; nothing else is verified.
[[nodiscard]] Result<Manifest> read_manifest_of(FileSystem& fs, const std::string& path);

// Whether `text` is the name, or the sequence in it.
[[nodiscard]] bool is_named(const CheckpointName& name, const std::string& text);

// Lists the committed checkpoints of a directory, newest first: also for tools that own nothing.
[[nodiscard]] Result<std::vector<Listed>> list_checkpoints(FileSystem& fs,
                                                           const std::string& directory);

}  // namespace pawl::checkpoint
