// The one pass over an image: CRC fields of four bytes that lie across the border of two chunks.
#include "checkpoint/image_writer.h"

#include "tests/fakes/fake_file_system.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <errno.h>

#include <set>

namespace pawl::checkpoint {
namespace {

using fakes::FakeFileSystem;
using testing::ElementsAre;

// One tensor of `bytes` bytes, to the byte, in an archive with this root folder: what decides where
// the fields lie.
struct Layout {
    std::uint64_t bytes = 0;
    std::string root = "archive";
};

// CRCs are zero, as a trainer leaves them.
std::vector<std::byte> image_of(const Layout& layout) {
    torchfile::Document document;
    torchfile::Dict root;
    root.set("weight",
             torchfile::Tensor{.shape = {static_cast<std::int64_t>(layout.bytes)}, .stride = {1}});
    document.storages.push_back(
        {.key = "0", .dtype = torchfile::DType::kUInt8, .elements = layout.bytes});
    document.root = std::move(root);
    const auto plan = torchfile::plan_image(document, layout.root);
    EXPECT_TRUE(plan.has_value()) << plan.error().text();
    std::vector<std::byte> image(plan->bytes);
    torchfile::lay_out(*plan, image);
    const torchfile::Extent& extent = plan->storages.front();
    for (std::uint64_t i = 0; i < extent.bytes; ++i)
        image[extent.offset + i] = static_cast<std::byte>(i * 7 + i / 251);
    return image;
}

torchfile::Directory directory_of(const std::vector<std::byte>& image) {
    auto directory = torchfile::read_directory(MemorySource(image));
    EXPECT_TRUE(directory.has_value()) << directory.error().text();
    return *std::move(directory);
}

// A CRC field: of a record (the end of its name), in its descriptor or in the directory.
struct Field {
    std::string record;
    std::uint64_t torchfile::Record::*offset;
};

std::uint64_t offset_of(const Field& field, const std::vector<std::byte>& image) {
    for (const torchfile::Record& record : directory_of(image).records) {
        if (record.name.ends_with(field.record)) return record.*field.offset;
    }
    ADD_FAILURE() << "there is no record " << field.record;
    return 0;
}

struct Written {
    FileEntry entry;
    std::vector<std::byte> bytes;
};

Written written_from(const std::vector<std::byte>& image) {
    FakeFileSystem disk;
    auto file = disk.create_file("/rank", image.size());
    EXPECT_TRUE(file.has_value()) << file.error().text();
    auto entry = write_image(**file, image, directory_of(image));
    EXPECT_TRUE(entry.has_value()) << entry.error().text();
    return {.entry = *std::move(entry), .bytes = disk.content("/rank")};
}

std::vector<Digest> digests_of(const std::vector<std::byte>& bytes) {
    std::vector<Digest> digests;
    for (std::uint64_t begin = 0; begin < bytes.size(); begin += kChunkBytes) {
        const std::uint64_t size = std::min<std::uint64_t>(kChunkBytes, bytes.size() - begin);
        digests.push_back(xxh3_128(std::span(bytes).subspan(begin, size)));
    }
    return digests;
}

// How many bytes of the field at `offset` lie before the first border; 4 if all do.
std::uint64_t before_the_border(std::uint64_t offset) {
    return std::min<std::uint64_t>(4, kChunkBytes - std::min(offset, kChunkBytes));
}

// What lies behind the tensor moves with its size, in the central directory in steps of 64 bytes;
// in between the length of the root folder's name moves it.
std::vector<Layout> layouts_around_the_border(const Field& field) {
    constexpr std::uint64_t kStep = 64;
    std::vector<Layout> layouts;
    for (std::uint64_t i = 0; i < kStep; ++i) {
        for (Layout layout : {Layout{.bytes = 65536 + i},
                              Layout{.bytes = 65536, .root = std::string(i + 1, 'r')}}) {
            // The place within a step is that of a large image too.
            if (offset_of(field, image_of(layout)) % kStep < kStep - 4) continue;
            layout.bytes += kChunkBytes - 65536 - 8192;
            layout.bytes += (kChunkBytes - offset_of(field, image_of(layout))) / kStep * kStep;
            layouts.push_back(layout);
        }
    }
    layouts.push_back({.bytes = 2 * kChunkBytes});  // all of it lies behind the border
    return layouts;
}

class CrcField : public testing::TestWithParam<Field> {};

TEST_P(CrcField, IsRightWhereverTheBorderOfTwoChunksCutsIt) {
    std::set<std::uint64_t> cuts;
    for (const Layout& layout : layouts_around_the_border(GetParam())) {
        const std::vector<std::byte> image = image_of(layout);
        const std::uint64_t offset = offset_of(GetParam(), image);
        if (!cuts.insert(before_the_border(offset)).second) continue;  // tried already
        std::vector<std::byte> expected = image;
        ASSERT_TRUE(torchfile::fill_crcs(expected));

        const Written written = written_from(image);

        SCOPED_TRACE(fmt::format("a tensor of {} bytes, its field at {}", layout.bytes, offset));
        EXPECT_TRUE(written.bytes == expected) << "the image differs from fill_crcs()'s";
        EXPECT_EQ(written.entry.bytes, image.size());
        EXPECT_EQ(written.entry.chunks, digests_of(expected));
    }

    EXPECT_THAT(cuts, ElementsAre(0, 1, 2, 3, 4)) << "not every place was tried";
}

INSTANTIATE_TEST_SUITE_P(
    ImageWriter, CrcField,
    testing::Values(Field{"/data/0", &torchfile::Record::descriptor_crc_offset},
                    Field{"/version", &torchfile::Record::central_crc_offset}),
    [](const auto& param) { return param.index == 0 ? "OfADescriptor" : "OfTheDirectory"; });

TEST(ImageWriter, AnImageHasAChunkForEach4MiBBegunAndNoEmptyOne) {
    struct Case {
        std::uint64_t bytes;
        std::size_t chunks;
    };
    for (const Case& one : {Case{1, 1}, Case{kChunkBytes - 1, 1}, Case{kChunkBytes, 1},
                            Case{kChunkBytes + 1, 2}, Case{2 * kChunkBytes, 2}}) {
        FakeFileSystem disk;
        const std::vector<std::byte> image(one.bytes, std::byte{7});
        const auto file = disk.create_file("/rank", image.size());

        const auto entry = write_image(**file, image, torchfile::Directory{});

        ASSERT_TRUE(entry.has_value()) << entry.error().text();
        EXPECT_EQ(entry->chunks.size(), one.chunks) << one.bytes << " bytes";
        EXPECT_TRUE(disk.content("/rank") == image) << one.bytes << " bytes";
    }
}

TEST(ImageWriter, AWriteThatFailsIsReportedWhicheverItIs) {
    const std::vector<std::byte> image = image_of({.bytes = kChunkBytes + 1000});
    for (int write = 0; write < 2; ++write) {
        FakeFileSystem disk;
        const auto file = disk.create_file("/rank", image.size());
        disk.fail_at(disk.operations_done() + write, ENOSPC);

        const auto entry = write_image(**file, image, directory_of(image));

        ASSERT_FALSE(entry.has_value()) << "write " << write;
        EXPECT_EQ(entry.error().kind(), ErrorKind::kNoSpace);
    }
}

}  // namespace
}  // namespace pawl::checkpoint
