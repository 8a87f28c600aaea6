// See checkpoint_commands.h: which words there are.
#include "tools/checkpoint_commands.h"

#include <memory>

namespace pawl::tools {
namespace {

struct Words {
    Place place;
    bool is_json = false;
    std::string first;
    std::string second;
    ImportOptions import;

    [[nodiscard]] Format format() const { return is_json ? Format::kJson : Format::kText; }
};

using Call = std::function<Result<int>(const Words&)>;

class Commands {
public:
    explicit Commands(std::function<Result<int>()>& action) : action_(action) {}

    // A subcommand that knows where checkpoints are, and its words.
    std::pair<CLI::App*, std::shared_ptr<Words>> add(CLI::App& group, const char* name,
                                                     const char* text, Call call) {
        auto words = std::make_shared<Words>();
        CLI::App* const command = group.add_subcommand(name, text);
        command->add_option("--state-dir", words->place.state_directory,
                            "the daemon's state (.pawl, else /var/lib/pawl)");
        command->add_option("--checkpoint-dir", words->place.checkpoint_directory,
                            "default: the job's, else STATE-DIR/checkpoints");
        command->add_option("--job", words->place.job, "which job, if several");
        command->add_option("--socket", words->place.socket, "the daemon's control socket");
        command->add_flag("--json", words->is_json, "print JSON");
        command->callback([&action = action_, words, call = std::move(call)] {
            action = [words, call] { return call(*words); };
        });
        return {command, words};
    }

private:
    std::function<Result<int>()>& action_;
};

constexpr const char* kWhich = "a sequence, a name, a path, or latest";

void add_group(CLI::App& app, Commands& commands) {
    CLI::App* const group = app.add_subcommand("checkpoints", "look at checkpoints, move them");
    group->require_subcommand(1);
    commands.add(*group, "list", "all that are committed, newest first",
                 [](const Words& words) { return list_checkpoints(words.place, words.format()); });
    {
        const auto [command, words] =
            commands.add(*group, "show", "what one holds", [](const Words& said) {
                return show_checkpoint(said.place, said.first, said.format());
            });
        words->first = "latest";
        command->add_option("checkpoint", words->first, kWhich)->capture_default_str();
    }
    {
        const auto [command, words] =
            commands.add(*group, "verify", "every digest of one, or of all", [](const Words& said) {
                return verify_checkpoints(said.place, said.first, said.format());
            });
        command->add_option("checkpoint", words->first,
                            "a sequence, a name, a path, or latest (default: all)");
    }
    {
        const auto [command, words] = commands.add(
            *group, "diff", "what differs between two; exit code 1 if anything does",
            [](const Words& said) {
                return diff_checkpoints(said.place, said.first, said.second, said.format());
            });
        command->add_option("a", words->first, kWhich)->required();
        command->add_option("b", words->second, kWhich)->required();
    }
    {
        const auto [command, words] = commands.add(
            *group, "export", "a verified copy: one rank's file, or a directory of several",
            [](const Words& said) {
                return export_to(said.place, said.first, said.second, said.format());
            });
        command->add_option("checkpoint", words->first, kWhich)->required();
        command->add_option("target", words->second, "a path that is not there yet")->required();
    }
    {
        const auto [command, words] = commands.add(
            *group, "import", "a torch.save file becomes a checkpoint", [](const Words& said) {
                return import_checkpoint(said.place, said.import, said.format());
            });
        command->add_option("file", words->import.file, "the file")->required();
        command->add_option("--step", words->import.step, "instead of its key 'step'");
        command->add_option("--epoch", words->import.epoch, "instead of its key 'epoch'");
    }
}

}  // namespace

void add_checkpoint_commands(CLI::App& app, std::function<Result<int>()>& action) {
    Commands commands(action);
    add_group(app, commands);
    for (const auto& [name, text, pinning] :
         {std::tuple{"pin", "keep a checkpoint, whatever retention says", Pinning::kPin},
          std::tuple{"unpin", "leave it to retention again", Pinning::kUnpin}}) {
        const auto [command, words] =
            commands.add(app, name, text, [which = pinning](const Words& said) {
                return change_pin(said.place, said.first, which, said.format());
            });
        command->add_option("checkpoint", words->first, kWhich)->required();
    }
    const auto [command, words] = commands.add(
        app, "rollback", "set everything newer than a checkpoint aside",
        [](const Words& said) { return roll_back(said.place, said.first, said.format()); });
    command->add_option("checkpoint", words->first, "a sequence or a name")->required();
}

}  // namespace pawl::tools
