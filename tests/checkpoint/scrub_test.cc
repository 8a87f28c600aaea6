// The scrub: finds rot, blames nothing that is merely gone, and leaves the verdict to the store.
#include "checkpoint/scrub.h"

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
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

struct Fixture {
    FakeFileSystem disk;
    fakes::HandClock clock;
    NoLedger ledger;
    Store store{disk, clock, ledger, "/ckpt", "lm"};
    std::vector<std::byte> image = sample_image(256, 5);

    Fixture() {
        EXPECT_TRUE(store.open());
        for (const std::uint64_t step : {10U, 20U, 30U}) {
            EXPECT_TRUE(store.commit({.step = Step{step}}, {{.rank = Rank{0}, .bytes = image}},
                                     {.keep_last = 100}));
        }
    }
    void rot(const std::string& name) {
        disk.flip_bit(fmt::format("/ckpt/{}/rank-00000.pt", name), 700);
    }
};

const CheckpointName kFirst{.sequence = Sequence{1}, .step = Step{10}};
const CheckpointName kSecond{.sequence = Sequence{2}, .step = Step{20}};
const CheckpointName kThird{.sequence = Sequence{3}, .step = Step{30}};

TEST(Scrub, ReadsEveryByteNewestFirstAndNamesWhatHasRotted) {
    Fixture fixture;
    fixture.rot("000002-step-20");
    std::uint64_t announced = 0;

    const Scrubbed found =
        scrub(fixture.disk, "/ckpt", {.before_read = [&](std::uint64_t bytes) -> Result<void> {
                  announced += bytes;
                  return {};
              }});

    EXPECT_THAT(found.valid, ElementsAre(kThird, kFirst));
    EXPECT_THAT(found.suspects, ElementsAre(kSecond));
    EXPECT_EQ(found.bytes, announced);
    EXPECT_FALSE(found.was_stopped);
}

TEST(Scrub, OneThatRetentionTakesAwayMeanwhileIsNoSuspect) {
    Fixture fixture;
    int reads = 0;

    const Scrubbed found =
        scrub(fixture.disk, "/ckpt", {.before_read = [&](std::uint64_t) -> Result<void> {
                  // The second read is of the newest one's file.
                  if (++reads == 2) {
                      EXPECT_TRUE(remove_tree(fixture.disk, "/ckpt/000003-step-30"));
                  }
                  if (reads == 3) {
                      EXPECT_TRUE(remove_tree(fixture.disk, "/ckpt/000001-step-10"));
                  }
                  return {};
              }});

    EXPECT_THAT(found.suspects, IsEmpty());
    EXPECT_THAT(found.unread, IsEmpty());
    EXPECT_FALSE(found.was_stopped);
}

TEST(Scrub, WhatCannotBeOpenedIsSaidAndNoSuspect) {
    Fixture fixture;
    fixture.disk.refuse_to_open("/ckpt/000002-step-20/rank-00000.pt", EMFILE);

    const Scrubbed found = scrub(fixture.disk, "/ckpt", {});

    EXPECT_THAT(found.suspects, IsEmpty());
    ASSERT_THAT(found.unread, SizeIs(1));
    EXPECT_THAT(found.unread[0], HasSubstr("could not be read"));
}

TEST(Scrub, StopsWhenItIsTold) {
    Fixture fixture;

    const Scrubbed found = scrub(fixture.disk, "/ckpt", {.before_read = [](std::uint64_t) {
                                     return make_error(ErrorKind::kCancelled, "stop");
                                 }});

    EXPECT_TRUE(found.was_stopped);
    EXPECT_THAT(found.valid, IsEmpty());
}

TEST(Store, AConfirmedSuspectGoesToQuarantineWhenAnotherIsValid) {
    Fixture fixture;
    fixture.rot("000003-step-30");

    const auto found = fixture.store.confirm_damage(kThird);

    ASSERT_TRUE(found.has_value() && found->has_value());
    EXPECT_EQ((*found)->moved_to, "/ckpt/quarantine/000003-step-30");
    EXPECT_THAT((*found)->why, HasSubstr("rank-00000.pt, chunk 0"));
    EXPECT_EQ(fixture.disk.link_target("/ckpt/latest"), "000002-step-20");
    EXPECT_EQ(fixture.store.choose()->chosen->sequence, Sequence{2});
}

TEST(Store, TheOnlyOneThereIsStaysEvenIfItHasRotted) {
    Fixture fixture;
    for (const char* name : {"000001-step-10", "000002-step-20", "000003-step-30"})
        fixture.rot(name);
    // A daemon that has just started knows of nothing that it is good.
    Store again(fixture.disk, fixture.clock, fixture.ledger, "/ckpt", "lm");

    const auto found = again.confirm_damage(kThird);

    ASSERT_TRUE(found.has_value() && found->has_value());
    EXPECT_EQ((*found)->moved_to, "");
    EXPECT_THAT(again.list().value(), SizeIs(3));
}

TEST(Store, ASuspectThatIsValidOrGoneOrUnreadableIsLeftAlone) {
    Fixture fixture;
    ASSERT_TRUE(remove_tree(fixture.disk, "/ckpt/000001-step-10"));
    fixture.rot("000003-step-30");
    fixture.disk.refuse_to_open("/ckpt/000003-step-30/rank-00000.pt", EACCES);

    EXPECT_FALSE(fixture.store.confirm_damage(kFirst).value().has_value());
    EXPECT_FALSE(fixture.store.confirm_damage(kSecond).value().has_value());
    EXPECT_EQ(fixture.store.confirm_damage(kThird).error().kind(), ErrorKind::kUnavailable);
    EXPECT_THAT(fixture.store.list().value(), SizeIs(2));
}

TEST(Store, ARottenCheckpointNoLongerCountsAsVerifiedForRetention) {
    Fixture fixture;
    fixture.rot("000003-step-30");
    ASSERT_TRUE(fixture.store.confirm_damage(kThird));

    EXPECT_THAT(fixture.store.apply_retention({.keep_last = 1}), IsEmpty());

    EXPECT_THAT(fixture.store.list().value(), SizeIs(1));
    EXPECT_EQ(fixture.store.choose()->chosen->sequence, Sequence{2});
}

TEST(Store, ACheckpointThatCannotBeReadJustNowIsNeverQuarantinedAndNeverPassedOver) {
    Fixture fixture;
    fixture.disk.refuse_to_open("/ckpt/000003-step-30/rank-00000.pt", EMFILE);

    const auto choice = fixture.store.choose();
    fixture.disk.allow_to_open("/ckpt/000003-step-30/rank-00000.pt");

    ASSERT_FALSE(choice.has_value());
    EXPECT_THAT(choice.error().text(), HasSubstr("could not be read"));
    EXPECT_EQ(fixture.store.choose()->chosen->sequence, Sequence{3});
}

TEST(Store, TwoThousandNamesInTheDirectoryAreNoBurden) {
    Fixture fixture;
    for (int i = 0; i < 1000; ++i) {
        ASSERT_TRUE(fixture.disk.create_file(fmt::format("/ckpt/file-{}", i), 0));
        ASSERT_TRUE(fixture.disk.create_directory(fmt::format("/ckpt/{:06}-step-1.old", i)));
    }

    const auto committed = fixture.store.commit(
        {.step = Step{40}}, {{.rank = Rank{0}, .bytes = fixture.image}}, {.keep_last = 2});

    ASSERT_TRUE(committed.has_value()) << committed.error().text();
    EXPECT_THAT(fixture.store.list().value(), SizeIs(2));
    EXPECT_EQ(fixture.store.choose()->chosen->step, Step{40});
    EXPECT_THAT(fixture.disk.list_directory("/ckpt").value(), SizeIs(2000 + 3));
}

}  // namespace
}  // namespace pawl::checkpoint
