// What a file is taken for: saved without checksums, in another format, or with a large pickle.
#include "adopt/examine.h"

#include "tests/checkpoint/sample.h"
#include "tests/fakes/temporary_directory.h"
#include "torchfile/archive.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

namespace pawl::adopt {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using Bytes = std::vector<std::byte>;

Examined examined(const Bytes& bytes) {
    const fakes::TemporaryDirectory place;
    const std::string path = place.path() + "/c.pth";
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    EXPECT_TRUE(file.flush());
    auto result = examine(*make_posix_file_system(), path);
    EXPECT_TRUE(result.has_value());
    return std::move(*result);
}

Bytes bytes_of(std::string_view text) {
    const auto bytes = std::as_bytes(std::span(text));
    return {bytes.begin(), bytes.end()};
}

TEST(ExamineFormat, WhatStatesNoChecksumAtAllIsNotTorn) {
    const Bytes without = checkpoint::sample_image(64, 7);
    Bytes with = without;
    ASSERT_TRUE(torchfile::fill_crcs(with));

    const Examined result = examined(without);

    EXPECT_EQ(result.wholeness, Wholeness::kForeign) << result.why;
    EXPECT_THAT(result.why, HasSubstr("set_crc32_options(False), leave that out"));
    EXPECT_EQ(examined(with).wholeness, Wholeness::kWhole);
    // One that is left out, of several, is damage; and what was cut is torn in any case.
    const auto directory = torchfile::read_directory(MemorySource(with));
    ASSERT_TRUE(directory.has_value());
    const torchfile::Record& last = directory->records.back();
    for (const std::uint64_t at : {last.central_crc_offset, last.descriptor_crc_offset})
        std::fill_n(with.begin() + static_cast<std::ptrdiff_t>(at), 4, std::byte{});
    EXPECT_EQ(examined(with).wholeness, Wholeness::kTorn);
    EXPECT_EQ(examined({without.begin(), without.end() - 30}).wholeness, Wholeness::kTorn);
}

TEST(ExamineFormat, AdviceFitsTheFormatAndEndsWithoutADot) {
    const Examined numpy = examined(bytes_of("\x93NUMPY and then numbers"));
    const Examined legacy = examined(bytes_of("\x80\x02\x8a\nl\xfc\x9c\x46\xf9\x20j\xa8P\x19."));

    EXPECT_EQ(numpy.wholeness, Wholeness::kForeign);
    EXPECT_EQ(numpy.why,
              "the file is no torch.save archive but NumPy's .npy. Only what torch.save writes is "
              "kept");
    EXPECT_THAT(legacy.why, HasSubstr("_use_new_zipfile_serialization=False"));
    EXPECT_THAT(legacy.why, Not(EndsWith(".")));
}

TEST(ExamineFormat, ALargePickleIsNotAskedForItsNumbers) {
    const auto with_text = [](std::size_t bytes) {
        torchfile::Dict root;
        root.set("step", std::int64_t{7});
        root.set("text", std::string(bytes, 'x'));
        const auto plan = torchfile::plan_image({.root = std::move(root)}, "archive");
        Bytes image(plan->bytes);
        torchfile::lay_out(*plan, image);
        EXPECT_TRUE(torchfile::fill_crcs(image));
        return image;
    };
    const Examined small = examined(with_text(std::size_t{1} << 20));
    const Examined large = examined(with_text(std::size_t{5} << 20));

    EXPECT_EQ(small.numbers.step, Step{7});
    EXPECT_EQ(large.wholeness, Wholeness::kWhole);
    EXPECT_FALSE(large.numbers.step);
}

}  // namespace
}  // namespace pawl::adopt
