// What a reload changes: every key of the table, jobs that come and go, and what stands in the way.
#include "config/changes.h"

#include "config/keys.h"
#include "config/schema.h"
#include "config/show.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

namespace pawl::config {

namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

JobConfig job(const std::string& name) {
    return {.name = name,
            .command = {"train"},
            .working_directory = "/w",
            .environment = {{"TOKEN", "secret"}},
            .output_directory = "/log/" + name,
            .checkpoint = {.directory = "/ckpt/" + name,
                           .cadence = {.every_steps = 10},
                           .keep_best = KeepBestConfig{.metric = "loss"}}};
}

DaemonConfig daemon_with(std::vector<JobConfig> jobs) {
    return {.state_directory = "/s", .control = {.socket = "/s/sock"}, .jobs = std::move(jobs)};
}

std::vector<std::string> texts_of(const std::vector<Change>& changes) {
    std::vector<std::string> texts;
    for (const Change& change : changes)
        texts.push_back(change.text());
    return texts;
}

std::vector<std::string> names_of(const DaemonConfig& config) {
    std::vector<std::string> names;
    for (const JobConfig& each : config.jobs)
        names.push_back(each.name);
    return names;
}

// For each key of a job, another value than job() has.
const std::map<std::string, void (*)(JobConfig&)>& alterations() {
    static const std::map<std::string, void (*)(JobConfig&)> kAlterations = {
        {"command",
         [](JobConfig& job) {
             job.command = {"other", "$x"};
         }},
        {"on_resume",
         [](JobConfig& job) {
             job.on_resume = {"--resume", "{checkpoint}"};
         }},
        {"on_fresh", [](JobConfig& job) { job.on_fresh = {"--init=scratch"}; }},
        {"checkpoint.adopt",
         [](JobConfig& job) {
             job.checkpoint.adopt = {"checkpoint.pth", "runs/*.pth"};
         }},
        {"working_directory", [](JobConfig& job) { job.working_directory = "/v"; }},
        {"environment", [](JobConfig& job) { job.environment["TOKEN"] = "changed"; }},
        {"ranks", [](JobConfig& job) { job.ranks = 2; }},
        {"output_directory", [](JobConfig& job) { job.output_directory = "/other"; }},
        {"output_rotate_at", [](JobConfig& job) { job.output_rotate_at = 1 << 20; }},
        {"checkpoint.directory", [](JobConfig& job) { job.checkpoint.directory = "/else"; }},
        {"checkpoint.every",
         [](JobConfig& job) { job.checkpoint.cadence.every_time = seconds{9}; }},
        {"checkpoint.every_steps", [](JobConfig& job) { job.checkpoint.cadence.every_steps = 5; }},
        {"checkpoint.every_epochs",
         [](JobConfig& job) { job.checkpoint.cadence.every_epochs = 1; }},
        {"checkpoint.keep_last", [](JobConfig& job) { job.checkpoint.keep_last = 9; }},
        {"checkpoint.keep_every_steps",
         [](JobConfig& job) { job.checkpoint.keep_every_steps = 1000; }},
        {"checkpoint.keep_every_epochs",
         [](JobConfig& job) { job.checkpoint.keep_every_epochs = 5; }},
        {"checkpoint.keep_best.metric",
         [](JobConfig& job) { job.checkpoint.keep_best->metric = "accuracy"; }},
        {"checkpoint.keep_best.mode",
         [](JobConfig& job) { job.checkpoint.keep_best->mode = BestMode::kMax; }},
        {"checkpoint.keep_best.count", [](JobConfig& job) { job.checkpoint.keep_best->count = 2; }},
        {"checkpoint.keep_bytes", [](JobConfig& job) { job.checkpoint.keep_bytes = 1 << 20; }},
        {"checkpoint.scrub_every", [](JobConfig& job) { job.checkpoint.scrub_every.reset(); }},
        {"checkpoint.attempt_timeout",
         [](JobConfig& job) { job.checkpoint.attempt_timeout = seconds{99}; }},
        {"start.attach_timeout", [](JobConfig& job) { job.start.attach_timeout = seconds{99}; }},
        {"checkpoint.on_no_valid_checkpoint",
         [](JobConfig& job) {
             job.checkpoint.on_no_valid_checkpoint = OnNoValidCheckpoint::kStartFresh;
         }},
        {"restart.max", [](JobConfig& job) { job.restart.max = 1; }},
        {"restart.window", [](JobConfig& job) { job.restart.window = seconds{90}; }},
        {"restart.delay_initial", [](JobConfig& job) { job.restart.delay_initial = seconds{2}; }},
        {"restart.delay_max", [](JobConfig& job) { job.restart.delay_max = seconds{61}; }},
        {"restart.same_step_max", [](JobConfig& job) { job.restart.same_step_max = 4; }},
        {"stop.grace", [](JobConfig& job) { job.stop.grace = seconds{31}; }},
        {"stop.exit_grace", [](JobConfig& job) { job.stop.exit_grace = seconds{6}; }},
    };
    return kAlterations;
}

TEST(ConfigChanges, OfEachKeyAreSeenAndTakenAsTheTableSays) {
    std::size_t fields_seen = 0;
    for_each_field(job_fields(), [&](const Field<JobConfig>& field, const std::string& path) {
        ++fields_seen;
        const auto alter = alterations().find(path);
        ASSERT_NE(alter, alterations().end()) << "no test alters " << path;
        DaemonConfig wanted = daemon_with({job("lm")});
        alter->second(wanted.jobs[0]);

        const ReloadPlan plan = plan_reload(daemon_with({job("lm")}), wanted, {});

        ASSERT_EQ(plan.changes.size(), 1u) << path;
        const Change& change = plan.changes[0];
        EXPECT_EQ(change.job, "lm");
        EXPECT_EQ(change.key, path == "environment" ? "environment.TOKEN" : path);
        const bool is_refused = field.key.applies == Applies::kRestart;
        EXPECT_EQ(change.outcome, is_refused                              ? Outcome::kRefused
                                  : field.key.applies == Applies::kAtOnce ? Outcome::kApplied
                                                                          : Outcome::kNextLaunch)
            << path;
        EXPECT_EQ(change.why.empty(), !is_refused) << path;
        EXPECT_EQ(plan.config, is_refused ? daemon_with({job("lm")}) : wanted) << path;
    });
    EXPECT_EQ(fields_seen, alterations().size());
}

TEST(ConfigChanges, OfEachKeySurviveBeingShownAndReadAgain) {
    for (const auto& [path, alter] : alterations()) {
        DaemonConfig config = daemon_with({job("lm"), job("007"), job("on")});
        config.jobs[0].environment["ODD"] = "a$b ${c} \"quoted\"\n: #\t\x7f";
        alter(config.jobs[0]);

        const auto again = parse(to_yaml(config), "/etc/pawld.yaml");

        ASSERT_TRUE(again.has_value()) << path << ": " << again.error().text() << to_yaml(config);
        EXPECT_EQ(*again, config) << path << "\n" << to_yaml(config);
    }
}

TEST(ConfigChanges, OfTheDaemonsOwnKeys) {
    DaemonConfig wanted = daemon_with({job("lm")});
    wanted.log_level = LogLevel::kDebug;
    wanted.state_directory = "/t";
    wanted.control.socket = "/t/sock";

    const ReloadPlan plan = plan_reload(daemon_with({job("lm")}), wanted, {});

    EXPECT_THAT(
        texts_of(plan.changes),
        ElementsAre("state_directory: /s -> /t: not applied: needs a restart of pawld",
                    "log_level: info -> debug: applied",
                    "control.socket: /s/sock -> /t/sock: not applied: needs a restart of pawld"));
    EXPECT_EQ(plan.config.log_level, LogLevel::kDebug);
    EXPECT_EQ(plan.config.state_directory, "/s");
}

TEST(ConfigChanges, OfNothingAreNone) {
    const DaemonConfig config = daemon_with({job("a"), job("b")});

    EXPECT_THAT(differences(config, config), IsEmpty());
    EXPECT_EQ(plan_reload(config, config, {}).config, config);
    EXPECT_THAT(differences(config, daemon_with({job("b"), job("a")})), IsEmpty())
        << "the order of jobs means nothing";
}

TEST(ConfigChanges, ThatAreRefusedAreSaidAtEveryReload) {
    DaemonConfig wanted = daemon_with({job("lm")});
    wanted.jobs[0].ranks = 2;
    wanted.jobs[0].command = {"new"};
    const ReloadPlan first = plan_reload(daemon_with({job("lm")}), wanted, {});

    const ReloadPlan second = plan_reload(first.config, wanted, {});

    EXPECT_THAT(texts_of(first.changes),
                ElementsAre("job 'lm': command: [\"train\"] -> [\"new\"]: applies when its ranks "
                            "are started the next time",
                            "job 'lm': ranks: 1 -> 2: not applied: needs a restart of pawld, or "
                            "the job removed and then added again"));
    EXPECT_THAT(texts_of(second.changes), ElementsAre(HasSubstr("ranks: 1 -> 2: not applied")));
}

TEST(ConfigChanges, JobsComeAndGo) {
    const ReloadPlan plan =
        plan_reload(daemon_with({job("a"), job("b")}), daemon_with({job("c"), job("b")}), {});

    EXPECT_THAT(texts_of(plan.changes),
                ElementsAre("job 'a': removed; it is drained", "job 'c': added"));
    EXPECT_THAT(names_of(plan.config), ElementsAre("b", "c"));
}

TEST(ConfigChanges, AJobIsNotAddedWhileAnotherHoldsItsNameOrDirectory) {
    JobConfig renamed = job("new");
    renamed.checkpoint.directory = "/ckpt/old";
    JobConfig moved = job("moved");
    JobConfig taker = job("taker");
    taker.output_directory = "/log/moved";
    JobConfig moved_away = moved;
    moved_away.output_directory = "/log/away";
    const std::vector<JobConfig> leaving = {job("again")};

    const ReloadPlan plan =
        plan_reload(daemon_with({job("old"), moved}),
                    daemon_with({renamed, moved_away, taker, job("again")}), leaving);

    EXPECT_THAT(
        texts_of(plan.changes),
        ElementsAre("job 'old': removed; it is drained",
                    HasSubstr("output_directory: /log/moved -> /log/away: not applied"),
                    "job 'new': not added: its directory '/ckpt/old' is in use by job 'old'",
                    "job 'taker': not added: its directory '/log/moved' is in use by job 'moved'",
                    "job 'again': not added: the job that was removed is still being drained; "
                    "reload again when it has ended"));
    EXPECT_THAT(names_of(plan.config), ElementsAre("moved"));
}

TEST(ConfigChanges, NeverTellAVariablesValue) {
    DaemonConfig wanted = daemon_with({job("lm")});
    wanted.jobs[0].environment = {{"TOKEN", "hidden"}, {"ADDED", "hidden"}};

    const std::vector<Change> changes = differences(daemon_with({job("lm")}), wanted);

    EXPECT_THAT(texts_of(changes),
                ElementsAre("job 'lm': environment.ADDED changed: applies when its ranks are "
                            "started the next time",
                            "job 'lm': environment.TOKEN changed: applies when its ranks are "
                            "started the next time"));
    EXPECT_THAT(to_json(changes), testing::Not(HasSubstr("hidden")));
    EXPECT_THAT(to_json(changes), testing::Not(HasSubstr("secret")));
}

TEST(ConfigShow, ADaemonWithoutJobsIsReadAgain) {
    const DaemonConfig config = daemon_with({});

    const auto again = parse(to_yaml(config), "/etc/pawld.yaml");

    ASSERT_TRUE(again.has_value()) << again.error().text();
    EXPECT_EQ(*again, config);
}

TEST(ConfigKeys, EachIsExplained) {
    const auto check = [](const auto& field, const std::string& path) {
        EXPECT_GE(field.key.about.size(), 15u) << path;
        EXPECT_EQ(field.key.about.back(), '.') << path;
        EXPECT_THAT(reference(), HasSubstr("`" + path + "`"));
    };
    for_each_field(daemon_fields(), check);
    for_each_field(job_fields(), check);
}

}  // namespace

}  // namespace pawl::config
