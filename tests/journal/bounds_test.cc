// How large a journal grows: what is removed, and what a month of training takes on disk.
#include "journal/records.h"
#include "journal/store.h"
#include "tests/journal/sample.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

namespace pawl::journal {
namespace {

using std::chrono::hours;
using testing::IsEmpty;
using testing::Le;
using testing::SizeIs;

class JournalBounds : public JournalPlace {
protected:
    [[nodiscard]] std::uintmax_t bytes_on_disk() const {
        std::uintmax_t bytes = 0;
        for (const auto& entry : std::filesystem::directory_iterator(path_))
            bytes += entry.file_size();
        return bytes;
    }
    // Below the journal and in one batch: so many synced writes would take minutes.
    void write(const std::vector<Change>& changes) {
        const auto store = Store::open(path_);
        ASSERT_TRUE(store.has_value()) << store.error().text();
        ASSERT_TRUE((*store)->write_synced(changes));
    }
};

TEST_F(JournalBounds, OfEventsTheNewestStay) {
    std::vector<Change> changes;
    for (std::uint64_t number = 1; number <= kEventsKept + 100; ++number) {
        EventRecord record = event("started");
        record.number = number;
        changes.push_back(
            {.family = Family::kEvents, .key = key_of("lm", record), .value = encode(record)});
    }
    open();
    write(changes);

    const auto journal = open();
    append(*journal, event("started"));
    const auto kept = journal->events("lm", 2 * kEventsKept).value();

    EXPECT_THAT(kept, SizeIs(kEventsKept));
    EXPECT_EQ(kept.back().number, kEventsKept + 101);
}

TEST_F(JournalBounds, OfIncarnationsTheNewestStayAndNumbersGoOn) {
    std::vector<Change> changes;
    for (std::uint64_t number = 0; number < kIncarnationsKept + 50; ++number) {
        const IncarnationRecord record{.incarnation = Incarnation{number}};
        changes.push_back({.family = Family::kIncarnations,
                           .key = key_of("lm", record),
                           .value = encode(record)});
    }
    open();
    write(changes);

    const auto journal = open();
    ASSERT_TRUE(
        journal->put_incarnation("lm", {.incarnation = Incarnation{kIncarnationsKept + 50}}));
    const auto kept = journal->incarnations("lm").value();

    EXPECT_THAT(kept, SizeIs(kIncarnationsKept));
    EXPECT_EQ(kept.front().incarnation, Incarnation{51});
    EXPECT_EQ(journal->last_incarnation("lm").value(), Incarnation{kIncarnationsKept + 50});
}

TEST_F(JournalBounds, OfRemovedCheckpointsTheNewestStayAndAllOfThoseThatExist) {
    std::vector<Change> changes;
    for (std::uint64_t sequence = 1; sequence <= kRemovedCheckpointsKept + 300; ++sequence) {
        const CheckpointRecord record =
            checkpoint(sequence, sequence % 100 == 0   ? CheckpointState::kCommitted
                                 : sequence % 100 == 1 ? CheckpointState::kQuarantined
                                                       : CheckpointState::kRemoved);
        changes.push_back(
            {.family = Family::kCheckpoints, .key = key_of("lm", record), .value = encode(record)});
    }
    open();
    write(changes);

    const auto journal = open();
    ASSERT_TRUE(journal->put_checkpoint("lm", checkpoint(kRemovedCheckpointsKept + 301)));
    const auto kept = journal->checkpoints("lm").value();

    const auto of_state = [&kept](CheckpointState state) {
        return std::ranges::count(kept, state, &CheckpointRecord::state);
    };
    EXPECT_EQ(of_state(CheckpointState::kRemoved), std::ptrdiff_t{kRemovedCheckpointsKept});
    EXPECT_EQ(of_state(CheckpointState::kCommitted), 104);
    EXPECT_EQ(of_state(CheckpointState::kQuarantined), 103);
    EXPECT_EQ(kept.back().sequence, Sequence{kRemovedCheckpointsKept + 301});
}

// One progress record in four seconds, an epoch every ten minutes, a checkpoint a minute. One a
// second ends at the same size, only later in this test.
TEST_F(JournalBounds, AMonthOfTrainingStaysBelowTheStatedSize) {
    constexpr std::uintmax_t kStatedBytes = std::uintmax_t{64} << 20;  // docs/formats.md
    constexpr std::uint64_t kHours = 30 * 24;
    constexpr std::uint64_t kPeriod = 4;
    constexpr std::uint64_t kRecordsAnHour = 3600 / kPeriod;
    const auto journal = open();
    std::uintmax_t most = 0;
    std::uint64_t sequence = 0;

    for (std::uint64_t hour = 0; hour < kHours; ++hour) {
        std::vector<ProgressRecord> batch;
        for (std::uint64_t i = 0; i < kRecordsAnHour; ++i) {
            const std::uint64_t second = hour * 3600 + i * kPeriod;
            const WallTime time = kNow + seconds{second};
            batch.push_back(progress(1'000 * second, time));
            if (second % 600 == 0) {
                batch.push_back(epoch_end(10 * second, time));
                batch.back().metrics = {{"accuracy", 0.91}, {"loss", 0.25}};
            }
        }
        ASSERT_TRUE(journal->append_progress("lm", batch));
        append(*journal, event("checkpoint_committed", Severity::kInfo, kNow + hours{hour}));
        ASSERT_TRUE(journal->put_checkpoint("lm", checkpoint(++sequence)));
        if (hour % 24 == 0) most = std::max(most, bytes_on_disk());
    }
    most = std::max(most, bytes_on_disk());
    const auto ends = journal->find_epochs({.job = "lm", .limit = 1'000'000}).value();
    const auto all = journal->progress("lm", 10'000'000).value();

    EXPECT_THAT(most, Le(kStatedBytes)) << "at " << all.size() << " records of progress";
    EXPECT_THAT(ends.records, SizeIs(kHours * 6));
    EXPECT_LE(all.size(), kProgressRecordsKept + kProgressRecordsSlack + 2 * kRecordsAnHour +
                              kHours * 60 + kHours * 6);
    EXPECT_GE(all.size(), kProgressRecordsKept + (kHours - 24 * 6) * 60);
    EXPECT_EQ(all.back().step, Step{1'000 * (kHours * 3600 - kPeriod)});
}

}  // namespace
}  // namespace pawl::journal
