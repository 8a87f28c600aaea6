// Errors, checksums, times, the lock and the worker.
#include "base/checksum.h"
#include "base/clock.h"
#include "base/file_lock.h"
#include "base/loop.h"
#include "base/worker.h"
#include "tests/fakes/temporary_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <errno.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <thread>

namespace pawl {
namespace {

using testing::HasSubstr;

TEST(Error, ReadsAsASentenceFromTheOutermostInwards) {
    const Error error = error_from_code(ENOSPC, "write 'a'")
                            .while_doing("write file '{}'", 7)
                            .while_doing("commit checkpoint {}", 43)
                            .consequence("Next try in {}", "30s");

    EXPECT_EQ(error.text(),
              "cannot commit checkpoint 43: write file '7': write 'a': No space left on device. "
              "Next try in 30s");
    EXPECT_EQ(error.kind(), ErrorKind::kNoSpace);
}

TEST(Error, MapsErrnoToFewKinds) {
    struct Case {
        int code;
        ErrorKind kind;
    };
    for (const Case& one :
         {Case{ENOENT, ErrorKind::kNotFound}, Case{EEXIST, ErrorKind::kAlreadyExists},
          Case{EDQUOT, ErrorKind::kNoSpace}, Case{EIO, ErrorKind::kIo},
          Case{EAGAIN, ErrorKind::kBusy}, Case{EACCES, ErrorKind::kUnavailable},
          Case{EMFILE, ErrorKind::kUnavailable}, Case{ENOMEM, ErrorKind::kUnavailable}}) {
        EXPECT_EQ(error_from_code(one.code, "x").kind(), one.kind) << one.code;
    }
}

TEST(Result, HoldsAValueOrAnError) {
    const auto half = [](int number) -> Result<int> {
        if (number % 2 != 0) return make_error(ErrorKind::kInvalidArgument, "{} is odd", number);
        return number / 2;
    };

    EXPECT_EQ(half(4).value(), 2);
    EXPECT_EQ(half(5).error().text(), "5 is odd");
}

TEST(Checksum, Crc32IsZips) {
    const std::string_view text = "123456789";

    EXPECT_EQ(crc32(std::as_bytes(std::span(text))), 0xCBF43926u);
    const auto bytes = std::as_bytes(std::span(text));
    EXPECT_EQ(crc32(bytes.subspan(4), crc32(bytes.first(4))), 0xCBF43926u);
}

TEST(Checksum, Xxh3IsWhatXxhsumPrints) {
    // xxhsum -H128 of nothing, and of "pawl" repeated 1000 times.
    EXPECT_EQ(xxh3_128({}).hex(), "99aa06d3014798d86001c324468d497f");
    std::string text;
    for (int i = 0; i < 1000; ++i)
        text += "pawl";
    EXPECT_EQ(xxh3_128(std::as_bytes(std::span(text))).hex(), "d6442baa14f7a851b01d113d7c0a7dd7");
}

TEST(Checksum, ADigestIsReadOnlyInLowerCaseHex) {
    const auto digest = Digest::from_hex("99aa06d3014798d86001c324468d497f");

    ASSERT_TRUE(digest.has_value());
    EXPECT_EQ(*digest, xxh3_128({}));
    for (const char* text :
         {"", "99", "99AA06D3014798D86001C324468D497F", "g9aa06d3014798d86001c324468d497f"}) {
        EXPECT_FALSE(Digest::from_hex(text).has_value()) << text;
    }
}

TEST(Time, IsWrittenAndReadInUtc) {
    const WallTime time{milliseconds{1'795'508'758'123}};

    EXPECT_EQ(format_time(time), "2026-11-24T08:25:58.123Z");
    EXPECT_EQ(parse_time("2026-11-24T08:25:58.123Z").value(), time);
    EXPECT_EQ(format_time(WallTime{milliseconds{-1}}), "1969-12-31T23:59:59.999Z");
    for (const char* text :
         {"", "2026-11-24", "2026-11-24T08:25:58.123", "2026-11-24T08:25:58.123Z "}) {
        EXPECT_FALSE(parse_time(text).has_value()) << text;
    }
}

TEST(Time, DurationsAndSizesAreForPeople) {
    EXPECT_EQ(format_duration(milliseconds{850}), "850ms");
    EXPECT_EQ(format_duration(milliseconds{1500}), "1.5s");
    EXPECT_EQ(format_duration(seconds{59}), "59s");
    EXPECT_EQ(format_duration(seconds{185}), "3m05s");
    EXPECT_EQ(format_duration(std::chrono::minutes{130}), "2h10m");
    EXPECT_EQ(format_duration(std::chrono::hours{123}), "5d03h");
    EXPECT_EQ(format_bytes(512), "512 B");
    EXPECT_EQ(format_bytes(3 * 1024 * 1024 + 100 * 1024), "3.1 MiB");
    EXPECT_EQ(format_bytes(1024 * 1024 - 1), "1.0 MiB");
}

TEST(FileLock, HasOneHolderAndIsFreeWhenItIsGone) {
    const fakes::TemporaryDirectory directory;
    const std::string path = directory.path() + "/lock";
    {
        const auto first = FileLock::take(path);
        ASSERT_TRUE(first.has_value());

        const auto second = FileLock::take(path);

        ASSERT_FALSE(second.has_value());
        EXPECT_EQ(second.error().kind(), ErrorKind::kBusy);
        EXPECT_THAT(second.error().text(), HasSubstr(path));
    }
    EXPECT_TRUE(FileLock::take(path).has_value());
}

TEST(Worker, RunsTasksInOrderAndAllOfThemBeforeItIsGone) {
    std::vector<int> done;
    {
        Worker worker("test");
        for (int i = 0; i < 100; ++i)
            worker.post([&done, i] { done.push_back(i); });
    }

    ASSERT_EQ(done.size(), 100u);
    EXPECT_TRUE(std::ranges::is_sorted(done));
}

TEST(Loop, RunsWhatOtherThreadsPostOnItsOwnThread) {
    Loop loop;
    std::thread::id ran_on;
    std::thread poster([&loop, &ran_on] {
        loop.post([&ran_on] { ran_on = std::this_thread::get_id(); });
        loop.post([&loop] { loop.stop(); });
    });

    loop.run();
    poster.join();

    EXPECT_EQ(ran_on, std::this_thread::get_id());
}

TEST(Loop, ATimerMayDestroyItselfAndNeverFiresEarly) {
    Loop loop;
    SystemClock clock;
    const MonotonicTime began = clock.monotonic_now();
    nanoseconds passed{};
    std::unique_ptr<Timer> timer;
    timer = std::make_unique<Timer>(loop, [&] {
        passed = clock.monotonic_now() - began;
        timer.reset();
        loop.stop();
    });

    timer->start(milliseconds{20});
    loop.run();

    EXPECT_GE(passed, milliseconds{20});
    EXPECT_EQ(timer, nullptr);
}

TEST(Loop, AWatchedDescriptorIsReportedWhenItCanBeRead) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe(ends.data()), 0);
    const UniqueFd reader(ends[0]);
    UniqueFd writer(ends[1]);
    Loop loop;
    int seen = 0;
    FdWatcher watcher(loop, reader.get(), [&](int events) {
        seen = events;
        loop.stop();
    });

    watcher.watch(UV_READABLE);
    ASSERT_EQ(::write(writer.get(), "x", 1), 1);
    loop.run();

    EXPECT_EQ(seen, UV_READABLE);
}

TEST(FormatAge, IsNeverNegativeThoughTheClockWasSetBack) {
    const WallTime then{milliseconds{1'000'000'000}};

    EXPECT_EQ(format_age(then, then + seconds{65}), "1m05s ago");
    EXPECT_EQ(format_age(then, then - milliseconds{200}), "0ms ago");
    EXPECT_EQ(format_age(then, then - std::chrono::hours{24}), "dated 1d00h ahead");
}

}  // namespace
}  // namespace pawl
