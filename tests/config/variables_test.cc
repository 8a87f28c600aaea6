// Variables in values: what is filled in, what stays, and where an error points.
#include "config/variables.h"

#include "config/config.h"
#include "tests/fakes/fake_surroundings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace pawl::config {

namespace {

using testing::HasSubstr;

std::optional<std::string> value_of(const std::string& name) {
    if (name == "A") return "alpha";
    if (name == "_b2") return "beta";
    if (name == "EMPTY") return "";
    if (name == "DOLLARS") return "${A} $$";
    if (name == "LONG") return std::string(kValueBytesMax, 'x');
    return std::nullopt;
}

TEST(Variables, AreFilledInAndOtherDollarsStay) {
    struct Row {
        std::string_view text;
        std::string_view expanded;
    };
    const std::vector<Row> rows = {
        {"", ""},
        {"plain", "plain"},
        {"${A}", "alpha"},
        {"<${A}/${_b2}>", "<alpha/beta>"},
        {"${A:-x}", "alpha"},
        {"${NONE:-x}", "x"},
        {"${EMPTY:-x}", "x"},
        {"${EMPTY}", ""},
        {"${NONE:-}", ""},
        {"${NONE:-a:-b {c}", "a:-b {c"},
        {"$$", "$"},
        {"$${A}", "${A}"},
        {"$$$${A}", "$${A}"},
        {"$$${A}", "$alpha"},
        {"$HOME $(date) $1 $", "$HOME $(date) $1 $"},
        {"${DOLLARS}", "${A} $$"},
    };

    for (const Row& row : rows) {
        const auto expanded = expand(row.text, value_of);

        ASSERT_TRUE(expanded.has_value()) << row.text << ": " << expanded.error().text();
        EXPECT_EQ(*expanded, row.expanded) << row.text;
    }
}

TEST(Variables, ThatAreNotWrittenAsTheyShouldBeAreRefused) {
    for (const std::string text : {"${A", "${", "${}", "${1}", "${A-x}", "${A:x}", "${A:?x}",
                                   "${#A}", "${A B}", "${:-x}", "${NONE:-${A}}", "${NONE:-$A}"}) {
        const auto expanded = expand(text, value_of);

        ASSERT_FALSE(expanded.has_value()) << text;
        EXPECT_THAT(expanded.error().text(), HasSubstr("expected ${NAME} or ${NAME:-DEFAULT}"))
            << text;
    }
}

TEST(Variables, ThatAreNotSetAreNamed) {
    const auto expanded = expand("x${NONE}", value_of);

    ASSERT_FALSE(expanded.has_value());
    EXPECT_EQ(expanded.error().text(),
              "the variable 'NONE' is not set. Set it, or write ${NONE:-DEFAULT}");
}

TEST(Variables, DoNotMakeATextLongerThanTheKernelTakes) {
    EXPECT_TRUE(expand("${LONG}", value_of).has_value());
    EXPECT_FALSE(expand("${LONG}${A}", value_of).has_value());
}

TEST(Variables, EscapedTextExpandsToItself) {
    for (const std::string text : {"", "a", "$", "$$", "${A}", "$HOME ${A:-b} $$"})
        EXPECT_EQ(expand(escape(text), value_of).value(), text);
}

Result<DaemonConfig> loaded(const std::string& yaml) {
    fakes::FakeSurroundings around;
    around.files = {{"/etc/pawl/pawld.yaml", yaml}};
    around.variables = {{"DISK", "/scratch"}, {"N", "4"}, {"ONE", "1"}, {"LEVEL", "debug"}};
    auto result = load_files("/etc/pawl/pawld.yaml", around);
    if (!result) return result.error();
    return result->config;
}

TEST(ConfigVariables, StandInEveryValue) {
    const auto daemon = loaded(R"(
log_level: ${LEVEL}
jobs:
  lm:
    command: [train, "--disk=${DISK}", "$HOME", "$$${ONE}"]
    ranks: ${N}
    environment: {WHERE: "${DISK}/lm"}
    output_rotate_at: ${SIZE:-1GiB}
    checkpoint:
      directory: ${DISK}/${PAWL_JOB}
      every: ${ONE}0m
)");

    ASSERT_TRUE(daemon.has_value()) << daemon.error().text();
    const JobConfig& job = daemon->jobs.at(0);
    EXPECT_EQ(daemon->log_level, LogLevel::kDebug);
    EXPECT_EQ(job.command, (std::vector<std::string>{"train", "--disk=/scratch", "$HOME", "$1"}));
    EXPECT_EQ(job.ranks, 4u);
    EXPECT_EQ(job.environment.at("WHERE"), "/scratch/lm");
    EXPECT_EQ(job.output_rotate_at, std::uint64_t{1} << 30);
    EXPECT_EQ(job.checkpoint.directory, "/scratch/lm");
    EXPECT_EQ(job.checkpoint.cadence.every_time, std::chrono::minutes{10});
}

TEST(ConfigVariables, ErrorsPointAtTheValueAndSayWhatItCameTo) {
    struct Row {
        std::string job;
        std::string refusal;
    };
    const std::vector<Row> rows = {
        {"{command: [a, \"${NO}\"], checkpoint: {directory: /c}}",
         "2:21: key 'jobs.lm.command': the variable 'NO' is not set. Set it, or write "
         "${NO:-DEFAULT}"},
        {"{command: [a], checkpoint: {directory: \"${NO}/c\"}}",
         "2:46: key 'jobs.lm.checkpoint.directory': the variable 'NO' is not set. Set it, or write "
         "${NO:-DEFAULT}"},
        {"{command: [a], ranks: \"${DISK}\", checkpoint: {directory: /c}}",
         "2:29: key 'jobs.lm.ranks': expected a whole number from 1 to 1024, found '${DISK}', "
         "which "
         "is '/scratch' here"},
        {"{command: [a], ranks: \"${N\", checkpoint: {directory: /c}}",
         "2:29: key 'jobs.lm.ranks': expected ${NAME} or ${NAME:-DEFAULT}, found '${N'. Write $$ "
         "for a dollar that is to stay"},
    };

    for (const Row& row : rows) {
        const auto daemon = loaded("jobs:\n  lm: " + row.job + "\n");

        ASSERT_FALSE(daemon.has_value()) << row.job;
        EXPECT_EQ(daemon.error().text(), "/etc/pawl/pawld.yaml:" + row.refusal);
    }
}

TEST(ConfigVariables, AndAliasesCannotMultiplyATextWithoutEnd) {
    std::string yaml = "jobs:\n  a: &job\n    command: [x";
    for (int i = 0; i < 300; ++i)
        yaml += ", \"${LONG}\"";
    yaml += "]\n    checkpoint: {directory: \"/ckpt/${PAWL_JOB}\"}\n  b: *job\n  c: *job\n";
    fakes::FakeSurroundings around;
    around.files = {{"/pawld.yaml", yaml}};
    around.variables = {{"LONG", std::string(60'000, 'x')}};

    const auto daemon = load_files("/pawld.yaml", around);

    ASSERT_FALSE(daemon.has_value());
    EXPECT_THAT(daemon.error().text(),
                HasSubstr("expected a configuration of at most 16777216 bytes, found more once "
                          "aliases, defaults and variables are filled in"));
}

}  // namespace

}  // namespace pawl::config
