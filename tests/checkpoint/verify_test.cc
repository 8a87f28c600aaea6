// Verification: what is wrong with a checkpoint is found, and named as exactly as can be.
#include "checkpoint/verify.h"

#include "checkpoint/commit.h"
#include "tests/checkpoint/sample.h"
#include "tests/fakes/fake_file_system.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string.h>

#include <errno.h>

#include <map>

namespace pawl::checkpoint {
namespace {

using fakes::FakeFileSystem;
using testing::HasSubstr;
using testing::SizeIs;
using testing::StartsWith;

constexpr std::uint64_t kTensorBytes = 4096;
const std::string kPath = "/ckpt/000042-step-1200";
const std::string kFile = kPath + "/rank-00000.pt";
const std::string kManifest = kPath + "/manifest.json";

FakeFileSystem disk_with_checkpoint(std::uint64_t tensor_bytes = kTensorBytes) {
    FakeFileSystem disk;
    const std::vector<std::byte> image = sample_image(tensor_bytes, 3);
    EXPECT_TRUE(disk.create_directory("/ckpt"));
    const auto committed =
        commit(disk, "/ckpt", sample_manifest(42, 1200), {{.rank = Rank{0}, .bytes = image}});
    EXPECT_TRUE(committed.has_value()) << committed.error().text();
    return disk;
}

// The manifest's text in place of what was there, whatever its length.
void put_manifest(FakeFileSystem& disk, const std::string& text) {
    ASSERT_TRUE(disk.remove(kManifest));
    auto file = disk.create_file(kManifest, text.size());
    ASSERT_TRUE(file.has_value()) << file.error().text();
    ASSERT_TRUE((*file)->write_at(0, std::as_bytes(std::span(text))));
}

std::string manifest_of(FakeFileSystem& disk) {
    return read_text(disk, kManifest, kManifestBytesMax).value();
}

// The digest made right again after a change, to reach what lies behind it.
std::string with_digest(std::string text, const std::string& from, const std::string& to) {
    std::string body = text.substr(0, text.rfind(",\n  \"digest\""));
    const auto found = body.find(from);
    EXPECT_NE(found, std::string::npos) << from;
    body.replace(found, from.size(), to);
    const std::string digest = xxh3_128(std::as_bytes(std::span(body))).hex();
    return body + ",\n  \"digest\": \"" + digest + "\"\n}\n";
}

Verification verified(FakeFileSystem& disk) {
    auto verification = verify(disk, kPath);
    EXPECT_TRUE(verification.has_value()) << verification.error().text();
    return verification ? *std::move(verification) : Verification{};
}

// The one thing that is wrong.
Damage only_damage(FakeFileSystem& disk) {
    const Verification verification = verified(disk);
    EXPECT_FALSE(verification.is_valid());
    EXPECT_THAT(verification.damages, SizeIs(1));
    return verification.damages.empty() ? Damage{} : verification.damages.front();
}

TEST(Verify, ReadsEveryByteOfAValidCheckpoint) {
    FakeFileSystem disk = disk_with_checkpoint();

    const Verification verification = verified(disk);

    EXPECT_TRUE(verification.is_valid());
    EXPECT_EQ(verification.manifest->step, Step{1200});
    EXPECT_EQ(verification.bytes_read, disk.content(kFile).size() + manifest_of(disk).size());
}

TEST(Verify, AFlippedBitIsNamedByFileChunkRecordAndTensor) {
    FakeFileSystem intact = disk_with_checkpoint();
    const auto directory = torchfile::read_directory(MemorySource(intact.content(kFile)));
    ASSERT_TRUE(directory.has_value()) << directory.error().text();
    const std::map<std::string, std::string> tensors = {{"archive/data/0", "first"},
                                                        {"archive/data/1", "second"}};
    for (const torchfile::Record& record : directory->records) {
        for (const std::uint64_t within : {std::uint64_t{0}, record.data.bytes - 1}) {
            FakeFileSystem disk = disk_with_checkpoint();
            disk.flip_bit(kFile, record.data.offset + within);

            const Damage damage = only_damage(disk);

            SCOPED_TRACE(fmt::format("byte {} of {}: {}", within, record.name, damage.describe()));
            EXPECT_EQ(damage.file, "rank-00000.pt");
            EXPECT_EQ(damage.chunk, 0u);
            EXPECT_EQ(damage.record, record.name);
            EXPECT_EQ(damage.tensor,
                      tensors.contains(record.name) ? tensors.at(record.name) : std::string());
        }
    }
}

TEST(Verify, ABitFlippedAnywhereIsFound) {
    const std::uint64_t bytes = disk_with_checkpoint(256).content(kFile).size();
    for (std::uint64_t offset = 0; offset < bytes; ++offset) {
        FakeFileSystem disk = disk_with_checkpoint(256);
        disk.flip_bit(kFile, offset);

        const Verification verification = verified(disk);

        ASSERT_FALSE(verification.is_valid()) << "byte " << offset << " of " << bytes;
        ASSERT_THAT(verification.damages.front().describe(),
                    StartsWith("rank-00000.pt, chunk 0 (bytes 0 to "))
            << "byte " << offset;
    }
}

TEST(Verify, EachDamagedChunkIsNamedWithItsBytes) {
    FakeFileSystem disk = disk_with_checkpoint(2 * kChunkBytes);
    disk.flip_bit(kFile, kChunkBytes / 2);
    disk.flip_bit(kFile, 3 * kChunkBytes + kChunkBytes / 2);

    const Verification verification = verified(disk);

    ASSERT_THAT(verification.damages, SizeIs(2));
    EXPECT_THAT(verification.damages[0].describe(),
                StartsWith("rank-00000.pt, chunk 0 (bytes 0 to 4194304), record archive/data/0 "
                           "(first): its digest is "));
    EXPECT_THAT(verification.damages[1].describe(),
                StartsWith("rank-00000.pt, chunk 3 (bytes 12582912 to 16777216), record "
                           "archive/data/1 (second): its digest is "));
}

TEST(Verify, ATruncatedFileIsNamedWithBothSizes) {
    FakeFileSystem disk = disk_with_checkpoint();
    const std::size_t bytes = disk.content(kFile).size();
    disk.truncate(kFile, bytes - 1);

    EXPECT_EQ(
        only_damage(disk).describe(),
        fmt::format("rank-00000.pt: it has {} bytes, the manifest says {}", bytes - 1, bytes));
}

TEST(Verify, AFileThatIsNotThereIsNamed) {
    FakeFileSystem disk = disk_with_checkpoint();
    ASSERT_TRUE(disk.remove(kFile));

    EXPECT_THAT(only_damage(disk).describe(),
                testing::AllOf(StartsWith("rank-00000.pt: "), HasSubstr("No such file")));
}

TEST(Verify, WithoutItsManifestNothingIsKnown) {
    FakeFileSystem disk = disk_with_checkpoint();
    ASSERT_TRUE(disk.remove(kManifest));

    const Verification verification = verified(disk);

    EXPECT_FALSE(verification.manifest.has_value());
    ASSERT_THAT(verification.damages, SizeIs(1));
    EXPECT_EQ(verification.damages[0].file, "manifest.json");
}

TEST(Verify, AManifestThatIsNotItsOwnIsNamed) {
    struct Case {
        const char* what;
        const char* from;
        const char* to;
        const char* expected;
    };
    for (const Case& one : {Case{"another sequence", "\"sequence\": 42", "\"sequence\": 41",
                                 "it describes checkpoint '000041-step-1200'"},
                            Case{"another step", "\"step\": 1200", "\"step\": 1100",
                                 "it describes checkpoint '000042-step-1100'"},
                            Case{"ranks without a file", "\"world_size\": 1", "\"world_size\": 2",
                                 "it lists 1 files for 2 ranks"}}) {
        SCOPED_TRACE(one.what);
        FakeFileSystem disk = disk_with_checkpoint();
        put_manifest(disk, with_digest(manifest_of(disk), one.from, one.to));

        const Damage damage = only_damage(disk);

        EXPECT_EQ(damage.file, "manifest.json");
        EXPECT_EQ(damage.text, one.expected);
    }
}

TEST(Verify, ANewerFormatIsNeitherValidNorDamaged) {
    FakeFileSystem disk = disk_with_checkpoint();
    put_manifest(disk,
                 with_digest(manifest_of(disk), "\"format_version\": 1", "\"format_version\": 2"));

    const auto verification = verify(disk, kPath);

    ASSERT_FALSE(verification.has_value());
    EXPECT_EQ(verification.error().kind(), ErrorKind::kUnsupported);
    EXPECT_THAT(verification.error().text(), StartsWith("cannot verify checkpoint '" + kPath));
}

TEST(Verify, ADirectoryThatIsNotThereIsAnError) {
    FakeFileSystem disk = disk_with_checkpoint();

    EXPECT_EQ(verify(disk, "/ckpt/000043-step-1300").error().kind(), ErrorKind::kNotFound);
    EXPECT_EQ(verify(disk, kFile).error().kind(), ErrorKind::kNotFound);
}

TEST(Verify, WhatCannotBeOpenedJustNowIsAnErrorAndNoDamage) {
    for (const int code : {EACCES, EPERM, EMFILE, ENFILE, ENOMEM}) {
        for (const std::string& path : {kPath, kManifest, kFile}) {
            SCOPED_TRACE(fmt::format("{}: {}", path, strerror(code)));
            FakeFileSystem disk = disk_with_checkpoint();
            disk.refuse_to_open(path, code);

            const auto verification = verify(disk, kPath);

            ASSERT_FALSE(verification.has_value());
            EXPECT_EQ(verification.error().kind(), ErrorKind::kUnavailable);
            EXPECT_THAT(verification.error().text(), HasSubstr("could not be read"));
        }
    }
}

TEST(Verify, AFileThatTheDiskCannotReadIsDamaged) {
    FakeFileSystem disk = disk_with_checkpoint();
    disk.refuse_to_open(kFile, EIO);

    EXPECT_THAT(only_damage(disk).describe(), StartsWith("rank-00000.pt: "));
}

TEST(Verify, ASymlinkInAFilesPlaceIsDamageWhereverItLeads) {
    for (const std::string& path : {kManifest, kFile}) {
        FakeFileSystem disk = disk_with_checkpoint();
        ASSERT_TRUE(disk.rename(path, "/ckpt/elsewhere"));
        ASSERT_TRUE(disk.replace_link("/ckpt/elsewhere", path));

        EXPECT_THAT(only_damage(disk).text, HasSubstr("it is a symlink")) << path;
    }
}

TEST(Verify, AnExtraFileIsNamedAndNoDamage) {
    FakeFileSystem disk = disk_with_checkpoint();
    for (const char* name : {"notes.txt", "rank-00001.pt", "pinned", "set-aside.json"})
        ASSERT_TRUE(disk.create_file(join_path(kPath, name), 3)) << name;
    ASSERT_TRUE(disk.create_directory(join_path(kPath, "more")));

    const Verification verification = verified(disk);

    EXPECT_TRUE(verification.is_valid());
    EXPECT_THAT(verification.extra_names,
                testing::ElementsAre("more", "notes.txt", "rank-00001.pt"));
}

TEST(Verify, AManifestThatNamesAFileOutsideIsDamaged) {
    for (const char* name : {"../x", "/etc/passwd", "..", ".", "", "a/b"}) {
        SCOPED_TRACE(name);
        FakeFileSystem disk = disk_with_checkpoint();
        put_manifest(disk, with_digest(manifest_of(disk), "\"name\": \"rank-00000.pt\"",
                                       fmt::format("\"name\": \"{}\"", name)));

        EXPECT_EQ(only_damage(disk).file, "manifest.json");
    }
}

TEST(Verify, CanBeStoppedBeforeAnyRead) {
    FakeFileSystem disk = disk_with_checkpoint(2 * kChunkBytes);
    std::uint64_t announced = 0;
    const Verification whole =
        verify(disk, kPath, {.before_read = [&announced](std::uint64_t bytes) -> Result<void> {
                   announced += bytes;
                   return {};
               }})
            .value();
    int reads = 0;
    const auto stopped =
        verify(disk, kPath, {.before_read = [&reads](std::uint64_t) -> Result<void> {
                   if (++reads < 3) return {};
                   return make_error(ErrorKind::kCancelled, "stop");
               }});

    EXPECT_EQ(announced, whole.bytes_read);
    EXPECT_EQ(stopped.error().kind(), ErrorKind::kCancelled);
}

TEST(Verify, ACopyUnderANameOfItsOwnIsJudgedByItsContent) {
    FakeFileSystem disk = disk_with_checkpoint();
    ASSERT_TRUE(disk.rename(kPath, "/ckpt/000042-step-1200.kept"));

    EXPECT_TRUE(verify(disk, "/ckpt/000042-step-1200.kept")->is_valid());
}

}  // namespace
}  // namespace pawl::checkpoint
