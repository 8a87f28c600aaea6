// Pages, arenas and messages: what daemon and rank share.
#include "staging/memory.h"
#include "staging/messages.h"
#include "staging/pages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <thread>

namespace pawl::staging {
namespace {

using testing::HasSubstr;

TEST(Pages, AreReadAsTheyWereWritten) {
    ProgressPage progress_page{};
    ControlPage control_page{};
    const Progress progress{.step = Step{7},
                            .epoch = Epoch{2},
                            .loss = -0.25,
                            .phase = Phase::kEvaluation,
                            .time = MonotonicTime{nanoseconds{123}},
                            .snapshots_skipped = 3};
    const Control control{.request = 9,
                          .at_step = Step{8},
                          .at_epoch = Epoch{3},
                          .is_urgent = true,
                          .should_stop = true};

    write(progress_page, progress);
    write(control_page, control);

    EXPECT_EQ(read(progress_page), progress);
    EXPECT_EQ(read(control_page), control);
    write(control_page, Control{.request = 10});
    EXPECT_EQ(read(control_page), Control{.request = 10});
}

TEST(Pages, AWriterThatDiedInTheMiddleIsSeenAndNotBelieved) {
    ProgressPage page{};
    page.generation = 7;

    EXPECT_EQ(read(page), std::nullopt);
    write(page, Progress{.step = Step{1}});
    EXPECT_EQ(read(page)->step, Step{1});
}

TEST(Pages, APhaseThatIsNoneIsTakenAsTheLast) {
    ProgressPage page{};
    page.phase = 99;

    EXPECT_EQ(read(page)->phase, Phase::kFinished);
}

TEST(Pages, AReaderNeverSeesHalfAReport) {
    ProgressPage page{};
    write(page, Progress{});
    // The reader decides when it has seen enough: whoever is scheduled first, both are at work.
    std::atomic<bool> is_over{false};
    std::thread writer([&] {
        for (std::uint64_t i = 1; !is_over; ++i)
            write(page, Progress{.step = Step{i}, .epoch = Epoch{i}});
    });

    constexpr std::uint64_t kReads = 50'000;
    std::uint64_t torn = 0;
    for (std::uint64_t seen = 0; seen < kReads;) {
        const auto progress = read(page);
        if (!progress) continue;
        ++seen;
        if (progress->step.value != progress->epoch.value) ++torn;
    }
    is_over = true;
    writer.join();

    EXPECT_EQ(torn, 0u);
}

TEST(Memory, CanBeNeitherShrunkNorGrown) {
    const auto memory = make_sealed_memory("test", 8192);
    ASSERT_TRUE(memory.has_value());

    EXPECT_EQ(::ftruncate(memory->get(), 100), -1);
    EXPECT_EQ(::ftruncate(memory->get(), 100'000), -1);
    EXPECT_TRUE(check_sealed_memory(memory->get(), 8192));
    EXPECT_THAT(check_sealed_memory(memory->get(), 8193).error().text(),
                HasSubstr("8193 were promised"));
}

TEST(Memory, ThatCouldStillBeShrunkIsRefused) {
    const UniqueFd memory(::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    ASSERT_EQ(::ftruncate(memory.get(), 4096), 0);

    EXPECT_THAT(check_sealed_memory(memory.get(), 4096).error().text(),
                HasSubstr("could still be shrunk"));
}

TEST(Memory, IsSharedByAllItsMappings) {
    const auto memory = make_sealed_memory("test", 8192);
    const auto one = Mapping::of(memory->get(), 0, 8192, Access::kReadWrite);
    const auto other = Mapping::of(memory->get(), 4096, 4096, Access::kReadOnly);

    one->bytes()[5000] = std::byte{42};

    EXPECT_EQ(other->bytes()[5000 - 4096], std::byte{42});
}

// Whether a child that runs `body` is killed by a signal.
template <class Body>
bool is_deadly(const Body& body) {
    const pid_t child = ::fork();
    if (child == 0) {
        ::signal(SIGSEGV, SIG_DFL);  // sanitizers catch it
        body();
        ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFSIGNALED(status);
}

TEST(Memory, AStrayWriteIntoASealedSnapshotFaults) {
    const auto memory = make_sealed_memory("test", 4096);
    auto mapping = Mapping::of(memory->get(), 0, 4096, Access::kReadWrite);
    const auto stray_write = [&] {
        volatile std::byte* const target = mapping->bytes().data();
        *target = std::byte{1};
    };

    EXPECT_FALSE(is_deadly(stray_write));
    ASSERT_TRUE(mapping->protect(Access::kReadOnly));
    EXPECT_TRUE(is_deadly(stray_write));
    ASSERT_TRUE(mapping->protect(Access::kReadWrite));
    EXPECT_FALSE(is_deadly(stray_write));
}

TEST(Memory, IsNotInheritedByForkedChildren) {
    const auto memory = make_sealed_memory("test", 4096);
    auto mapping = Mapping::of(memory->get(), 0, 4096, Access::kReadWrite);
    ASSERT_TRUE(mapping->keep_from_children());

    EXPECT_TRUE(is_deadly([&] {
        volatile std::byte* const source = mapping->bytes().data();
        [[maybe_unused]] const std::byte value = *source;
    }));
}

template <class Message>
void expect_round_trip(const Message& message) {
    using Variant = std::conditional_t<std::is_constructible_v<RankMessage, Message>, RankMessage,
                                       DaemonMessage>;
    const std::string text = encode(Variant{message});
    SCOPED_TRACE(text);
    if constexpr (std::is_same_v<Variant, RankMessage>) {
        const auto decoded = decode_rank_message(text);
        ASSERT_TRUE(decoded.has_value()) << decoded.error().text();
        EXPECT_EQ(std::get<Message>(*decoded), message);
    } else {
        const auto decoded = decode_daemon_message(text);
        ASSERT_TRUE(decoded.has_value()) << decoded.error().text();
        EXPECT_EQ(std::get<Message>(*decoded), message);
    }
}

TEST(Messages, AreDecodedAsTheyWereEncoded) {
    expect_round_trip(Hello{
        .rank = Rank{3}, .incarnation = Incarnation{7}, .world_size = 8, .framework = "x \"y\""});
    expect_round_trip(ArenaRequest{.slot = 1, .bytes = 1ull << 40});
    expect_round_trip(SnapshotSealed{
        .request = 5, .slot = 1, .bytes = 10, .step = Step{9}, .metrics = {{"a", 0.5}}});
    expect_round_trip(SnapshotPassed{.request = 5, .step = Step{9}});
    expect_round_trip(SnapshotSkipped{.request = 5, .why = "no slot"});
    expect_round_trip(EpochEnded{.step = Step{9}, .epoch = Epoch{1}, .loss = 0.25});
    expect_round_trip(Finishing{.step = Step{9}, .epoch = Epoch{1}});
    expect_round_trip(Welcome{.job = "lm"});
    expect_round_trip(Refused{.why = "no"});
    expect_round_trip(
        Resume{.sequence = Sequence{4}, .step = Step{9}, .epoch = Epoch{1}, .path = "/a b"});
    expect_round_trip(Resume{});
    expect_round_trip(ArenaGranted{.slot = 1, .bytes = 10});
    expect_round_trip(ArenaRefused{.slot = 1, .why = "no memory"});
    expect_round_trip(SlotReleased{.slot = 1});
    expect_round_trip(TakeSnapshot{.request = 5});
    expect_round_trip(SnapshotDurable{.sequence = Sequence{4}, .step = Step{9}, .epoch = Epoch{2}});
    expect_round_trip(SnapshotFailed{.request = 5, .why = "disk full"});
}

TEST(Messages, ALossThatIsNoNumberTravelsAsNull) {
    const std::string text = encode(RankMessage{EpochEnded{.loss = std::nan("")}});

    EXPECT_THAT(text, HasSubstr("\"loss\":null"));
    EXPECT_TRUE(std::isnan(std::get<EpochEnded>(*decode_rank_message(text)).loss));
}

TEST(Messages, WhatIsNoMessageIsRefusedAndUnknownFieldsAreIgnored) {
    for (const char* text :
         {"", "rubbish", "{}", "[]", R"({"type":"Mood"})", R"({"type":7})",
          R"({"type":"SlotReleased"})", R"({"type":"SlotReleased","slot":-1.5e400})",
          R"({"type":"SlotReleased","slot":"one"})",
          R"({"type":"Welcome","job":"daemon's own"})"}) {
        EXPECT_FALSE(decode_rank_message(text).has_value()) << text;
    }
    EXPECT_TRUE(decode_rank_message(R"({"type":"SnapshotPassed","request":1,"step":2,"mood":3})")
                    .has_value());
}

}  // namespace
}  // namespace pawl::staging
