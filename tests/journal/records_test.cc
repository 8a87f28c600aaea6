// Keys and values of the journal, byte by byte.
#include "journal/records.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

namespace pawl::journal {
namespace {

using testing::ElementsAreArray;
using testing::HasSubstr;

constexpr WallTime kTime{milliseconds{1'795'508'758'123}};  // 2026-11-24T08:25:58.123Z
constexpr std::uint64_t kHighest = std::numeric_limits<std::uint64_t>::max();

ProgressRecord progress(std::uint64_t incarnation, std::uint64_t step, bool is_epoch_end = false) {
    return {.incarnation = Incarnation{incarnation},
            .step = Step{step},
            .epoch = Epoch{3},
            .loss = 0.1,
            .time = kTime,
            .is_epoch_end = is_epoch_end};
}

template <class Record>
void expect_round_trip(const Record& record) {
    const Result<Record> decoded = decode<Record>(encode(record));

    ASSERT_TRUE(decoded.has_value()) << decoded.error().text();
    EXPECT_EQ(*decoded, record) << encode(record);
}

TEST(JournalKeys, AreTheNameAZeroByteAndBigEndianNumbers) {
    const std::string key = key_of("lm", progress(0x0102, 0x0304'0506, true));

    const std::string expected("lm\0\0\0\0\0\0\0\x01\x02\0\0\0\0\x03\x04\x05\x06\x01", 20);
    EXPECT_EQ(key, expected);
}

TEST(JournalKeys, SortAsTheirNumbersDo) {
    const std::vector<std::string> keys = {
        key_of("lm", progress(0, 254)),       key_of("lm", progress(0, 255)),
        key_of("lm", progress(0, 255, true)), key_of("lm", progress(0, 256)),
        key_of("lm", progress(0, 65'536)),    key_of("lm", progress(0, kHighest)),
        key_of("lm", progress(1, 0)),         key_of("lm", progress(256, 0)),
    };

    std::vector<std::string> sorted = keys;
    std::sort(sorted.begin(), sorted.end());

    EXPECT_THAT(sorted, ElementsAreArray(keys));
}

TEST(JournalKeys, OfAJobLieInItsRangeAndNoOthersDo) {
    const KeyRange range = keys_of("lm");
    const auto is_inside = [&range](const std::string& key) {
        return range.begin <= key && key < range.end;
    };

    EXPECT_TRUE(is_inside(key_of("lm", progress(0, 0))));
    EXPECT_TRUE(is_inside(key_of("lm", progress(kHighest, kHighest, true))));
    for (const std::string other : {"l", "lm2", "lm\x01", "lm-", "ln", "LM"}) {
        EXPECT_FALSE(is_inside(key_of(other, progress(0, 0)))) << other;
        EXPECT_FALSE(is_inside(key_of(other, progress(kHighest, kHighest)))) << other;
    }
}

TEST(JournalKeys, TellTheEndOfAnEpoch) {
    EXPECT_TRUE(is_epoch_end(key_of("lm", progress(0, 1, true))));
    EXPECT_FALSE(is_epoch_end(key_of("lm", progress(0, 1))));
}

TEST(JournalKeys, RefuseNamesThatWouldBreakThem) {
    EXPECT_TRUE(check_job_name("lm").has_value());
    EXPECT_TRUE(check_job_name("größer/2").has_value());
    EXPECT_FALSE(check_job_name("").has_value());
    EXPECT_FALSE(check_job_name(std::string("l\0m", 3)).has_value());
}

TEST(JournalRecords, ComeBackAsTheyWere) {
    expect_round_trip(progress(0, 0));
    expect_round_trip(progress(kHighest, kHighest, true));
    for (const IncarnationState state :
         {IncarnationState::kStarting, IncarnationState::kRunning, IncarnationState::kEnded}) {
        expect_round_trip(IncarnationRecord{.incarnation = Incarnation{7}, .state = state});
    }
    expect_round_trip(
        IncarnationRecord{.incarnation = Incarnation{7},
                          .state = IncarnationState::kEnded,
                          .ranks = {{.rank = Rank{0},
                                     .pid = 4711,
                                     .start_ticks = 99,
                                     .exit = RankExit{.code = 3, .text = "exited with code 3"},
                                     .output_begin = 4096},
                                    {.rank = Rank{1},
                                     .pid = -1,
                                     .start_ticks = kHighest,
                                     .exit = RankExit{.signal = 9, .text = "was killed"}}},
                          .resumed_from = Sequence{42},
                          .resumed_step = Step{1200},
                          .last_step = Step{1300},
                          .started = kTime,
                          .ended = kTime + milliseconds{1},
                          .cause = "rank 1: killed by SIGKILL"});
    for (const CheckpointState state : {CheckpointState::kCommitted, CheckpointState::kQuarantined,
                                        CheckpointState::kRemoved, CheckpointState::kAbandoned}) {
        expect_round_trip(CheckpointRecord{.sequence = Sequence{42},
                                           .step = Step{1200},
                                           .epoch = Epoch{3},
                                           .state = state,
                                           .reason = "cadence",
                                           .bytes = kHighest,
                                           .time = kTime,
                                           .detail = "rank-00000.pt, chunk 3",
                                           .directory = "/data/\"a\""});
    }
    for (const Severity severity : {Severity::kInfo, Severity::kWarning, Severity::kError}) {
        expect_round_trip(EventRecord{.number = 1,
                                      .time = kTime,
                                      .severity = severity,
                                      .kind = "rank_exited",
                                      .text = "rank 1 said \"über\"\n\t\\ and left"});
    }
}

TEST(JournalRecords, AreJsonThatAPersonCanRead) {
    EXPECT_EQ(encode(progress(2, 1200, true)),
              R"({"incarnation":2,"step":1200,"kind":"epoch_end","epoch":3,"loss":0.1,)"
              R"("time":"2026-11-24T08:25:58.123Z"})");
    EXPECT_EQ(encode_job(kTime), R"({"first_seen":"2026-11-24T08:25:58.123Z"})");
    EXPECT_EQ(encode_format(1), R"({"version":1})");
}

TEST(JournalRecords, KeepEveryBitOfALoss) {
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    for (const double loss : {0.0, 1.0, 0.1, 2.302585092994046, 5e-324, 1.7976931348623157e308,
                              -3.5, kInfinity, -kInfinity}) {
        ProgressRecord record = progress(0, 1);
        record.loss = loss;

        expect_round_trip(record);
    }
}

TEST(JournalRecords, KeepAMissingLossAsNull) {
    ProgressRecord record = progress(0, 1);
    record.loss = std::numeric_limits<double>::quiet_NaN();

    const std::string value = encode(record);
    const auto decoded = decode<ProgressRecord>(value);

    EXPECT_THAT(value, HasSubstr(R"("loss":null)"));
    ASSERT_TRUE(decoded.has_value());
    EXPECT_TRUE(std::isnan(decoded->loss));
}

TEST(JournalRecords, TakeTextThatIsNoUtf8) {
    const EventRecord event{.kind = "output", .text = "broken \xff byte"};

    const auto decoded = decode<EventRecord>(encode(event));

    ASSERT_TRUE(decoded.has_value()) << decoded.error().text();
    EXPECT_EQ(decoded->text, "broken \xef\xbf\xbd byte");
}

TEST(JournalRecords, KeepAWholeLifeOfACheckpoint) {
    CheckpointRecord record{.sequence = Sequence{42},
                            .time = kTime,
                            .incarnation = Incarnation{3},
                            .request = 7,
                            .asked = kTime,
                            .snapshotted = kTime + milliseconds{1},
                            .durable = kTime + milliseconds{2},
                            .verified = kTime + milliseconds{3},
                            .scrubbed = kTime + milliseconds{4},
                            .pinned = kTime + milliseconds{5},
                            .quarantined = kTime + milliseconds{6},
                            .removed = kTime + milliseconds{7},
                            .abandoned = kTime + milliseconds{8}};
    expect_round_trip(record);
    record.request.reset();
    record.scrubbed.reset();
    expect_round_trip(record);
}

TEST(JournalRecords, KeepTheMetricsOfAnEpochsEnd) {
    ProgressRecord record = progress(0, 1, true);
    record.metrics = {{"accuracy", 0.91}, {"grad norm", std::numeric_limits<double>::infinity()}};

    expect_round_trip(record);
}

// As the first pawl wrote them, byte for byte.
TEST(JournalRecords, OfAnOlderPawlAreReadWithNothingWhereItWroteNothing) {
    const auto progress_record = decode<ProgressRecord>(
        R"({"incarnation":2,"step":1200,"kind":"epoch_end","epoch":3,"loss":0.1,)"
        R"("time":"2026-11-24T08:25:58.123Z"})");
    const auto incarnation = decode<IncarnationRecord>(
        R"({"incarnation":7,"state":"ended","ranks":[{"rank":0,"pid":47,"start_ticks":99}],)"
        R"("resumed_from":42,"resumed_step":1200,"started":"2026-11-24T08:25:58.123Z",)"
        R"("ended":"2026-11-24T08:25:58.124Z","cause":"finished"})");
    const auto checkpoint = decode<CheckpointRecord>(
        R"({"sequence":42,"step":1200,"epoch":3,"state":"removed","reason":"cadence","bytes":5,)"
        R"("time":"2026-11-24T08:25:58.123Z","detail":"retention"})");

    ASSERT_TRUE(progress_record && incarnation && checkpoint);
    EXPECT_EQ(*progress_record, progress(2, 1200, true));
    EXPECT_EQ(incarnation->ranks.at(0).exit, std::nullopt);
    EXPECT_EQ(incarnation->last_step, std::nullopt);
    EXPECT_EQ(*checkpoint, (CheckpointRecord{.sequence = Sequence{42},
                                             .step = Step{1200},
                                             .epoch = Epoch{3},
                                             .state = CheckpointState::kRemoved,
                                             .reason = "cadence",
                                             .bytes = 5,
                                             .time = kTime,
                                             .detail = "retention"}));
}

TEST(JournalRecords, RefuseAFieldOfALaterPawlsThatIsWrong) {
    EXPECT_FALSE(decode<CheckpointRecord>(
        R"({"sequence":42,"step":1200,"epoch":3,"state":"removed","reason":"cadence","bytes":5,)"
        R"("time":"2026-11-24T08:25:58.123Z","detail":"","durable":7})"));
    EXPECT_FALSE(decode<ProgressRecord>(
        R"({"incarnation":2,"step":1200,"kind":"progress","epoch":3,"loss":0.1,)"
        R"("time":"2026-11-24T08:25:58.123Z","metrics":[1]})"));
}

TEST(JournalCursors, NameThePlaceBehindAKey) {
    const std::string event = key_of("lm", EventRecord{.number = 42});
    const std::string end = key_of("lm", progress(3, 1200, true));

    EXPECT_EQ(cursor_of(event), "42");
    EXPECT_EQ(cursor_of(end), "3.1200.1");
    for (const auto& [key, cursor, shape] : {std::tuple{event, "42", KeyShape::kNumber},
                                             std::tuple{end, "3.1200.1", KeyShape::kProgress}}) {
        const auto after = key_after("lm", cursor, shape);
        ASSERT_TRUE(after.has_value());
        EXPECT_GT(*after, key);
        EXPECT_EQ(after->substr(0, key.size()), key) << "nothing may lie between them";
    }
    EXPECT_LE(key_after("lm", kStartCursor, KeyShape::kNumber).value(),
              key_of("lm", EventRecord{.number = 0}));
    EXPECT_EQ(number_in(event), 42U);
    EXPECT_EQ(number_in("lm"), std::nullopt);
}

TEST(JournalRecords, IgnoreFieldsOfANewerPawl) {
    EXPECT_TRUE(decode<EventRecord>(R"({"number":1,"time":"2026-11-24T08:25:58.123Z","new":[1],)"
                                    R"("severity":"info","kind":"a","text":"b"})")
                    .has_value());
}

TEST(JournalRecords, NameTheFieldThatDoesNotHold) {
    struct Case {
        const char* value;
        const char* what;
    };
    const std::string good = encode(EventRecord{.number = 1, .time = kTime});
    ASSERT_TRUE(decode<EventRecord>(good).has_value());
    for (const Case& bad : {
             Case{"", "no JSON object"},
             Case{"{\"number\":1", "no JSON object"},
             Case{"[1]", "no JSON object"},
             Case{"\xff", "no JSON object"},
             Case{R"({})", "'number'"},
             Case{R"({"number":-1})", "'number'"},
             Case{R"({"number":1.5})", "'number'"},
             Case{R"({"number":18446744073709551616})", "'number'"},
             Case{R"({"number":1,"time":5})", "'time'"},
             Case{R"({"number":1,"time":"yesterday"})", "'time'"},
             Case{R"({"number":1,"time":"2026-11-24T08:25:58.123Z","severity":"bad"})", "'bad'"},
         }) {
        const auto decoded = decode<EventRecord>(bad.value);

        ASSERT_FALSE(decoded.has_value()) << bad.value;
        EXPECT_EQ(decoded.error().kind(), ErrorKind::kCorrupt) << bad.value;
        EXPECT_THAT(decoded.error().text(), HasSubstr(bad.what)) << bad.value;
    }
}

TEST(JournalRecords, RefuseARankThatIsNone) {
    for (const char* ranks : {"7", "[7]", R"([{"rank":0}])", R"([{"rank":0,"pid":"x"}])",
                              R"([{"rank":0,"pid":9223372036854775808,"start_ticks":1}])"}) {
        std::string value = encode(IncarnationRecord{});
        const std::size_t at = value.find("[]");
        ASSERT_NE(at, std::string::npos);
        value.replace(at, 2, ranks);

        EXPECT_FALSE(decode<IncarnationRecord>(value).has_value()) << value;
    }
}

TEST(JournalRecords, ReadTheFormatVersion) {
    EXPECT_EQ(decode_format(encode_format(kFormatVersion)).value(), kFormatVersion);
    EXPECT_EQ(decode_format(R"({"version":2,"more":true})").value(), 2U);
    EXPECT_FALSE(decode_format("1").has_value());
    EXPECT_FALSE(decode_format(R"({"version":"1"})").has_value());
}

}  // namespace
}  // namespace pawl::journal
