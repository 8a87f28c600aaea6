// The FileSystem contract, met by the kernel's and by the fake one.
#include "base/file_system.h"

#include "tests/fakes/fake_file_system.h"
#include "tests/fakes/temporary_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <set>

namespace pawl {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

enum class Kind { kPosix, kFake };

class FileSystemContract : public testing::TestWithParam<Kind> {
protected:
    FileSystemContract() {
        if (GetParam() == Kind::kPosix) {
            fs_ = make_posix_file_system();
            root_ = directory_.path();
        } else {
            fs_ = std::make_unique<fakes::FakeFileSystem>();
            root_ = "/root";
            EXPECT_TRUE(fs_->create_directory(root_));
        }
    }
    [[nodiscard]] std::string at(const std::string& name) const { return join_path(root_, name); }
    void put(const std::string& name, std::string_view text) {
        auto file = fs_->create_file(at(name), text.size());
        ASSERT_TRUE(file.has_value()) << file.error().text();
        ASSERT_TRUE((*file)->write_at(0, std::as_bytes(std::span(text))));
        ASSERT_TRUE((*file)->sync_data());
    }
    [[nodiscard]] std::string text_of(const std::string& name) {
        return read_text(*fs_, at(name), 1000).value_or("(unreadable)");
    }
    [[nodiscard]] std::vector<std::string> names() {
        std::vector<std::string> names;
        const auto entries = fs_->list_directory(root_);
        for (const DirectoryEntry& entry : *entries)
            names.push_back(entry.name);
        return names;
    }

    fakes::TemporaryDirectory directory_;
    std::unique_ptr<FileSystem> fs_;
    std::string root_;
};

TEST_P(FileSystemContract, AFileHoldsWhatWasWrittenAndTheSizeItWasAllocated) {
    auto file = fs_->create_file(at("a"), 10);
    ASSERT_TRUE(file.has_value());
    ASSERT_TRUE((*file)->write_at(2, std::as_bytes(std::span(std::string_view("xy")))));

    EXPECT_EQ(text_of("a"), std::string("\0\0xy\0\0\0\0\0\0", 10));
    EXPECT_EQ((*fs_->status(at("a")))->bytes, 10u);
}

TEST_P(FileSystemContract, ATakenNameIsNeverReplaced) {
    put("a", "one");
    put("b", "two");
    ASSERT_TRUE(fs_->create_directory(at("c")));

    EXPECT_EQ(fs_->create_file(at("a"), 1).error().kind(), ErrorKind::kAlreadyExists);
    EXPECT_EQ(fs_->create_directory(at("a")).error().kind(), ErrorKind::kAlreadyExists);
    EXPECT_EQ(fs_->rename(at("a"), at("b")).error().kind(), ErrorKind::kAlreadyExists);
    EXPECT_EQ(fs_->rename(at("a"), at("c")).error().kind(), ErrorKind::kAlreadyExists);
    EXPECT_EQ(text_of("b"), "two");
}

TEST_P(FileSystemContract, ADirectoryIsRenamedWithAllItHolds) {
    ASSERT_TRUE(fs_->create_directory(at("d")));
    put("d/a", "one");

    ASSERT_TRUE(fs_->rename(at("d"), at("e")));

    EXPECT_THAT(names(), ElementsAre("e"));
    EXPECT_EQ(text_of("e/a"), "one");
}

TEST_P(FileSystemContract, WhatIsNotThereIsNotFound) {
    EXPECT_EQ(fs_->status(at("x"))->has_value(), false);
    EXPECT_EQ(fs_->open_file(at("x")).error().kind(), ErrorKind::kNotFound);
    EXPECT_EQ(fs_->list_directory(at("x")).error().kind(), ErrorKind::kNotFound);
    EXPECT_EQ(fs_->rename(at("x"), at("y")).error().kind(), ErrorKind::kNotFound);
    EXPECT_EQ(fs_->sync_directory(at("x")).error().kind(), ErrorKind::kNotFound);
    EXPECT_TRUE(fs_->remove(at("x")));
}

TEST_P(FileSystemContract, ReadsBeyondTheEndAreErrorsAndNotShort) {
    put("a", "one");
    const auto file = fs_->open_file(at("a"));
    std::array<std::byte, 2> two{};

    EXPECT_TRUE((*file)->read_at(1, two));
    EXPECT_EQ((*file)->read_at(2, two).error().kind(), ErrorKind::kCorrupt);
}

TEST_P(FileSystemContract, ALinkIsReplacedInOneStep) {
    ASSERT_TRUE(fs_->replace_link("one", at("latest")));
    ASSERT_TRUE(fs_->replace_link("two", at("latest")));

    EXPECT_THAT(names(), ElementsAre("latest"));
    EXPECT_EQ(fs_->list_directory(root_)->front().type, FileType::kSymlink);
}

TEST_P(FileSystemContract, OnlyAnEmptyDirectoryIsRemovedAndATreeByItsHelper) {
    ASSERT_TRUE(create_directories(*fs_, at("d/e/f")));
    put("d/e/a", "one");

    EXPECT_EQ(fs_->remove(at("d")).error().kind(), ErrorKind::kAlreadyExists);
    EXPECT_TRUE(remove_tree(*fs_, at("d")));
    EXPECT_THAT(names(), IsEmpty());
}

TEST_P(FileSystemContract, NamesAreListedInOrder) {
    for (const char* name : {"b", "a", "c"})
        put(name, "x");

    EXPECT_THAT(names(), ElementsAre("a", "b", "c"));
}

TEST_P(FileSystemContract, AFileLargerThanExpectedIsNotRead) {
    put("a", "0123456789");

    EXPECT_EQ(read_text(*fs_, at("a"), 9).error().kind(), ErrorKind::kCorrupt);
    EXPECT_EQ(read_text(*fs_, at("a"), 10).value(), "0123456789");
}

INSTANTIATE_TEST_SUITE_P(Both, FileSystemContract, testing::Values(Kind::kPosix, Kind::kFake),
                         [](const auto& param) {
                             return param.param == Kind::kPosix ? "Posix" : "Fake";
                         });

TEST(PosixFileSystem, RefusesASymlinkAndAFifoWhereAFileWasExpected) {
    const fakes::TemporaryDirectory directory;
    const auto fs = make_posix_file_system();
    ASSERT_EQ(::symlink("/etc/passwd", (directory.path() + "/link").c_str()), 0);
    ASSERT_EQ(::mkfifo((directory.path() + "/fifo").c_str(), 0600), 0);

    EXPECT_FALSE(fs->open_file(directory.path() + "/link").has_value());
    EXPECT_FALSE(fs->open_file(directory.path() + "/fifo").has_value());
}

TEST(PosixFileSystem, MakesNoDirectoryWhereASymlinkToNothingOrAFileIs) {
    const fakes::TemporaryDirectory directory;
    const auto fs = make_posix_file_system();
    const std::string link = directory.path() + "/link";
    const std::string file = directory.path() + "/file";
    ASSERT_EQ(::symlink("nowhere", link.c_str()), 0);
    ASSERT_TRUE(fs->create_file(file, 1));

    EXPECT_EQ(create_directories(*fs, link + "/a").error().kind(), ErrorKind::kNotFound);
    EXPECT_EQ(create_directories(*fs, file + "/a").error().kind(), ErrorKind::kInvalidArgument);
    EXPECT_FALSE((*fs->status(directory.path() + "/nowhere")).has_value());

    ASSERT_TRUE(fs->create_directory(directory.path() + "/nowhere"));
    EXPECT_TRUE(create_directories(*fs, link + "/a"));
}

TEST(FakeFileSystem, ForgetsNamesAndBytesThatWereNotSynced) {
    fakes::FakeFileSystem fs;
    ASSERT_TRUE(fs.create_directory("/d"));
    fs.sync_everything();
    auto file = fs.create_file("/d/a", 4);
    ASSERT_TRUE((*file)->write_at(0, std::as_bytes(std::span(std::string_view("data")))));

    std::set<std::string> outcomes;
    for (auto& disk : fs.possible_disks(100, 1)) {
        outcomes.insert(read_text(disk, "/d/a", 10).value_or("(not there)"));
    }

    EXPECT_THAT(outcomes, ElementsAre(std::string(4, '\0'), "(not there)", "data"));
}

TEST(FakeFileSystem, DoesNotBelieveASyncAfterOneThatFailed) {
    fakes::FakeFileSystem fs;
    ASSERT_TRUE(fs.create_directory("/d"));
    auto file = fs.create_file("/d/a", 4);
    ASSERT_TRUE((*file)->write_at(0, std::as_bytes(std::span(std::string_view("data")))));
    ASSERT_TRUE(fs.sync_directory("/d"));
    ASSERT_TRUE(fs.sync_directory("/"));
    fs.fail_at(fs.operations_done(), EIO);
    EXPECT_FALSE((*file)->sync_data());
    EXPECT_TRUE((*file)->sync_data());

    bool is_lost_somewhere = false;
    for (auto& disk : fs.possible_disks(100, 1)) {
        is_lost_somewhere = is_lost_somewhere || read_text(disk, "/d/a", 10).value_or("") != "data";
    }

    EXPECT_TRUE(is_lost_somewhere);
}

}  // namespace
}  // namespace pawl
