// Questions to a journal: what is found, where one goes on, and what becomes of damaged records.
#include "journal/query.h"

#include "journal/records.h"
#include "journal/store.h"
#include "tests/journal/sample.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <thread>

namespace pawl::journal {
namespace {

using std::chrono::hours;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class JournalQuery : public JournalPlace {
protected:
    std::vector<std::uint64_t> events(const Query& query) {
        auto page = journal_->find_events(query);
        EXPECT_TRUE(page.has_value()) << page.error().text();
        std::vector<std::uint64_t> numbers;
        if (!page) return numbers;
        for (const EventRecord& record : page->records)
            numbers.push_back(record.number);
        next_ = page->next;
        has_more_ = page->has_more;
        return numbers;
    }

    std::unique_ptr<Journal> journal_ = open();
    std::string next_;
    bool has_more_ = false;
};

TEST_F(JournalQuery, FindsEventsByKindSeverityAndTime) {
    append(*journal_, event("started", Severity::kInfo, kNow));
    append(*journal_, event("rank_exited", Severity::kWarning, kNow + hours{1}));
    append(*journal_, event("started", Severity::kInfo, kNow + hours{2}));
    append(*journal_, event("failed", Severity::kError, kNow + hours{3}));
    struct Case {
        const char* name;
        Query query;
        std::vector<std::uint64_t> numbers;
    };

    for (const Case& one : {
             Case{"all", {}, {1, 2, 3, 4}},
             Case{"kind", {.kind = "started"}, {1, 3}},
             Case{"no such kind", {.kind = "start"}, {}},
             Case{"severity", {.severity = Severity::kWarning}, {2, 4}},
             Case{"the worst", {.severity = Severity::kError}, {4}},
             Case{"since, included", {.since = kNow + hours{2}}, {3, 4}},
             Case{"until, excluded", {.until = kNow + hours{2}}, {1, 2}},
             Case{"both", {.since = kNow + hours{1}, .until = kNow + hours{3}}, {2, 3}},
             Case{"together", {.since = kNow + hours{1}, .kind = "started"}, {3}},
             Case{"the newest", {.limit = 2}, {3, 4}},
             Case{"the newest of a kind", {.kind = "started", .limit = 1}, {3}},
             Case{"behind a cursor", {.after = "2"}, {3, 4}},
             Case{"the first behind a cursor", {.after = "1", .limit = 2}, {2, 3}},
             Case{"from the start", {.after = "start", .limit = 2}, {1, 2}},
             Case{"none", {.limit = 0}, {}},
         }) {
        Query query = one.query;
        query.job = "lm";

        EXPECT_EQ(events(query), one.numbers) << one.name;
    }
}

TEST_F(JournalQuery, AnIncarnationCountsForAsLongAsItRan) {
    ASSERT_TRUE(journal_->put_incarnation("lm", {.incarnation = Incarnation{0},
                                                 .state = IncarnationState::kEnded,
                                                 .started = kNow,
                                                 .ended = kNow + hours{1}}));
    ASSERT_TRUE(journal_->put_incarnation("lm", {.incarnation = Incarnation{1},
                                                 .state = IncarnationState::kRunning,
                                                 .started = kNow + hours{2}}));
    const auto running_at = [&](WallTime time) {
        std::vector<std::uint64_t> numbers;
        const auto page = journal_->find_incarnations(
            {.job = "lm", .since = time, .until = time + milliseconds{1}});
        for (const IncarnationRecord& record : page.value().records)
            numbers.push_back(record.incarnation.value);
        return numbers;
    };

    EXPECT_THAT(running_at(kNow - hours{1}), IsEmpty());
    EXPECT_THAT(running_at(kNow + std::chrono::minutes{30}), ElementsAre(0));
    EXPECT_THAT(running_at(kNow + hours{1} + std::chrono::minutes{1}), IsEmpty());
    EXPECT_THAT(running_at(kNow + hours{900}), ElementsAre(1));
}

TEST_F(JournalQuery, FindsEndsOfEpochsAmongProgressWithTheirMetrics) {
    ProgressRecord end = epoch_end(2);
    end.metrics = {{"accuracy", 0.91}};
    ASSERT_TRUE(journal_->append_progress(
        "lm", {progress(100), epoch_end(1), progress(150), progress(200), end, progress(201)}));

    const auto ends = journal_->find_epochs({.job = "lm"}).value();

    EXPECT_THAT(ends.records, ElementsAre(epoch_end(1), end));
    EXPECT_EQ(ends.next, "0.201.0");
}

TEST_F(JournalQuery, FindsCheckpointsByWhatBecameOfThem) {
    ASSERT_TRUE(journal_->put_checkpoint("lm", checkpoint(1, CheckpointState::kRemoved)));
    ASSERT_TRUE(journal_->put_checkpoint("lm", checkpoint(2)));

    const auto found = journal_->find_checkpoints({.job = "lm", .kind = "removed"}).value();

    EXPECT_THAT(found.records, ElementsAre(checkpoint(1, CheckpointState::kRemoved)));
}

TEST_F(JournalQuery, NextOfAnEmptyTableIsItsBeginning) {
    EXPECT_THAT(events({.job = "lm"}), IsEmpty());
    EXPECT_EQ(next_, "start");
    append(*journal_, event("started"));

    EXPECT_THAT(events({.job = "lm", .after = next_}), ElementsAre(1));
}

TEST_F(JournalQuery, NextSkipsWhatWasLookedAtInVain) {
    for (int i = 0; i < 3; ++i)
        append(*journal_, event("started"));

    EXPECT_THAT(events({.job = "lm", .kind = "failed"}), IsEmpty());
    EXPECT_EQ(next_, "3");
    EXPECT_THAT(events({.job = "lm", .kind = "failed", .after = "1"}), IsEmpty());
    EXPECT_EQ(next_, "3");
    EXPECT_THAT(events({.job = "lm", .after = "3"}), IsEmpty());
    EXPECT_EQ(next_, "3");
}

TEST_F(JournalQuery, SaysWhetherThereIsMore) {
    for (int i = 0; i < 3; ++i)
        append(*journal_, event("started"));

    EXPECT_THAT(events({.job = "lm", .after = "start", .limit = 2}), ElementsAre(1, 2));
    EXPECT_TRUE(has_more_);
    EXPECT_EQ(next_, "2");
    EXPECT_THAT(events({.job = "lm", .after = next_, .limit = 2}), ElementsAre(3));
    EXPECT_FALSE(has_more_);
}

TEST_F(JournalQuery, RefusesWhatIsNoCursorOfTheTable) {
    const auto kind_after = [this](const char* cursor) {
        const auto page = journal_->find_events({.job = "lm", .after = cursor});
        return page ? ErrorKind::kInternal : page.error().kind();
    };

    for (const char* cursor : {"", "x", "-1", "1.2.0", "1.", ".1", "1 ", "18446744073709551616"})
        EXPECT_EQ(kind_after(cursor), ErrorKind::kInvalidArgument) << cursor;
    for (const char* cursor : {"", "1", "1.2", "1.2.2", "1.2.0.", "1.2.0.1", "a.b.c"}) {
        const auto page = journal_->find_progress({.job = "lm", .after = cursor});
        ASSERT_FALSE(page.has_value()) << cursor;
        EXPECT_THAT(page.error().text(), HasSubstr("is no cursor of this table"));
    }
}

TEST_F(JournalQuery, PagesMissNothingAndRepeatNothingWhileOthersAppendAndOldOnesGo) {
    constexpr std::uint64_t kEvents = 3'000;  // so many that removals happen meanwhile
    std::atomic<bool> is_done{false};
    std::jthread writer([&] {
        for (std::uint64_t i = 0; i < kEvents; ++i)
            append(*journal_, event(i % 3 == 0 ? "wanted" : "other"));
        is_done = true;
    });

    std::vector<std::uint64_t> seen;
    std::string cursor = "start";
    for (bool was_done = false; !was_done;) {
        was_done = is_done;
        do {
            const auto page =
                journal_->find_events({.job = "lm", .kind = "wanted", .after = cursor, .limit = 7});
            ASSERT_TRUE(page.has_value()) << page.error().text();
            for (const EventRecord& record : page->records)
                seen.push_back(record.number);
            cursor = page->next;
            has_more_ = page->has_more;
        } while (has_more_);
    }

    std::vector<std::uint64_t> expected;
    for (std::uint64_t i = 0; i < kEvents; i += 3)
        expected.push_back(i + 1);
    EXPECT_EQ(seen, expected);
}

TEST_F(JournalQuery, ADamagedRecordIsPassedOverAndCounted) {
    for (int i = 0; i < 3; ++i)
        append(*journal_, event("started"));
    ASSERT_TRUE(journal_->put_checkpoint("lm", checkpoint(1)));
    ASSERT_TRUE(journal_->put_incarnation("lm", {.incarnation = Incarnation{4}}));
    ASSERT_TRUE(journal_->append_progress("lm", {progress(1), progress(2)}));
    journal_.reset();
    {
        const auto store = Store::open(path_);
        ASSERT_TRUE(store.has_value());
        ASSERT_TRUE((*store)->write_synced(
            {{.family = Family::kEvents,
              .key = key_of("lm", EventRecord{.number = 3}),
              .value = "{"},
             {.family = Family::kEvents,
              .key = key_of("lm", EventRecord{.number = 2}),
              .value = encode(EventRecord{.number = 7})},
             {.family = Family::kCheckpoints, .key = key_of("lm", checkpoint(2)), .value = ""},
             {.family = Family::kIncarnations,
              .key = key_of("lm", IncarnationRecord{.incarnation = Incarnation{5}}),
              .value = "[]"},
             {.family = Family::kProgress, .key = key_of("lm", progress(2)), .value = "nan"}}));
    }
    journal_ = open();
    ASSERT_THAT(report_.moved_aside_to, IsEmpty());

    const auto page = journal_->find_events({.job = "lm"}).value();
    const auto count = journal_->count_unreadable("lm").value();

    EXPECT_THAT(page.records, testing::SizeIs(1));
    EXPECT_EQ(page.unreadable, 2U);
    EXPECT_EQ(page.damage, "record 3: it is no JSON object");
    EXPECT_EQ(page.next, "3");
    EXPECT_EQ(count.count, 5U);
    EXPECT_EQ(count.first, "record 5: it is no JSON object");
    EXPECT_THAT(journal_->checkpoints("lm").value(), ElementsAre(checkpoint(1)));
    EXPECT_EQ(journal_->checkpoint("lm", Sequence{1}).value(), checkpoint(1));
    EXPECT_EQ(journal_->checkpoint("lm", Sequence{2}).value(), std::nullopt);
    EXPECT_EQ(journal_->last_incarnation("lm").value(), Incarnation{5});
    EventRecord next = event("started");
    ASSERT_TRUE(journal_->append_event("lm", next));
    EXPECT_EQ(next.number, 4U) << "a number was given twice";
}

}  // namespace
}  // namespace pawl::journal
