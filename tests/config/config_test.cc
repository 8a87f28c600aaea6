// The configuration: what is taken, what it becomes, and the whole text of each refusal.
#include "config/config.h"

#include "tests/fakes/temporary_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

namespace pawl::config {

namespace {

using std::chrono::hours;
using std::chrono::minutes;

constexpr const char* kFile = "/etc/pawl/pawld.yaml";

// The smallest file that is taken.
constexpr const char* kMinimal = R"(
jobs:
  lm:
    command: [train]
    checkpoint: {directory: /ckpt/lm}
)";

// What kMinimal means.
JobConfig minimal_job() {
    return {.name = "lm",
            .command = {"train"},
            .working_directory = "/etc/pawl",
            .output_directory = "/var/lib/pawl/logs/lm",
            .checkpoint = {.directory = "/ckpt/lm", .cadence = {.every_time = minutes{10}}}};
}

// A job of which only the given line matters; it stands in line 4, and its key in column 5.
std::string job_with(const std::string& line) {
    return "jobs:\n  lm:\n    command: [train]\n    " + line +
           "\n    checkpoint: {directory: /ckpt/lm}\n";
}

// The same within the checkpoint's map.
std::string checkpoint_with(const std::string& line) {
    return "jobs:\n  lm:\n    command: [train]\n    checkpoint: {directory: /ckpt/lm, " + line +
           "}\n";
}

std::string written(const fakes::TemporaryDirectory& directory, const std::string& name,
                    const std::string& text) {
    std::string path = directory.path() + "/" + name;
    std::ofstream(path) << text;
    return path;
}

std::string refusal_of(std::string_view yaml) {
    const auto result = parse(yaml, kFile);
    return result ? "(taken)" : result.error().text();
}

TEST(Config, TheSmallestFileGetsAllDefaults) {
    const auto daemon = parse(kMinimal, kFile);

    ASSERT_TRUE(daemon.has_value()) << daemon.error().text();
    const DaemonConfig expected = {.state_directory = "/var/lib/pawl",
                                   .log_level = LogLevel::kInfo,
                                   .control = {.socket = "/var/lib/pawl/pawld.sock"},
                                   .jobs = {minimal_job()}};
    EXPECT_EQ(*daemon, expected);
}

TEST(Config, EveryKeyReachesItsMember) {
    constexpr const char* kFull = R"(
state_directory: /state
log_level: debug
control: {socket: /run/pawl/pawld.sock}
jobs:
  fashion.mnist-2:
    command: [python3, train.py, 3, true, "", "a b"]
    working_directory: /work
    environment: {OMP_NUM_THREADS: 2, EMPTY: "", _x1: "a=b"}
    ranks: 8
    output_directory: /log
    output_rotate_at: 10GiB
    checkpoint:
      directory: /ckpt
      every: 1h30m
      every_steps: 1000
      every_epochs: 2
      keep_last: 5
      on_no_valid_checkpoint: start_fresh
    restart: {max: 0, window: 2d, delay_initial: 500ms, delay_max: 5m, same_step_max: 4}
    stop: {grace: 2m, exit_grace: 10s}
)";

    const auto daemon = parse(kFull, kFile);

    ASSERT_TRUE(daemon.has_value()) << daemon.error().text();
    const JobConfig job = {
        .name = "fashion.mnist-2",
        .command = {"python3", "train.py", "3", "true", "", "a b"},
        .working_directory = "/work",
        .environment = {{"EMPTY", ""}, {"OMP_NUM_THREADS", "2"}, {"_x1", "a=b"}},
        .ranks = 8,
        .output_directory = "/log",
        .output_rotate_at = std::uint64_t{10} << 30,
        .checkpoint = {.directory = "/ckpt",
                       .cadence = {.every_steps = 1000,
                                   .every_epochs = 2,
                                   .every_time = hours{1} + minutes{30}},
                       .keep_last = 5,
                       .on_no_valid_checkpoint = OnNoValidCheckpoint::kStartFresh},
        .restart = {.max = 0,
                    .window = hours{48},
                    .delay_initial = milliseconds{500},
                    .delay_max = minutes{5},
                    .same_step_max = 4},
        .stop = {.grace = minutes{2}, .exit_grace = seconds{10}}};
    const DaemonConfig expected = {.state_directory = "/state",
                                   .log_level = LogLevel::kDebug,
                                   .control = {.socket = "/run/pawl/pawld.sock"},
                                   .jobs = {job}};
    EXPECT_EQ(*daemon, expected);
}

TEST(Config, RelativePathsStartAtTheFilesDirectory) {
    const auto daemon = parse(R"(
jobs:
  lm:
    command: [train]
    working_directory: ../src/
    checkpoint: {directory: ./ckpt/lm/}
state_directory: state
)",
                              kFile);

    ASSERT_TRUE(daemon.has_value()) << daemon.error().text();
    EXPECT_EQ(daemon->state_directory, "/etc/pawl/state");
    EXPECT_EQ(daemon->control.socket, "/etc/pawl/state/pawld.sock");
    EXPECT_EQ(daemon->jobs.at(0).working_directory, "/etc/src");
    EXPECT_EQ(daemon->jobs.at(0).checkpoint.directory, "/etc/pawl/ckpt/lm");
    EXPECT_EQ(daemon->jobs.at(0).output_directory, "/etc/pawl/state/logs/lm");
}

TEST(Config, AFileNamedRelativelyStillGivesAbsolutePaths) {
    const auto daemon = parse(kMinimal, "pawld.yaml");

    ASSERT_TRUE(daemon.has_value()) << daemon.error().text();
    EXPECT_EQ(daemon->jobs.at(0).working_directory, std::filesystem::current_path().string());
}

TEST(Config, EveryTenMinutesIsTheCadenceOnlyWhereNoneIsWritten) {
    const auto daemon = parse(checkpoint_with("every_epochs: 1"), kFile);

    ASSERT_TRUE(daemon.has_value()) << daemon.error().text();
    EXPECT_EQ(daemon->jobs.at(0).checkpoint.cadence, CadenceConfig{.every_epochs = 1});
}

TEST(Config, WhatIsKeptBesideTheLastHasItsKeys) {
    const auto daemon = parse(
        checkpoint_with("every: auto, keep_every_steps: 1000, keep_every_epochs: 5, keep_bytes: "
                        "10GiB, keep_best: {metric: accuracy, mode: max, count: 2}, scrub_every: "
                        "off"),
        kFile);

    ASSERT_TRUE(daemon.has_value()) << daemon.error().text();
    const CheckpointConfig& checkpoint = daemon->jobs.at(0).checkpoint;
    EXPECT_EQ(checkpoint.cadence, CadenceConfig{.is_automatic = true});
    EXPECT_EQ(checkpoint.keep_every_steps, 1000u);
    EXPECT_EQ(checkpoint.keep_every_epochs, 5u);
    EXPECT_EQ(checkpoint.keep_bytes, std::uint64_t{10} << 30);
    EXPECT_EQ(checkpoint.keep_best,
              (KeepBestConfig{.metric = "accuracy", .mode = BestMode::kMax, .count = 2}));
    EXPECT_EQ(checkpoint.scrub_every, std::nullopt);
    EXPECT_EQ(CheckpointConfig{}.scrub_every, std::chrono::hours{24});
}

TEST(Config, WrongRulesOfRetentionAreRefusedByName) {
    for (const auto& [written, key] : std::map<std::string, std::string>{
             {"keep_every_steps: 0", "checkpoint.keep_every_steps"},
             {"keep_every_epochs: no", "checkpoint.keep_every_epochs"},
             {"keep_bytes: 10", "checkpoint.keep_bytes"},
             {"keep_bytes: 10G", "checkpoint.keep_bytes"},
             {"keep_best: {metric: loss}", "checkpoint.keep_best"},
             {"keep_best: {metric: loss, mode: least}", "checkpoint.keep_best.mode"},
             {"keep_best: {metric: loss, mode: min, count: 0}", "checkpoint.keep_best.count"},
             {"scrub_every: never", "checkpoint.scrub_every"},
             {"every: automatic", "checkpoint.every"}}) {
        const auto daemon = parse(checkpoint_with(written), kFile);

        ASSERT_FALSE(daemon.has_value()) << written;
        EXPECT_NE(daemon.error().text().find(key), std::string::npos) << daemon.error().text();
    }
}

TEST(Config, JobsKeepTheOrderOfTheFile) {
    const auto daemon = parse(R"(
jobs:
  b: {command: [train], checkpoint: {directory: /ckpt/b}}
  a: {command: [train], checkpoint: {directory: /ckpt/a}}
)",
                              kFile);

    ASSERT_TRUE(daemon.has_value()) << daemon.error().text();
    EXPECT_EQ(daemon->jobs.at(0).name, "b");
    EXPECT_EQ(daemon->jobs.at(1).name, "a");
}

TEST(Config, RefusalsNamePositionKeyAndExpectation) {
    struct Row {
        std::string yaml;
        std::string refusal;  // after "/etc/pawl/pawld.yaml:"
    };
    const std::string job_keys =
        "command, on_resume, on_fresh, working_directory, environment, ranks, output_directory, "
        "output_rotate_at, checkpoint, start, restart, stop";
    const std::string daemon_keys = "state_directory, log_level, control, include, defaults, jobs";
    const std::string checkpoint_keys =
        "directory, every, every_steps, every_epochs, keep_last, keep_every_steps, "
        "keep_every_epochs, keep_best, keep_bytes, scrub_every, attempt_timeout, "
        "on_no_valid_checkpoint, adopt";
    const std::string two_jobs =
        "jobs:\n"
        "  a: {command: [x], checkpoint: {directory: /ckpt}}\n"
        "  b: {command: [x], checkpoint: {directory: /x/../ckpt/}}\n";
    const std::string duration_to_a_day = "a duration from 1ms to 1d, such as 30s, 5m or 1h30m";
    const std::string more_documents =
        "expected one YAML document, found more after its end (a '---' or a ',' too many?)";
    const std::string long_name(105, 'x');
    const std::vector<Row> rows = {
        // The file as a whole.
        {"", "1:1: expected a map with at least the key jobs, found an empty file"},
        {"# nothing yet\n", "1:1: expected a map with at least the key jobs, found an empty file"},
        {"- a\n", "1:1: expected a map with the keys " + daemon_keys + ", found a list"},
        {"pawl\n", "1:1: expected a map with the keys " + daemon_keys + ", found 'pawl'"},
        {"jobs: {}\n---\njobs: {}\n", "2:1: " + more_documents},
        {",jobs: {}\n", "1:1: " + more_documents},
        {"jobs: {}\n]\n", "2:1: not valid YAML: illegal flow end"},
        {"jobs: [\n", "2:1: not valid YAML: end of sequence flow not found"},
        {"jobs:\n\tlm: x\n", "2:4: not valid YAML: illegal map value"},
        {"jobs: *lm\n", "1:7: not valid YAML: the referenced anchor is not defined"},
        {"log_level: info\n\x04", "2:1: expected UTF-8 text, found the control character 0x04"},
        {"? [a]\n: b\n", "1:3: expected a name as key, found a list"},
        {std::string((1 << 20) + 1, '#'),
         "1:1: expected a file of at most 1048576 bytes, found more"},
        // Keys.
        {"log_level: info\n",
         "1:1: key 'jobs': missing; expected a map of at least one job, by "
         "name"},
        {"jobz: {}\n",
         "1:1: unknown key 'jobz'; did you mean 'jobs'? Known keys here: " + daemon_keys},
        {"log_level: \"\xC3\x28\"\n",
         "1:13: expected UTF-8 text, found the byte 0xc3, which is none here (another encoding?)"},
        {"log_level: \xE9\n",
         "1:12: expected UTF-8 text, found the byte 0xe9, which is none here (another encoding?)"},
        {std::string("\xFF\xFEj\0", 4),
         "1:1: expected UTF-8 text, found the byte 0xff, which is none here (another encoding?)"},
        {job_with("chekpoint: {}"),
         "4:5: unknown key 'jobs.lm.chekpoint'; did you mean 'checkpoint'? Known keys here: " +
             job_keys},
        {job_with("gpus: 1"), "4:5: unknown key 'jobs.lm.gpus'. Known keys here: " + job_keys},
        {checkpoint_with("keep-last: 1"),
         "4:39: unknown key 'jobs.lm.checkpoint.keep-last'; did you mean 'keep_last'? Known keys "
         "here: " +
             checkpoint_keys},
        {job_with("command: [other]"),
         "4:5: key 'jobs.lm.command': written twice, first in line 3"},
        {"jobs:\n  lm: {ranks: 1}\n  lm: {ranks: 1}\n",
         "3:3: key 'jobs.lm': written twice, first in line 2"},
        {"jobs:\n  lm:\n    command: [train]\n",
         "2:3: key 'jobs.lm.checkpoint': missing; expected a map with at least the key directory"},
        {"jobs:\n  lm:\n    checkpoint: {directory: /c}\n",
         "2:3: key 'jobs.lm.command': missing; expected a list of words, such as [python3, "
         "train.py]"},
        {"jobs:\n  lm:\n    command: [train]\n    checkpoint: {every: 1h}\n",
         "4:5: key 'jobs.lm.checkpoint.directory': missing; expected a path"},
        // Values.
        {"jobs:\n", "1:1: key 'jobs': expected a map of at least one job, by name, found nothing"},
        {"jobs: {}\n",
         "1:1: key 'jobs': expected a map of at least one job, by name, found an empty map"},
        {"jobs:\n  lm: train\n",
         "2:7: key 'jobs.lm': expected a map with the keys " + job_keys + ", found 'train'"},
        {"log_level: verbose\n",
         "1:12: key 'log_level': expected debug, info, warning or error, found 'verbose'"},
        {job_with("ranks: two"),
         "4:12: key 'jobs.lm.ranks': expected a whole number from 1 to 1024, found 'two'"},
        {job_with("ranks: 0"),
         "4:12: key 'jobs.lm.ranks': expected a whole number from 1 to 1024, found '0'"},
        {job_with("ranks: 010"),
         "4:12: key 'jobs.lm.ranks': expected a whole number from 1 to 1024, found '010'"},
        {job_with("ranks: -1"),
         "4:12: key 'jobs.lm.ranks': expected a whole number from 1 to 1024, found '-1'"},
        {job_with("ranks: 99999999999999999999"),
         "4:12: key 'jobs.lm.ranks': expected a whole number from 1 to 1024, found "
         "'99999999999999999999'"},
        {job_with("ranks:"),
         "4:5: key 'jobs.lm.ranks': expected a whole number from 1 to 1024, found nothing"},
        {job_with("ranks: [1]"),
         "4:12: key 'jobs.lm.ranks': expected a whole number from 1 to 1024, found a list"},
        {job_with("stop: {grace: 30}"),
         "4:19: key 'jobs.lm.stop.grace': expected " + duration_to_a_day + ", found '30'"},
        {checkpoint_with("every: 500ms"),
         "4:46: key 'jobs.lm.checkpoint.every': expected a duration from 1s to 365d, such as 30s, "
         "5m or 1h30m, found '500ms'"},
        {job_with("output_rotate_at: 10"),
         "4:23: key 'jobs.lm.output_rotate_at': expected a size from 64KiB to 1TiB, such as 500MB "
         "or 10GiB, found '10'"},
        {job_with("output_rotate_at: 1B"),
         "4:23: key 'jobs.lm.output_rotate_at': expected a size from 64KiB to 1TiB, such as 500MB "
         "or 10GiB, found '1B'"},
        {checkpoint_with("keep_last: 0"),
         "4:50: key 'jobs.lm.checkpoint.keep_last': expected a whole number from 1 to 10000, found "
         "'0'"},
        {checkpoint_with("on_no_valid_checkpoint: restart"),
         "4:63: key 'jobs.lm.checkpoint.on_no_valid_checkpoint': expected stop or start_fresh, "
         "found 'restart'"},
        {job_with("restart: {same_step_max: 1}"),
         "4:30: key 'jobs.lm.restart.same_step_max': expected a whole number from 2 to 1000, found "
         "'1'"},
        {job_with("working_directory: ~/src"),
         "4:24: key 'jobs.lm.working_directory': expected a path without '~', which only a shell "
         "expands, found '~/src'"},
        {job_with("output_directory: \"\""),
         "4:23: key 'jobs.lm.output_directory': expected a path, found ''"},
        {"jobs:\n  lm:\n    command: python3 train.py\n",
         "3:14: key 'jobs.lm.command': expected a list of words, such as [python3, train.py], "
         "found 'python3 train.py'"},
        {"jobs:\n  lm:\n    command: [train, [a]]\n",
         "3:22: key 'jobs.lm.command': expected a text, found a list"},
        {"jobs:\n  lm:\n    command: [\"a\\0b\"]\n",
         "3:15: key 'jobs.lm.command': expected a text without NUL, found 'a b'"},
        {"jobs: {lm: {command: [], checkpoint: {directory: /c}}}\n",
         "1:13: key 'jobs.lm.command': expected a list of at least one word, found an empty list"},
        {job_with("environment: [A=1]"),
         "4:18: key 'jobs.lm.environment': expected a map of "
         "variables, such as {OMP_NUM_THREADS: \"2\"}, found a "
         "list"},
        {job_with("environment: {A: }"),
         "4:19: key 'jobs.lm.environment.A': expected a text, found nothing"},
        {job_with("environment: {2A: x}"),
         "4:19: key 'jobs.lm.environment.2A': expected a variable's name of letters, digits and "
         "'_', not beginning with a digit, found '2A'"},
        // Relations.
        {job_with("environment: {A: x, PAWL_SOCKET: /x}"),
         "4:25: key 'jobs.lm.environment.PAWL_SOCKET': expected a variable that pawl does not set "
         "itself, found 'PAWL_SOCKET'"},
        {job_with("environment: {LOCAL_RANK: 0}"),
         "4:19: key 'jobs.lm.environment.LOCAL_RANK': expected a variable that pawl does not set "
         "itself, found 'LOCAL_RANK'"},
        {"jobs:\n  .lm: {command: [x], checkpoint: {directory: /c}}\n",
         "2:3: key 'jobs..lm': expected a job's name of 1 to 64 letters, digits, '.', '_' or '-', "
         "not beginning with '.' or '-', found '.lm'"},
        {job_with("restart: {delay_initial: 2m}"),
         "4:15: key 'jobs.lm.restart.delay_initial': expected at most delay_max, which is 1m, "
         "found '2m'"},
        {job_with("stop: {grace: 2s}"),
         "4:5: key 'jobs.lm.stop.exit_grace': expected at most grace, which is 2s, found '5s' (the "
         "default)"},
        {two_jobs,
         "3:34: key 'jobs.b.checkpoint.directory': expected a directory of its own, "
         "found '/ckpt', used by job 'a'"},
        {job_with("output_directory: /ckpt/lm"),
         "4:5: key 'jobs.lm.output_directory': expected a directory of its own, found '/ckpt/lm', "
         "used twice by this job"},
        {"control: {socket: /s/" + long_name + "}\n" + kMinimal,
         "1:11: key 'control.socket': expected a path of at most 107 bytes, as the kernel allows, "
         "found '/s/" +
             long_name + "' of 108 bytes"},
    };

    for (const Row& row : rows) {
        EXPECT_EQ(refusal_of(row.yaml), std::string(kFile) + ":" + row.refusal)
            << row.yaml.substr(0, 400);
    }
}

TEST(Config, RefusalsAreInvalidArguments) {
    const auto result = parse("jobs: {}", kFile);

    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().kind(), ErrorKind::kInvalidArgument);
}

TEST(Config, NestingWithoutEndIsRefusedAndDoesNotExhaustTheStack) {
    for (const std::string_view opening : {"[", "{a: ", "{? ", "- "}) {
        std::string yaml;
        for (int i = 0; i < 100'000; ++i)
            yaml += opening;

        const auto result = parse(yaml, kFile);

        EXPECT_FALSE(result.has_value()) << opening;
    }
}

TEST(Config, AMapThatHoldsItselfIsRefused) {
    EXPECT_THAT(refusal_of("jobs: &jobs\n  lm: *jobs\n"),
                testing::HasSubstr("unknown key 'jobs.lm.lm'"));
}

TEST(Config, MessagesQuoteOnlyTheBeginningOfLongValues) {
    EXPECT_THAT(refusal_of("log_level: " + std::string(5000, 'x')),
                testing::EndsWith("found '" + std::string(80, 'x') + "...'"));
}

TEST(ConfigFile, IsLoadedWithPathsRelativeToIt) {
    const fakes::TemporaryDirectory directory;
    const std::string path = written(directory, "pawld.yaml", kMinimal);

    const auto daemon = load(path);

    ASSERT_TRUE(daemon.has_value()) << daemon.error().text();
    EXPECT_EQ(daemon->jobs.at(0).working_directory, directory.path());
}

TEST(ConfigFile, ThatIsMissingIsNamedWithWhatToDo) {
    const auto daemon = load("/nowhere/pawld.yaml");

    ASSERT_FALSE(daemon.has_value());
    EXPECT_EQ(daemon.error().kind(), ErrorKind::kNotFound);
    EXPECT_EQ(daemon.error().text(),
              "cannot read configuration '/nowhere/pawld.yaml': No such file or directory. Name a "
              "file that this user may read; configs/pawld.yaml is an example with every key.");
}

TEST(ConfigFile, ThatIsADirectoryIsRefused) {
    const fakes::TemporaryDirectory directory;

    const auto daemon = load(directory.path());

    ASSERT_FALSE(daemon.has_value());
    EXPECT_THAT(daemon.error().text(), testing::HasSubstr("not a regular file"));
}

TEST(ConfigFile, ThatIsAFifoIsRefusedAndNotWaitedFor) {
    const fakes::TemporaryDirectory directory;
    const std::string path = directory.path() + "/fifo";
    ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);

    const auto daemon = load(path);

    ASSERT_FALSE(daemon.has_value());
    EXPECT_THAT(daemon.error().text(), testing::HasSubstr("not a regular file"));
}

TEST(ConfigFile, OfMoreThanOneMebibyteIsRefused) {
    const fakes::TemporaryDirectory directory;
    const std::string path = written(directory, "pawld.yaml", std::string((1 << 20) + 1, '#'));

    const auto daemon = load(path);

    ASSERT_FALSE(daemon.has_value());
    EXPECT_EQ(daemon.error().text(),
              path + ":1:1: expected a file of at most 1048576 bytes, found more");
}

TEST(ConfigFile, TheExampleShowsTheDefaults) {
    const std::string directory = std::string(PAWL_SOURCE_DIR) + "/configs";

    const auto daemon = load(directory + "/pawld.yaml");

    ASSERT_TRUE(daemon.has_value()) << daemon.error().text();
    JobConfig job = minimal_job();
    job.name = "fashion-mnist";
    job.command = {"python3", "train.py"};
    job.working_directory = directory;
    job.output_directory = "/var/lib/pawl/logs/fashion-mnist";
    job.checkpoint.directory = "/srv/checkpoints/fashion-mnist";
    const DaemonConfig expected = {.control = {.socket = "/var/lib/pawl/pawld.sock"},
                                   .jobs = {job}};
    EXPECT_EQ(*daemon, expected);
}

TEST(JobCheck, TakesWhatTheFileWouldGive) {
    const auto result = check_job(minimal_job());

    EXPECT_TRUE(result.has_value()) << result.error().text();
}

TEST(JobCheck, RefusesWhatTheFileMayNotSay) {
    struct Row {
        void (*change)(JobConfig&);
        std::string refusal;
    };
    const std::vector<Row> rows = {
        {[](JobConfig& job) { job.name = "a/b"; },
         "job 'a/b': expected a job's name of 1 to 64 letters, digits, '.', '_' or '-', not "
         "beginning with '.' or '-', found 'a/b'"},
        {[](JobConfig& job) { job.name = std::string(65, 'a'); },
         "job '" + std::string(65, 'a') +
             "': expected a job's name of 1 to 64 letters, digits, '.', '_' or '-', not "
             "beginning with '.' or '-', found '" +
             std::string(65, 'a') + "'"},
        {[](JobConfig& job) { job.command.clear(); },
         "job 'lm': key 'command': expected a list of at least one word, found an empty list"},
        {[](JobConfig& job) { job.command = {""}; },
         "job 'lm': key 'command': expected a program as the first word, found ''"},
        {[](JobConfig& job) { job.environment["WORLD_SIZE"] = "8"; },
         "job 'lm': key 'environment.WORLD_SIZE': expected a variable that pawl does not set "
         "itself, found 'WORLD_SIZE'"},
        {[](JobConfig& job) { job.working_directory = "src"; },
         "job 'lm': key 'working_directory': expected an absolute path, found 'src'"},
        {[](JobConfig& job) { job.checkpoint.directory = ""; },
         "job 'lm': key 'checkpoint.directory': expected an absolute path, found ''"},
        {[](JobConfig& job) {
             job.checkpoint.adopt = {"./--", "--"};
         },
         "job 'lm': key 'checkpoint.adopt': expected the path of a file that the script saves, "
         "such as checkpoint.pth or runs/*.pth, found '--'"},
        {[](JobConfig& job) { job.ranks = 1025; },
         "job 'lm': key 'ranks': expected a whole number from 1 to 1024, found '1025'"},
        {[](JobConfig& job) { job.checkpoint.cadence.every_steps = 0; },
         "job 'lm': key 'checkpoint.every_steps': expected a whole number from 1 to "
         "1000000000000, found '0'"},
        {[](JobConfig& job) { job.checkpoint.cadence.every_time = milliseconds{10}; },
         "job 'lm': key 'checkpoint.every': expected a duration from 1s to 365d, such as 30s, 5m "
         "or 1h30m, found '10ms'"},
        {[](JobConfig& job) { job.stop.exit_grace = seconds{31}; },
         "job 'lm': key 'stop.exit_grace': expected at most grace, which is 30s, found '31s'"},
    };

    for (const Row& row : rows) {
        JobConfig job = minimal_job();
        row.change(job);

        const auto result = check_job(job);

        ASSERT_FALSE(result.has_value()) << row.refusal;
        EXPECT_EQ(result.error().text(), row.refusal);
    }
}

}  // namespace

}  // namespace pawl::config
