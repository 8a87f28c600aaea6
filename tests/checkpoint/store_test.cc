// The store: what is chosen, set aside, numbered and let go.
#include "checkpoint/store.h"

#include "tests/checkpoint/sample.h"
#include "tests/fakes/fake_file_system.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pawl::checkpoint {
namespace {

using fakes::FakeFileSystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

class RecordingLedger final : public Ledger {
public:
    Result<void> committed(const Manifest& manifest) override {
        return note("committed", manifest.sequence);
    }
    Result<void> quarantined(const CheckpointName& name, const std::string&) override {
        return note("quarantined", name.sequence);
    }
    Result<void> removed(const CheckpointName& name, const std::string&) override {
        return note("removed", name.sequence);
    }

    std::vector<CheckpointName> known() override { return known_names; }

    std::vector<std::string> entries;
    std::vector<CheckpointName> known_names;
    bool fails = false;

private:
    Result<void> note(const char* what, Sequence sequence) {
        entries.push_back(fmt::format("{} {}", what, sequence));
        if (fails) return make_error(ErrorKind::kIo, "the journal is on fire");
        return {};
    }
};

// A store on a fake disk, with one image for all checkpoints.
struct Fixture {
    FakeFileSystem disk;
    SystemClock clock;
    RecordingLedger ledger;
    Store store{disk, clock, ledger, "/ckpt", "lm"};
    std::vector<std::byte> image = sample_image(256, 5);

    Fixture() { EXPECT_TRUE(store.open()); }

    Result<Committed> commit(std::uint64_t step, std::uint32_t keep_last = 100) {
        return store.commit({.step = Step{step}}, {{.rank = Rank{0}, .bytes = image}},
                            {.keep_last = keep_last});
    }
    std::vector<std::string> names(const std::string& directory = "/ckpt") {
        std::vector<std::string> names;
        const auto entries = disk.list_directory(directory);
        if (entries) {
            for (const DirectoryEntry& entry : *entries)
                names.push_back(entry.name);
        }
        return names;
    }
    // The same directory, seen by a daemon that has just started.
    Store reopened() {
        Store again(disk, clock, ledger, "/ckpt", "lm");
        EXPECT_TRUE(again.open());
        return again;
    }
};

TEST(Store, ChoosesTheNewestValidCheckpoint) {
    Fixture fixture;
    ASSERT_TRUE(fixture.commit(10));
    ASSERT_TRUE(fixture.commit(20));

    const auto choice = fixture.reopened().choose();

    ASSERT_TRUE(choice->chosen.has_value());
    EXPECT_EQ(choice->chosen->step, Step{20});
    EXPECT_EQ(choice->path, "/ckpt/000002-step-20");
    EXPECT_THAT(choice->rejected, IsEmpty());
}

TEST(Store, OrdersBySequenceAndNotByStep) {
    Fixture fixture;
    ASSERT_TRUE(fixture.commit(1200));
    ASSERT_TRUE(fixture.commit(900));  // after a rollback

    const auto choice = fixture.reopened().choose();

    EXPECT_EQ(choice->chosen->step, Step{900});
}

TEST(Store, MovesADamagedCheckpointToQuarantineAndTakesTheOneBefore) {
    Fixture fixture;
    ASSERT_TRUE(fixture.commit(10));
    ASSERT_TRUE(fixture.commit(20));
    fixture.disk.flip_bit("/ckpt/000002-step-20/rank-00000.pt", 700);

    const auto choice = fixture.reopened().choose();

    EXPECT_EQ(choice->chosen->step, Step{10});
    ASSERT_THAT(choice->rejected, SizeIs(1));
    EXPECT_THAT(choice->rejected[0].why, HasSubstr("rank-00000.pt, chunk 0"));
    EXPECT_EQ(choice->rejected[0].moved_to, "/ckpt/quarantine/000002-step-20");
    EXPECT_THAT(fixture.names("/ckpt/quarantine"), ElementsAre("000002-step-20"));
    EXPECT_THAT(fixture.ledger.entries, ElementsAre("committed 1", "committed 2", "quarantined 2"));
}

TEST(Store, LatestLeadsToTheChosenCheckpointAndNowhereWhereThereIsNone) {
    Fixture fixture;
    ASSERT_TRUE(fixture.commit(10));
    ASSERT_TRUE(fixture.commit(20));
    fixture.disk.flip_bit("/ckpt/000002-step-20/rank-00000.pt", 700);

    ASSERT_TRUE(fixture.reopened().choose());
    const std::string once = fixture.disk.link_target("/ckpt/latest");
    fixture.disk.flip_bit("/ckpt/000001-step-10/rank-00000.pt", 700);
    ASSERT_TRUE(fixture.reopened().choose());

    EXPECT_EQ(once, "000001-step-10");
    EXPECT_THAT(fixture.names(), ElementsAre("quarantine"));
}

TEST(Store, AnotherDamagedCheckpointOfTheSameNameReplacesNothingInQuarantine) {
    Fixture fixture;
    ASSERT_TRUE(fixture.disk.create_directory("/ckpt/quarantine"));
    ASSERT_TRUE(fixture.disk.create_directory("/ckpt/quarantine/000001-step-10"));
    ASSERT_TRUE(fixture.disk.create_directory("/ckpt/000001-step-10"));

    const auto choice = fixture.store.choose();

    EXPECT_FALSE(choice->chosen.has_value());
    EXPECT_EQ(choice->rejected[0].moved_to, "/ckpt/quarantine/000001-step-10.2");
}

TEST(Store, SaysThatSomeExistedWhenAllAreDamagedAlsoTheNextTime) {
    Fixture fixture;
    ASSERT_TRUE(fixture.commit(10));
    ASSERT_TRUE(fixture.disk.remove("/ckpt/000001-step-10/manifest.json"));

    const auto first = fixture.reopened().choose();
    const auto second = fixture.reopened().choose();

    EXPECT_FALSE(first->chosen.has_value());
    EXPECT_TRUE(first->some_existed);
    EXPECT_FALSE(second->chosen.has_value());
    EXPECT_TRUE(second->some_existed);
}

TEST(Store, AnEmptyDirectoryIsAPlaceToBeginIn) {
    Fixture fixture;

    const auto choice = fixture.store.choose();

    EXPECT_FALSE(choice->chosen.has_value());
    EXPECT_FALSE(choice->some_existed);
}

TEST(Store, NamesWhatIsMissingOnlyWhereThereIsNothingAtAll) {
    Fixture fixture;
    const CheckpointName known{.sequence = Sequence{7}, .step = Step{70}};
    fixture.ledger.known_names = {known};

    const auto blank = fixture.store.choose();
    ASSERT_TRUE(fixture.disk.create_directory("/ckpt/quarantine"));
    ASSERT_TRUE(fixture.disk.create_directory("/ckpt/quarantine/000001-step-10"));
    const auto set_aside = fixture.store.choose();
    ASSERT_TRUE(fixture.commit(20));
    const auto chosen = fixture.store.choose();

    EXPECT_THAT(blank->missing, ElementsAre(known));
    EXPECT_FALSE(blank->some_existed);
    EXPECT_THAT(set_aside->missing, IsEmpty());
    EXPECT_TRUE(set_aside->some_existed);
    EXPECT_THAT(chosen->missing, IsEmpty());
}

TEST(Store, SweepsWhatWasBeingWrittenAndUsesItsSequenceNoMore) {
    Fixture fixture;
    ASSERT_TRUE(fixture.commit(10));
    ASSERT_TRUE(fixture.disk.create_directory("/ckpt/.tmp-000002-step-20"));
    Store again = fixture.reopened();

    const auto committed = again.commit(
        {.step = Step{20}}, {{.rank = Rank{0}, .bytes = fixture.image}}, {.keep_last = 100});

    EXPECT_EQ(committed->manifest.sequence, Sequence{3});
    EXPECT_THAT(fixture.names(), ElementsAre("000001-step-10", "000003-step-20", "latest"));
}

TEST(Store, NeverReusesASequenceOfTheQuarantineOfAbandonedOnesOrOfTheJournal) {
    struct Case {
        const char* directory;
        const char* name;
        std::uint64_t floor;
        std::uint64_t expected;
    };
    for (const Case& one :
         {Case{"quarantine", "000007-step-1", 0, 8}, Case{"quarantine", "000007-step-1.2", 0, 8},
          Case{"abandoned", "000009-step-1", 0, 10}, Case{"abandoned", "notes", 41, 42}}) {
        SCOPED_TRACE(fmt::format("{}/{} floor {}", one.directory, one.name, one.floor));
        Fixture fixture;
        const std::string directory = fmt::format("/ckpt/{}", one.directory);
        ASSERT_TRUE(fixture.disk.create_directory(directory));
        ASSERT_TRUE(fixture.disk.create_directory(join_path(directory, one.name)));
        fixture.store.set_sequence_floor(Sequence{one.floor});

        const auto committed = fixture.commit(1);

        EXPECT_EQ(committed->manifest.sequence, Sequence{one.expected});
    }
}

TEST(Store, AFailedAttemptUsesItsSequenceUp) {
    Fixture fixture;
    fixture.disk.fail_at(fixture.disk.operations_done() + 2, EIO);

    const auto failed = fixture.commit(10);
    const auto committed = fixture.commit(10);

    EXPECT_FALSE(failed.has_value());
    EXPECT_EQ(committed->manifest.sequence, Sequence{2});
}

TEST(Store, RetentionKeepsTheLastAndTellsTheLedgerWhatIsGone) {
    Fixture fixture;
    for (const std::uint64_t step : {10U, 20U, 30U})
        ASSERT_TRUE(fixture.commit(step, 2));

    EXPECT_THAT(fixture.names(), ElementsAre("000002-step-20", "000003-step-30", "latest"));
    EXPECT_THAT(fixture.ledger.entries,
                ElementsAre("committed 1", "committed 2", "committed 3", "removed 1"));
}

TEST(Store, AppliesAPolicyThatWasNarrowedOnceSomethingIsVerified) {
    Fixture fixture;
    for (const std::uint64_t step : {10U, 20U, 30U})
        ASSERT_TRUE(fixture.commit(step));
    Store again = fixture.reopened();

    EXPECT_THAT(again.apply_retention({.keep_last = 1}), IsEmpty());
    const auto before = fixture.names();
    ASSERT_TRUE(again.choose());
    EXPECT_THAT(again.apply_retention({.keep_last = 1}), IsEmpty());

    EXPECT_THAT(before, SizeIs(4));
    EXPECT_THAT(fixture.names(), ElementsAre("000003-step-30", "latest"));
}

TEST(Store, AJournalThatFailsIsAWarningAndNoReasonToLoseACheckpoint) {
    Fixture fixture;
    fixture.ledger.fails = true;

    const auto committed = fixture.commit(10);

    ASSERT_TRUE(committed.has_value());
    EXPECT_THAT(committed->warnings, ElementsAre("the journal is on fire"));
    EXPECT_EQ(fixture.reopened().choose()->chosen->step, Step{10});
}

TEST(Store, APowerCutWhileRetentionRemovesNeverCostsTheNewest) {
    Fixture counted;
    for (const std::uint64_t step : {10U, 20U})
        ASSERT_TRUE(counted.commit(step));
    const int before = counted.disk.operations_done();
    ASSERT_TRUE(counted.commit(30, 1));
    const int operations = counted.disk.operations_done() - before;
    for (int operation = 0; operation <= operations; ++operation) {
        Fixture fixture;
        for (const std::uint64_t step : {10U, 20U})
            ASSERT_TRUE(fixture.commit(step));
        fixture.disk.sync_everything();
        fixture.disk.cut_power_before(fixture.disk.operations_done() + operation);
        const bool is_reported = fixture.commit(30, 1).has_value();

        for (FakeFileSystem& after : fixture.disk.possible_disks(64, 7)) {
            SCOPED_TRACE(fmt::format("operation {}:\n{}", operation, after.history()));
            NoLedger ledger;
            Store store(after, fixture.clock, ledger, "/ckpt", "lm");
            ASSERT_TRUE(store.open());
            const auto choice = store.choose();
            ASSERT_TRUE(choice->chosen.has_value());
            EXPECT_GE(choice->chosen->step, Step{is_reported ? 30u : 20u});
        }
    }
}

}  // namespace
}  // namespace pawl::checkpoint
