// The manifest's text, and names in a checkpoint directory.
#include "checkpoint/manifest.h"

#include "checkpoint/name.h"
#include "tests/checkpoint/sample.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace pawl::checkpoint {
namespace {

using testing::HasSubstr;

Manifest full_manifest() {
    Manifest manifest = sample_manifest(43, 1300);
    manifest.parent = Sequence{40};
    manifest.epoch = Epoch{2};
    manifest.world_size = 1;
    manifest.incarnation = Incarnation{3};
    manifest.time = WallTime{milliseconds{1'795'500'000'123}};
    manifest.reason = Reason::kSigterm;
    manifest.metrics = {{"accuracy", 0.91}};
    manifest.framework = "LibTorch \"1.13\"";
    manifest.files = {{.name = "rank-00000.pt",
                       .bytes = kChunkBytes + 1,
                       .chunks = {Digest{}, Digest{{1, 2, 3}}}}};
    return manifest;
}

// The digest made right again after a change, to reach what lies behind it.
std::string with_digest(std::string body) {
    const std::string digest = xxh3_128(std::as_bytes(std::span(body))).hex();
    return body + ",\n  \"digest\": \"" + digest + "\"\n}\n";
}

std::string body_of(const std::string& text) {
    return text.substr(0, text.rfind(",\n  \"digest\""));
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
    const auto at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
}

TEST(Manifest, IsReadAsItWasWritten) {
    const Manifest manifest = full_manifest();

    const auto read = read_manifest(write_manifest(manifest));

    ASSERT_TRUE(read.has_value()) << read.error().text();
    EXPECT_EQ(*read, manifest);
}

TEST(Manifest, SaysWhereAdoptedFilesBelong) {
    Manifest manifest = full_manifest();
    manifest.reason = Reason::kAdopt;
    manifest.files[0].name = "c.pth";
    manifest.adopted = {
        {.name = "c.pth", .path = "out/c.pth", .mode = 0640, .modified_ns = 1795517672262000001}};

    const auto read = read_manifest(write_manifest(manifest));

    ASSERT_TRUE(read.has_value()) << read.error().text();
    EXPECT_EQ(*read, manifest);
}

TEST(Manifest, IsRefusedIfItsAdoptedFilesAreOthersThanItLists) {
    Manifest manifest = full_manifest();
    manifest.adopted = {{.name = "c.pth", .path = "c.pth"}};
    EXPECT_EQ(read_manifest(write_manifest(manifest)).error().kind(), ErrorKind::kCorrupt);

    manifest.adopted = {{.name = manifest.files[0].name, .path = ""}};
    EXPECT_EQ(read_manifest(write_manifest(manifest)).error().kind(), ErrorKind::kCorrupt);
}

TEST(Manifest, KeepsFieldsThatItDoesNotKnow) {
    const std::string text =
        with_digest(replaced(body_of(write_manifest(full_manifest())), "{", "{\"mood\": [1],"));

    const auto read = read_manifest(text);

    ASSERT_TRUE(read.has_value()) << read.error().text();
    EXPECT_THAT(write_manifest(*read), HasSubstr("\"mood\""));
}

TEST(Manifest, AnyChangedByteIsNoticed) {
    const std::string text = write_manifest(full_manifest());
    for (std::size_t i = 0; i < text.size(); ++i) {
        std::string changed = text;
        changed[i] = static_cast<char>(changed[i] ^ 1);

        EXPECT_FALSE(read_manifest(changed).has_value()) << "byte " << i;
    }
}

TEST(Manifest, AnyTruncationIsNoticed) {
    const std::string text = write_manifest(full_manifest());
    for (std::size_t length = 0; length < text.size(); ++length) {
        EXPECT_FALSE(read_manifest(text.substr(0, length)).has_value()) << length << " bytes";
    }
}

TEST(Manifest, ANewerFormatIsRefusedWithBothVersions) {
    const std::string text =
        with_digest(replaced(body_of(write_manifest(full_manifest())), "\"format_version\": 1",
                             "\"format_version\": 2"));

    const auto read = read_manifest(text);

    EXPECT_EQ(read.error().kind(), ErrorKind::kUnsupported);
    EXPECT_THAT(read.error().text(), HasSubstr("has format version 2, this pawl reads up to 1"));
}

TEST(Manifest, WhatCannotBeIsRefusedAlsoWithTheRightDigest) {
    const std::string body = body_of(write_manifest(full_manifest()));
    struct Case {
        const char* from;
        const char* to;
        const char* expected;
    };
    for (const Case& one :
         {Case{"rank-00000.pt", "../x", "file name '../x'"},
          Case{"rank-00000.pt", "..", "file name '..'"},
          Case{"\"bytes\": 4194305", "\"bytes\": 4194304", "has 2 digests, 1 were expected"},
          Case{"\"chunk_bytes\": 4194304", "\"chunk_bytes\": 0", "chunks of 0 bytes"},
          Case{"\"reason\": \"sigterm\"", "\"reason\": \"mood\"", "unknown reason 'mood'"},
          Case{"\"step\": 1300", "\"step\": \"x\"", "not what it should be"},
          Case{"\"job\"", "\"bob\"", "not what it should be"}}) {
        const auto read = read_manifest(with_digest(replaced(body, one.from, one.to)));

        ASSERT_FALSE(read.has_value()) << one.to;
        EXPECT_EQ(read.error().kind(), ErrorKind::kCorrupt);
        EXPECT_THAT(read.error().text(), HasSubstr(one.expected));
    }
}

TEST(CheckpointName, IsParsedOnlyInTheFormItIsWritten) {
    EXPECT_EQ(to_string({.sequence = Sequence{42}, .step = Step{1200}}), "000042-step-1200");
    EXPECT_EQ(to_string({.sequence = Sequence{12345678}, .step = Step{0}}), "12345678-step-0");
    const CheckpointName name{.sequence = Sequence{42}, .step = Step{1200}};
    EXPECT_EQ(parse_checkpoint_name("000042-step-1200"), name);
    for (const char* text : {"", "42-step-1200", "000042-step-01200", "000042-step-", "-step-1",
                             "000042-step-1200.old", ".tmp-000042-step-1200", "000042_step_1200",
                             "000042-step-99999999999999999999"}) {
        EXPECT_EQ(parse_checkpoint_name(text), std::nullopt) << text;
    }
}

}  // namespace
}  // namespace pawl::checkpoint
