// The daemon's status as text: its promise of 80 columns, but for paths.
#include "control/status.h"

#include <gtest/gtest.h>

#include <limits>
#include <sstream>

namespace pawl::control {
namespace {

JobStatus long_lived() {
    return {.name = "lm",
            .state = "backing-off",
            .detail = std::string(200, 'w'),
            .incarnation = Incarnation{12345},
            .restarts = 12345,
            .world_size = 64,
            .step = Step{1'234'567'890},
            .epoch = Epoch{12'345},
            .loss = 123'456.789,
            .steps_per_second = 1234.5,
            .resumed_from = Sequence{123'456},
            .checkpoint = CheckpointStatus{.sequence = Sequence{123'456},
                                           .step = Step{1'234'567'890},
                                           .reason = "cadence",
                                           .bytes = 200ull << 30,
                                           .time = WallTime{},
                                           .verified = "when written"},
            .attempts_failed = 12'345,
            .arena_bytes = 200ull << 30,
            .last_event = std::string(200, 'e')};
}

// Lines of more than 80 columns, but for those that hold a path.
std::string too_wide(const std::string& text) {
    std::istringstream lines(text);
    std::string wide;
    for (std::string line; std::getline(lines, line);) {
        const bool is_path = line.starts_with("  directory");
        if (line.size() > 80 && !is_path)
            wide += fmt::format("{} columns: {}\n", line.size(), line);
    }
    return wide;
}

TEST(StatusText, NoLineIsWiderThan80ColumnsButForPaths) {
    const DaemonStatus status{.version = "0.1.0",
                              .pid = 4'194'304,
                              .now = WallTime{std::chrono::hours{23} + std::chrono::minutes{59}},
                              .jobs = {long_lived()}};

    EXPECT_EQ(too_wide(to_text(status)), "");
}

TEST(StatusText, EventsOfSeveralLinesOrLettersOfSeveralBytesKeepTheirOneLine) {
    JobStatus job = long_lived();
    job.detail = "first\nsecond";
    job.last_event = std::string(60, 'x') + "\xe2\x80\xa6\xe2\x80\xa6";  // two ellipses: 62 letters

    const std::string text = to_text({.version = "0.1.0", .jobs = {job}});

    EXPECT_EQ(text.find("\nsecond"), std::string::npos) << text;
    EXPECT_NE(text.find("xxx\xe2\x80\xa6\xe2\x80\xa6\n"), std::string::npos) << text;
}

TEST(StatusText, WhatIsNoStatusIsRefusedWithoutHarm) {
    for (const char* text : {"", "null", "[]", "{}", R"({"version":1})",
                             R"({"version":"0","pid":1,"started":"","now":"","state_directory":"",
                                 "jobs":[{}]})"}) {
        EXPECT_FALSE(status_from_json(text).has_value()) << text;
    }
}

TEST(StatusText, NumbersThatAreNoneTravelAsNone) {
    DaemonStatus status{.version = "0.1.0", .jobs = {long_lived()}};
    status.jobs[0].loss = std::numeric_limits<double>::quiet_NaN();
    status.jobs[0].name = "a\xff";

    const auto read = status_from_json(to_json(status));

    ASSERT_TRUE(read.has_value()) << read.error().text();
    EXPECT_NE(read->jobs[0].loss, read->jobs[0].loss);
    EXPECT_EQ(to_text(*read).find("loss"), std::string::npos);
}

}  // namespace
}  // namespace pawl::control
