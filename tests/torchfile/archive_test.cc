// File images: how they are laid out, parsed and checked, whole and damaged.
#include "torchfile/archive.h"

#include "base/checksum.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace pawl::torchfile {
namespace {

using testing::HasSubstr;

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

Document document_of(std::vector<std::uint64_t> elements_of_storages) {
    Document document;
    List tensors;
    for (std::size_t index = 0; index < elements_of_storages.size(); ++index) {
        const std::uint64_t elements = elements_of_storages[index];
        document.storages.push_back({.key = std::to_string(index), .elements = elements});
        tensors.items.emplace_back(Tensor{
            .storage = index, .shape = {static_cast<std::int64_t>(elements)}, .stride = {1}});
    }
    document.root = std::move(tensors);
    return document;
}

// The image with storages full of 0x01, 0x02, ...; CRCs are zero.
std::vector<std::byte> image_of(const Document& document, std::string_view root = "archive") {
    const ImagePlan plan = plan_image(document, root).value();
    std::vector<std::byte> image(plan.bytes, std::byte{0xee});
    lay_out(plan, image);
    for (std::size_t index = 0; index < plan.storages.size(); ++index) {
        const auto bytes =
            std::span(image).subspan(plan.storages[index].offset, plan.storages[index].bytes);
        std::fill(bytes.begin(), bytes.end(), static_cast<std::byte>(index + 1));
    }
    return image;
}

std::vector<std::byte> complete_image_of(const Document& document) {
    auto image = image_of(document);
    EXPECT_TRUE(fill_crcs(image));
    return image;
}

// An image whose storages are zeros that nobody has to store.
class SparseImage final : public ByteSource {
public:
    explicit SparseImage(ImagePlan plan) : plan_(std::move(plan)) {}

    [[nodiscard]] std::uint64_t size() const override { return plan_.bytes; }
    Result<void> read_at(std::uint64_t offset, std::span<std::byte> target) const override {
        if (offset > plan_.bytes || target.size() > plan_.bytes - offset) {
            return make_error(ErrorKind::kCorrupt, "read beyond the end");
        }
        std::fill(target.begin(), target.end(), std::byte{0});
        for (const ImagePlan::Piece& piece : plan_.pieces) {
            const std::uint64_t begin = std::max(offset, piece.offset);
            const std::uint64_t end =
                std::min(offset + target.size(), piece.offset + piece.bytes.size());
            for (std::uint64_t at = begin; at < end; ++at)
                target[at - offset] = piece.bytes[at - piece.offset];
        }
        return {};
    }

private:
    ImagePlan plan_;
};

void patch(std::vector<std::byte>& image, std::size_t at, std::string_view bytes) {
    for (std::size_t index = 0; index < bytes.size(); ++index) {
        image[at + index] = static_cast<std::byte>(bytes[index]);
    }
}

std::size_t last_place_of(const std::vector<std::byte>& image, std::string_view text) {
    const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
    const auto found = std::find_end(image.begin(), image.end(), bytes.begin(), bytes.end());
    return static_cast<std::size_t>(found - image.begin());
}

TEST(ImagePlan, CoversEveryByteOnceByPiecesAndStorages) {
    const ImagePlan plan = plan_image(document_of({3, 0, 20000, 1}), "archive").value();

    std::vector<Extent> extents = plan.storages;
    for (const auto& piece : plan.pieces)
        extents.push_back({piece.offset, piece.bytes.size()});
    // A storage without bytes stands in the middle of a piece.
    std::erase_if(extents, [](const Extent& extent) { return extent.bytes == 0; });
    std::sort(extents.begin(), extents.end(),
              [](const Extent& left, const Extent& right) { return left.offset < right.offset; });

    std::uint64_t covered = 0;
    for (const Extent& extent : extents) {
        EXPECT_EQ(extent.offset, covered);
        covered = extent.offset + extent.bytes;
    }
    EXPECT_EQ(covered, plan.bytes);
}

TEST(ImagePlan, AlignsSmallRecordsTo64BytesAndLargeOnesToPages) {
    const ImagePlan plan = plan_image(document_of({3, 16383, 16384, 100000}), "archive").value();

    EXPECT_EQ(plan.storages[0].offset % 64, 0U);
    EXPECT_EQ(plan.storages[1].offset % 64, 0U);
    EXPECT_EQ(plan.storages[2].offset % 4096, 0U);
    EXPECT_EQ(plan.storages[3].offset % 4096, 0U);
}

TEST(ImagePlan, HoldsTheRecordsThatTorchLoadLooksForInTheirOrder) {
    const auto image = image_of(document_of({3, 2}), "run 7");

    const auto directory = read_directory(MemorySource(image));

    ASSERT_TRUE(directory) << directory.error().text();
    std::vector<std::string> names;
    for (const Record& record : directory->records)
        names.push_back(record.name);
    EXPECT_THAT(names, testing::ElementsAre("run 7/data.pkl", "run 7/byteorder", "run 7/data/0",
                                            "run 7/data/1", "run 7/version"));
    EXPECT_EQ(directory->root, "run 7");
}

TEST(ImagePlan, RefusesNamesThatCannotBeRecords) {
    for (const std::string_view root : {"", "a/b", ".", "..", "a\nb", "a\\b", "\xff"}) {
        EXPECT_FALSE(plan_image(document_of({1}), root)) << root;
    }
    for (const std::string_view key : {"", "../0", "a/b"}) {
        Document document = document_of({1});
        document.storages[0].key = key;

        EXPECT_FALSE(plan_image(document, "archive")) << key;
    }
}

TEST(ImagePlan, RefusesTwoStoragesWithOneKey) {
    Document document = document_of({1, 1});
    document.storages[1].key = "0";

    const auto plan = plan_image(document, "archive");

    ASSERT_FALSE(plan);
    EXPECT_THAT(plan.error().text(), HasSubstr("two storages have the key '0'"));
}

TEST(ImagePlan, RefusesSizesThatOverflow) {
    Document document = document_of({1});
    document.storages[0].elements = std::uint64_t{1} << 62;

    EXPECT_FALSE(plan_image(document, "archive"));
}

TEST(ImagePlan, LaysOutRecordsBeyondFourGibibytes) {
    const Document document = document_of({5 * kGiB / 4, kGiB - 1, kGiB, 1});
    const ImagePlan plan = plan_image(document, "archive").value();
    const SparseImage image(plan);

    const auto archive = read_archive(image);

    ASSERT_TRUE(archive) << archive.error().text();
    EXPECT_EQ(archive->document, document);
    EXPECT_EQ(archive->storages, plan.storages);
}

TEST(Archive, ReadsBackTheDocumentAndThePlacesOfItsStorages) {
    const Document document = document_of({3, 0, 20000});
    const auto image = image_of(document);

    const auto archive = read_archive(MemorySource(image));

    ASSERT_TRUE(archive) << archive.error().text();
    EXPECT_EQ(archive->document, document);
    EXPECT_EQ(archive->storages, plan_image(document, "archive").value().storages);
}

TEST(Crcs, AreCorrectOnceFilledIn) {
    const auto image = complete_image_of(document_of({3, 0, 20000}));
    const auto directory = read_directory(MemorySource(image)).value();

    for (const Record& record : directory.records) {
        EXPECT_EQ(record.crc,
                  crc32(std::span(image).subspan(record.data.offset, record.data.bytes)));
    }
    EXPECT_EQ(first_damaged_record(MemorySource(image), directory).value(), std::nullopt);
}

TEST(Crcs, NameTheRecordInWhichABitFlipped) {
    auto image = complete_image_of(document_of({3, 600000}));
    const auto directory = read_directory(MemorySource(image)).value();
    image[directory.records[3].data.offset + 2000000] ^= std::byte{4};

    const auto damaged = first_damaged_record(MemorySource(image), directory);

    ASSERT_TRUE(damaged) << damaged.error().text();
    ASSERT_TRUE(damaged->has_value());
    EXPECT_EQ(directory.records[**damaged].name, "archive/data/1");
}

TEST(Crcs, MayBeFilledInAgainAfterADeathHalfWay) {
    const auto complete = complete_image_of(document_of({3, 5}));
    const auto directory = read_directory(MemorySource(complete)).value();
    auto image = complete;
    const Record& record = directory.records[2];
    patch(image, record.central_crc_offset, std::string(4, '\0'));

    const auto filled = fill_crcs(image);

    ASSERT_TRUE(filled) << filled.error().text();
    EXPECT_EQ(image, complete);
}

struct Damage {
    std::string_view what;
    std::string_view place;  // its last occurrence in the image
    std::size_t at;          // from there
    std::string_view bytes;
    std::string_view message;
};

TEST(Directory, RefusesContradictionsAndNamesTheRecord) {
    using namespace std::string_view_literals;
    const Damage rows[] = {
        {"a compressed record", "PK\x01\x02", 10, "\x08", "'archive/version' is compressed"},
        {"an encrypted record", "PK\x01\x02", 8, "\x09", "encrypted?"},
        {"another name", "archive/version", 8, "V", "contradicts the directory"},
        {"a name outside the folder", "archive/version", 7, "_", "no name of a record"},
        {"another folder", "archive/version", 0, "A", "contradicts the directory"},
        {"a wrong size", "archive/version", 19, "\x03", "two sizes"},
        {"an offset beyond the end", "archive/version", 35, "\xff\xff\xff\xff\xff\xff\xff\x7f",
         "beyond the directory"},
        {"a missing zip64 field", "archive/version", 15, "\x02", "lacks a value"},
        {"an extra field beyond its end", "archive/version", 17, "\x19", "cut short"},
        {"more entries than fit", "PK\x06\x06", 24, "\xff\0\0\0\0\0\0\0\xff"sv,
         "cannot have 255 entries"},
        {"an entry too few", "PK\x06\x06", 24, "\x03\0\0\0\0\0\0\0\x03"sv,
         "follow the last directory entry"},
        {"a directory that ends elsewhere", "PK\x06\x06", 40, "\x01", "does not end at"},
        {"a locator to nowhere", "PK\x06\x07", 8, "\xff\xff\xff\xff\xff\xff\xff\xff", "points to"},
        {"no local header", "PK\x03\x04", 0, "p", "its header is not there"},
        {"no descriptor", "PK\x07\x08", 0, "p", "descriptor contradicts"},
    };
    for (const Damage& row : rows) {
        auto image = complete_image_of(document_of({3}));
        patch(image, last_place_of(image, row.place) + row.at, row.bytes);

        const auto directory = read_directory(MemorySource(image));

        ASSERT_FALSE(directory) << row.what;
        EXPECT_EQ(directory.error().kind(), ErrorKind::kCorrupt) << row.what;
        EXPECT_THAT(directory.error().text(), HasSubstr(std::string(row.message))) << row.what;
    }
}

TEST(Directory, RefusesTwoEntriesForOneRecord) {
    auto image = complete_image_of(document_of({3, 3}));
    const std::size_t first = last_place_of(image, "archive/data/0");
    const std::size_t second = last_place_of(image, "archive/data/1");
    std::copy_n(image.begin() + static_cast<std::ptrdiff_t>(first), 14 + 28,
                image.begin() + static_cast<std::ptrdiff_t>(second));

    const auto directory = read_directory(MemorySource(image));

    ASSERT_FALSE(directory);
    EXPECT_THAT(directory.error().text(), HasSubstr("overlap"));
}

TEST(Archive, HoldsAHundredThousandTensors) {
    const Document document = document_of(std::vector<std::uint64_t>(100000, 1));
    const auto image = complete_image_of(document);

    const auto archive = read_archive(MemorySource(image));

    ASSERT_TRUE(archive) << archive.error().text();
    EXPECT_EQ(archive->document, document);
    EXPECT_EQ(storage_paths(archive->document)[99999], "[99999]");
}

TEST(Archive, RefusesAStorageOfAnotherSizeThanItsRecord) {
    auto image = complete_image_of(document_of({100}));
    // The number of elements ends the persistent id: BININT1 100, TUPLE.
    const std::size_t at = last_place_of(image, "Kdt");
    ASSERT_LT(at, image.size());
    patch(image, at + 1, "e");

    const auto archive = read_archive(MemorySource(image));

    ASSERT_FALSE(archive);
    EXPECT_THAT(archive.error().text(), HasSubstr("record 'archive/data/0' has 400 bytes"));
}

TEST(Archive, RefusesAnotherByteOrder) {
    auto image = complete_image_of(document_of({1}));
    patch(image, last_place_of(image, "little"), "liTtle");

    const auto archive = read_archive(MemorySource(image));

    ASSERT_FALSE(archive);
    EXPECT_EQ(archive.error().kind(), ErrorKind::kUnsupported);
}

TEST(Archive, IsRefusedWhenItIsCutAnywhere) {
    const auto image = complete_image_of(document_of({3, 5}));
    for (std::size_t length = 0; length < image.size(); ++length) {
        const auto cut = std::span(image).first(length);

        EXPECT_FALSE(read_archive(MemorySource(cut))) << length;
    }
}

TEST(Archive, IsRefusedOrWholeWhateverSingleByteChanges) {
    const auto image = complete_image_of(document_of({3, 5}));
    const Extent data = read_archive(MemorySource(image)).value().storages.back();
    for (std::size_t at = 0; at < image.size(); ++at) {
        for (const unsigned flip : {0x01U, 0x80U, 0xffU}) {
            auto changed = image;
            changed[at] ^= static_cast<std::byte>(flip);
            const MemorySource source(changed);

            const auto archive = read_archive(source);
            const auto directory = read_directory(source);

            if (!directory) continue;
            const auto damaged = first_damaged_record(source, *directory);
            ASSERT_TRUE(damaged) << damaged.error().text();
            const bool is_in_data = at >= data.offset && at < data.offset + data.bytes;
            EXPECT_TRUE(damaged->has_value() || !is_in_data) << at;
            if (!damaged->has_value() && archive) {
                EXPECT_EQ(archive->storages.back(), data) << at;
            }
        }
    }
}

}  // namespace
}  // namespace pawl::torchfile
