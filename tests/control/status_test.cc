// The daemon's status: as JSON, as text, and over its socket.
#include "control/status.h"

#include "base/clock.h"
#include "control/server.h"
#include "tests/fakes/temporary_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace pawl::control {
namespace {

using testing::HasSubstr;

DaemonStatus sample() {
    const WallTime now = parse_time("2026-11-24T10:00:00.000Z").value();
    JobStatus running{
        .name = "lm",
        .state = "running",
        .incarnation = Incarnation{2},
        .restarts = 2,
        .world_size = 2,
        .step = Step{1234},
        .epoch = Epoch{3},
        .loss = 0.12345,
        .steps_per_second = 57.71,
        .resumed_from = Sequence{40},
        .checkpoint = CheckpointStatus{.sequence = Sequence{43},
                                       .step = Step{1200},
                                       .epoch = Epoch{3},
                                       .reason = "cadence",
                                       .bytes = 3 << 20,
                                       .time = now - seconds{65},
                                       .path = "/ckpt/000043-step-1200",
                                       .verified = "when written"},
        .checkpoints_committed = 3,
        .attempts_started = 4,
        .attempts_failed = 1,
        .attempt =
            AttemptStatus{
                .request = 9, .reason = "cadence", .step = Step{1300}, .missing = {Rank{1}}},
        .arena_bytes = 6 << 20,
        .checkpoint_directory = "/ckpt",
        .last_event = "checkpoint 43 of step 1200 is durable"};
    running.ranks = {
        {.rank = Rank{0}, .pid = 100, .is_attached = true, .phase = "training", .step = Step{1234}},
        {.rank = Rank{1}, .pid = 101, .phase = "starting", .snapshots_skipped = 2, .output = "/o"}};
    const JobStatus failed{.name = "other",
                           .state = "failed",
                           .detail = std::string(100, 'w'),
                           .loss = 1,
                           .checkpoint_directory = "/c"};
    return {
        .version = "0.1.0",
        .pid = 99,
        .started = now - std::chrono::hours{30},
        .now = now,
        .state_directory = "/var/lib/pawl",
        .journal = {.is_failing = true, .why = "no room", .lost = 7, .since = now - seconds{90}},
        .jobs = {running, failed}};
}

TEST(Status, ShowsAJournalThatFailsAndNoneThatWorks) {
    DaemonStatus status = sample();
    EXPECT_THAT(to_text(status),
                HasSubstr("journal FAILING for 1m30s, 7 records lost; training goes on\n"
                          "  why         no room\n"));

    status.journal = {};
    EXPECT_THAT(to_text(status), testing::Not(HasSubstr("journal")));
}

TEST(Status, IsTheSameAfterAJourneyThroughJson) {
    const auto read = status_from_json(to_json(sample()));

    ASSERT_TRUE(read.has_value()) << read.error().text();
    EXPECT_EQ(*read, sample());
}

TEST(Status, ReadsWellAt80Columns) {
    DaemonStatus status = sample();
    status.journal = {};  // what a daemon is nearly always
    EXPECT_EQ("\n" + to_text(status), R"(
pawld 0.1.0, pid 99, up 1d06h

lm: running
  progress    step 1234, epoch 3, loss 0.1235, 57.7 steps/s
  checkpoint  43 at step 1200, 3.0 MiB, 1m05s ago
              reason cadence, verified when written
  attempt     step 1300, cadence: 1 of 2 ranks have sealed
  ranks       2 of 2 running, 1 attached, 2 snapshots skipped
  incarnation 2, resumed from checkpoint 40, 2 restarts
  failed      1 checkpoint attempts
  memory      6.0 MiB of arenas
  directory   /ckpt
  last event  checkpoint 43 of step 1200 is durable

other: failed
  why         wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww...
  progress    step 0, epoch 0, loss 1.0000
  checkpoint  none yet
  ranks       0 of 1 running, 0 attached
  incarnation none yet
  directory   /c
)");
}

TEST(ControlServer, AnswersOnItsSocketAndHandsCommandsOn) {
    const fakes::TemporaryDirectory directory;
    const std::string path = directory.path() + "/pawld.sock";
    std::vector<std::string> commands;
    auto server = Server::start(
        path, {.status_json = [] { return std::string("{\"fine\": true}"); },
               .command = [&](const std::string& job, const std::string& verb) -> Result<void> {
                   commands.push_back(job + " " + verb);
                   if (job == "busy") return make_error(ErrorKind::kBusy, "not now");
                   if (job != "lm")
                       return make_error(ErrorKind::kNotFound, "there is no job '{}'", job);
                   return {};
               }});
    ASSERT_TRUE(server.has_value()) << server.error().text();

    EXPECT_EQ(call(path, Method::kGet, "/v1/status")->body, "{\"fine\": true}");
    EXPECT_EQ(call(path, Method::kGet, "/healthz")->body, "ok\n");
    EXPECT_EQ(call(path, Method::kPost, "/v1/jobs/lm/checkpoint")->http_status, 202);
    EXPECT_EQ(call(path, Method::kPost, "/v1/jobs/busy/stop")->http_status, 409);
    EXPECT_EQ(call(path, Method::kPost, "/v1/jobs/x/stop")->http_status, 404);
    EXPECT_THAT(call(path, Method::kPost, "/v1/jobs/x/stop")->body,
                HasSubstr("there is no job 'x'"));
    EXPECT_EQ(call(path, Method::kPost, "/v1/jobs/lm/explode")->http_status, 404);
    EXPECT_THAT(commands, testing::ElementsAre("lm checkpoint", "busy stop", "x stop", "x stop"));
}

TEST(ControlServer, IsGoneWithItsSocket) {
    const fakes::TemporaryDirectory directory;
    const std::string path = directory.path() + "/pawld.sock";
    {
        const auto server = Server::start(path, {.status_json = [] { return std::string(); }});
        ASSERT_TRUE(server.has_value());
    }

    EXPECT_EQ(call(path, Method::kGet, "/v1/status").error().kind(), ErrorKind::kNotFound);
}

TEST(ControlServer, ListensAlsoWhereThePathIsLongerThanASocketAddress) {
    const fakes::TemporaryDirectory directory;
    const std::string deep =
        directory.path() + "/" + std::string(60, 'd') + "/" + std::string(60, 'e');
    std::filesystem::create_directories(deep);
    const std::string path = deep + "/pawld.sock";

    const auto server = Server::start(path, {.status_json = [] { return std::string("x"); }});

    ASSERT_TRUE(server.has_value()) << server.error().text();
    EXPECT_EQ(call(path, Method::kGet, "/v1/status")->body, "x");
}

}  // namespace
}  // namespace pawl::control
