// The journal on a real disk: what is kept, in which order, and what becomes of a damaged one.
#include "journal/journal.h"

#include "base/fd.h"
#include "base/file_system.h"
#include "journal/records.h"
#include "journal/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

namespace pawl::journal {
namespace {

using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using testing::StartsWith;

constexpr WallTime kNow{milliseconds{1'795'508'758'123}};  // 2026-11-24T08:25:58.123Z
constexpr const char* kNowInNames = ".damaged-20261124T082558Z";

class StoppedClock final : public Clock {
public:
    [[nodiscard]] MonotonicTime monotonic_now() const override { return {}; }
    [[nodiscard]] WallTime wall_now() const override { return kNow; }
};

const StoppedClock kClock;

class JournalTest : public testing::Test {
protected:
    JournalTest() {
        std::string name = testing::TempDir() + "pawl-journal-XXXXXX";
        directory_ = ::mkdtemp(name.data());
        path_ = directory_ + "/journal";
    }
    ~JournalTest() override { std::filesystem::remove_all(directory_); }
    JournalTest(const JournalTest&) = delete;
    JournalTest& operator=(const JournalTest&) = delete;

    std::unique_ptr<Journal> open() {
        auto journal = Journal::open(path_, kClock, report_);
        EXPECT_TRUE(journal.has_value()) << journal.error().text();
        return journal ? std::move(*journal) : nullptr;
    }
    std::unique_ptr<Journal> open_sound() {
        auto journal = open();
        EXPECT_THAT(report_.moved_aside_to, IsEmpty()) << report_.damage;
        return journal;
    }
    // Names and sizes of the files in the journal's directory, and when each was last written to.
    std::vector<std::string> listing() const {
        std::vector<std::string> lines;
        for (const auto& entry : std::filesystem::directory_iterator(path_)) {
            lines.push_back(fmt::format("{} {} {}", entry.path().filename().string(),
                                        entry.file_size(),
                                        entry.last_write_time().time_since_epoch().count()));
        }
        std::sort(lines.begin(), lines.end());
        return lines;
    }
    // The newest file whose name begins and ends so.
    std::string file(const std::string& begin, const std::string& end) const {
        std::string newest;
        for (const auto& entry : std::filesystem::directory_iterator(path_)) {
            const std::string name = entry.path().filename();
            const bool fits = name.size() >= begin.size() + end.size() &&
                              name.compare(0, begin.size(), begin) == 0 &&
                              name.compare(name.size() - end.size(), end.size(), end) == 0;
            if (fits && entry.path().string() > newest) newest = entry.path();
        }
        EXPECT_THAT(newest, testing::Not(IsEmpty())) << begin << "*" << end;
        return newest;
    }

    std::string directory_;
    std::string path_;
    OpenReport report_;
};

ProgressRecord progress(std::uint64_t incarnation, std::uint64_t step, bool is_epoch_end = false) {
    return {.incarnation = Incarnation{incarnation},
            .step = Step{step},
            .epoch = Epoch{step / 100},
            .loss = 1.0 / (1.0 + static_cast<double>(step)),
            .time = kNow + milliseconds{step},
            .is_epoch_end = is_epoch_end};
}

CheckpointRecord checkpoint(std::uint64_t sequence) {
    return {.sequence = Sequence{sequence}, .step = Step{sequence * 10}, .reason = "cadence"};
}

EventRecord event(std::string text) {
    return {.time = kNow, .kind = "started", .text = std::move(text)};
}

void append_events(Journal& journal, const std::string& job, int count) {
    for (int i = 0; i < count; ++i) {
        EventRecord record = event(fmt::format("event {}", i));
        ASSERT_TRUE(journal.append_event(job, record).has_value());
    }
}

std::vector<std::uint64_t> numbers_of(const Result<std::vector<EventRecord>>& events) {
    std::vector<std::uint64_t> numbers;
    EXPECT_TRUE(events.has_value()) << events.error().text();
    if (events) {
        for (const EventRecord& record : *events)
            numbers.push_back(record.number);
    }
    return numbers;
}

void flip_byte(const std::string& path, std::uintmax_t offset) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(offset));
    const int byte = file.get();
    ASSERT_NE(byte, EOF) << path;
    file.seekp(static_cast<std::streamoff>(offset));
    file.put(static_cast<char>(byte ^ 0x40));
}

void flip_middle(const std::string& path) {
    flip_byte(path, std::filesystem::file_size(path) / 2);
}

TEST_F(JournalTest, ANewJournalIsEmptyAndSaysThatItIsNew) {
    const auto journal = open();

    EXPECT_TRUE(report_.is_new);
    EXPECT_THAT(report_.moved_aside_to, IsEmpty());
    EXPECT_THAT(journal->jobs().value(), IsEmpty());
    EXPECT_THAT(journal->progress("lm", 10).value(), IsEmpty());
    EXPECT_THAT(journal->events("lm", 10).value(), IsEmpty());
}

TEST_F(JournalTest, EverythingWrittenIsThereAfterReopening) {
    const IncarnationRecord incarnation{.incarnation = Incarnation{3},
                                        .state = IncarnationState::kRunning,
                                        .ranks = {{.rank = Rank{0}, .pid = 12, .start_ticks = 34}},
                                        .resumed_from = Sequence{2},
                                        .started = kNow};
    EventRecord first = event("first");
    {
        const auto journal = open();
        ASSERT_TRUE(journal->append_progress("lm", {progress(3, 1), progress(3, 2, true)}));
        ASSERT_TRUE(journal->put_incarnation("lm", incarnation));
        ASSERT_TRUE(journal->put_checkpoint("lm", checkpoint(7)));
        ASSERT_TRUE(journal->append_event("lm", first));
    }

    const auto journal = open_sound();

    EXPECT_FALSE(report_.is_new);
    EXPECT_THAT(journal->jobs().value(), ElementsAre("lm"));
    EXPECT_THAT(journal->progress("lm", 10).value(),
                ElementsAre(progress(3, 1), progress(3, 2, true)));
    EXPECT_THAT(journal->incarnations("lm").value(), ElementsAre(incarnation));
    EXPECT_THAT(journal->checkpoints("lm").value(), ElementsAre(checkpoint(7)));
    EXPECT_THAT(journal->events("lm", 10).value(), ElementsAre(first));
    EXPECT_EQ(first.number, 1U);
}

TEST_F(JournalTest, APutRecordReplacesTheOneOfItsNumber) {
    const auto journal = open();
    CheckpointRecord removed = checkpoint(1);
    removed.state = CheckpointState::kRemoved;

    ASSERT_TRUE(journal->put_checkpoint("lm", checkpoint(1)));
    ASSERT_TRUE(journal->put_checkpoint("lm", removed));

    EXPECT_THAT(journal->checkpoints("lm").value(), ElementsAre(removed));
}

TEST_F(JournalTest, RecordsComeInTheOrderOfTheirNumbersBeyondAByte) {
    const auto journal = open();

    for (const std::uint64_t sequence : {256U, 1U, 65'536U, 255U}) {
        ASSERT_TRUE(journal->put_checkpoint("lm", checkpoint(sequence)));
    }
    ASSERT_TRUE(journal->append_progress("lm", {progress(1, 0), progress(0, 300), progress(0, 7)}));
    append_events(*journal, "lm", 300);

    EXPECT_THAT(journal->checkpoints("lm").value(),
                ElementsAre(checkpoint(1), checkpoint(255), checkpoint(256), checkpoint(65'536)));
    EXPECT_THAT(journal->progress("lm", 10).value(),
                ElementsAre(progress(0, 7), progress(0, 300), progress(1, 0)));
    EXPECT_THAT(numbers_of(journal->events("lm", 3)), ElementsAre(298, 299, 300));
}

TEST_F(JournalTest, ALimitGivesTheLastRecords) {
    const auto journal = open();
    ASSERT_TRUE(journal->append_progress("lm", {progress(0, 1), progress(0, 2), progress(0, 3)}));

    EXPECT_THAT(journal->progress("lm", 0).value(), IsEmpty());
    EXPECT_THAT(journal->progress("lm", 2).value(), ElementsAre(progress(0, 2), progress(0, 3)));
    EXPECT_THAT(journal->progress("lm", 3).value(), SizeIs(3));
    EXPECT_THAT(journal->progress("lm", 4).value(), SizeIs(3));
}

TEST_F(JournalTest, TheEndOfAnEpochIsARecordBesideTheStepsOwn) {
    const auto journal = open();

    ASSERT_TRUE(journal->append_progress("lm", {progress(0, 5, true), progress(0, 5)}));

    EXPECT_THAT(journal->progress("lm", 9).value(),
                ElementsAre(progress(0, 5), progress(0, 5, true)));
}

TEST_F(JournalTest, AJobWhoseNameBeginsAnothersSeesOnlyItsOwn) {
    const auto journal = open();
    for (const std::string job : {"lm", "lm2", "l"}) {
        ASSERT_TRUE(journal->append_progress(job, {progress(0, job.size())}));
        append_events(*journal, job, static_cast<int>(job.size()));
    }

    EXPECT_THAT(journal->jobs().value(), ElementsAre("l", "lm", "lm2"));
    for (const std::string job : {"lm", "lm2", "l"}) {
        EXPECT_THAT(journal->progress(job, 9).value(), ElementsAre(progress(0, job.size())));
        EXPECT_THAT(journal->events(job, 9).value(), SizeIs(job.size()));
    }
}

TEST_F(JournalTest, ANameThatWouldBreakKeysIsRefused) {
    const auto journal = open();
    EventRecord record = event("x");

    EXPECT_EQ(journal->append_event("", record).error().kind(), ErrorKind::kInvalidArgument);
    EXPECT_EQ(journal->put_checkpoint(std::string("a\0b", 3), checkpoint(1)).error().kind(),
              ErrorKind::kInvalidArgument);
    EXPECT_THAT(journal->jobs().value(), IsEmpty());
}

TEST_F(JournalTest, EventNumbersGoOnAfterReopening) {
    append_events(*open(), "lm", 2);

    EventRecord third = event("third");
    ASSERT_TRUE(open_sound()->append_event("lm", third));

    EXPECT_EQ(third.number, 3U);
}

TEST_F(JournalTest, EventsOfSeveralThreadsGetEachItsNumber) {
    const auto journal = open();
    {
        std::vector<std::jthread> threads;
        for (int thread = 0; thread < 4; ++thread) {
            threads.emplace_back([&target = *journal] { append_events(target, "lm", 50); });
        }
    }

    const std::vector<std::uint64_t> numbers = numbers_of(journal->events("lm", 1000));

    ASSERT_THAT(numbers, SizeIs(200));
    EXPECT_EQ(numbers.front(), 1U);
    EXPECT_EQ(numbers.back(), 200U);
}

TEST_F(JournalTest, ASecondOpenIsBusyAndChangesNothing) {
    const auto journal = open();
    append_events(*journal, "lm", 1);
    const std::vector<std::string> before = listing();

    OpenReport report;
    const auto second = Journal::open(path_, kClock, report);

    ASSERT_FALSE(second.has_value());
    EXPECT_EQ(second.error().kind(), ErrorKind::kBusy);
    EXPECT_THAT(second.error().text(), HasSubstr("another pawld has the journal"));
    EXPECT_THAT(report.moved_aside_to, IsEmpty());
    EXPECT_EQ(listing(), before);
    append_events(*journal, "lm", 1);
    EXPECT_THAT(numbers_of(journal->events("lm", 9)), ElementsAre(1, 2));
}

TEST_F(JournalTest, ATornEndOfTheLogCostsOnlyTheRecordThatWasNotWhole) {
    append_events(*open(), "lm", 3);
    const std::string log = file("", ".log");
    std::filesystem::resize_file(log, std::filesystem::file_size(log) - 5);

    const auto journal = open_sound();

    EXPECT_THAT(numbers_of(journal->events("lm", 9)), ElementsAre(1, 2));
}

TEST_F(JournalTest, ALogThatEndsInZerosLosesNothing) {
    append_events(*open(), "lm", 3);
    const std::string log = file("", ".log");
    std::filesystem::resize_file(log, std::filesystem::file_size(log) + 5'000);

    const auto journal = open_sound();

    EXPECT_THAT(numbers_of(journal->events("lm", 9)), ElementsAre(1, 2, 3));
}

// What may be wrong with a journal that holds tables, a log, and more than one block of each.
TEST_F(JournalTest, ADamagedJournalIsMovedAsideWholeAndSaidSo) {
    namespace fs = std::filesystem;
    struct Damage {
        const char* name;
        std::function<void()> make;
    };
    const std::vector<Damage> damages = {
        {"CURRENT missing", [this] { fs::remove(file("CURRENT", "")); }},
        {"CURRENT empty", [this] { fs::resize_file(file("CURRENT", ""), 0); }},
        {"CURRENT garbage", [this] { std::ofstream(file("CURRENT", "")) << "nonsense"; }},
        {"CURRENT names none", [this] { std::ofstream(file("CURRENT", "")) << "MANIFEST-99\n"; }},
        {"MANIFEST missing", [this] { fs::remove(file("MANIFEST-", "")); }},
        {"MANIFEST empty", [this] { fs::resize_file(file("MANIFEST-", ""), 0); }},
        {"MANIFEST flipped", [this] { flip_middle(file("MANIFEST-", "")); }},
        {"table missing", [this] { fs::remove(file("", ".sst")); }},
        {"table cut", [this] { fs::resize_file(file("", ".sst"), 100); }},
        {"table flipped at the start", [this] { flip_byte(file("", ".sst"), 100); }},
        {"table flipped", [this] { flip_middle(file("", ".sst")); }},
        {"log flipped", [this] { flip_middle(file("", ".log")); }},
    };
    for (const Damage& damage : damages) {
        SCOPED_TRACE(damage.name);
        std::filesystem::remove_all(directory_);
        append_events(*open(), "lm", 1'000);
        append_events(*open_sound(), "lm", 1'000);  // the first thousand are in a table by now
        damage.make();

        const auto journal = open();

        ASSERT_NE(journal, nullptr);
        EXPECT_THAT(report_.moved_aside_to, EndsWith(kNowInNames));
        EXPECT_THAT(report_.moved_aside_to, StartsWith(path_));
        EXPECT_THAT(report_.damage, testing::Not(IsEmpty()));
        EXPECT_TRUE(report_.is_new);
        EXPECT_TRUE(fs::exists(report_.moved_aside_to + "/IDENTITY"));
        EXPECT_THAT(journal->jobs().value(), IsEmpty());
        append_events(*journal, "lm", 1);
        EXPECT_THAT(numbers_of(journal->events("lm", 9)), ElementsAre(1));
    }
}

TEST_F(JournalTest, ASecondDamagedJournalDoesNotReplaceTheFirst) {
    for (const char* ending : {"", "-2", "-3"}) {
        append_events(*open(), "lm", 1);
        std::filesystem::resize_file(file("CURRENT", ""), 0);

        const auto journal = open();

        EXPECT_EQ(report_.moved_aside_to, path_ + kNowInNames + ending);
    }
}

TEST_F(JournalTest, AFailureOfTheMachineIsNoDamage) {
    append_events(*open(), "lm", 1);
    std::filesystem::remove(path_ + "/LOCK");
    std::filesystem::create_directory(path_ + "/LOCK");

    const auto refused = Journal::open(path_, kClock, report_);
    std::filesystem::remove(path_ + "/LOCK");

    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().kind(), ErrorKind::kIo) << refused.error().text();
    EXPECT_THAT(report_.moved_aside_to, IsEmpty());
    EXPECT_THAT(numbers_of(open_sound()->events("lm", 9)), ElementsAre(1));
}

TEST_F(JournalTest, AJournalOfANewerFormatIsRefusedAndLeftAsItWas) {
    append_events(*open(), "lm", 1);
    {
        const auto store = Store::open(path_);
        ASSERT_TRUE(store.has_value());
        ASSERT_TRUE((*store)->write_synced(
            {{.family = Family::kMeta, .key = "format", .value = encode_format(2)}}));
    }
    const std::vector<std::string> before = listing();

    const auto refused = Journal::open(path_, kClock, report_);
    const auto refused_read_only = Journal::open_read_only(path_);

    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().kind(), ErrorKind::kUnsupported);
    EXPECT_THAT(refused.error().text(), HasSubstr("format version 2"));
    EXPECT_THAT(refused.error().text(), HasSubstr("version 1 only"));
    EXPECT_THAT(report_.moved_aside_to, IsEmpty());
    EXPECT_EQ(listing(), before);
    ASSERT_FALSE(refused_read_only.has_value());
    EXPECT_EQ(refused_read_only.error().kind(), ErrorKind::kUnsupported);
}

TEST_F(JournalTest, AReaderBesideAWriterSeesWhatIsWrittenAndLeavesNoTrace) {
    append_events(*open(), "lm", 2);
    const auto writer = open_sound();
    append_events(*writer, "lm", 1);
    const std::vector<std::string> before = listing();

    auto reader = Journal::open_read_only(path_);

    ASSERT_TRUE(reader.has_value()) << reader.error().text();
    EXPECT_THAT(numbers_of((*reader)->events("lm", 9)), ElementsAre(1, 2, 3));
    EXPECT_THAT((*reader)->jobs().value(), ElementsAre("lm"));
    EventRecord record = event("none");
    EXPECT_EQ((*reader)->append_event("lm", record).error().kind(), ErrorKind::kInvalidArgument);
    reader->reset();
    EXPECT_EQ(listing(), before);
    append_events(*writer, "lm", 1);
    EXPECT_THAT(numbers_of(writer->events("lm", 9)), ElementsAre(1, 2, 3, 4));
}

TEST_F(JournalTest, ReadingWhereThereIsNoJournalMakesNone) {
    const auto absent = Journal::open_read_only(path_);

    ASSERT_FALSE(absent.has_value());
    EXPECT_EQ(absent.error().kind(), ErrorKind::kNotFound);
    EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(JournalTest, FilesOfOtherProgramsAreNoDamage) {
    std::filesystem::create_directory(path_);
    std::ofstream(path_ + "/pawld.log") << "a line\n";

    const auto journal = open_sound();

    EXPECT_TRUE(report_.is_new);
    EXPECT_TRUE(std::filesystem::exists(path_ + "/pawld.log"));
}

// ---- Another process. It is this program again, not a fork of it: RocksDB's threads would be
// missing.

constexpr const char* kPathVariable = "PAWL_TEST_JOURNAL_PATH";
constexpr const char* kChildTest = "JournalChild.DISABLED_AppendsAndAcknowledgesUntilItIsKilled";
constexpr int kAcknowledgements = 3;  // the descriptor on which the child says what is durable

TEST(JournalChild, DISABLED_AppendsAndAcknowledgesUntilItIsKilled) {
    const char* path = std::getenv(kPathVariable);
    ASSERT_NE(path, nullptr);
    OpenReport report;
    const auto journal = Journal::open(path, kClock, report);
    ASSERT_TRUE(journal.has_value()) << journal.error().text();
    for (;;) {
        EventRecord record = event("appended");
        ASSERT_TRUE((*journal)->append_event("lm", record).has_value());
        const auto bytes = static_cast<ssize_t>(sizeof record.number);
        if (::write(kAcknowledgements, &record.number, sizeof record.number) != bytes) return;
    }
}

class WritingProcess {
public:
    explicit WritingProcess(const std::string& path) {
        std::array<int, 2> ends = {};
        EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
        acknowledged_ = UniqueFd(ends[0]);
        const UniqueFd child_end(ends[1]);

        const std::string filter = fmt::format("--gtest_filter={}", kChildTest);
        const std::string variable = fmt::format("{}={}", kPathVariable, path);
        std::array arguments = {std::string("journal_test"), filter,
                                std::string("--gtest_also_run_disabled_tests")};
        std::array<char*, 4> argv = {arguments[0].data(), arguments[1].data(), arguments[2].data()};
        std::string environment = variable;
        std::array<char*, 2> envp = {environment.data()};
        posix_spawn_file_actions_t actions;
        ::posix_spawn_file_actions_init(&actions);
        ::posix_spawn_file_actions_adddup2(&actions, child_end.get(), kAcknowledgements);
        ::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
        EXPECT_EQ(
            ::posix_spawn(&pid_, "/proc/self/exe", &actions, nullptr, argv.data(), envp.data()), 0);
        ::posix_spawn_file_actions_destroy(&actions);
    }
    WritingProcess(const WritingProcess&) = delete;
    WritingProcess& operator=(const WritingProcess&) = delete;
    ~WritingProcess() { kill(); }

    // Blocks until the next record is durable; nullopt once the child is dead and all is read.
    std::optional<std::uint64_t> next_acknowledged() {
        std::uint64_t number = 0;
        const ssize_t bytes = ::read(acknowledged_.get(), &number, sizeof number);
        if (bytes != static_cast<ssize_t>(sizeof number)) return std::nullopt;
        return number;
    }
    void kill() {
        if (pid_ == 0) return;
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
        pid_ = 0;
    }

private:
    UniqueFd acknowledged_;
    pid_t pid_ = 0;
};

TEST_F(JournalTest, AKilledWriterHasLostNothingThatItAcknowledged) {
    std::uint64_t last = 0;
    for (const std::uint64_t more : {1U, 7U, 100U}) {
        WritingProcess writer(path_);
        const std::uint64_t until = last + more;
        while (last < until) {
            const auto number = writer.next_acknowledged();
            ASSERT_TRUE(number.has_value()) << "the writer ended by itself";
            last = *number;
        }
        writer.kill();
        while (const auto number = writer.next_acknowledged())
            last = *number;

        const auto journal = open_sound();

        const std::vector<std::uint64_t> numbers = numbers_of(journal->events("lm", 1'000'000));
        ASSERT_GE(numbers.size(), last);
        EXPECT_EQ(numbers.back(), numbers.size());  // without a gap
        last = numbers.back();
    }
}

TEST_F(JournalTest, AJournalOfAnotherProcessIsBusyButCanBeRead) {
    WritingProcess writer(path_);
    const auto acknowledged = writer.next_acknowledged();
    ASSERT_TRUE(acknowledged.has_value());

    const auto second = Journal::open(path_, kClock, report_);
    const auto reader = Journal::open_read_only(path_);

    ASSERT_FALSE(second.has_value());
    EXPECT_EQ(second.error().kind(), ErrorKind::kBusy) << second.error().text();
    EXPECT_THAT(report_.moved_aside_to, IsEmpty());
    ASSERT_TRUE(reader.has_value()) << reader.error().text();
    EXPECT_GE(numbers_of((*reader)->events("lm", 1'000'000)).size(), *acknowledged);
    EXPECT_TRUE(writer.next_acknowledged().has_value());
}

}  // namespace
}  // namespace pawl::journal
