// See image_writer.h. A record's CRC is complete when the pass reaches its data descriptor, and all
// are complete when it reaches the central directory: so one pass is enough.
#include "checkpoint/image_writer.h"

#include "base/invariant.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

namespace pawl::checkpoint {
namespace {

// A CRC field of four bytes in the image, little-endian.
struct CrcField {
    std::uint64_t offset = 0;
    std::size_t record = 0;
};

std::vector<CrcField> fields_of(const torchfile::Directory& directory) {
    std::vector<CrcField> fields;
    for (std::size_t i = 0; i < directory.records.size(); ++i) {
        const torchfile::Record& record = directory.records[i];
        // Without a descriptor the local header states the CRC, before the data: it has to be right
        // already.
        if (record.descriptor_crc_offset == 0) continue;
        fields.push_back({record.descriptor_crc_offset, i});
        fields.push_back({record.central_crc_offset, i});
    }
    std::ranges::sort(fields, {}, &CrcField::offset);
    return fields;
}

class CrcPass {
public:
    explicit CrcPass(const torchfile::Directory& directory)
        : directory_(directory),
          fields_(fields_of(directory)),
          crcs_(directory.records.size(), 0) {}

    // `chunk` holds the image's bytes from `begin` on. Chunks come in order.
    void apply(std::uint64_t begin, std::span<std::byte> chunk) {
        const std::uint64_t end = begin + chunk.size();
        add_data(begin, end, chunk);
        for (; next_field_ < fields_.size() && fields_[next_field_].offset < end; ++next_field_) {
            fill(fields_[next_field_], begin, chunk);
            // A field across the border of two chunks is filled in twice, a part each time.
            if (fields_[next_field_].offset + 4 > end) break;
        }
    }

    // After the last chunk: what stated a CRC before the data, where no pass comes back to, has it.
    [[nodiscard]] Result<void> check() const {
        for (std::size_t i = 0; i < crcs_.size(); ++i) {
            const torchfile::Record& record = directory_.records[i];
            RETURN_IF_ERROR(torchfile::check_crc_may_be_filled(record, crcs_[i]));
            if (record.descriptor_crc_offset != 0 || record.crc == crcs_[i]) continue;
            return make_error(ErrorKind::kCorrupt, "record '{}' has CRC {:08x} and states {:08x}",
                              record.name, crcs_[i], record.crc);
        }
        return {};
    }

private:
    void add_data(std::uint64_t begin, std::uint64_t end, std::span<const std::byte> chunk) {
        const auto& records = directory_.records;
        for (; next_record_ < records.size(); ++next_record_) {
            const torchfile::Extent& data = records[next_record_].data;
            const std::uint64_t from = std::max(begin, data.offset);
            const std::uint64_t to = std::min(end, data.offset + data.bytes);
            if (from < to) {
                crcs_[next_record_] =
                    crc32(chunk.subspan(from - begin, to - from), crcs_[next_record_]);
            }
            if (data.offset + data.bytes > end)
                break;  // goes on in the next chunk, or begins there
        }
    }

    void fill(const CrcField& field, std::uint64_t begin, std::span<std::byte> chunk) {
        for (std::uint64_t i = 0; i < 4; ++i) {
            const std::uint64_t at = field.offset + i;
            if (at < begin || at >= begin + chunk.size()) continue;
            chunk[at - begin] = static_cast<std::byte>(crcs_[field.record] >> (8 * i));
        }
    }

    const torchfile::Directory& directory_;
    std::vector<CrcField> fields_;
    std::vector<std::uint32_t> crcs_;
    std::size_t next_record_ = 0;
    std::size_t next_field_ = 0;
};

}  // namespace

Result<FileEntry> write_image(WritableFile& file, std::span<const std::byte> image,
                              const torchfile::Directory& directory) {
    FileEntry entry{.bytes = image.size(), .chunk_bytes = kChunkBytes};
    CrcPass crcs(directory);
    std::vector<std::byte> chunk(std::min<std::uint64_t>(kChunkBytes, image.size()));
    for (std::uint64_t begin = 0; begin < image.size(); begin += kChunkBytes) {
        const std::size_t bytes = std::min<std::uint64_t>(kChunkBytes, image.size() - begin);
        const std::span<std::byte> copy = std::span(chunk).first(bytes);
        std::memcpy(copy.data(), image.data() + begin, bytes);
        crcs.apply(begin, copy);
        entry.chunks.push_back(xxh3_128(copy));
        RETURN_IF_ERROR(file.write_at(begin, copy));
    }
    RETURN_IF_ERROR(crcs.check());
    return entry;
}

}  // namespace pawl::checkpoint
