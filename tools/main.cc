// pawl: the ops tool. Words of the command line to calls; an error to a line and an exit code.
#include "tools/checkpoint_commands.h"
#include "tools/config_commands.h"
#include "tools/inspect.h"
#include "tools/journal_commands.h"
#include "tools/log_commands.h"
#include "tools/run_command.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#ifndef PAWL_VERSION
#define PAWL_VERSION "unknown"
#endif

namespace {

using pawl::ErrorKind;
using pawl::Result;
using pawl::tools::Format;
using pawl::tools::Place;
using pawl::tools::RunOptions;

// As sysexits.h and shells have them; docs/operating.md lists them.
int exit_code_of(ErrorKind kind) {
    switch (kind) {
        case ErrorKind::kInvalidArgument:
        case ErrorKind::kAlreadyExists:
            return 64;
        case ErrorKind::kCorrupt:
            return 65;
        case ErrorKind::kNotFound:
            return 66;
        case ErrorKind::kBusy:
        case ErrorKind::kTimeout:
            return 69;
        case ErrorKind::kNoSpace:
        case ErrorKind::kIo:
        case ErrorKind::kUnavailable:
            return 74;
        default:
            return 70;
    }
}

struct Words {
    Place place;
    bool is_json = false;
    RunOptions run;
    std::string table = "events";
    std::map<std::string, std::string> parameters;  // of a question to the journal
    pawl::tools::LogOptions logs;
    bool follows = false;
    std::string config_path;
    std::string other_config_path;
    std::function<Result<int>()> action;

    [[nodiscard]] Format format() const { return is_json ? Format::kJson : Format::kText; }
    [[nodiscard]] pawl::tools::Follows follow() const {
        return follows ? pawl::tools::Follows::kYes : pawl::tools::Follows::kNo;
    }
};

void add_place(CLI::App* command, Words& words) {
    command->add_option("--state-dir", words.place.state_directory,
                        "the daemon's state (.pawl, else /var/lib/pawl)");
    command->add_flag("--json", words.is_json, "print JSON");
}

void add_job(CLI::App* command, Words& words) {
    command->add_option("--job", words.place.job, "which job, if several");
}

// The parser's own check prints the largest double.
CLI::Validator is_counted() {
    return {[](const std::string& text) {
                constexpr std::size_t kDigitsMax = 18;
                const bool is_number = text.size() <= kDigitsMax &&
                                       text.find_first_not_of("0123456789") == std::string::npos;
                const bool is_zero = text.find_first_not_of('0') == std::string::npos;
                return is_number && !is_zero ? std::string()
                                             : "expected a whole number from 1, not '" + text + "'";
            },
            ""};
}

void add_run(CLI::App& app, Words& words) {
    CLI::App* run =
        app.add_subcommand("run", "run a command under a private daemon, and resume it");
    RunOptions& options = words.run;
    // Said twice, the last one counts: a wrapper's settings can be overridden behind it.
    run->option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    run->add_option("--ranks", options.ranks,
                    "processes, with torchrun's environment (default: one, without)");
    run->add_option("--name", options.name, "the job's name")->capture_default_str();
    run->add_option("--state-dir", options.state_directory, "journal, logs and sockets")
        ->capture_default_str();
    run->add_option("--checkpoint-dir", options.checkpoint_directory,
                    "default: STATE-DIR/checkpoints");
    run->add_option("--every-steps", options.every_steps, "a checkpoint every N steps")
        ->check(is_counted());
    run->add_option("--every-epochs", options.every_epochs, "a checkpoint every N epochs")
        ->check(is_counted());
    run->add_option("--every", options.every,
                    "a checkpoint every so often: 30s, 10m, or auto (default: 10m)");
    run->add_option("--keep-last", options.keep_last, "checkpoints that are kept")
        ->capture_default_str();
    run->add_option("--keep-every-steps", options.keep_every_steps,
                    "also one for each N steps, for ever")
        ->check(is_counted());
    run->add_option("--keep-best", options.keep_best,
                    "also the best by METRIC:min or METRIC:max, or the N best: loss:min:3");
    run->add_option("--keep-bytes", options.keep_bytes, "all of them together: 500MB, 10GiB");
    run->add_option("--adopt", options.adopt,
                    "a file that the command saves itself, such as checkpoint.pth, or a pattern: "
                    "each version becomes a checkpoint, the newest one is put back before a start; "
                    "may be repeated")
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
        ->expected(1)
        ->allow_extra_args(false);
    run->add_option("--on-resume", options.on_resume,
                    "added to the command if there is something to resume from: '--resume "
                    "{checkpoint}'");
    run->add_option("--on-fresh", options.on_fresh,
                    "added to the command if there is nothing to resume from");
    run->add_option("--max-restarts", options.restarts_max, "without progress, in an hour")
        ->capture_default_str();
    run->add_option("--grace", options.grace, "from SIGTERM to SIGKILL")->capture_default_str();
    run->add_flag("--start-fresh", options.starts_fresh,
                  "begin at step 0 if all checkpoints are damaged or gone");
    run->add_flag("--quiet", options.is_quiet, "do not show the output of rank 0");
    // For its help alone: the words of the command are taken out before, see take_command().
    run->add_option("command", "-- COMMAND [ARGUMENT …]");
    run->callback([&words] {
        words.action = [&words]() -> Result<int> {
            if (!words.run.command.empty()) return pawl::tools::run(words.run);
            return pawl::make_error(ErrorKind::kInvalidArgument,
                                    "no command to run. Usage: pawl run [OPTIONS] -- COMMAND "
                                    "[ARGUMENT …]");
        };
    });
}

// Takes the command off the words of `pawl run`: from the first that is no option and no option's
// value, or what follows "--". It is the user's, word for word: the parser would make two of [1,2].
std::vector<std::string> take_command(const CLI::App& run, std::vector<std::string>& words) {
    std::size_t options = 0;
    while (options < words.size() && words[options].starts_with('-') && words[options] != "--") {
        const CLI::Option* const option = run.get_option_no_throw(words[options]);
        const bool has_value = option != nullptr && option->get_items_expected_max() > 0;
        options = std::min(words.size(), options + (has_value ? 2 : 1));
    }
    const auto end = words.begin() + static_cast<std::ptrdiff_t>(options);
    const auto begin = end != words.end() && *end == "--" ? end + 1 : end;
    std::vector<std::string> command(begin, words.end());
    words.erase(end, words.end());
    return command;
}

void add_daemon_commands(CLI::App& app, Words& words) {
    CLI::App* status = app.add_subcommand("status", "what the daemon and its jobs are doing");
    add_place(status, words);
    status->add_option("--socket", words.place.socket, "the daemon's control socket");
    status->callback(
        [&words] { words.action = [&words] { return show_status(words.place, words.format()); }; });
    for (const auto& [name, verb, text] :
         {std::tuple{"checkpoint", "checkpoint", "ask for a checkpoint now"},
          std::tuple{"stop", "stop", "take a last checkpoint and stop the job"}}) {
        CLI::App* command = app.add_subcommand(name, text);
        add_place(command, words);
        add_job(command, words);
        command->add_option("--socket", words.place.socket, "the daemon's control socket");
        command->callback([&words, word = std::string(verb)] {
            words.action = [&words, word] { return command_job(words.place, word); };
        });
    }
}

void add_history(CLI::App& app, Words& words) {
    CLI::App* journal = app.add_subcommand("journal", "what happened; needs no daemon");
    add_place(journal, words);
    add_job(journal, words);
    journal->add_option("--socket", words.place.socket, "the daemon's control socket");
    journal
        ->add_option("table", words.table, "events, progress, epochs, incarnations or checkpoints")
        ->check(CLI::IsMember({"events", "progress", "epochs", "incarnations", "checkpoints"}))
        ->capture_default_str();
    words.parameters["limit"] = "20";
    for (const auto& [name, text] :
         {std::pair{"limit", "so many at most, the last ones unless --after is given (20)"},
          std::pair{"kind", "of events their kind; of checkpoints or incarnations their state"},
          std::pair{"severity", "of events: info, warning or error, and worse"},
          std::pair{"since", "2h ago, or 2026-11-24T10:00 (UTC)"},
          std::pair{"until", "likewise; that moment is not included"},
          std::pair{"after", "go on behind 'next' of a JSON answer, or from the start"}}) {
        journal->add_option_function<std::string>(
            "--" + std::string(name),
            [&words, key = std::string(name)](const std::string& value) {
                words.parameters[key] = value;
            },
            text);
    }
    journal->add_flag("--follow,-f", words.follows, "go on printing what is added");
    journal->callback([&words] {
        words.action = [&words] {
            return show_journal(words.place, words.table, words.parameters, words.follow(),
                                words.format());
        };
    });
    CLI::App* logs = app.add_subcommand("logs", "what ranks printed");
    add_place(logs, words);
    add_job(logs, words);
    logs->add_option("--socket", words.place.socket, "the daemon's control socket");
    logs->add_option("--rank", words.logs.ranks, "which rank; several: 0,1 or said twice (0)")
        ->delimiter(',');
    logs->add_flag("--all", words.logs.is_of_all_ranks, "all ranks");
    logs->add_option("--incarnation", words.logs.incarnation, "only what was printed in this one");
    logs->add_option("--lines", words.logs.lines, "the last so many of each rank")
        ->check(is_counted())
        ->capture_default_str();
    logs->add_flag("--follow,-f", words.follows, "go on printing");
    logs->callback([&words] {
        words.action = [&words] {
            words.logs.follows = words.follow();
            return show_logs(words.place, words.logs, words.format());
        };
    });
}

void add_config(CLI::App& app, Words& words) {
    CLI::App* config = app.add_subcommand("config", "the daemon's configuration");
    config->require_subcommand(1);
    using FileCommand = Result<int> (*)(const std::string&, Format);
    for (const auto& [name, text, function] :
         {std::tuple<const char*, const char*, FileCommand>{
              "check", "whether a file is valid, and if not, where and why",
              &pawl::tools::check_config},
          {"show", "what holds once includes, defaults and variables are filled in",
           &pawl::tools::show_config}}) {
        CLI::App* command = config->add_subcommand(name, text);
        command->add_option("file", words.config_path, "the file")
            ->default_val("/etc/pawl/pawld.yaml");
        command->add_flag("--json", words.is_json, "print JSON");
        command->callback([&words, call = function] {
            words.action = [&words, call] { return call(words.config_path, words.format()); };
        });
    }
    CLI::App* diff = config->add_subcommand("diff", "what a reload would make of a change");
    diff->add_option("from", words.config_path, "the file as it is")->required();
    diff->add_option("to", words.other_config_path, "the file as it shall be")->required();
    diff->add_flag("--json", words.is_json, "print JSON");
    diff->callback([&words] {
        words.action = [&words] {
            return pawl::tools::compare_configs(words.config_path, words.other_config_path,
                                                words.format());
        };
    });
    config->add_subcommand("schema", "a JSON schema of the configuration, for editors")
        ->callback([&words] { words.action = &pawl::tools::show_schema; });
    config->add_subcommand("reference", "every key, in Markdown")->callback([&words] {
        words.action = &pawl::tools::show_reference;
    });
    CLI::App* reload = app.add_subcommand("reload", "have pawld read its configuration again");
    add_place(reload, words);
    reload->add_option("--socket", words.place.socket, "the daemon's control socket");
    reload->callback([&words] {
        words.action = [&words] { return pawl::tools::reload_daemon(words.place, words.format()); };
    });
}

int run(int argc, char** argv) {
    CLI::App app{"pawl: training that survives its machine", "pawl"};
    app.set_version_flag("--version", PAWL_VERSION);
    app.require_subcommand(1);
    Words words;
    add_run(app, words);
    add_daemon_commands(app, words);
    pawl::tools::add_checkpoint_commands(app, words.action);
    add_history(app, words);
    add_config(app, words);
    std::vector<std::string> given(argv + std::min(argc, 1), argv + argc);
    if (!given.empty() && given.front() == "run") {
        given.erase(given.begin());
        words.run.command = take_command(*app.get_subcommand("run"), given);
        given.insert(given.begin(), "run");
    }
    std::ranges::reverse(given);  // as the parser wants them
    try {
        app.parse(std::move(given));
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : 64;
    }
    const auto done = words.action();
    if (done) return *done;
    std::fprintf(stderr, "pawl: %s\n", done.error().text().c_str());
    return exit_code_of(done.error().kind());
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return run(argc, argv);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "pawl: %s\n", error.what());
        return 70;
    }
}
