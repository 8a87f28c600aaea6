// Names in a checkpoint directory.
//
//   000042-step-1200/         committed: <sequence, at least six digits>-step-<step>
//     manifest.json
//     rank-00000.pt
//     pinned                  empty; retention leaves the checkpoint alone
//   .tmp-000043-step-1300/    being written, or on its way out; swept at start, never read
//   quarantine/000041-step-1100/
//   abandoned/000043-step-1200/
//     set-aside.json          when it was moved into quarantine/ or abandoned/, and why
//   rollback.json             a rollback that was decided and is not complete
//   latest                    symlink for people
//
// checkpoint: may be included by daemon, client, tools and control; includes base, torchfile,
// staging.
#pragma once

#include "base/units.h"

#include <optional>
#include <string>
#include <string_view>

namespace pawl::checkpoint {

inline constexpr std::string_view kManifestName = "manifest.json";
inline constexpr std::string_view kTemporaryPrefix = ".tmp-";
inline constexpr std::string_view kQuarantineName = "quarantine";
inline constexpr std::string_view kAbandonedName = "abandoned";
inline constexpr std::string_view kLatestName = "latest";
inline constexpr std::string_view kRollbackName = "rollback.json";
// In a checkpoint's own directory, beside what its manifest lists.
inline constexpr std::string_view kPinName = "pinned";
inline constexpr std::string_view kSetAsideName = "set-aside.json";

struct CheckpointName {
    Sequence sequence;
    Step step;

    friend bool operator==(const CheckpointName&, const CheckpointName&) = default;
};

[[nodiscard]] std::string to_string(const CheckpointName& name);
// Only what to_string makes: "42-step-1", "000042-step-01" and "000042-step-1.old" are none.
[[nodiscard]] std::optional<CheckpointName> parse_checkpoint_name(std::string_view text);

// The sequence that a name uses up: of a checkpoint, of one being written or removed
// (".tmp-000042-step-1200"), of a second one set aside ("000042-step-1200.2").
[[nodiscard]] std::optional<Sequence> sequence_in(std::string_view name);

[[nodiscard]] std::string rank_file_name(Rank rank);  // "rank-00000.pt"

}  // namespace pawl::checkpoint
