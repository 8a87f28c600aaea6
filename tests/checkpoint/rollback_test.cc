// Rollback, pins and what is set aside: against kills, power cuts and clocks that are set back.
#include "checkpoint/rollback.h"

#include "checkpoint/pin.h"
#include "checkpoint/set_aside.h"
#include "checkpoint/store.h"
#include "tests/checkpoint/sample.h"
#include "tests/fakes/fake_file_system.h"
#include "tests/fakes/hand_clock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <errno.h>

namespace pawl::checkpoint {
namespace {

using fakes::FakeFileSystem;
using std::chrono::hours;
using testing::AnyOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr std::size_t kDisksMax = 64;
constexpr std::uint64_t kSeed = 11;

// Tells what it was told.
class Told final : public Ledger {
public:
    Result<void> committed(const Manifest&) override { return {}; }
    Result<void> quarantined(const CheckpointName& name, const std::string&) override {
        entries.push_back(fmt::format("quarantined {}", name.sequence));
        return {};
    }
    Result<void> removed(const CheckpointName& name, const std::string&) override {
        entries.push_back(fmt::format("removed {}", name.sequence));
        return {};
    }
    Result<void> abandoned(const CheckpointName& name, const std::string& why) override {
        entries.push_back(fmt::format("abandoned {}: {}", name.sequence, why));
        return {};
    }
    std::vector<std::string> entries;
};

struct Fixture {
    FakeFileSystem disk;
    fakes::HandClock clock;
    Told ledger;
    Store store{disk, clock, ledger, "/ckpt", "lm"};
    std::vector<std::byte> image = sample_image(256, 5);

    // Checkpoints 1, 2, … of these steps.
    explicit Fixture(std::initializer_list<std::uint64_t> steps = {600, 900, 1100, 1200}) {
        EXPECT_TRUE(store.open());
        for (const std::uint64_t step : steps)
            EXPECT_TRUE(commit(step));
        disk.sync_everything();
    }
    Result<Committed> commit(std::uint64_t step,
                             const RetentionPolicy& policy = {.keep_last = 100}) {
        return store.commit({.step = Step{step}}, {{.rank = Rank{0}, .bytes = image}}, policy);
    }
    std::vector<std::string> names(const std::string& directory = "/ckpt") {
        std::vector<std::string> names;
        const auto entries = disk.list_directory(directory);
        for (const DirectoryEntry& entry : entries ? *entries : std::vector<DirectoryEntry>{})
            names.push_back(entry.name);
        return names;
    }
};

// What a restart on this disk resumes from, and the sequence its next checkpoint gets.
struct Restarted {
    std::uint64_t resumed = 0;
    std::uint64_t next = 0;
};

Restarted restart(FakeFileSystem& disk) {
    fakes::HandClock clock;
    NoLedger ledger;
    Store store(disk, clock, ledger, "/ckpt", "lm");
    const auto opened = store.open();
    EXPECT_TRUE(opened.has_value()) << opened.error().text();
    const auto choice = store.choose();
    EXPECT_TRUE(choice.has_value() && choice->chosen.has_value());
    const std::vector<std::byte> image = sample_image(256, 5);
    const auto committed =
        store.commit({.step = Step{1}}, {{.rank = Rank{0}, .bytes = image}}, {.keep_last = 100});
    EXPECT_TRUE(committed.has_value());
    return {.resumed = choice->chosen->sequence.value, .next = committed->manifest.sequence.value};
}

// ---- rollback ----

TEST(Rollback, MovesEverythingNewerAsideAndLeadsLatestBack) {
    Fixture fixture;

    const auto done = fixture.store.rollback(Sequence{2});

    ASSERT_TRUE(done.has_value()) << done.error().text();
    EXPECT_EQ(describe(*done),
              "rolled back to checkpoint 2 (step 900): 2 newer ones are in 'abandoned'");
    EXPECT_THAT(fixture.names(),
                ElementsAre("000001-step-600", "000002-step-900", "abandoned", "latest"));
    EXPECT_THAT(fixture.names("/ckpt/abandoned"),
                ElementsAre("000003-step-1100", "000004-step-1200"));
    EXPECT_EQ(fixture.disk.link_target("/ckpt/latest"), "000002-step-900");
    EXPECT_THAT(fixture.ledger.entries, ElementsAre("abandoned 3: rolled back to checkpoint 2",
                                                    "abandoned 4: rolled back to checkpoint 2"));
    EXPECT_TRUE(verify(fixture.disk, "/ckpt/abandoned/000004-step-1200")->is_valid());
}

TEST(Rollback, AStaleNewerStepNeitherWinsAtARestartNorHoldsAPlaceOfRetention) {
    Fixture fixture;
    ASSERT_TRUE(fixture.store.rollback(Sequence{2}));

    const auto resumed = fixture.store.choose();
    const auto next = fixture.commit(1000, {.keep_last = 2});

    EXPECT_EQ(resumed->chosen->step, Step{900});
    EXPECT_EQ(next->manifest.sequence, Sequence{5});
    EXPECT_THAT(fixture.names(),
                ElementsAre("000002-step-900", "000005-step-1000", "abandoned", "latest"));
}

TEST(Rollback, ToTheNewestMovesNothing) {
    Fixture fixture;

    const auto done = fixture.store.rollback(Sequence{4});

    ASSERT_TRUE(done.has_value()) << done.error().text();
    EXPECT_THAT(done->abandoned, IsEmpty());
    EXPECT_THAT(fixture.names(), SizeIs(5));
}

TEST(Rollback, ToADamagedOrAMissingCheckpointMovesNothing) {
    Fixture fixture;
    fixture.disk.flip_bit("/ckpt/000002-step-900/rank-00000.pt", 700);
    const auto before = fixture.names();

    const auto damaged = fixture.store.rollback(Sequence{2});
    const auto missing = fixture.store.rollback(Sequence{7});

    EXPECT_EQ(damaged.error().kind(), ErrorKind::kCorrupt);
    EXPECT_THAT(damaged.error().text(), HasSubstr("rank-00000.pt, chunk 0"));
    EXPECT_THAT(damaged.error().text(), HasSubstr("Nothing was moved"));
    EXPECT_EQ(missing.error().kind(), ErrorKind::kNotFound);
    EXPECT_EQ(fixture.names(), before);
}

TEST(Rollback, APowerCutAtAnyOperationResumesFromBeforeOrFromAfter) {
    Fixture counted;
    const int before = counted.disk.operations_done();
    ASSERT_TRUE(counted.store.rollback(Sequence{2}));
    const int operations = counted.disk.operations_done() - before;
    ASSERT_GT(operations, 8);

    for (int operation = 0; operation <= operations; ++operation) {
        Fixture fixture;
        fixture.disk.cut_power_before(fixture.disk.operations_done() + operation);
        const bool is_reported = fixture.store.rollback(Sequence{2}).has_value();

        for (FakeFileSystem& after : fixture.disk.possible_disks(kDisksMax, kSeed)) {
            SCOPED_TRACE(fmt::format("before operation {}:\n{}", operation, after.history()));
            const Restarted restarted = restart(after);
            EXPECT_THAT(restarted.resumed, AnyOf(2u, 4u));
            EXPECT_EQ(restarted.next, 5u);
            if (is_reported) {
                EXPECT_EQ(restarted.resumed, 2u);
            }
            // Before means: as if nobody had asked.
            if (restarted.resumed == 4) {
                EXPECT_THAT(list_checkpoints(after, "/ckpt").value(), SizeIs(5));
            }
        }
    }
}

TEST(Rollback, AFailureAtAnyOperationLeavesOneOfTheTwoAndCanBeAskedForAgain) {
    Fixture counted;
    const int before = counted.disk.operations_done();
    ASSERT_TRUE(counted.store.rollback(Sequence{2}));
    const int operations = counted.disk.operations_done() - before;

    for (int operation = 0; operation < operations; ++operation) {
        for (const int code : {EIO, ENOSPC}) {
            Fixture fixture;
            fixture.disk.fail_at(fixture.disk.operations_done() + operation, code);

            const auto failed = fixture.store.rollback(Sequence{2});

            SCOPED_TRACE(fmt::format("operation {}:\n{}", operation, fixture.disk.history()));
            if (!failed) {
                EXPECT_THAT(failed.error().text(), HasSubstr("cannot roll back to checkpoint 2"));
                EXPECT_THAT(failed.error().text(),
                            AnyOf(HasSubstr("Nothing was moved"), HasSubstr("next start")));
            }
            const auto again = fixture.store.rollback(Sequence{2});
            ASSERT_TRUE(again.has_value()) << again.error().text();
            EXPECT_EQ(restart(fixture.disk).resumed, 2u);
        }
    }
}

TEST(Rollback, OneThatWasDecidedIsCompletedAtTheNextStartAndSaysSo) {
    Fixture fixture;
    ASSERT_TRUE(write_rollback(fixture.disk, "/ckpt", {.to = Sequence{2}, .through = Sequence{4}}));
    Store again(fixture.disk, fixture.clock, fixture.ledger, "/ckpt", "lm");

    ASSERT_TRUE(again.open());

    ASSERT_TRUE(again.completed_rollback().has_value());
    EXPECT_THAT(again.completed_rollback()->abandoned, SizeIs(2));
    EXPECT_THAT(fixture.names(),
                ElementsAre("000001-step-600", "000002-step-900", "abandoned", "latest"));
}

TEST(Rollback, WhatWasCommittedAfterTheDecisionStays) {
    Fixture fixture;
    ASSERT_TRUE(write_rollback(fixture.disk, "/ckpt", {.to = Sequence{2}, .through = Sequence{3}}));
    Store again(fixture.disk, fixture.clock, fixture.ledger, "/ckpt", "lm");

    ASSERT_TRUE(again.open());

    EXPECT_THAT(fixture.names(), ElementsAre("000001-step-600", "000002-step-900",
                                             "000004-step-1200", "abandoned", "latest"));
}

TEST(Rollback, ADecisionThatCannotBeUnderstoodIsSaidAndNothingIsTouched) {
    for (const std::string& text :
         {std::string("{\"to\": 2"), std::string("{\"to\": -2, \"through\": 4}"), std::string("[]"),
          std::string("{\"to\": 7, \"through\": 9}")}) {
        Fixture fixture;
        {
            const auto file = fixture.disk.create_file("/ckpt/rollback.json", text.size());
            ASSERT_TRUE((*file)->write_at(0, std::as_bytes(std::span(text))));
        }
        const auto before = fixture.names();

        const auto opened = fixture.store.open();

        ASSERT_FALSE(opened.has_value()) << text;
        EXPECT_THAT(opened.error().text(), HasSubstr("rollback.json"));
        EXPECT_EQ(fixture.names(), before);
    }
}

TEST(Rollback, AbandonedCheckpointsCountAsSomeThatExisted) {
    Fixture fixture({600, 900});
    ASSERT_TRUE(fixture.store.rollback(Sequence{1}));
    ASSERT_TRUE(remove_tree(fixture.disk, "/ckpt/000001-step-600"));

    const auto choice = fixture.store.choose();

    EXPECT_FALSE(choice->chosen.has_value());
    EXPECT_TRUE(choice->some_existed);
}

// ---- pins ----

TEST(Pin, RetentionLeavesAPinnedCheckpointAlone) {
    Fixture fixture;
    ASSERT_TRUE(pin(fixture.disk, "/ckpt/000001-step-600"));
    ASSERT_TRUE(pin(fixture.disk, "/ckpt/000001-step-600"));  // twice is once

    ASSERT_TRUE(fixture.commit(1300, {.keep_last = 1}));
    const auto with_pin = fixture.names();
    ASSERT_TRUE(unpin(fixture.disk, "/ckpt/000001-step-600"));
    ASSERT_TRUE(fixture.commit(1400, {.keep_last = 1}));

    EXPECT_THAT(with_pin, ElementsAre("000001-step-600", "000005-step-1300", "latest"));
    EXPECT_THAT(fixture.names(), ElementsAre("000006-step-1400", "latest"));
}

TEST(Pin, IsDurableWhenItIsReportedAndNeverCostsTheCheckpoint) {
    for (int operation = 0; operation <= 3; ++operation) {
        Fixture fixture({600});
        fixture.disk.cut_power_before(fixture.disk.operations_done() + operation);
        const bool is_reported = pin(fixture.disk, "/ckpt/000001-step-600").has_value();

        for (FakeFileSystem& after : fixture.disk.possible_disks(kDisksMax, kSeed)) {
            SCOPED_TRACE(fmt::format("before operation {}:\n{}", operation, after.history()));
            EXPECT_TRUE(verify(after, "/ckpt/000001-step-600")->is_valid());
            if (is_reported) {
                EXPECT_TRUE(is_pinned(after, "/ckpt/000001-step-600").value());
            }
        }
    }
}

TEST(Pin, OfACheckpointThatIsNotThereIsAnError) {
    Fixture fixture({600});

    const auto pinned = pin(fixture.disk, "/ckpt/000009-step-1");

    EXPECT_EQ(pinned.error().kind(), ErrorKind::kNotFound);
}

// Pins a checkpoint at the very moment that retention takes its name away.
class PinningFileSystem final : public FileSystem {
public:
    explicit PinningFileSystem(FakeFileSystem& fs) : fs_(fs) {}
    Result<void> rename(const std::string& from, const std::string& to) override {
        if (to == "/ckpt/.tmp-000001-step-600" && !has_pinned) {
            has_pinned = true;
            EXPECT_TRUE(pin(fs_, from));
        }
        return fs_.rename(from, to);
    }
    Result<void> create_directory(const std::string& path) override {
        return fs_.create_directory(path);
    }
    Result<std::vector<DirectoryEntry>> list_directory(const std::string& path) override {
        return fs_.list_directory(path);
    }
    Result<std::optional<FileStatus>> status(const std::string& path) override {
        return fs_.status(path);
    }
    Result<std::unique_ptr<WritableFile>> create_file(const std::string& path,
                                                      std::uint64_t bytes) override {
        return fs_.create_file(path, bytes);
    }
    Result<std::unique_ptr<ByteSource>> open_file(const std::string& path) override {
        return fs_.open_file(path);
    }
    Result<void> replace_link(const std::string& target, const std::string& path) override {
        return fs_.replace_link(target, path);
    }
    Result<void> sync_directory(const std::string& path) override {
        return fs_.sync_directory(path);
    }
    Result<void> remove(const std::string& path) override { return fs_.remove(path); }

    bool has_pinned = false;

private:
    FakeFileSystem& fs_;
};

TEST(Pin, OneThatComesWhileRetentionIsAtWorkIsHonoured) {
    Fixture fixture;
    PinningFileSystem racing(fixture.disk);
    Store store(racing, fixture.clock, fixture.ledger, "/ckpt", "lm");
    ASSERT_TRUE(store.choose());

    const auto warnings = store.apply_retention({.keep_last = 1});

    EXPECT_TRUE(racing.has_pinned);
    EXPECT_THAT(warnings, IsEmpty());
    EXPECT_THAT(fixture.names(), ElementsAre("000001-step-600", "000004-step-1200", "latest"));
    EXPECT_THAT(fixture.ledger.entries, ElementsAre("removed 2", "removed 3"));
}

TEST(Pin, AKillBeforeRetentionGaveItBackLosesNoPinnedCheckpoint) {
    Fixture fixture({600, 900});
    ASSERT_TRUE(pin(fixture.disk, "/ckpt/000001-step-600"));
    ASSERT_TRUE(fixture.disk.rename("/ckpt/000001-step-600", "/ckpt/.tmp-000001-step-600"));

    ASSERT_TRUE(fixture.store.open());

    EXPECT_THAT(fixture.names(), ElementsAre("000001-step-600", "000002-step-900", "latest"));
}

// ---- what is set aside, and for how long ----

TEST(SetAside, AbandonedAndQuarantinedOnesStaySevenDaysAndThenGo) {
    Fixture fixture;
    ASSERT_TRUE(fixture.store.rollback(Sequence{2}));
    fixture.disk.flip_bit("/ckpt/000002-step-900/rank-00000.pt", 700);
    ASSERT_TRUE(fixture.store.choose());

    fixture.clock.wall += hours{24 * 7} - milliseconds{1};
    const auto early = fixture.commit(1000);
    const auto aside = fixture.names("/ckpt/abandoned");
    fixture.clock.wall += milliseconds{1};
    const auto late = fixture.commit(1010);

    EXPECT_THAT(early->expired, IsEmpty());
    EXPECT_THAT(aside, SizeIs(2));
    EXPECT_THAT(late->expired,
                ElementsAre("/ckpt/quarantine/000002-step-900", "/ckpt/abandoned/000003-step-1100",
                            "/ckpt/abandoned/000004-step-1200"));
    EXPECT_THAT(fixture.names("/ckpt/abandoned"), IsEmpty());
    EXPECT_THAT(late->warnings, IsEmpty());
}

TEST(SetAside, AClockThatIsSetBackADayOnlyLetsThemStayLonger) {
    Fixture fixture;
    ASSERT_TRUE(fixture.store.rollback(Sequence{2}));
    fixture.clock.wall -= hours{24};

    const auto back = fixture.commit(1000, {.keep_last = 2});
    fixture.clock.wall += hours{24 * 8};
    const auto later = fixture.commit(1010, {.keep_last = 2});

    EXPECT_THAT(back->expired, IsEmpty());
    EXPECT_THAT(later->expired, SizeIs(2));
    EXPECT_THAT(fixture.names(),
                ElementsAre("000005-step-1000", "000006-step-1010", "abandoned", "latest"))
        << "retention goes by sequence, not by time";
}

TEST(SetAside, OneWithoutAStampGetsItsTimeFromWhenItIsFound) {
    Fixture fixture;
    ASSERT_TRUE(fixture.store.rollback(Sequence{2}));
    ASSERT_TRUE(fixture.disk.remove("/ckpt/abandoned/000004-step-1200/set-aside.json"));
    fixture.clock.wall += hours{24 * 30};

    const auto found = fixture.commit(1000);
    fixture.clock.wall += hours{24 * 7};
    const auto later = fixture.commit(1010);

    EXPECT_THAT(found->expired, ElementsAre("/ckpt/abandoned/000003-step-1100"));
    EXPECT_THAT(later->expired, ElementsAre("/ckpt/abandoned/000004-step-1200"));
}

TEST(SetAside, APinnedOneAndTheHighestSequenceNeverGo) {
    Fixture fixture;
    ASSERT_TRUE(fixture.store.rollback(Sequence{2}));
    ASSERT_TRUE(pin(fixture.disk, "/ckpt/abandoned/000003-step-1100"));
    fixture.clock.wall += hours{24 * 30};

    // Nothing newer than the abandoned ones has been committed: their sequences are still needed.
    const auto warnings = fixture.store.apply_retention({.keep_last = 3});
    const auto before = fixture.names("/ckpt/abandoned");
    ASSERT_TRUE(fixture.commit(1000));

    EXPECT_THAT(warnings, IsEmpty());
    EXPECT_THAT(before, SizeIs(2));
    EXPECT_THAT(fixture.names("/ckpt/abandoned"), ElementsAre("000003-step-1100"));
}

TEST(SetAside, NothingGoesWhileNothingIsKnownToBeGood) {
    Fixture fixture({600, 900});
    fixture.disk.flip_bit("/ckpt/000001-step-600/rank-00000.pt", 700);
    fixture.disk.flip_bit("/ckpt/000002-step-900/rank-00000.pt", 700);
    ASSERT_TRUE(fixture.store.choose());
    fixture.clock.wall += hours{24 * 30};

    EXPECT_THAT(fixture.store.apply_retention({.keep_last = 1}), IsEmpty());

    EXPECT_THAT(fixture.names("/ckpt/quarantine"), SizeIs(2));
    EXPECT_TRUE(fixture.store.choose()->some_existed);
}

}  // namespace
}  // namespace pawl::checkpoint
