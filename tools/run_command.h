// `pawl run`: a private daemon in the foreground for one job, with its state in .pawl/.
#pragma once

#include "base/result.h"
#include "base/units.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace pawl::tools {

struct RunOptions {
    std::vector<std::string> command;
    std::string name = "run";
    std::optional<std::uint32_t> ranks;  // none: one process, without torchrun's environment
    std::string state_directory = ".pawl";
    std::string checkpoint_directory;  // default: STATE/checkpoints
    std::optional<std::uint64_t> every_steps;
    std::optional<std::uint64_t> every_epochs;
    std::optional<std::string> every;
    std::uint32_t keep_last = 3;
    std::optional<std::uint64_t> keep_every_steps;
    std::optional<std::string> keep_best;  // METRIC:min|max[:COUNT]
    std::optional<std::string> keep_bytes;
    std::vector<std::string> adopt;
    std::string on_resume;  // words, quoted as in a shell
    std::string on_fresh;
    std::uint32_t restarts_max = 10;
    std::string grace = "30s";
    bool starts_fresh = false;  // on_no_valid_checkpoint
    bool is_quiet = false;
};

// The exit code: the job's own, 75 when it was stopped and can be resumed.
[[nodiscard]] Result<int> run(const RunOptions& options);

}  // namespace pawl::tools
