// A torch.save file as a file image: laid out in memory, parsed from memory or disk.
//
// The image is a stored zip64 archive with one root folder:
//   ROOT/data.pkl  ROOT/byteorder  ROOT/data/0 … ROOT/data/N  ROOT/version
// Storage records begin at multiples of 64 bytes, those of 64 KiB and more at multiples of 4096,
// padded by a local extra field 'FB'. Records carry flag bits 0x0808; their CRC-32 stands in a data
// descriptor after the data and in the central directory. docs/formats.md, "A rank's file".
//
// Laying out needs the sizes only. CRCs are zero until fill_crcs() or the checkpoint writer, which
// finds the places of all CRC fields in the parsed directory, has computed them.
#pragma once

#include "base/byte_source.h"
#include "base/result.h"
#include "torchfile/value.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pawl::torchfile {

struct Extent {
    std::uint64_t offset = 0;  // from the image's beginning
    std::uint64_t bytes = 0;

    friend bool operator==(const Extent&, const Extent&) = default;
};

// Everything about an image but the storages' bytes.
struct ImagePlan {
    std::uint64_t bytes = 0;       // of the whole image
    std::vector<Extent> storages;  // where each storage of the Document goes
    struct Piece {
        std::uint64_t offset = 0;
        std::vector<std::byte> bytes;
    };
    std::vector<Piece> pieces;  // headers, pickle, padding, descriptors, directory; in order
};

// `root` is the archive's root folder ("archive" if unsure); it may not hold '/' or be empty.
[[nodiscard]] Result<ImagePlan> plan_image(const Document& document, std::string_view root);

// The same around a data.pkl that somebody else has pickled (Python does): storage N, of
// `storage_bytes[N]` bytes, is the record data/N, which the pickle's persistent ids name.
// `others` are records besides those of torch.save, which its readers pass over.
struct OtherRecord {
    std::string name;  // under the root folder; may not hold '/'
    std::string content;
};
[[nodiscard]] Result<ImagePlan> plan_image(std::span<const std::byte> pickle,
                                           std::span<const std::uint64_t> storage_bytes,
                                           std::string_view root,
                                           std::span<const OtherRecord> others = {});

// Writes all pieces; together with the storages they cover every byte of the image.
// `image` has exactly plan.bytes bytes.
void lay_out(const ImagePlan& plan, std::span<std::byte> image);

// One record of the zip's central directory.
struct Record {
    std::string name;  // with the root folder: "archive/data/0"; control characters are escaped
    Extent data;
    std::uint32_t crc = 0;
    // In the local header, before the data. Not 0 or all ones: it stands whatever the others say.
    std::uint32_t header_crc = 0;
    std::uint64_t central_crc_offset = 0;  // of the 4-byte CRC in the central directory
    std::uint64_t descriptor_crc_offset =
        0;  // of the one in the data descriptor; 0 if there is none
};

// Records in order of their data's offset; they do not overlap and lie before the central
// directory.
struct Directory {
    std::vector<Record> records;
    std::string root;                  // "archive"; control characters are escaped
    std::uint64_t central_offset = 0;  // where the central directory begins
};

// Parses end record, zip64 end record, central directory and each record's local header. Any
// contradiction, overlap, compression, encryption or record outside the file is an error (kCorrupt)
// that names the offset and, where known, the record. Never allocates beyond the file's size.
// A file in another known format (torch.save's of before zip, TorchScript, safetensors, HDF5, …) is
// refused as kUnsupported with advice.
[[nodiscard]] Result<Directory> read_directory(const ByteSource& source);

// Whether each record's bytes have the CRC-32 that the directory says: the index of the first
// record that does not, or nullopt. Reads in pieces of 1 MiB.
[[nodiscard]] Result<std::optional<std::size_t>> first_damaged_record(const ByteSource& source,
                                                                      const Directory& directory);

// Whether a record whose bytes have this CRC may be given it in descriptor and directory: kCorrupt
// if its header, which is not written to, states another one.
Result<void> check_crc_may_be_filled(const Record& record, std::uint32_t crc);

// Computes every CRC and writes it into descriptor and directory. On an error nothing was written.
Result<void> fill_crcs(std::span<std::byte> image);

struct Archive {
    Document document;
    std::vector<Extent> storages;  // where each storage's bytes lie; same order as the document's
};

// Directory, data.pkl and the sizes of all storages, checked against each other. Reads no storage.
[[nodiscard]] Result<Archive> read_archive(const ByteSource& source);

}  // namespace pawl::torchfile
