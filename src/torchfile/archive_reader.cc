// The image's records, their checksums, and the Document they hold.
// How the zip directory is parsed: archive_directory.cc.
#include "base/checksum.h"
#include "torchfile/archive.h"
#include "torchfile/pickle.h"
#include "torchfile/text.h"
#include "torchfile/zip_format.h"

#include <algorithm>
#include <string_view>
#include <unordered_map>

namespace pawl::torchfile {
namespace {

constexpr std::size_t kReadBytes = std::size_t{1} << 20;

using RecordOfName = std::unordered_map<std::string_view, const Record*>;

RecordOfName record_of_name(const Directory& directory) {
    RecordOfName records;
    for (const Record& record : directory.records)
        records.emplace(record.name, &record);
    return records;
}

Result<std::vector<std::byte>> content_of(const ByteSource& source, const Record& record) {
    std::vector<std::byte> content(record.data.bytes);  // within the file: checked by the directory
    RETURN_IF_ERROR(source.read_at(record.data.offset, content));
    return content;
}

Result<std::uint32_t> crc_of(const ByteSource& source, const Extent& extent,
                             std::vector<std::byte>& buffer) {
    std::uint32_t crc = 0;
    std::uint64_t done = 0;
    while (done < extent.bytes) {
        const std::uint64_t bytes = std::min<std::uint64_t>(extent.bytes - done, buffer.size());
        const auto piece = std::span(buffer).first(bytes);
        RETURN_IF_ERROR(source.read_at(extent.offset + done, piece));
        crc = crc32(piece, crc);
        done += bytes;
    }
    return crc;
}

// Files of before 2.1 have no such record and were written on little-endian machines but for a few.
Result<void> check_byte_order(const ByteSource& source, const Directory& directory,
                              const RecordOfName& records) {
    constexpr std::string_view kLittle = "little";
    const auto found = records.find(directory.root + "/byteorder");
    if (found == records.end()) return {};
    const Record& record = *found->second;
    const bool is_short = record.data.bytes == kLittle.size();
    std::vector<std::byte> content;
    if (is_short) {
        auto read = content_of(source, record);
        if (!read) return std::move(read).error();
        content = std::move(*read);
    }
    const auto little = std::as_bytes(std::span(kLittle));
    if (is_short && std::equal(content.begin(), content.end(), little.begin())) return {};
    return make_error(ErrorKind::kUnsupported,
                      "record '{}' does not say 'little', the only supported byte order",
                      record.name);
}

Result<std::vector<Extent>> extents_of(const Document& document, const Directory& directory,
                                       const RecordOfName& records) {
    std::vector<Extent> extents;
    extents.reserve(document.storages.size());
    for (const Storage& storage : document.storages) {
        const auto found = records.find(fmt::format("{}/data/{}", directory.root, storage.key));
        if (found == records.end()) {
            return make_error(ErrorKind::kCorrupt, "record '{}/data/{}' is missing", directory.root,
                              printable(storage.key));
        }
        const Record& record = *found->second;
        if (record.data.bytes != storage.bytes()) {
            return make_error(ErrorKind::kCorrupt,
                              "record '{}' has {} bytes, but data.pkl describes {} {} elements",
                              record.name, record.data.bytes, storage.elements,
                              name_of(storage.dtype));
        }
        extents.push_back(record.data);
    }
    return extents;
}

}  // namespace

Result<std::optional<std::size_t>> first_damaged_record(const ByteSource& source,
                                                        const Directory& directory) {
    std::vector<std::byte> buffer(kReadBytes);
    for (std::size_t index = 0; index < directory.records.size(); ++index) {
        const Record& record = directory.records[index];
        auto crc = crc_of(source, record.data, buffer);
        if (!crc) return std::move(crc).error().while_doing("verify record '{}'", record.name);
        if (*crc != record.crc) return std::optional<std::size_t>(index);
    }
    return std::optional<std::size_t>();
}

// Order within a record: descriptor, then directory. Whoever dies in between leaves an image that
// read_directory() accepts, and this function completes.
Result<void> fill_crcs(std::span<std::byte> image) {
    auto directory = read_directory(MemorySource(image));
    if (!directory) return std::move(directory).error();
    std::vector<std::uint32_t> crcs;
    crcs.reserve(directory->records.size());
    for (const Record& record : directory->records) {
        if (record.descriptor_crc_offset == 0) {
            return make_error(ErrorKind::kUnsupported,
                              "record '{}' has no data descriptor to put its CRC into",
                              record.name);
        }
        crcs.push_back(crc32(image.subspan(record.data.offset, record.data.bytes)));
        RETURN_IF_ERROR(check_crc_may_be_filled(record, crcs.back()));
    }
    for (std::size_t i = 0; i < crcs.size(); ++i) {
        zip::store32(image, directory->records[i].descriptor_crc_offset, crcs[i]);
        zip::store32(image, directory->records[i].central_crc_offset, crcs[i]);
    }
    return {};
}

Result<Archive> read_archive(const ByteSource& source) {
    auto directory = read_directory(source);
    if (!directory) return std::move(directory).error();
    const RecordOfName records = record_of_name(*directory);
    RETURN_IF_ERROR(check_byte_order(source, *directory, records));

    const auto pickle_record = records.find(directory->root + "/data.pkl");
    if (pickle_record == records.end()) {
        return make_error(ErrorKind::kCorrupt, "record '{}/data.pkl' is missing", directory->root);
    }
    if (pickle_record->second->data.bytes > kPickleBytesMax) {
        return make_error(ErrorKind::kUnsupported, "record '{}' has {} bytes; {} is the limit",
                          pickle_record->second->name, pickle_record->second->data.bytes,
                          kPickleBytesMax);
    }
    auto pickle = content_of(source, *pickle_record->second);
    if (!pickle) return std::move(pickle).error();
    auto document = read_pickle(*pickle);
    if (!document) {
        return std::move(document).error().while_doing("read record '{}'",
                                                       pickle_record->second->name);
    }
    auto extents = extents_of(*document, *directory, records);
    if (!extents) return std::move(extents).error();
    return Archive{.document = std::move(*document), .storages = std::move(*extents)};
}

}  // namespace pawl::torchfile
