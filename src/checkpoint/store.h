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
    std::uint64_t bytes_verified = 0;
    std::vector<std::string> warnings;
};

struct Listed {
    CheckpointName name;
    std::string path;
};

class Store {
public:
    // All references outlive the store.
    Store(FileSystem& fs, const Clock& clock, Ledger& ledger, std::string directory,
          std::string job);

    // Makes the directory if need be and sweeps .tmp-…: only for the one process that writes here.
    Result<void> open();

    // Committed checkpoints, newest sequence first. Changes nothing.
    [[nodiscard]] Result<std::vector<Listed>> list() const;

    // The newest valid checkpoint, at which `latest` then points; those found invalid on the way
    // are moved to quarantine.
    [[nodiscard]] Result<Choice> choose();

    // All six steps. The sequence is given here: above every name in the directory, and above
    // `sequence_floor` (the highest that the journal knows).
    [[nodiscard]] Result<Committed> commit(Manifest manifest, const std::vector<RankImage>& images,
                                           const RetentionPolicy& retention);

    // What the policy lets go of what is there already; nothing before something was verified.
    // Returns what went wrong.
    [[nodiscard]] std::vector<std::string> apply_retention(const RetentionPolicy& retention);

    void set_sequence_floor(Sequence floor) { sequence_floor_ = std::max(sequence_floor_, floor); }
    [[nodiscard]] const std::string& directory() const { return directory_; }

private:
    [[nodiscard]] Result<Sequence> next_sequence();
    [[nodiscard]] Result<Rejected> quarantine(const Listed& checkpoint,
                                              const Verification& verification);
    void retain(const RetentionPolicy& policy, Committed& committed);
    void point_latest_at(const std::string& name, std::vector<std::string>& warnings);

    FileSystem& fs_;
    const Clock& clock_;
    Ledger& ledger_;
    std::string directory_;
    std::string job_;
    Sequence sequence_floor_;
    std::set<Sequence> verified_;  // by us, since we began: on disk or as we wrote it
};

// Lists the committed checkpoints of a directory, newest first: also for tools that own nothing.
[[nodiscard]] Result<std::vector<Listed>> list_checkpoints(FileSystem& fs,
                                                           const std::string& directory);

}  // namespace pawl::checkpoint
