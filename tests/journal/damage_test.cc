// Journals that are cut, emptied, or that fail while they are written to.
#include "journal/damage.h"

#include "base/file_system.h"
#include "journal/records.h"
#include "journal/store.h"
#include "tests/journal/sample.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/db.h>

#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>

namespace pawl::journal {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

class JournalDamage : public JournalPlace {
protected:
    std::string newest_log() const {
        std::string newest;
        for (const auto& entry : fs::directory_iterator(path_)) {
            if (entry.path().extension() == ".log" && entry.path().string() > newest)
                newest = entry.path();
        }
        EXPECT_THAT(newest, Not(IsEmpty()));
        return newest;
    }
    std::vector<std::string> damaged_ones() const {
        std::vector<std::string> names;
        for (const auto& entry : fs::directory_iterator(directory_.path())) {
            const std::string name = entry.path().filename();
            if (name.starts_with("journal.damaged-")) names.push_back(name);
        }
        std::ranges::sort(names);
        return names;
    }
};

// A power cut may cut the log of a disk that lies about syncs anywhere at all.
TEST_F(JournalDamage, ALogCutAnywhereOpensWithTheRecordsBeforeTheCut) {
    constexpr std::uint64_t kEvents = 4;
    {
        const auto journal = open();
        for (std::uint64_t i = 0; i < kEvents; ++i)
            append(*journal, event("started"));
    }
    const std::string log = newest_log();
    const std::string saved = directory_.path() + "/saved";
    fs::copy(path_, saved);
    const std::uintmax_t size = fs::file_size(log);
    ASSERT_GT(size, 400U);

    for (std::uintmax_t cut = 0; cut <= size; cut += 7) {
        SCOPED_TRACE(cut);
        fs::remove_all(path_);
        fs::copy(saved, path_);
        fs::resize_file(log, cut);

        const auto journal = open();

        ASSERT_NE(journal, nullptr);
        ASSERT_THAT(report_.moved_aside_to, IsEmpty()) << report_.damage;
        const auto events = journal->events("lm", 100).value();
        ASSERT_LE(events.size(), kEvents);
        for (std::size_t i = 0; i < events.size(); ++i)
            EXPECT_EQ(events[i].number, i + 1);
        const std::uint64_t before = events.size();
        EventRecord next = event("started");
        ASSERT_TRUE(journal->append_event("lm", next));
        EXPECT_EQ(next.number, before + 1);
    }
}

TEST_F(JournalDamage, OfThoseThatWereMovedAsideTheNewestThreeStay) {
    for (int i = 1; i <= 9; ++i) {
        fs::create_directories(fmt::format("{}.damaged-2026010{}T000000Z/inner", path_, i));
    }
    fs::create_directories(path_ + ".damaged-20260109T000000Z-2");
    fs::create_directories(path_ + ".damaged-20260109T000000Z-10");
    fs::create_directories(directory_.path() + "/other.damaged-20200101T000000Z");
    append(*open(), event("started"));
    std::ofstream(path_ + "/CURRENT") << "rubbish";

    open();

    EXPECT_THAT(damaged_ones(), ElementsAre("journal.damaged-20260109T000000Z-10",
                                            "journal.damaged-20260109T000000Z-2",
                                            "journal.damaged-20261124T082558Z"));
    EXPECT_THAT(report_.pruned, SizeIs(9));
    EXPECT_TRUE(fs::exists(directory_.path() + "/other.damaged-20200101T000000Z"));
}

TEST_F(JournalDamage, AColumnFamilyThatIsGoneIsBegunAnewAndSaidSo) {
    {
        const auto journal = open();
        append(*journal, event("started"));
        ASSERT_TRUE(journal->put_checkpoint("lm", checkpoint(1)));
    }
    {
        std::vector<std::string> names;
        ASSERT_TRUE(rocksdb::DB::ListColumnFamilies({}, path_, &names).ok());
        std::vector<rocksdb::ColumnFamilyDescriptor> families;
        for (const std::string& name : names)
            families.emplace_back(name, rocksdb::ColumnFamilyOptions());
        std::vector<rocksdb::ColumnFamilyHandle*> handles;
        rocksdb::DB* database = nullptr;
        ASSERT_TRUE(rocksdb::DB::Open({}, path_, families, &handles, &database).ok());
        for (rocksdb::ColumnFamilyHandle* handle : handles) {
            const bool is_doomed = handle->GetName() == "events";
            ASSERT_TRUE(!is_doomed || database->DropColumnFamily(handle).ok());
            ASSERT_TRUE(database->DestroyColumnFamilyHandle(handle).ok());
        }
        delete database;
    }

    const auto journal = open();

    EXPECT_EQ(report_.repaired, "it had lost all records of: events");
    EXPECT_THAT(report_.moved_aside_to, IsEmpty());
    EXPECT_THAT(journal->checkpoints("lm").value(), SizeIs(1));
    append(*journal, event("started"));
    EXPECT_THAT(journal->events("lm", 9).value(), SizeIs(1));
}

TEST_F(JournalDamage, AJournalThatCouldNotBeOpenedIsOpenedLaterAndSaysWhatWasLost) {
    append(*open(), event("before"));
    std::vector<Health> changes;
    fs::rename(path_, path_ + ".elsewhere");
    std::ofstream(path_) << "in the way\n";
    const auto refused = Journal::open(path_, clock_, report_);
    ASSERT_FALSE(refused.has_value());

    const auto journal = Journal::open_later(path_, clock_, refused.error());
    journal->on_health_change([&](const Health& health) { changes.push_back(health); });
    EventRecord lost = event("lost");
    EXPECT_FALSE(journal->append_event("lm", lost));
    EXPECT_FALSE(journal->events("lm", 9));
    clock_.advance(Journal::kReopenDelay);
    EXPECT_FALSE(journal->append_event("lm", lost)) << "the file is still in the way";
    fs::remove(path_);
    fs::rename(path_ + ".elsewhere", path_);
    EXPECT_FALSE(journal->append_event("lm", lost)) << "tried again too early";
    clock_.advance(Journal::kReopenDelay);
    append(*journal, event("after"));

    EXPECT_THAT(journal->events("lm", 9).value(), SizeIs(2));
    ASSERT_THAT(changes, SizeIs(1));
    EXPECT_FALSE(changes[0].is_failing);
    EXPECT_EQ(changes[0].lost, 3U);
    EXPECT_THAT(changes[0].why, HasSubstr(path_));
    EXPECT_EQ(journal->health(), Health());
}

// A write that fails: here because no file may become larger.
class FileSizeLimit {
public:
    explicit FileSizeLimit(std::uint64_t bytes) {
        ::signal(SIGXFSZ, SIG_IGN);
        ::getrlimit(RLIMIT_FSIZE, &before_);
        struct rlimit limit = before_;
        limit.rlim_cur = bytes;
        ::setrlimit(RLIMIT_FSIZE, &limit);
    }
    ~FileSizeLimit() { ::setrlimit(RLIMIT_FSIZE, &before_); }
    FileSizeLimit(const FileSizeLimit&) = delete;
    FileSizeLimit& operator=(const FileSizeLimit&) = delete;

private:
    struct rlimit before_ = {};
};

TEST_F(JournalDamage, AWriteThatFailsIsSaidOnceAndOnceMoreWhenItWorksAgain) {
    const auto journal = open();
    std::vector<Health> changes;
    journal->on_health_change([&](const Health& health) { changes.push_back(health); });
    append(*journal, event("before"));
    const std::uint64_t kLost = 5;
    {
        const FileSizeLimit limit(fs::file_size(newest_log()));
        for (std::uint64_t i = 0; i < kLost; ++i) {
            EventRecord record = event("lost");
            EXPECT_FALSE(journal->append_event("lm", record));
        }
        EXPECT_THAT(journal->events("lm", 9).value(), SizeIs(1)) << "reading goes on";
        EXPECT_TRUE(journal->health().is_failing);
        EXPECT_EQ(journal->health().lost, kLost);
    }

    EventRecord record = event("lost");
    EXPECT_FALSE(journal->append_event("lm", record)) << "not due yet";
    clock_.advance(Journal::kReopenDelay);
    append(*journal, event("after"));
    append(*journal, event("after"));

    ASSERT_THAT(changes, SizeIs(2));
    EXPECT_TRUE(changes[0].is_failing);
    EXPECT_THAT(changes[0].why, HasSubstr("write to the journal for job 'lm'"));
    EXPECT_EQ(changes[0].lost, 1U);
    EXPECT_FALSE(changes[1].is_failing);
    EXPECT_EQ(changes[1].lost, kLost + 1);
    EXPECT_THAT(changes[1].moved_aside_to, IsEmpty());
    EXPECT_FALSE(journal->health().is_failing);
    std::vector<std::string> kinds;
    const auto events = journal->events("lm", 9);
    for (const EventRecord& one : events.value())
        kinds.push_back(one.kind);
    EXPECT_THAT(kinds, ElementsAre("before", "after", "after"));
}

TEST_F(JournalDamage, WhatComesTooFastIsLostAndSaidOnce) {
    const auto journal = open();
    std::vector<Health> changes;
    journal->on_health_change([&](const Health& health) { changes.push_back(health); });

    journal->count_lost(1, "the disk is slow");
    append(*journal, event("of the queue"));
    journal->count_lost(1, "the disk is slow");
    journal->caught_up();
    append(*journal, event("of the queue"));

    ASSERT_THAT(changes, SizeIs(2));
    EXPECT_EQ(changes[0].why, "the disk is slow");
    EXPECT_EQ(changes[1].lost, 2U);
}

TEST_F(JournalDamage, AFullDiskCostsHistoryUntilThereIsRoom) {
    const std::string disk = directory_.path() + "/disk";
    fs::create_directory(disk);
    if (::mount("pawl", disk.c_str(), "tmpfs", 0, "size=1m") != 0)
        GTEST_SKIP() << "a small disk can't be mounted here";
    path_ = disk + "/journal";
    {
        auto journal = open();
        std::vector<Health> changes;
        journal->on_health_change([&](const Health& health) { changes.push_back(health); });
        append(*journal, event("before"));
        std::ofstream(disk + "/filler") << std::string(1U << 20U, 'x');
        EventRecord record = event("lost");
        record.text = std::string(8192, 'x');
        while (journal->append_event("lm", record)) {
        }
        EXPECT_TRUE(journal->health().is_failing);

        clock_.advance(Journal::kReopenDelay);
        EXPECT_FALSE(journal->append_event("lm", record)) << "there is still no room";
        EXPECT_EQ(journal->events("lm", 100).value().at(0).kind, "before") << "reading goes on";
        fs::remove(disk + "/filler");
        clock_.advance(Journal::kReopenDelay);
        append(*journal, event("after"));

        EXPECT_FALSE(journal->health().is_failing) << journal->health().why;
        EXPECT_EQ(changes.size(), 2U);
        EXPECT_EQ(journal->events("lm", 1).value().at(0).kind, "after");
    }
    ASSERT_EQ(::umount(disk.c_str()), 0);
}

}  // namespace
}  // namespace pawl::journal
