// Versions that a script saves: which are whole, which become checkpoints, what is put back.
#include "tests/adopt/script.h"

#include <gmock/gmock.h>

#include <sys/stat.h>

namespace pawl::adopt {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(Examine, CallsNoFileWholeThatWasCutAnywhere) {
    const fakes::TemporaryDirectory place;
    const auto fs = make_posix_file_system();
    const std::string path = place.path() + "/c.pth";
    const Bytes whole = version(7);

    for (std::size_t bytes = 0; bytes < whole.size(); ++bytes) {
        write(path, {whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(bytes)});
        const auto examined = examine(*fs, path);

        ASSERT_TRUE(examined.has_value()) << examined.error().text();
        ASSERT_EQ(examined->wholeness, Wholeness::kTorn) << "cut after " << bytes;
    }
    write(path, whole);
    const auto examined = examine(*fs, path);
    ASSERT_EQ(examined->wholeness, Wholeness::kWhole) << examined->why;
    EXPECT_EQ(examined->numbers.step, pawl::Step{7});
    EXPECT_EQ(examined->entry.bytes, whole.size());
    EXPECT_THAT(examined->entry.chunks, ElementsAre(xxh3_128(whole)));
}

TEST(Examine, FindsEachFlippedByteOfARecord) {
    const fakes::TemporaryDirectory place;
    const auto fs = make_posix_file_system();
    const std::string path = place.path() + "/c.pth";
    const Bytes whole = version(7);
    const auto directory = torchfile::read_directory(MemorySource(whole));
    ASSERT_TRUE(directory.has_value());

    for (const torchfile::Record& record : directory->records) {
        for (std::uint64_t i = 0; i < record.data.bytes; i += 3) {
            Bytes damaged = whole;
            damaged[record.data.offset + i] ^= std::byte{4};
            write(path, damaged);
            const auto examined = examine(*fs, path);

            ASSERT_EQ(examined->wholeness, Wholeness::kTorn) << record.name << " at " << i;
            EXPECT_THAT(examined->why, HasSubstr(record.name));
        }
    }
}

TEST(Examine, ReadsAFileOfManyChunksAsOneOfOne) {
    const fakes::TemporaryDirectory place;
    const auto fs = make_posix_file_system();
    const std::string path = place.path() + "/c.pth";
    Bytes whole = version(7, 3 * checkpoint::kChunkBytes / 2);

    write(path, whole);
    EXPECT_EQ(examine(*fs, path)->wholeness, Wholeness::kWhole);
    EXPECT_EQ(examine(*fs, path)->entry.chunks.size(), 4u);
    whole[checkpoint::kChunkBytes + 5] ^= std::byte{1};
    write(path, whole);
    EXPECT_EQ(examine(*fs, path)->wholeness, Wholeness::kTorn);
}

TEST(Examine, LeavesAloneWhatItCannotJudge) {
    const fakes::TemporaryDirectory place;
    const auto fs = make_posix_file_system();
    const std::string path = place.path() + "/c.pth";

    EXPECT_EQ(examine(*fs, path)->wholeness, Wholeness::kAbsent);
    write(path, Bytes(2, std::byte{0x80}));
    const std::string legacy("\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20j\xa8P\x19.", 15);
    const auto bytes = std::as_bytes(std::span(legacy));
    write(path, {bytes.begin(), bytes.end()});
    EXPECT_EQ(examine(*fs, path)->wholeness, Wholeness::kForeign);
    EXPECT_THAT(examine(*fs, path)->why, HasSubstr("before 1.6"));
}

TEST(Adopter, MakesACheckpointOfEachVersionAndOfNoneTwice) {
    Script script({"c.pth"});
    EXPECT_EQ(script.start().resume_path, "");

    for (const unsigned step : {1u, 2u}) {
        write(script.path("c.pth"), version(step));
        const Looked looked = script.look();
        ASSERT_TRUE(looked.committed) << (looked.failed ? looked.failed->text() : "");
        EXPECT_EQ(looked.committed->manifest.step, pawl::Step{step});
        EXPECT_EQ(read(looked.committed->path + "/c.pth"), version(step));
        EXPECT_FALSE(script.look().committed);
    }
    write(script.path("c.pth"), version(2));  // the same once more
    EXPECT_FALSE(script.look().committed);
}

TEST(Adopter, WaitsForAFileThatIsStillBeingWritten) {
    Script script({"c.pth"});
    static_cast<void>(script.start());
    write(script.path("c.pth"), half(version(1)));

    const Looked early = script.look();
    write(script.path("c.pth"), version(1));
    const Looked late = script.look();

    EXPECT_FALSE(early.committed);
    EXPECT_FALSE(early.failed);
    EXPECT_THAT(early.notes, IsEmpty());
    EXPECT_TRUE(late.committed);
}

TEST(Adopter, TakesTheVersionBeforeOfAFileThatIsJustBeingWritten) {
    Script script({"model.pth", "optimizer.pth"});
    static_cast<void>(script.start());
    write(script.path("model.pth"), version(1));
    write(script.path("optimizer.pth"), version(11));
    ASSERT_TRUE(script.look().committed);

    write(script.path("model.pth"), version(2));
    write(script.path("optimizer.pth"), half(version(12)));
    const Looked looked = script.look();

    ASSERT_TRUE(looked.committed);
    EXPECT_EQ(read(looked.committed->path + "/model.pth"), version(2));
    EXPECT_EQ(read(looked.committed->path + "/optimizer.pth"), version(11));
}

TEST(Adopter, SaysOnceThatNoSaveCouldBeKept) {
    Script script({"c.pth"});
    static_cast<void>(script.start());
    std::vector<std::size_t> notes;
    for (const unsigned step : {1u, 2u, 3u, 4u}) {
        write(script.path("c.pth"), half(version(step)));
        const Looked looked = script.look();
        notes.push_back(looked.notes.size());
        if (step != 3) continue;
        ASSERT_EQ(looked.notes.size(), 1u);
        EXPECT_THAT(looked.notes.front().text,
                    HasSubstr("'c.pth' was saved 3 times in a row and not once could it be kept"));
    }

    EXPECT_THAT(notes, ElementsAre(0, 0, 1, 0));
}

TEST(Adopter, TakesAFileThatGrowsForOneSave) {
    Script script({"c.pth"});
    static_cast<void>(script.start());
    const Bytes whole = version(1);
    for (std::size_t bytes = 4; bytes < whole.size(); bytes += 40) {
        // In place, as a script writes it: one file all the time.
        std::ofstream file(script.path("c.pth"), std::ios::binary | std::ios::app);
        const std::size_t written = bytes == 4 ? 0 : bytes - 40;
        file.write(reinterpret_cast<const char*>(whole.data()) + written,
                   static_cast<std::streamsize>(bytes - written));
        file.close();
        EXPECT_THAT(script.look().notes, IsEmpty()) << bytes;
    }
    write(script.path("c.pth"), whole);

    EXPECT_TRUE(script.look().committed);
}

// A script that saves c.pth again each time that it has been examined, and before it is copied.
class SavesOften final : public FileSystem {
public:
    Result<std::unique_ptr<ByteSource>> open_file(const std::string& path) override {
        const bool is_scripts = path.ends_with("/c.pth") && path.find("/ckpt/") == path.npos;
        if (is_scripts && ++opened_ % 2 == 0) write(path, version(100 + opened_));
        return disk_->open_file(path);
    }
    Result<void> create_directory(const std::string& path) override {
        return disk_->create_directory(path);
    }
    Result<std::vector<DirectoryEntry>> list_directory(const std::string& path) override {
        return disk_->list_directory(path);
    }
    Result<std::optional<FileStatus>> status(const std::string& path) override {
        return disk_->status(path);
    }
    Result<std::unique_ptr<WritableFile>> create_file(const std::string& path,
                                                      std::uint64_t bytes) override {
        return disk_->create_file(path, bytes);
    }
    Result<void> rename(const std::string& from, const std::string& to) override {
        return disk_->rename(from, to);
    }
    Result<void> replace_link(const std::string& target, const std::string& path) override {
        return disk_->replace_link(target, path);
    }
    Result<void> sync_directory(const std::string& path) override {
        return disk_->sync_directory(path);
    }
    Result<void> remove(const std::string& path) override { return disk_->remove(path); }

private:
    std::unique_ptr<FileSystem> disk_ = make_posix_file_system();
    unsigned opened_ = 0;
};

TEST(Adopter, SaysOnceThatAScriptSavesFasterThanItsFileIsCopied) {
    Script script({"c.pth"}, std::make_unique<SavesOften>());
    static_cast<void>(script.start());
    write(script.path("c.pth"), version(1));
    std::vector<std::size_t> notes;
    for (int i = 0; i < 4; ++i) {
        const Looked looked = script.look();
        EXPECT_FALSE(looked.committed);
        EXPECT_FALSE(looked.failed);
        notes.push_back(looked.notes.size());
        if (i != 2) continue;
        ASSERT_EQ(looked.notes.size(), 1u);
        EXPECT_THAT(looked.notes.front().text, HasSubstr("written to again before it had been"));
    }

    EXPECT_THAT(notes, ElementsAre(0, 0, 1, 0));
}

// Of two files one is saved anew; what the newest checkpoint has of the other has come to harm.
struct TwoFiles : Script {
    std::string newest;

    TwoFiles() : Script({"model.pth", "optimizer.pth"}) {
        static_cast<void>(start());
        for (const unsigned step : {1u, 2u}) {
            write(path("model.pth"), version(step));
            write(path("optimizer.pth"), version(10 + step));
            const Looked looked = look();
            EXPECT_TRUE(looked.committed);
            if (looked.committed) newest = looked.committed->path;
        }
        write(path("model.pth"), version(3));
    }
    void rot(const std::string& name) const {
        Bytes bytes = read(newest + "/" + name);
        bytes[bytes.size() / 2] ^= std::byte{1};
        write(newest + "/" + name, bytes);
    }
};

TEST(Adopter, TakesFromDiskWhatHasRottenInTheNewestCheckpoint) {
    TwoFiles script;
    script.rot("optimizer.pth");

    const Looked looked = script.look();

    ASSERT_TRUE(looked.committed) << (looked.failed ? looked.failed->text() : "silent");
    EXPECT_EQ(read(looked.committed->path + "/model.pth"), version(3));
    EXPECT_EQ(read(looked.committed->path + "/optimizer.pth"), version(12));
    ASSERT_EQ(looked.notes.size(), 1u);
    EXPECT_THAT(looked.notes.front().text, HasSubstr("its digest is not what its manifest says"));
    EXPECT_FALSE(script.look().committed);
}

TEST(Adopter, TakesFromDiskWhatANewestCheckpointHadThatIsGone) {
    TwoFiles script;
    std::filesystem::create_directory(script.store.directory() + "/quarantine");
    std::filesystem::rename(script.newest, script.store.directory() + "/quarantine/000002-step-2");

    const Looked looked = script.look();

    ASSERT_TRUE(looked.committed) << (looked.failed ? looked.failed->text() : "silent");
    EXPECT_EQ(read(looked.committed->path + "/optimizer.pth"), version(12));
    EXPECT_THAT(looked.notes.front().text, HasSubstr("No such file"));
}

TEST(Adopter, TakesAnOlderVersionWhereTheFileIsTornAsWell) {
    TwoFiles script;
    script.rot("optimizer.pth");
    write(script.path("optimizer.pth"), half(version(13)));

    const Looked looked = script.look();

    ASSERT_TRUE(looked.committed) << (looked.failed ? looked.failed->text() : "silent");
    EXPECT_EQ(read(looked.committed->path + "/model.pth"), version(3));
    EXPECT_EQ(read(looked.committed->path + "/optimizer.pth"), version(11));
    const auto verified = checkpoint::verify(*script.fs, looked.committed->path);
    EXPECT_TRUE(verified && verified->is_valid());
}

TEST(Adopter, GoesOnWithoutAFileThatIsWholeNowhere) {
    TwoFiles script;
    for (const auto& entry : std::filesystem::directory_iterator(script.store.directory()))
        std::filesystem::remove_all(entry);
    std::filesystem::remove(script.path("optimizer.pth"));

    const Looked looked = script.look();

    ASSERT_TRUE(looked.committed) << (looked.failed ? looked.failed->text() : "silent");
    EXPECT_EQ(looked.committed->manifest.adopted.size(), 1u);
    ASSERT_EQ(looked.notes.size(), 2u);
    EXPECT_THAT(looked.notes.back().text, HasSubstr("'optimizer.pth' is not in the next"));
    write(script.path("optimizer.pth"), version(13));
    const Looked again = script.look();
    ASSERT_TRUE(again.committed);
    EXPECT_EQ(again.committed->manifest.adopted.size(), 2u);
}

TEST(Adopter, CountsVersionsThatSayNoNumber) {
    Script script({"c.pth"});
    static_cast<void>(script.start());
    std::vector<std::uint64_t> steps;
    for (unsigned i = 0; i < 3; ++i) {
        torchfile::Dict root;
        root.set("weights", static_cast<std::int64_t>(i));
        const auto plan = torchfile::plan_image({.root = std::move(root)}, "archive");
        Bytes image(plan->bytes);
        torchfile::lay_out(*plan, image);
        ASSERT_TRUE(torchfile::fill_crcs(image));
        write(script.path("c.pth"), image);
        const Looked looked = script.look();
        ASSERT_TRUE(looked.committed);
        steps.push_back(looked.committed->manifest.step.value);
    }

    EXPECT_THAT(steps, ElementsAre(1, 2, 3));
}

TEST(Adopter, LeavesAFileWhosePathNoManifestCanSay) {
    Script script({"*.pth"});
    write(script.path("a\xff.pth"), version(1));
    write(script.path("a\nb.pth"), version(2));

    const Prepared prepared = script.start();

    ASSERT_EQ(prepared.looked.notes.size(), 1u);
    EXPECT_THAT(prepared.looked.notes.front().text, HasSubstr("'a\\xff.pth' is not kept"));
    EXPECT_EQ(prepared.resume_path, script.path("a\nb.pth"));
    ASSERT_TRUE(prepared.looked.committed);
    const auto verified = checkpoint::verify(*script.fs, prepared.looked.committed->path);
    ASSERT_TRUE(verified.has_value());
    EXPECT_TRUE(verified->is_valid());
    EXPECT_EQ(read(prepared.looked.committed->path + "/a_b.pth"), version(2));
    EXPECT_TRUE(std::filesystem::exists(script.path("a\xff.pth")));
    EXPECT_THAT(script.look().notes, IsEmpty()) << "said once";
}

TEST(Adopter, PutsTheNewestVersionBackWithItsModeAndTime) {
    Script script({"c.pth"});
    static_cast<void>(script.start());
    write(script.path("c.pth"), version(1));
    ASSERT_EQ(::chmod(script.path("c.pth").c_str(), 0640), 0);
    const auto before = facts_of(script.path("c.pth"));
    ASSERT_TRUE(script.look().committed);
    std::filesystem::remove(script.path("c.pth"));

    const Prepared prepared = script.start();

    EXPECT_EQ(prepared.resume_path, script.path("c.pth"));
    EXPECT_EQ(read(script.path("c.pth")), version(1));
    const auto after = facts_of(script.path("c.pth"));
    EXPECT_EQ((*after)->mode, 0640u);
    EXPECT_EQ((*after)->modified_ns, (*before)->modified_ns);
    EXPECT_THAT(script.hidden(), IsEmpty());
    EXPECT_FALSE(script.look().committed) << "its own put-back is no new version";
}

TEST(Adopter, SetsATornFileAsideBeforeItPutsOneBack) {
    Script script({"c.pth"});
    static_cast<void>(script.start());
    write(script.path("c.pth"), version(1));
    ASSERT_TRUE(script.look().committed);
    write(script.path("c.pth"), half(version(2)));

    static_cast<void>(script.start());

    EXPECT_EQ(read(script.path("c.pth")), version(1));
    EXPECT_THAT(script.hidden(), ElementsAre(".c.pth.torn-1"));
    EXPECT_EQ(read(script.path(".c.pth.torn-1")), half(version(2)));
}

TEST(Adopter, TakesATornFileOfASeriesFromTheCheckpointThatHasIt) {
    Script script({"*.pth"});
    static_cast<void>(script.start());
    for (const unsigned number : {1u, 2u}) {
        write(script.path(fmt::format("{}.pth", number)), version(number));
        ASSERT_TRUE(script.look().committed);
    }
    write(script.path("1.pth"), half(version(9)));

    const Prepared prepared = script.start();

    EXPECT_EQ(read(script.path("1.pth")), version(1));
    EXPECT_EQ(read(script.path("2.pth")), version(2));
    EXPECT_EQ(prepared.resume_path, script.path("2.pth"));
}

TEST(Adopter, DoesNotStartWhereNothingCanBePutBack) {
    Script script({"c.pth"});
    static_cast<void>(script.start());
    write(script.path("c.pth"), version(1));
    ASSERT_TRUE(script.look().committed);
    std::filesystem::remove(script.path("c.pth"));
    std::filesystem::create_directory(script.path("c.pth"));

    auto choice = script.store.choose();
    ASSERT_TRUE(choice.has_value());
    const Prepared prepared = script.adopter.prepare(script.settings, *choice, script.context);

    ASSERT_TRUE(prepared.impossible);
    EXPECT_THAT(prepared.impossible->text(), HasSubstr("cannot put"));
    EXPECT_THAT(script.hidden(), IsEmpty());
}

TEST(Adopter, KeepsTheFilesOfOnePlaceApartFromThoseOfAnother) {
    Script script({"a/c.pth", "b/c.pth"});
    std::filesystem::create_directory(script.path("a"));
    std::filesystem::create_directory(script.path("b"));
    write(script.path("a/c.pth"), version(1));
    write(script.path("b/c.pth"), version(2));

    const Prepared prepared = script.start();

    ASSERT_TRUE(prepared.looked.committed);
    const checkpoint::Manifest& manifest = prepared.looked.committed->manifest;
    EXPECT_EQ(manifest.adopted[0].path, "a/c.pth");
    EXPECT_EQ(manifest.adopted[1].path, "b/c.pth");
    EXPECT_EQ(read(prepared.looked.committed->path + "/2-c.pth"), version(2));
    std::filesystem::remove_all(script.path("b"));
    static_cast<void>(script.start());
    EXPECT_EQ(read(script.path("b/c.pth")), version(2));
}

}  // namespace
}  // namespace pawl::adopt
