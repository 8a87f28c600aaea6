// Several files, and defaults: what goes together, what does not, and where each error points.
#include "config/config.h"
#include "tests/fakes/fake_surroundings.h"
#include "tests/fakes/temporary_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <vector>

namespace pawl::config {

namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char* kMain = "/etc/pawl/pawld.yaml";

std::string job(const std::string& name) {
    return "  " + name + ": {command: [x], checkpoint: {directory: /c/" + name + "}}\n";
}

Result<Loaded> loaded(std::map<std::string, std::string> files) {
    fakes::FakeSurroundings around;
    around.files = std::move(files);
    return load_files(kMain, around);
}

std::string refusal_of(std::map<std::string, std::string> files) {
    const auto result = loaded(std::move(files));
    return result ? "(taken)" : result.error().text();
}

std::vector<std::string> names_of(const Loaded& config) {
    std::vector<std::string> names;
    for (const JobConfig& each : config.config.jobs)
        names.push_back(each.name);
    return names;
}

TEST(Include, JobsOfAllFilesComeTogether) {
    const auto config =
        loaded({{kMain, "include: [jobs.d/*.yaml, more.yaml]\njobs:\n" + job("main")},
                {"/etc/pawl/jobs.d/a.yaml", "jobs:\n" + job("a")},
                {"/etc/pawl/jobs.d/b.yaml", "# none now\n"},
                {"/etc/pawl/more.yaml", "include: deep/c.yaml\njobs:\n" + job("m")},
                {"/etc/pawl/deep/c.yaml", "jobs:\n" + job("c")}});

    ASSERT_TRUE(config.has_value()) << config.error().text();
    EXPECT_THAT(names_of(*config), ElementsAre("main", "a", "m", "c"));
    EXPECT_THAT(config->files,
                ElementsAre(kMain, "/etc/pawl/jobs.d/a.yaml", "/etc/pawl/jobs.d/b.yaml",
                            "/etc/pawl/more.yaml", "/etc/pawl/deep/c.yaml"));
}

TEST(Include, RelativePathsStartAtTheFileThatHasThem) {
    const auto config = loaded({{kMain, "include: jobs.d/a.yaml\n"},
                                {"/etc/pawl/jobs.d/a.yaml",
                                 "jobs:\n  a: {command: [x], checkpoint: {directory: ckpt}}\n"}});

    ASSERT_TRUE(config.has_value()) << config.error().text();
    EXPECT_EQ(config->config.jobs.at(0).checkpoint.directory, "/etc/pawl/jobs.d/ckpt");
    EXPECT_EQ(config->config.jobs.at(0).working_directory, "/etc/pawl/jobs.d");
}

TEST(Include, APatternWithoutMatchLeavesADaemonWithoutJobs) {
    const auto config = loaded({{kMain, "include: jobs.d/*.yaml\n"}});

    ASSERT_TRUE(config.has_value()) << config.error().text();
    EXPECT_TRUE(config->config.jobs.empty());
}

TEST(Include, RefusalsNameTheFileThatIsWrong) {
    const std::string a = "/etc/pawl/a.yaml";
    const std::string main = std::string(kMain) + ":";
    struct Row {
        std::map<std::string, std::string> files;
        std::string refusal;
    };
    const std::vector<Row> rows = {
        {{{kMain, "include: a.yaml\n"}},
         main +
             "1:10: key 'include': cannot read configuration '/etc/pawl/a.yaml': No such file or "
             "directory"},
        {{{kMain, "include: {a: b}\n"}},
         main + "1:1: key 'include': expected a path or a list of paths, such as jobs.d/*.yaml, "
                "found a map"},
        {{{kMain, "include: [[a]]\n"}},
         main + "1:11: key 'include': expected a path or a list of paths, such as jobs.d/*.yaml, "
                "found a list"},
        {{{kMain, "include: a.yaml\n"}, {a, "jobs:\n  a: {ranks: 0}\n"}},
         a + ":2:14: key 'jobs.a.ranks': expected a whole number from 1 to 1024, found '0'"},
        {{{kMain, "include: a.yaml\n"}, {a, "jobs:\n  a: *b\n"}},
         a + ":2:6: not valid YAML: the referenced anchor is not defined"},
        {{{kMain, "include: a.yaml\n"}, {a, "jobs:\n  a: {ranks: 2}\n"}},
         a + ":2:3: key 'jobs.a.command': missing; expected a list of words, such as [python3, "
             "train.py]"},
        {{{kMain, "include: a.yaml\n"}, {a, "log_level: info\n"}},
         a + ":1:1: key 'log_level': expected only include, defaults and jobs in a file that is "
             "included (at /etc/pawl/pawld.yaml:1:10); the rest belongs in '/etc/pawl/pawld.yaml'"},
        {{{kMain, "include: a.yaml\njobs:\n" + job("lm")}, {a, "\njobs:\n" + job("lm")}},
         a + ":3:3: key 'jobs.lm': written twice, first in /etc/pawl/pawld.yaml:3:3"},
        {{{kMain, "include: a.yaml\ndefaults: {ranks: 2}\n"}, {a, "defaults: {ranks: 3}\n"}},
         a + ":1:1: key 'defaults': written in two files, first in /etc/pawl/pawld.yaml:2:1"},
        {{{kMain, "include: pawld.yaml\n"}},
         main + "1:10: key 'include': expected another file, found '/etc/pawl/pawld.yaml', which "
                "includes itself here"},
        {{{kMain, "include: a.yaml\n"},
          {a, "include: [b.yaml]\n"},
          {"/etc/pawl/b.yaml", "include: a.yaml\n"}},
         "/etc/pawl/b.yaml:1:10: key 'include': expected another file, found '/etc/pawl/a.yaml', "
         "which is being included already, at /etc/pawl/pawld.yaml:1:10"},
        {{{kMain, "include: [a.yaml, b.yaml]\n"},
          {a, "jobs:\n" + job("a")},
          {"/etc/pawl/b.yaml", "include: a.yaml\n"}},
         "/etc/pawl/b.yaml:1:10: key 'include': expected another file, found '/etc/pawl/a.yaml', "
         "included already at /etc/pawl/pawld.yaml:1:11"},
        {{{kMain, "include: a.yaml\njobs:\n" + job("lm")},
          {a, "jobs:\n  b: {command: [x], checkpoint: {directory: /c/lm}}\n"}},
         a + ":2:34: key 'jobs.b.checkpoint.directory': expected a directory of its own, found "
             "'/c/lm', used by job 'lm'"},
    };

    for (const Row& row : rows)
        EXPECT_EQ(refusal_of(row.files), row.refusal);
}

TEST(Include, ASecondNameOfAFileIsThatFile) {
    fakes::FakeSurroundings around;
    around.files = {{kMain, "include: alias.yaml\n"}};
    around.links = {{"/etc/pawl/alias.yaml", kMain}};

    const auto config = load_files(kMain, around);

    ASSERT_FALSE(config.has_value());
    EXPECT_THAT(config.error().text(), HasSubstr("includes itself here"));
}

TEST(Include, IsRefusedWhereItGoesTooDeepOrTooWide) {
    std::map<std::string, std::string> deep = {{kMain, "include: 0.yaml\n"}};
    std::map<std::string, std::string> wide = {{kMain, "include: w/*\n"}};
    for (int i = 0; i < 300; ++i) {
        deep["/etc/pawl/" + std::to_string(i) + ".yaml"] =
            "include: " + std::to_string(i + 1) + ".yaml\n";
        wide["/etc/pawl/w/" + std::to_string(i)] = "# nothing\n";
    }

    EXPECT_EQ(refusal_of(deep),
              "/etc/pawl/7.yaml:1:10: key 'include': expected includes at most 8 deep, found "
              "'/etc/pawl/8.yaml' deeper still");
    EXPECT_THAT(refusal_of(wide), HasSubstr("key 'include': expected at most 256 files"));
}

TEST(Include, WhatMayNotBeReadOrListedIsSaidAtThePlaceThatNamesIt) {
    fakes::FakeSurroundings around;
    around.files = {{kMain, "include: [jobs.d/*, secret.yaml]\n"}};
    around.unreadable = {{"/etc/pawl/jobs.d/", EACCES}};
    const auto unlisted = load_files(kMain, around);
    around.unreadable = {{"/etc/pawl/secret.yaml", EACCES}};
    const auto unread = load_files(kMain, around);

    ASSERT_FALSE(unlisted.has_value());
    EXPECT_EQ(unlisted.error().text(),
              "/etc/pawl/pawld.yaml:1:11: key 'include': cannot look for configurations "
              "'/etc/pawl/jobs.d/*': Permission denied");
    ASSERT_FALSE(unread.has_value());
    EXPECT_EQ(unread.error().text(),
              "/etc/pawl/pawld.yaml:1:21: key 'include': cannot read configuration "
              "'/etc/pawl/secret.yaml': Permission denied");
}

TEST(Include, OnDiskPatternsAreSortedAndSkipHiddenFilesAndBackups) {
    const fakes::TemporaryDirectory directory;
    const std::string jobs = directory.path() + "/jobs.d";
    ASSERT_EQ(::mkdir(jobs.c_str(), 0700), 0);
    for (const char* const name : {"b.yaml", "a.yaml", ".c.yaml", "d.yaml~", "e.yml"})
        std::ofstream(jobs + "/" + name) << "jobs:\n" << job(std::string("j") + name[0]);
    const std::string main = directory.path() + "/pawld.yaml";
    std::ofstream(main) << "include: jobs.d/*.yaml\n";

    const auto config = load_files(main, *make_surroundings());

    ASSERT_TRUE(config.has_value()) << config.error().text();
    EXPECT_THAT(names_of(*config), ElementsAre("ja", "jb"));
}

TEST(Include, OnDiskADirectoryAFifoAndALinkToItselfAreRefused) {
    const fakes::TemporaryDirectory directory;
    ASSERT_EQ(::mkdir((directory.path() + "/directory").c_str(), 0700), 0);
    ASSERT_EQ(::mkfifo((directory.path() + "/fifo").c_str(), 0600), 0);
    const std::string main = directory.path() + "/pawld.yaml";
    ASSERT_EQ(::symlink(main.c_str(), (directory.path() + "/link").c_str()), 0);
    const auto refusal = [&](const std::string& what) {
        std::ofstream(main) << "include: " << what << "\n";
        const auto config = load_files(main, *make_surroundings());
        return config ? "(taken)" : config.error().text();
    };

    EXPECT_THAT(refusal("directory"), HasSubstr("/directory': not a regular file"));
    EXPECT_THAT(refusal("fifo"), HasSubstr("/fifo': not a regular file"));
    EXPECT_THAT(refusal("link"), HasSubstr("includes itself here"));
    EXPECT_THAT(refusal("nowhere/*.yaml"), HasSubstr("No such file or directory"));
}

// ---- defaults ----

TEST(Defaults, AreMergedDeepAndAJobsOwnWin) {
    const auto config = loaded({{kMain, R"(
defaults:
  command: [python3, train.py]
  environment: {A: common, B: common}
  ranks: 4
  checkpoint: {directory: "/ckpt/${PAWL_JOB}", every_steps: 100, keep_last: 7}
  restart: {max: 3}
jobs:
  plain: {}
  own:
    command: [other]
    environment: {B: own, C: own}
    ranks: 1
    checkpoint: {keep_last: 2}
    restart: {window: 2h}
)"}});

    ASSERT_TRUE(config.has_value()) << config.error().text();
    const JobConfig& plain = config->config.jobs.at(0);
    EXPECT_EQ(plain.command, (std::vector<std::string>{"python3", "train.py"}));
    EXPECT_EQ(plain.ranks, 4u);
    EXPECT_EQ(plain.checkpoint.directory, "/ckpt/plain");
    EXPECT_EQ(plain.checkpoint.cadence, CadenceConfig{.every_steps = 100});
    const JobConfig& own = config->config.jobs.at(1);
    EXPECT_EQ(own.command, (std::vector<std::string>{"other"}));
    EXPECT_EQ(own.environment,
              (std::map<std::string, std::string>{{"A", "common"}, {"B", "own"}, {"C", "own"}}));
    EXPECT_EQ(own.ranks, 1u);
    EXPECT_EQ(own.checkpoint.directory, "/ckpt/own");
    EXPECT_EQ(own.checkpoint.keep_last, 2u);
    EXPECT_EQ(own.checkpoint.cadence, CadenceConfig{.every_steps = 100});
    EXPECT_EQ(own.restart.max, 3u);
    EXPECT_EQ(own.restart.window, std::chrono::hours{2});
}

TEST(Defaults, OfAnIncludedFileServeAllJobs) {
    const auto config = loaded({{kMain, "include: common.yaml\njobs:\n" + job("lm")},
                                {"/etc/pawl/common.yaml", "defaults: {ranks: 3}\n"}});

    ASSERT_TRUE(config.has_value()) << config.error().text();
    EXPECT_EQ(config->config.jobs.at(0).ranks, 3u);
}

TEST(Defaults, ThatAreWrongAreNamedWhereTheyStand) {
    const std::string main = std::string(kMain) + ":";
    struct Row {
        std::string defaults;
        std::string refusal;
    };
    const std::vector<Row> rows = {
        {"{ranks: 0}",
         "1:19: key 'defaults.ranks': expected a whole number from 1 to 1024, found '0'"},
        {"{rank: 1}",
         "1:12: unknown key 'defaults.rank'; did you mean 'ranks'? Known keys here: command, "
         "on_resume, on_fresh, working_directory, environment, ranks, output_directory, "
         "output_rotate_at, checkpoint, "
         "start, restart, stop"},
        {"[]",
         "1:11: key 'defaults': expected a map with the keys command, on_resume, on_fresh, "
         "working_directory, "
         "environment, ranks, output_directory, output_rotate_at, checkpoint, start, restart, "
         "stop, found "
         "an empty list"},
        {"{stop: {grace: 1s}}",
         "1:12: key 'jobs.lm.stop.exit_grace': expected at most grace, which is 1s, found '5s' "
         "(the "
         "default)"},
        {"{stop: {exit_grace: 1m}}",
         "1:19: key 'jobs.lm.stop.exit_grace': expected at most grace, which is 30s, found '1m' "
         "(from 'defaults')"},
        {"{environment: {RANK: 1}}",
         "1:26: key 'jobs.lm.environment.RANK': expected a variable that pawl does not set itself, "
         "found 'RANK' (from 'defaults')"},
    };

    for (const Row& row : rows) {
        EXPECT_EQ(refusal_of({{kMain, "defaults: " + row.defaults + "\njobs:\n" + job("lm")}}),
                  main + row.refusal);
    }
    EXPECT_EQ(
        refusal_of({{kMain, "include: none.d/*\ndefaults: {ranks: 0}\n"}}),
        main + "2:19: key 'defaults.ranks': expected a whole number from 1 to 1024, found '0'")
        << "with no job to take them";
}

TEST(Defaults, DoNotLetTwoJobsShareADirectory) {
    EXPECT_EQ(
        refusal_of({{kMain,
                     "defaults: {command: [x], checkpoint: {directory: /c}}\n"
                     "jobs: {a: {}, b: {}}\n"}}),
        std::string(kMain) +
            ":1:39: key 'jobs.b.checkpoint.directory': expected a directory of its own, found "
            "'/c', used by job 'a' (from 'defaults')");
}

// ---- what is meant to hurt ----

TEST(Config, ABillionLaughsAreRefusedAtOnce) {
    std::string yaml = "a: &a [x, x, x, x, x, x, x, x, x, x]\n";
    for (char c = 'b'; c <= 'z'; ++c) {
        const std::string before(1, static_cast<char>(c - 1));
        yaml += std::string(1, c) + ": &" + c + " [*" + before;
        for (int i = 0; i < 9; ++i)
            yaml += ", *" + before;
        yaml += "]\n";
    }

    EXPECT_THAT(refusal_of({{kMain, yaml + "jobs: *z\n"}}), HasSubstr("unknown key 'a'"));
    EXPECT_THAT(refusal_of({{kMain,
                             "jobs:\n  lm:\n    command:\n      - &a [x, x]\n      - &b [*a, "
                             "*a]\n      - [*b, *b]\n"}}),
                HasSubstr("expected a text, found a list"));
}

TEST(Config, AMegabyteOfKeysIsReadOrRefusedButNotFeltTwice) {
    std::string environment =
        "jobs:\n  lm:\n    command: [x]\n    checkpoint: {directory: /c}\n"
        "    environment:\n";
    for (int i = 0; environment.size() < 1'000'000; ++i)
        environment += fmt::format("      V{}: {}\n", i, i);
    std::string unknown;
    for (int i = 0; unknown.size() < 1'000'000; ++i)
        unknown += fmt::format("key{}: {}\n", i, i);
    std::string aliased = environment;
    aliased.replace(aliased.find("lm:"), 3, "lm: &lm");
    for (int i = 0; i < 200; ++i)
        aliased += fmt::format("  j{}: *lm\n", i);

    const auto taken = loaded({{kMain, environment}});
    ASSERT_TRUE(taken.has_value()) << taken.error().text();
    EXPECT_GT(taken->config.jobs.at(0).environment.size(), 50'000u);
    EXPECT_THAT(refusal_of({{kMain, unknown}}), HasSubstr("unknown key 'key0'"));
    EXPECT_THAT(refusal_of({{kMain, aliased}}), HasSubstr("expected a configuration of at most"));
}

TEST(Config, MergeKeysAreNoKeys) {
    EXPECT_THAT(refusal_of({{kMain, "jobs:\n  a: &a {command: [x]}\n  b: {<<: *a}\n"}}),
                HasSubstr("key 'jobs.a.checkpoint': missing"));
    EXPECT_THAT(refusal_of({{kMain, "jobs:\n  b: {<<: {ranks: 2}}\n"}}),
                HasSubstr("unknown key 'jobs.b.<<'"));
}

}  // namespace

}  // namespace pawl::config
