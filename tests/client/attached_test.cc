// A run under a daemon, which is a fake one that dies where the test says: the trainer trains on,
// told once and clearly. And what the two must not do to each other.
#include "tests/client/run_fixture.h"
#include "tests/fakes/fake_daemon.h"

#include <gmock/gmock.h>

#include <fcntl.h>
#include <sys/mman.h>

#include <cstring>

namespace pawl::client {
namespace {

using fakes::FakeDaemon;
using fakes::FakeSession;
using testing::AllOf;
using testing::HasSubstr;

constexpr std::uint64_t kBytes = 4096;
const staging::Control kAtStepTen{.request = 1, .at_step = Step{10}};

std::uint32_t bit(pawl_action action) {
    return static_cast<std::uint32_t>(action);
}

Outcome begin(const OwnedRun& run, void** image) {
    Outcome outcome;
    outcome.code = pawl_snapshot_begin(run.get(), kBytes, image);
    outcome.error = pawl_last_error();
    return outcome;
}
Outcome seal(const OwnedRun& run) {
    Outcome outcome;
    outcome.code = pawl_snapshot_seal(run.get(), nullptr, 0);
    outcome.error = pawl_last_error();
    return outcome;
}

// What is true of any run whose daemon is gone, once that has been said.
void expect_inert(const OwnedRun& run) {
    EXPECT_STRNE(pawl_inert_reason(run.get()), "");
    EXPECT_EQ(step(run, 10), (Outcome{}));
    EXPECT_EQ(epoch_end(run, 11, 1), (Outcome{}));
    void* image = nullptr;
    const Outcome begun = begin(run, &image);
    EXPECT_EQ(begun.code, PAWL_SKIPPED);
    EXPECT_THAT(begun.error, HasSubstr(pawl_inert_reason(run.get())));
    EXPECT_EQ(image, nullptr);
    EXPECT_EQ(seal(run).code, PAWL_SKIPPED);
    EXPECT_EQ(pawl_snapshot_abort(run.get(), "why not"), PAWL_OK);
    std::uint32_t actions = 7;
    EXPECT_EQ(pawl_finish(run.get(), &actions), PAWL_OK);
    EXPECT_EQ(actions, 0u);
    EXPECT_EQ(pawl_finish_wait(run.get()), PAWL_E_DISCONNECTED);
    EXPECT_THAT(pawl_last_error(), HasSubstr("whether the final checkpoint is durable"));
}

void expect_told(const Outcome& outcome, const char* call) {
    EXPECT_EQ(outcome.code, PAWL_E_DISCONNECTED) << outcome.error;
    EXPECT_EQ(outcome.actions, 0u);
    EXPECT_THAT(outcome.error, AllOf(HasSubstr(std::string(call) + ": "),
                                     HasSubstr("Training goes on without pawld")));
}

// ---- the daemon dies ----

TEST(AttachedRun, AttachFailsWithWordsWhereverTheDaemonDies) {
    struct Case {
        const char* when;
        FakeDaemon::Script script;
    };
    for (const Case& one :
         {Case{"before it has heard anything", [](FakeSession&) {}},
          Case{"after the hello", [](FakeSession& rank) { rank.expect<staging::Hello>(); }},
          Case{"before the verdict", [](FakeSession& rank) { rank.welcome(); }}}) {
        SCOPED_TRACE(one.when);
        const FakeDaemon daemon(one.script);
        pawl_run* run = nullptr;

        EXPECT_EQ(pawl_attach(nullptr, &run), PAWL_E_DISCONNECTED);
        EXPECT_THAT(pawl_last_error(), AllOf(HasSubstr("pawl_attach: cannot attach to pawld at '"),
                                             HasSubstr("Without PAWL_SOCKET")));
        EXPECT_EQ(run, nullptr);
    }
}

TEST(AttachedRun, AttachSaysWhenNobodyListens) {
    const fakes::TemporaryDirectory place;
    const std::string path = place.path() + "/old.sock";
    const Setting socket("PAWL_SOCKET", path);
    pawl_run* run = nullptr;

    EXPECT_EQ(pawl_attach(nullptr, &run), PAWL_E_DISCONNECTED);
    EXPECT_THAT(pawl_last_error(), HasSubstr(path));
}

TEST(AttachedRun, StepsAfterTheDaemonsDeathAreAsFreeAsBefore) {
    FakeDaemon daemon([](FakeSession& rank) { rank.attach(); });
    const OwnedRun run = attach();
    ASSERT_NE(run, nullptr) << pawl_last_error();
    daemon.join();

    EXPECT_EQ(step(run, 1), (Outcome{}));
    EXPECT_EQ(step(run, 2), (Outcome{}));
}

TEST(AttachedRun, AStepThatHasToSpeakToADeadDaemonSaysSoOnce) {
    FakeDaemon daemon([](FakeSession& rank) { rank.attach(kAtStepTen); });
    const OwnedRun run = attach();
    ASSERT_NE(run, nullptr) << pawl_last_error();
    daemon.join();

    expect_told(step(run, 11), "pawl_step");
    expect_inert(run);
}

TEST(AttachedRun, AnEpochsEndWithADeadDaemonSaysSoOnce) {
    FakeDaemon daemon([](FakeSession& rank) { rank.attach(); });
    const OwnedRun run = attach();
    ASSERT_NE(run, nullptr) << pawl_last_error();
    daemon.join();

    expect_told(epoch_end(run, 5, 1), "pawl_epoch_end");
    expect_inert(run);
}

TEST(AttachedRun, ABeginThatFindsTheDaemonDeadSaysSoOnce) {
    FakeDaemon daemon([](FakeSession& rank) { rank.attach(kAtStepTen); });
    const OwnedRun run = attach();
    ASSERT_NE(run, nullptr) << pawl_last_error();
    daemon.join();
    ASSERT_EQ(step(run, 10).actions, bit(PAWL_TAKE_SNAPSHOT));
    void* image = nullptr;

    expect_told(begin(run, &image), "pawl_snapshot_begin");
    expect_inert(run);
}

TEST(AttachedRun, ABeginWhoseDaemonDiesWhileItWaitsForAnArenaSaysSoOnce) {
    const FakeDaemon daemon([](FakeSession& rank) {
        rank.attach(kAtStepTen);
        rank.expect<staging::ArenaRequest>();
    });
    const OwnedRun run = attach();
    ASSERT_NE(run, nullptr) << pawl_last_error();
    step(run, 10);
    void* image = nullptr;

    expect_told(begin(run, &image), "pawl_snapshot_begin");
    expect_inert(run);
}

TEST(AttachedRun, ASealWithADeadDaemonSaysSoOnce) {
    FakeDaemon daemon([](FakeSession& rank) {
        rank.attach(kAtStepTen);
        rank.grant_arena();
    });
    const OwnedRun run = attach();
    ASSERT_NE(run, nullptr) << pawl_last_error();
    step(run, 10);
    void* image = nullptr;
    ASSERT_EQ(begin(run, &image).code, PAWL_OK) << pawl_last_error();
    daemon.join();
    std::memset(image, 1, kBytes);  // the memory stays whoever else is gone

    expect_told(seal(run), "pawl_snapshot_seal");
    expect_inert(run);
}

TEST(AttachedRun, AFinishWhoseDaemonDiesSaysSoOnce) {
    const FakeDaemon daemon([](FakeSession& rank) {
        rank.attach();
        rank.expect<staging::Finishing>();
    });
    const OwnedRun run = attach();
    ASSERT_NE(run, nullptr) << pawl_last_error();
    Outcome finished;
    finished.code = pawl_finish(run.get(), &finished.actions);
    finished.error = pawl_last_error();

    expect_told(finished, "pawl_finish");
    expect_inert(run);
}

TEST(AttachedRun, AFinishWaitWhoseDaemonDiesDoesNotCallItDurable) {
    const FakeDaemon daemon([](FakeSession& rank) {
        rank.attach();
        rank.expect<staging::Finishing>();
        rank.send(staging::TakeSnapshot{.request = 3});
        rank.grant_arena();
        rank.expect<staging::SnapshotSealed>();
    });
    const OwnedRun run = attach();
    ASSERT_NE(run, nullptr) << pawl_last_error();
    std::uint32_t actions = 0;
    ASSERT_EQ(pawl_finish(run.get(), &actions), PAWL_OK) << pawl_last_error();
    ASSERT_EQ(actions, bit(PAWL_TAKE_SNAPSHOT));
    void* image = nullptr;
    ASSERT_EQ(begin(run, &image).code, PAWL_OK) << pawl_last_error();
    ASSERT_EQ(seal(run).code, PAWL_OK) << pawl_last_error();

    EXPECT_EQ(pawl_finish_wait(run.get()), PAWL_E_DISCONNECTED);
    EXPECT_THAT(pawl_last_error(), HasSubstr("wait for the final checkpoint"));
    expect_inert(run);
}

// ---- a daemon that is none ----

TEST(AttachedRun, PagesThatCouldBeShrunkAreRefused) {
    const FakeDaemon daemon([](FakeSession& rank) {
        rank.expect<staging::Hello>();
        const UniqueFd open_memory(::memfd_create("open", MFD_CLOEXEC | MFD_ALLOW_SEALING));
        ASSERT_EQ(::ftruncate(open_memory.get(), staging::kPagesBytes), 0);
        rank.send(staging::Welcome{.job = "fake"}, {open_memory.get()});
        EXPECT_FALSE(rank.receive().has_value()) << "the rank hangs up";
    });
    pawl_run* run = nullptr;

    EXPECT_EQ(pawl_attach(nullptr, &run), PAWL_E_DISCONNECTED);
    EXPECT_THAT(pawl_last_error(), HasSubstr("could still be shrunk"));
}

TEST(AttachedRun, AnArenaThatCouldBeShrunkOrIsTooSmallIsNeverWrittenTo) {
    for (const bool is_sealed : {false, true}) {
        SCOPED_TRACE(is_sealed ? "sealed and small" : "not sealed");
        const FakeDaemon daemon([is_sealed](FakeSession& rank) {
            rank.attach(kAtStepTen);
            rank.expect<staging::ArenaRequest>();
            const UniqueFd memory(::memfd_create("bad", MFD_CLOEXEC | MFD_ALLOW_SEALING));
            ASSERT_EQ(::ftruncate(memory.get(), is_sealed ? 1024 : kBytes), 0);
            if (is_sealed) {
                ASSERT_EQ(::fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK), 0);
            }
            rank.send(staging::ArenaGranted{.slot = 1, .bytes = kBytes}, {memory.get()});
            EXPECT_FALSE(rank.receive().has_value()) << "the rank hangs up";
        });
        const OwnedRun run = attach();
        ASSERT_NE(run, nullptr) << pawl_last_error();
        step(run, 10);
        void* image = nullptr;

        expect_told(begin(run, &image), "pawl_snapshot_begin");
        EXPECT_EQ(image, nullptr);
        expect_inert(run);
    }
}

// ---- an ordinary life ----

TEST(AttachedRun, AnAbortAnswersTheRequestThoughNothingWasBegun) {
    std::string why;
    {
        const FakeDaemon daemon([&](FakeSession& rank) {
            rank.attach(kAtStepTen);
            if (const auto skipped = rank.expect<staging::SnapshotSkipped>()) {
                EXPECT_EQ(skipped->request, 1u);
                why = skipped->why;
            }
        });
        const OwnedRun run = attach();
        ASSERT_NE(run, nullptr) << pawl_last_error();
        ASSERT_EQ(step(run, 10).actions, bit(PAWL_TAKE_SNAPSHOT));

        EXPECT_EQ(pawl_snapshot_abort(run.get(), "no plan"), PAWL_OK);
        EXPECT_EQ(step(run, 10).actions, 0u) << "answered";
    }
    EXPECT_EQ(why, "no plan");
}

TEST(AttachedRun, MetricsThatFitInNoMessageCostTheSnapshotAndNotTheSession) {
    const FakeDaemon daemon([](FakeSession& rank) {
        rank.attach(kAtStepTen);
        rank.grant_arena();
        rank.expect<staging::SnapshotSkipped>();
        rank.ask_for({.request = 2, .at_step = Step{11}});
        rank.expect<staging::EpochEnded>();
        rank.expect<staging::SnapshotSealed>();
    });
    const OwnedRun run = attach();
    ASSERT_NE(run, nullptr) << pawl_last_error();
    step(run, 10);
    void* image = nullptr;
    ASSERT_EQ(begin(run, &image).code, PAWL_OK) << pawl_last_error();
    const std::string name(100'000, 'm');
    const pawl_metric metric{name.c_str(), 1.0};

    EXPECT_EQ(pawl_snapshot_seal(run.get(), &metric, 1), PAWL_E_INVALID);
    EXPECT_THAT(pawl_last_error(), HasSubstr("may take 65536 bytes"));

    while (step(run, 11).actions == 0) {
    }
    ASSERT_EQ(epoch_end(run, 11, 1).code, PAWL_OK);
    ASSERT_EQ(begin(run, &image).code, PAWL_OK) << pawl_last_error();
    std::memset(image, 1, kBytes);
    EXPECT_EQ(seal(run).code, PAWL_OK) << pawl_last_error();
}

TEST(AttachedRun, BeginsAndSealsInTurnOrIsToldWhichIsMissing) {
    const FakeDaemon daemon([](FakeSession& rank) {
        rank.attach(kAtStepTen);
        rank.grant_arena();
        rank.expect<staging::SnapshotSealed>();
    });
    const OwnedRun run = attach();
    ASSERT_NE(run, nullptr) << pawl_last_error();
    step(run, 10);
    void* image = nullptr;
    void* second = nullptr;

    EXPECT_EQ(seal(run).code, PAWL_E_INVALID);
    ASSERT_EQ(begin(run, &image).code, PAWL_OK) << pawl_last_error();
    const Outcome twice = begin(run, &second);
    EXPECT_EQ(twice.code, PAWL_E_INVALID);
    EXPECT_THAT(twice.error, HasSubstr("begun already"));
    EXPECT_EQ(second, nullptr);
    EXPECT_EQ(seal(run).code, PAWL_OK);
}

// From the seal until the slot comes back. The trainer is a child, since it must die of it.
TEST(AttachedRun, AStrayWriteIntoASealedSnapshotKillsTheTrainerAndNotTheSnapshot) {
    const auto trainer = [](bool waits_for_release) {
        const OwnedRun run = attach();
        if (run == nullptr) ::_exit(2);
        step(run, 10);
        void* image = nullptr;
        if (begin(run, &image).code != PAWL_OK) ::_exit(3);
        std::memset(image, 1, kBytes);
        if (seal(run).code != PAWL_OK) ::_exit(4);
        if (waits_for_release) {
            std::uint32_t actions = 0;  // takes messages until the final verdict
            if (pawl_finish(run.get(), &actions) != PAWL_OK) ::_exit(5);
        }
        *static_cast<volatile char*>(image) = 2;
        ::_exit(0);
    };
    const auto script = [](FakeSession& rank) {
        rank.attach(kAtStepTen);
        rank.grant_arena();
        const auto sealed = rank.expect<staging::SnapshotSealed>();
        if (!sealed) return;
        if (!rank.receive()) return;  // Finishing, or dead
        rank.send(staging::SlotReleased{.slot = sealed->slot});
        rank.send(staging::SnapshotDurable{.sequence = Sequence{1}, .step = sealed->step});
    };
    {
        const FakeDaemon daemon(script);
        EXPECT_EQ(end_of_child([&] { trainer(false); }), SIGSEGV);
    }
    const FakeDaemon daemon(script);
    EXPECT_EQ(end_of_child([&] { trainer(true); }), 0) << "the slot is the rank's again";
}

// ---- a checkpoint that the trainer wants ----

Outcome request(const OwnedRun& run) {
    Outcome outcome;
    outcome.code = pawl_request_checkpoint(run.get(), &outcome.actions);
    outcome.error = pawl_last_error();
    return outcome;
}

TEST(AttachedRun, AWantedCheckpointIsTakenAtOnceOrAtTheStepThatTheDaemonNames) {
    const FakeDaemon daemon([](FakeSession& rank) {
        rank.attach();
        rank.expect<staging::CheckpointWanted>();
        const auto where = rank.progress();
        ASSERT_TRUE(where.has_value());
        EXPECT_EQ(where->step, Step{5});
        EXPECT_EQ(where->phase, staging::Phase::kEvaluation) << "it is between two steps";
        rank.ask_for({.request = 1, .at_step = Step{5}, .is_urgent = true});
        rank.send(staging::SlotReleased{.slot = 0});  // of an earlier one: no answer
        rank.send(staging::CheckpointAnswer{});
        rank.grant_arena();
        EXPECT_EQ(rank.expect<staging::SnapshotSealed>()->request, 1u);
        rank.expect<staging::CheckpointWanted>();
        rank.ask_for({.request = 2, .at_step = Step{6}, .is_urgent = true});
        rank.send(staging::CheckpointAnswer{});
        EXPECT_EQ(rank.expect<staging::SnapshotSkipped>()->request, 2u);
    });
    const OwnedRun run = attach();
    ASSERT_NE(run, nullptr) << pawl_last_error();
    ASSERT_EQ(step(run, 5), (Outcome{}));

    EXPECT_EQ(request(run), (Outcome{.actions = bit(PAWL_TAKE_SNAPSHOT)}));
    void* image = nullptr;
    ASSERT_EQ(begin(run, &image).code, PAWL_OK) << pawl_last_error();
    EXPECT_EQ(request(run).code, PAWL_E_INVALID) << "one is begun";
    ASSERT_EQ(seal(run).code, PAWL_OK) << pawl_last_error();

    EXPECT_EQ(request(run), (Outcome{})) << "not of this state, other ranks have passed it";
    EXPECT_EQ(step(run, 6).actions, bit(PAWL_TAKE_SNAPSHOT));
    EXPECT_EQ(pawl_snapshot_abort(run.get(), "not today"), PAWL_OK);
}

TEST(AttachedRun, AWantedCheckpointThatThereWillNotBeSaysWhy) {
    const FakeDaemon daemon([](FakeSession& rank) {
        rank.attach();
        rank.expect<staging::CheckpointWanted>();
        rank.send(staging::CheckpointAnswer{.why_not = "rank 1 is gone"});
        rank.expect<staging::CheckpointWanted>();
        rank.ask_for({.should_stop = true});
        rank.send(staging::CheckpointAnswer{.why_not = "the ranks have been asked to leave"});
    });
    const OwnedRun run = attach();
    ASSERT_NE(run, nullptr) << pawl_last_error();
    step(run, 5);

    EXPECT_EQ(request(run),
              (Outcome{.code = PAWL_SKIPPED, .error = "pawl_request_checkpoint: rank 1 is gone"}));
    const Outcome leaving = request(run);
    EXPECT_EQ(leaving.code, PAWL_SKIPPED);
    EXPECT_EQ(leaving.actions, bit(PAWL_STOP));
}

TEST(AttachedRun, AWantedCheckpointWhoseDaemonDiesSaysSoOnce) {
    const FakeDaemon daemon([](FakeSession& rank) {
        rank.attach();
        rank.expect<staging::CheckpointWanted>();
    });
    const OwnedRun run = attach();
    ASSERT_NE(run, nullptr) << pawl_last_error();

    expect_told(request(run), "pawl_request_checkpoint");
    expect_inert(run);
    const Outcome later = request(run);
    EXPECT_EQ(later.code, PAWL_SKIPPED);
    EXPECT_THAT(later.error, HasSubstr(pawl_inert_reason(run.get())));
}

}  // namespace
}  // namespace pawl::client
