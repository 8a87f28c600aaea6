// Questions to the journal as URLs ask them, and what is answered.
#include "daemon/history.h"

#include "tests/journal/sample.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace pawl::daemon {
namespace {

using control::HistoryRequest;
using journal::kNow;
using nlohmann::json;
using testing::HasSubstr;

class HistoryAnswer : public journal::JournalPlace {
protected:
    json ask(const std::string& table, std::map<std::string, std::string> parameters = {}) {
        const auto answer = answer_history(
            *journal_, {.job = "lm", .table = table, .parameters = std::move(parameters)}, kNow);
        EXPECT_TRUE(answer.has_value()) << answer.error().text();
        return answer ? json::parse(*answer) : json();
    }
    ErrorKind refusal(const HistoryRequest& request, const std::string& why) {
        const auto answer = answer_history(*journal_, request, kNow);
        EXPECT_FALSE(answer.has_value()) << *answer;
        if (answer) return ErrorKind::kInternal;
        EXPECT_THAT(answer.error().text(), HasSubstr(why));
        return answer.error().kind();
    }

    std::unique_ptr<journal::Journal> journal_ = open();
};

TEST(HistoryMoment, IsATimeOrHowLongAgo) {
    struct Case {
        const char* text;
        const char* time;
    };
    const WallTime now = parse_time("2026-11-24T08:25:58.123Z").value();
    for (const Case& one :
         {Case{"2h", "2026-11-24T06:25:58.123Z"}, Case{"1d12h", "2026-11-22T20:25:58.123Z"},
          Case{"0s", "2026-11-24T08:25:58.123Z"}, Case{"2026-11-24", "2026-11-24T00:00:00.000Z"},
          Case{"2026-11-24T10:00", "2026-11-24T10:00:00.000Z"},
          Case{"2026-11-24T10:00:07", "2026-11-24T10:00:07.000Z"},
          Case{"2026-11-24T10:00:07.250Z", "2026-11-24T10:00:07.250Z"}}) {
        const auto moment = moment_of(one.text, now);

        ASSERT_TRUE(moment.has_value()) << one.text << ": " << moment.error().text();
        EXPECT_EQ(format_time(*moment), one.time) << one.text;
    }
}

TEST(HistoryMoment, RefusesWhatIsNone) {
    for (const char* text :
         {"", "yesterday", "2", "-2h", "2026", "2026-11", "2026-02-31", "2026-11-24T25:00",
          "2026-11-24 10:00", "2026-11-24T10:00Z", "2026-11-24T10:00:07+01:00", "2026-13-01"}) {
        const auto moment = moment_of(text, kNow);

        ASSERT_FALSE(moment.has_value()) << text << " as " << format_time(*moment);
        EXPECT_EQ(moment.error().kind(), ErrorKind::kInvalidArgument);
        EXPECT_THAT(moment.error().text(), HasSubstr(fmt::format("found '{}'", text)));
    }
}

TEST_F(HistoryAnswer, HoldsRecordsAndWhereToGoOn) {
    for (int i = 0; i < 3; ++i)
        append(*journal_,
               journal::event(i == 1 ? "failed" : "started",
                              i == 1 ? journal::Severity::kError : journal::Severity::kInfo,
                              kNow - std::chrono::hours{3 - i}));

    const json all = ask("events");
    const json bad = ask("events", {{"severity", "warning"}});
    const json late = ask("events", {{"since", "90m"}, {"until", "1m"}});
    const json page = ask("events", {{"after", "start"}, {"limit", "2"}});

    EXPECT_EQ(all.at("job"), "lm");
    EXPECT_EQ(all.at("table"), "events");
    EXPECT_EQ(all.at("records").size(), 3U);
    EXPECT_EQ(all.at("next"), "3");
    EXPECT_EQ(all.at("has_more"), false);
    EXPECT_EQ(all.at("unreadable"), 0);
    ASSERT_EQ(bad.at("records").size(), 1U);
    EXPECT_EQ(bad.at("records").at(0).at("kind"), "failed");
    ASSERT_EQ(late.at("records").size(), 1U);
    EXPECT_EQ(late.at("records").at(0).at("number"), 3);
    EXPECT_EQ(page.at("records").size(), 2U);
    EXPECT_EQ(page.at("next"), "2");
    EXPECT_EQ(page.at("has_more"), true);
}

TEST_F(HistoryAnswer, SaysWhatFollowsFromARecord) {
    ASSERT_TRUE(journal_->put_incarnation("lm", {.incarnation = Incarnation{1},
                                                 .state = journal::IncarnationState::kEnded,
                                                 .resumed_step = Step{100},
                                                 .last_step = Step{150},
                                                 .started = kNow,
                                                 .ended = kNow + milliseconds{2500}}));
    ASSERT_TRUE(journal_->put_checkpoint("lm", {.sequence = Sequence{7},
                                                .time = kNow + milliseconds{20},
                                                .asked = kNow,
                                                .snapshotted = kNow + milliseconds{10},
                                                .durable = kNow + milliseconds{60}}));
    ASSERT_TRUE(journal_->put_checkpoint("lm", journal::checkpoint(8)));
    ASSERT_TRUE(journal_->append_progress("lm", {journal::progress(1), journal::epoch_end(1)}));

    const json incarnation = ask("incarnations").at("records").at(0);
    const json checkpoints = ask("checkpoints").at("records");
    const json epochs = ask("epochs").at("records");

    EXPECT_EQ(incarnation.at("seconds"), 2.5);
    EXPECT_EQ(incarnation.at("steps_done"), 50);
    EXPECT_EQ(checkpoints.at(0).at("snapshot_seconds"), 0.01);
    EXPECT_EQ(checkpoints.at(0).at("durable_seconds"), 0.05);
    EXPECT_EQ(checkpoints.at(0).at("write_seconds"), 0.04);
    EXPECT_EQ(checkpoints.at(1).at("snapshot_seconds"), nullptr);
    ASSERT_EQ(epochs.size(), 1U);
    EXPECT_EQ(epochs.at(0).at("epoch_end"), true);
}

TEST_F(HistoryAnswer, RefusesWhatItDoesNotUnderstand) {
    append(*journal_, journal::event("started"));
    struct Case {
        const char* table;
        std::map<std::string, std::string> parameters;
        const char* why;
    };

    for (const Case& one :
         {Case{"events", {{"limit", "-1"}}, "limit: expected a number up to 10000, found '-1'"},
          Case{"events", {{"limit", "10001"}}, "found '10001'"},
          Case{"events", {{"limit", ""}}, "found ''"},
          Case{"events", {{"severity", "bad"}}, "severity: expected info, warning or error"},
          Case{"progress", {{"severity", "info"}}, "only events have a severity"},
          Case{"events", {{"since", "then"}}, "cannot take 'since'"},
          Case{"events", {{"after", "x"}}, "'x' is no cursor"},
          Case{"events", {{"color", "red"}}, "there is no parameter 'color'"}}) {
        EXPECT_EQ(refusal({.job = "lm", .table = one.table, .parameters = one.parameters}, one.why),
                  ErrorKind::kInvalidArgument);
    }
    EXPECT_EQ(refusal({.job = "x", .table = "events"}, "no job 'x': there are lm"),
              ErrorKind::kNotFound);
    EXPECT_EQ(refusal({.job = "lm", .table = "meta"}, "no table 'meta'"), ErrorKind::kNotFound);
}

TEST(HistoryTarget, CarriesAnyValueThroughAUrl) {
    EXPECT_EQ(control::target_of({.job = "lm",
                                  .table = "events",
                                  .parameters = {{"kind", "a b&c=d+%"}, {"since", "10:00"}}}),
              "/v1/jobs/lm/events?kind=a%20b%26c%3Dd%2B%25&since=10%3A00");
}

}  // namespace
}  // namespace pawl::daemon
