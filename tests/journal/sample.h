// Records with good defaults, a clock that tests set, and a journal in a directory of its own.
#pragma once

#include "base/clock.h"
#include "journal/journal.h"
#include "tests/fakes/temporary_directory.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

namespace pawl::journal {

constexpr WallTime kNow{milliseconds{1'795'508'758'123}};  // 2026-11-24T08:25:58.123Z

class SetClock final : public Clock {
public:
    [[nodiscard]] MonotonicTime monotonic_now() const override { return monotonic_; }
    [[nodiscard]] WallTime wall_now() const override { return kNow; }
    void advance(nanoseconds by) { monotonic_ += by; }

private:
    MonotonicTime monotonic_{seconds{1000}};
};

inline ProgressRecord progress(std::uint64_t step, WallTime time = kNow) {
    return {.incarnation = Incarnation{0},
            .step = Step{step},
            .epoch = Epoch{step / 100},
            .loss = 0.5,
            .time = time};
}

inline ProgressRecord epoch_end(std::uint64_t epoch, WallTime time = kNow) {
    return {.incarnation = Incarnation{0},
            .step = Step{epoch * 100},
            .epoch = Epoch{epoch},
            .loss = 0.5,
            .time = time,
            .is_epoch_end = true};
}

inline CheckpointRecord checkpoint(std::uint64_t sequence,
                                   CheckpointState state = CheckpointState::kCommitted) {
    return {.sequence = Sequence{sequence},
            .step = Step{sequence * 10},
            .state = state,
            .reason = "cadence",
            .time = kNow};
}

inline EventRecord event(std::string kind, Severity severity = Severity::kInfo,
                         WallTime time = kNow) {
    return {.time = time, .severity = severity, .kind = std::move(kind), .text = "a sentence"};
}

class JournalPlace : public testing::Test {
protected:
    std::unique_ptr<Journal> open() {
        auto journal = Journal::open(path_, clock_, report_);
        EXPECT_TRUE(journal.has_value()) << journal.error().text();
        return journal ? std::move(*journal) : nullptr;
    }
    static void append(Journal& journal, EventRecord record) {
        const auto appended = journal.append_event("lm", record);
        EXPECT_TRUE(appended.has_value()) << appended.error().text();
    }

    SetClock clock_;
    fakes::TemporaryDirectory directory_;
    std::string path_ = directory_.path() + "/journal";
    OpenReport report_;
};

}  // namespace pawl::journal
