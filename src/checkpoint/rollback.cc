// See rollback.h; and Store::rollback, which carries a decision out.
#include "checkpoint/rollback.h"

#include "base/crash_point.h"
#include "checkpoint/set_aside.h"
#include "checkpoint/store.h"

#include <nlohmann/json.hpp>

#include <span>

namespace pawl::checkpoint {
namespace {

using nlohmann::json;

constexpr std::uint64_t kDecisionBytesMax = 4096;

std::string path_of(const std::string& directory) {
    return join_path(directory, kRollbackName);
}

}  // namespace

Result<std::optional<RollbackDecision>> read_rollback(FileSystem& fs,
                                                      const std::string& directory) {
    const auto text = read_text(fs, path_of(directory), kDecisionBytesMax);
    if (!text) {
        if (text.error().kind() == ErrorKind::kNotFound) return std::optional<RollbackDecision>{};
        return text.error();
    }
    const json decision = json::parse(*text, nullptr, /*allow_exceptions=*/false);
    const auto is_number = [&decision](const char* name) {
        return decision.contains(name) && decision[name].is_number_unsigned();
    };
    if (!decision.is_object() || !is_number("to") || !is_number("through")) {
        return make_error(ErrorKind::kCorrupt,
                          "'{}' does not say what to roll back to: remove it, and roll back again",
                          path_of(directory));
    }
    return std::optional{
        RollbackDecision{.to = Sequence{decision["to"].get<std::uint64_t>()},
                         .through = Sequence{decision["through"].get<std::uint64_t>()}}};
}

Result<void> write_rollback(FileSystem& fs, const std::string& directory,
                            const RollbackDecision& decision) {
    const json object = {{"to", decision.to.value}, {"through", decision.through.value}};
    const std::string text = object.dump() + "\n";
    const std::string temporary =
        join_path(directory, fmt::format("{}{}", kTemporaryPrefix, kRollbackName));
    RETURN_IF_ERROR(fs.remove(temporary));
    {
        const auto file = fs.create_file(temporary, text.size());
        if (!file) return file.error();
        RETURN_IF_ERROR((*file)->write_at(0, std::as_bytes(std::span(text))));
        RETURN_IF_ERROR((*file)->sync_data());
    }
    crash_point("rollback: decision written");
    RETURN_IF_ERROR(fs.rename(temporary, path_of(directory)));
    crash_point("rollback: decided");
    return fs.sync_directory(directory);
}

Result<void> remove_rollback(FileSystem& fs, const std::string& directory) {
    RETURN_IF_ERROR(fs.remove(path_of(directory)));
    return fs.sync_directory(directory);
}

std::string describe(const RolledBack& done) {
    return fmt::format(
        "rolled back to checkpoint {} (step {}): {}", done.to.sequence, done.to.step,
        done.abandoned.empty()
            ? std::string("none was newer")
            : fmt::format("{} newer {} in '{}'", done.abandoned.size(),
                          done.abandoned.size() == 1 ? "one is" : "ones are", kAbandonedName));
}

Result<RolledBack> Store::rollback(Sequence to) {
    const auto rollback_in_order = [&]() -> Result<RolledBack> {
        const auto pending = read_rollback(fs_, directory_);
        if (!pending) return pending.error();
        if (pending->has_value()) {
            const auto completed = complete_rollback((*pending)->to, (*pending)->through);
            if (!completed) return completed.error();
        }
        const auto listed = list();
        if (!listed) return listed.error();
        const auto target =
            std::ranges::find(*listed, to, [](const Listed& one) { return one.name.sequence; });
        if (target == listed->end()) {
            return make_error(ErrorKind::kNotFound, "there is no checkpoint {} in '{}'", to,
                              directory_);
        }
        const auto verification = verify(fs_, target->path);
        if (!verification) return verification.error();
        if (!verification->is_valid()) {
            return make_error(ErrorKind::kCorrupt, "it is damaged: {}",
                              verification->damages.front().describe());
        }
        verified_.insert(to);
        const Sequence newest = listed->front().name.sequence;
        if (newest == to) {  // nothing is newer
            RolledBack nothing{.to = target->name, .path = target->path};
            point_latest_at(to_string(target->name), nothing.warnings);
            return nothing;
        }
        RETURN_IF_ERROR(write_rollback(fs_, directory_, {.to = to, .through = newest}));
        return complete_rollback(to, newest);
    };
    auto rolled_back = rollback_in_order();
    if (rolled_back) return rolled_back;
    const auto pending = read_rollback(fs_, directory_);
    const bool is_decided = pending && pending->has_value();
    return Error(rolled_back.error())
        .while_doing("roll back to checkpoint {} in '{}'", to, directory_)
        .consequence("{}", is_decided ? "It is decided, and is completed at the next start"
                                      : "Nothing was moved");
}

Result<RolledBack> Store::complete_rollback(Sequence to, Sequence through) {
    auto listed = list();
    if (!listed) return listed.error();
    const auto target =
        std::ranges::find(*listed, to, [](const Listed& one) { return one.name.sequence; });
    if (target == listed->end()) {
        return make_error(ErrorKind::kNotFound,
                          "'{}' says to roll back to checkpoint {}, which is not there: bring it "
                          "back, or remove that file",
                          path_of(directory_), to);
    }
    RolledBack rolled_back{.to = target->name, .path = target->path};
    set_sequence_floor(through);
    std::ranges::reverse(*listed);  // oldest first: until the last has moved, the newest stands
    const std::string why = fmt::format("rolled back to checkpoint {}", to);
    for (const Listed& one : *listed) {
        if (one.name.sequence <= to || one.name.sequence > through) continue;
        const auto moved = move_aside(fs_, directory_, to_string(one.name), kAbandonedName);
        if (!moved) return moved.error();
        verified_.erase(one.name.sequence);
        for (const auto& told :
             {stamp_aside(fs_, *moved, clock_.wall_now(), why), ledger_.abandoned(one.name, why)}) {
            if (!told) rolled_back.warnings.push_back(told.error().text());
        }
        rolled_back.abandoned.push_back(one.name);
    }
    crash_point("rollback: all moved");
    point_latest_at(to_string(rolled_back.to), rolled_back.warnings);
    crash_point("rollback: latest moved");
    RETURN_IF_ERROR(remove_rollback(fs_, directory_));
    crash_point("rollback: decision removed");
    return rolled_back;
}

}  // namespace pawl::checkpoint
