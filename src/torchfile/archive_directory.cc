// Parses the zip directory of a torch.save file. The bytes may be anybody's: every number is
// checked against the file's size before it is used, and nothing is allocated beyond that size.
#include "torchfile/archive.h"
#include "torchfile/other_formats.h"
#include "torchfile/text.h"
#include "torchfile/zip_format.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <unordered_set>

namespace pawl::torchfile {
namespace {

struct Central {
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
    std::uint64_t entries = 0;
};

// One entry of the central directory, with the zip64 values in place.
struct Entry {
    std::string name;
    std::uint16_t flags = 0;
    std::uint32_t crc = 0;
    std::uint64_t bytes = 0;
    std::uint64_t header_offset = 0;
    std::uint64_t crc_offset = 0;
    std::size_t entry_bytes = 0;  // of the entry itself
};

struct RecordAndEnd {
    Record record;
    std::uint64_t end = 0;  // of its data or, if it has one, its descriptor
};

template <class... Args>
Error damaged(fmt::format_string<Args...> format, Args&&... args) {
    return make_error(ErrorKind::kCorrupt, format, std::forward<Args>(args)...);
}

Result<std::vector<std::byte>> read(const ByteSource& source, const Extent& extent) {
    if (extent.offset > source.size() || extent.bytes > source.size() - extent.offset) {
        return damaged("{} bytes at offset {} lie beyond the file's end ({} bytes)", extent.bytes,
                       extent.offset, source.size());
    }
    std::vector<std::byte> bytes(extent.bytes);
    RETURN_IF_ERROR(source.read_at(extent.offset, bytes));
    return bytes;
}

// ---- where the central directory is ----

Result<Extent> find_end(const ByteSource& source) {
    if (source.size() < zip::kEndBytes) {
        return damaged("a file of {} bytes is no zip archive", source.size());
    }
    const std::uint64_t tail_bytes =
        std::min<std::uint64_t>(source.size(), zip::kEndBytes + zip::kCommentBytesMax);
    const std::uint64_t tail_offset = source.size() - tail_bytes;
    auto tail = read(source, {.offset = tail_offset, .bytes = tail_bytes});
    if (!tail) return std::move(tail).error();
    for (std::size_t at = tail->size() - zip::kEndBytes + 1; at-- > 0;) {
        const std::size_t comment_bytes = tail->size() - at - zip::kEndBytes;
        if (zip::load32(*tail, at) == zip::kEndSignature &&
            zip::load16(*tail, at + 20) == comment_bytes) {
            return Extent{.offset = tail_offset + at, .bytes = zip::kEndBytes};
        }
    }
    return damaged("it has no zip end record: it was cut short or is no torch.save file");
}

// The zip64 end record that the locator before `end` points to; nullopt without a locator.
Result<std::optional<Extent>> find_end64(const ByteSource& source, const Extent& end) {
    if (end.offset < zip::kLocatorBytes) return std::optional<Extent>();
    const std::uint64_t locator_offset = end.offset - zip::kLocatorBytes;
    auto locator = read(source, {.offset = locator_offset, .bytes = zip::kLocatorBytes});
    if (!locator) return std::move(locator).error();
    if (zip::load32(*locator, 0) != zip::kLocatorSignature) return std::optional<Extent>();
    if (zip::load32(*locator, 4) != 0 || zip::load32(*locator, 16) != 1) {
        return damaged("the zip64 locator at offset {} is of an archive in parts", locator_offset);
    }
    const std::uint64_t offset = zip::load64(*locator, 8);
    if (offset > locator_offset || locator_offset - offset < zip::kEnd64Bytes) {
        return damaged("the zip64 locator at offset {} points to offset {}", locator_offset,
                       offset);
    }
    return std::optional(Extent{.offset = offset, .bytes = locator_offset - offset});
}

Result<Central> read_end64(const ByteSource& source, const Extent& end64) {
    auto record = read(source, {.offset = end64.offset, .bytes = zip::kEnd64Bytes});
    if (!record) return std::move(record).error();
    const bool is_whole = zip::load32(*record, 0) == zip::kEnd64Signature &&
                          zip::load64(*record, 4) == end64.bytes - 12 &&
                          zip::load32(*record, 16) == 0 && zip::load32(*record, 20) == 0 &&
                          zip::load64(*record, 24) == zip::load64(*record, 32);
    if (!is_whole) return damaged("the zip64 end record at offset {} is damaged", end64.offset);
    return Central{.offset = zip::load64(*record, 48),
                   .bytes = zip::load64(*record, 40),
                   .entries = zip::load64(*record, 32)};
}

Result<Central> find_central(const ByteSource& source) {
    auto end = find_end(source);
    if (!end) return std::move(end).error();
    auto record = read(source, *end);
    if (!record) return std::move(record).error();
    const std::uint16_t entries = zip::load16(*record, 10);
    const std::uint32_t bytes = zip::load32(*record, 12);
    const std::uint32_t offset = zip::load32(*record, 16);
    if (zip::load32(*record, 4) != 0 || zip::load16(*record, 8) != entries) {
        return damaged("the end record at offset {} is of an archive in parts", end->offset);
    }

    auto end64 = find_end64(source, *end);
    if (!end64) return std::move(end64).error();
    Central central{.offset = offset, .bytes = bytes, .entries = entries};
    if (*end64) {
        auto central64 = read_end64(source, **end64);
        if (!central64) return central64;
        const bool agrees = (entries == zip::kAllOnes16 || entries == central64->entries) &&
                            (bytes == zip::kAllOnes32 || bytes == central64->bytes) &&
                            (offset == zip::kAllOnes32 || offset == central64->offset);
        if (!agrees) return damaged("the end record at offset {} contradicts zip64's", end->offset);
        central = *central64;
    }
    const std::uint64_t limit = *end64 ? (*end64)->offset : end->offset;
    if (central.offset > limit || central.bytes != limit - central.offset) {
        return damaged("the central directory ({} bytes at offset {}) does not end at offset {}",
                       central.bytes, central.offset, limit);
    }
    if (central.entries == 0 || central.entries > central.bytes / zip::kCentralBytes) {
        return damaged("a central directory of {} bytes cannot have {} entries", central.bytes,
                       central.entries);
    }
    return central;
}

// ---- entries of the central directory ----

// The body of the extra field with this id; nullopt if there is none.
Result<std::optional<std::span<const std::byte>>> find_extra(std::span<const std::byte> extra,
                                                             std::uint16_t id) {
    using Found = std::optional<std::span<const std::byte>>;
    while (!extra.empty()) {
        if (extra.size() < zip::kExtraHeaderBytes) return damaged("an extra field is cut short");
        const std::size_t bytes = zip::load16(extra, 2);
        if (bytes > extra.size() - zip::kExtraHeaderBytes) {
            return damaged("an extra field is cut short");
        }
        if (zip::load16(extra, 0) == id) return Found(extra.subspan(zip::kExtraHeaderBytes, bytes));
        extra = extra.subspan(zip::kExtraHeaderBytes + bytes);
    }
    return Found();
}

// Puts the zip64 extra field's values, in order, in place of those that are all ones.
Result<void> apply_zip64(std::span<const std::byte> extra, std::span<std::uint64_t* const> values) {
    auto found = find_extra(extra, zip::kZip64ExtraId);
    if (!found) return std::move(found).error();
    std::size_t at = 0;
    for (std::uint64_t* value : values) {
        if (*value != zip::kAllOnes32) continue;
        if (!*found || (*found)->size() - at < sizeof *value) {
            return damaged("a zip64 extra field lacks a value");
        }
        *value = zip::load64(**found, at);
        at += sizeof *value;
    }
    return {};
}

Result<void> check_storable(std::string_view name, std::uint16_t flags, std::uint16_t method) {
    // The root folder is named for the file, and may be anything that a file may be called.
    const std::size_t slash = name.find('/');
    bool is_clean = slash != std::string_view::npos && slash > 0 && is_valid_utf8(name);
    for (const char character : name.substr(is_clean ? slash : 0)) {
        is_clean = is_clean && static_cast<unsigned char>(character) >= ' ' && character != '\x7f';
    }
    if (!is_clean) return damaged("'{}' is no name of a record in a folder", printable(name));
    if (method != 0) return damaged("record '{}' is compressed", printable(name));
    if ((flags & ~(zip::kHasDescriptor | zip::kUtf8Names)) != 0) {
        return damaged("record '{}' has the flags {:#06x}: encrypted?", printable(name), flags);
    }
    return {};
}

// Parses the entry at the beginning of `bytes`; `offset` is its place in the file.
Result<Entry> parse_entry(std::span<const std::byte> bytes, std::uint64_t offset) {
    if (bytes.size() < zip::kCentralBytes || zip::load32(bytes, 0) != zip::kCentralSignature) {
        return damaged("there is no directory entry");
    }
    const std::size_t name_bytes = zip::load16(bytes, 28);
    const std::size_t extra_bytes = zip::load16(bytes, 30);
    const std::size_t entry_bytes =
        zip::kCentralBytes + name_bytes + extra_bytes + zip::load16(bytes, 32);
    if (entry_bytes > bytes.size()) return damaged("a directory entry is cut short");
    const auto name = bytes.subspan(zip::kCentralBytes, name_bytes);
    Entry entry{.name = std::string(reinterpret_cast<const char*>(name.data()), name.size()),
                .flags = zip::load16(bytes, 8),
                .crc = zip::load32(bytes, zip::kCentralCrcAt),
                .bytes = zip::load32(bytes, 24),
                .header_offset = zip::load32(bytes, 42),
                .crc_offset = offset + zip::kCentralCrcAt,
                .entry_bytes = entry_bytes};
    std::uint64_t packed_bytes = zip::load32(bytes, 20);
    RETURN_IF_ERROR(check_storable(entry.name, entry.flags, zip::load16(bytes, 10)));
    const std::array<std::uint64_t*, 3> values{&entry.bytes, &packed_bytes, &entry.header_offset};
    RETURN_IF_ERROR(
        apply_zip64(bytes.subspan(zip::kCentralBytes + name_bytes, extra_bytes), values));
    if (packed_bytes != entry.bytes) {
        return damaged("record '{}' has two sizes", escaped(entry.name));
    }
    if (zip::load16(bytes, 34) != 0) {
        return damaged("record '{}' is on another disk", escaped(entry.name));
    }
    return entry;
}

Result<std::vector<Entry>> read_entries(const ByteSource& source, const Central& central) {
    auto bytes = read(source, {.offset = central.offset, .bytes = central.bytes});
    if (!bytes) return std::move(bytes).error();
    RETURN_IF_ERROR(refuse_other_archives(*bytes));
    std::vector<Entry> entries;
    entries.reserve(central.entries);
    std::size_t at = 0;
    for (std::uint64_t index = 0; index < central.entries; ++index) {
        auto entry = parse_entry(std::span(*bytes).subspan(at), central.offset + at);
        if (!entry) {
            return std::move(entry).error().while_doing("read the zip directory at offset {}",
                                                        central.offset + at);
        }
        at += entry->entry_bytes;
        entries.push_back(std::move(*entry));
    }
    if (at != bytes->size()) {
        return damaged("{} bytes follow the last directory entry, at offset {}", bytes->size() - at,
                       central.offset + at);
    }
    return entries;
}

// ---- local headers and descriptors ----

// Whether a field of the local header may stand beside the directory's: with a descriptor the
// header was written before the value was known.
bool agrees(std::uint64_t local, std::uint64_t central, bool has_descriptor) {
    return local == central || (has_descriptor && (local == 0 || local == zip::kAllOnes32));
}

// A CRC of zero is one that has not been filled in yet.
bool crcs_agree(std::uint32_t left, std::uint32_t right) {
    return left == right || left == 0 || right == 0;
}

// The length of the descriptor at `offset`. Its sizes have 4 bytes or 8; writers disagree on what
// decides that (PyTorch's takes 8 also for small records that begin beyond 4 GiB), so the one that
// fits is taken.
Result<std::size_t> read_descriptor(const ByteSource& source, std::uint64_t offset,
                                    std::uint64_t limit, const Entry& entry) {
    const std::uint64_t bytes = std::min<std::uint64_t>(limit - offset, zip::kDescriptor64Bytes);
    auto descriptor = read(source, {.offset = offset, .bytes = bytes});
    if (!descriptor) return std::move(descriptor).error();
    const bool begins_well = bytes >= zip::kDescriptorBytes &&
                             zip::load32(*descriptor, 0) == zip::kDescriptorSignature &&
                             crcs_agree(zip::load32(*descriptor, zip::kDescriptorCrcAt), entry.crc);
    if (begins_well && bytes == zip::kDescriptor64Bytes &&
        zip::load64(*descriptor, 8) == entry.bytes && zip::load64(*descriptor, 16) == entry.bytes) {
        return zip::kDescriptor64Bytes;
    }
    if (begins_well && zip::load32(*descriptor, 8) == entry.bytes &&
        zip::load32(*descriptor, 12) == entry.bytes) {
        return zip::kDescriptorBytes;
    }
    return damaged("its data descriptor contradicts the directory");
}

struct LocalHeader {
    std::uint64_t bytes = 0;  // before the data
    std::uint32_t crc = 0;
};

Result<LocalHeader> read_local_header(const ByteSource& source, const Entry& entry,
                                      std::uint64_t limit) {
    if (entry.header_offset > limit || limit - entry.header_offset < zip::kLocalBytes) {
        return damaged("its header lies beyond the directory");
    }
    auto fixed = read(source, {.offset = entry.header_offset, .bytes = zip::kLocalBytes});
    if (!fixed) return std::move(fixed).error();
    if (zip::load32(*fixed, 0) != zip::kLocalSignature) return damaged("its header is not there");
    const std::size_t name_bytes = zip::load16(*fixed, 26);
    const std::uint64_t variable_bytes = name_bytes + zip::load16(*fixed, 28);
    const std::uint64_t header_bytes = zip::kLocalBytes + variable_bytes;
    if (header_bytes > limit - entry.header_offset) return damaged("its header is cut short");
    auto variable =
        read(source, {.offset = entry.header_offset + zip::kLocalBytes, .bytes = variable_bytes});
    if (!variable) return std::move(variable).error();

    std::uint64_t packed_bytes = zip::load32(*fixed, 18);
    std::uint64_t bytes = zip::load32(*fixed, 22);
    const bool has_descriptor = (entry.flags & zip::kHasDescriptor) != 0;
    const auto extra = std::span(*variable).subspan(name_bytes);
    if (!has_descriptor) {
        const std::array<std::uint64_t*, 2> values{&bytes, &packed_bytes};
        RETURN_IF_ERROR(apply_zip64(extra, values));
    } else if (auto found = find_extra(extra, zip::kZip64ExtraId); !found) {
        return std::move(found).error();
    }
    const std::string_view name(reinterpret_cast<const char*>(variable->data()), name_bytes);
    const bool is_consistent = name == entry.name && zip::load16(*fixed, 6) == entry.flags &&
                               zip::load16(*fixed, 8) == 0 &&
                               agrees(zip::load32(*fixed, 14), entry.crc, has_descriptor) &&
                               agrees(packed_bytes, entry.bytes, has_descriptor) &&
                               agrees(bytes, entry.bytes, has_descriptor);
    if (!is_consistent) return damaged("its header contradicts the directory");
    return LocalHeader{.bytes = header_bytes, .crc = zip::load32(*fixed, 14)};
}

Result<RecordAndEnd> read_record(const ByteSource& source, const Entry& entry,
                                 std::uint64_t limit) {
    auto header = read_local_header(source, entry, limit);
    if (!header) return std::move(header).error();
    const std::uint64_t data_offset = entry.header_offset + header->bytes;
    if (entry.bytes > limit - data_offset) return damaged("its data reach beyond the directory");
    const std::uint64_t data_end = data_offset + entry.bytes;
    Record record{.name = escaped(entry.name),
                  .data = {.offset = data_offset, .bytes = entry.bytes},
                  .crc = entry.crc,
                  .header_crc = header->crc,
                  .central_crc_offset = entry.crc_offset};
    std::uint64_t end = data_end;
    if ((entry.flags & zip::kHasDescriptor) != 0) {
        auto descriptor_bytes = read_descriptor(source, data_end, limit, entry);
        if (!descriptor_bytes) return std::move(descriptor_bytes).error();
        record.descriptor_crc_offset = data_end + zip::kDescriptorCrcAt;
        end += *descriptor_bytes;
    }
    return RecordAndEnd{.record = std::move(record), .end = end};
}

// ---- the directory as a whole ----

Result<void> check_names(const std::vector<Entry>& entries, std::string_view folder) {
    std::unordered_set<std::string_view> seen;
    for (const Entry& entry : entries) {
        if (!entry.name.starts_with(folder)) {
            return damaged("record '{}' is not in the folder '{}'", escaped(entry.name),
                           escaped(folder));
        }
        if (!seen.insert(entry.name).second) {
            return damaged("there are two records '{}'", escaped(entry.name));
        }
    }
    return {};
}

}  // namespace

Result<void> check_crc_may_be_filled(const Record& record, std::uint32_t crc) {
    if (agrees(record.header_crc, crc, record.descriptor_crc_offset != 0)) return {};
    return damaged("record '{}' has CRC {:08x} and states {:08x} in its header", record.name, crc,
                   record.header_crc);
}

Result<Directory> read_directory(const ByteSource& source) {
    RETURN_IF_ERROR(refuse_other_formats(source));
    auto central = find_central(source);
    if (!central) return std::move(central).error();
    auto entries = read_entries(source, *central);
    if (!entries) return std::move(entries).error();

    // In the file's order, each after the end of the one before: so no byte is read twice, however
    // hostile the directory is.
    std::sort(entries->begin(), entries->end(), [](const Entry& left, const Entry& right) {
        return left.header_offset < right.header_offset;
    });
    Directory directory{.records = {}, .root = {}, .central_offset = central->offset};
    directory.records.reserve(entries->size());
    std::uint64_t previous_end = 0;
    for (const Entry& entry : *entries) {
        if (entry.header_offset < previous_end) {
            return damaged("records '{}' and '{}' overlap at offset {}",
                           directory.records.back().name, escaped(entry.name), entry.header_offset);
        }
        auto record = read_record(source, entry, central->offset);
        if (!record) {
            return std::move(record).error().while_doing("read record '{}' at offset {}",
                                                         escaped(entry.name), entry.header_offset);
        }
        directory.records.push_back(std::move(record->record));
        previous_end = record->end;
    }
    const std::string& first = entries->front().name;
    const std::string folder = first.substr(0, first.find('/') + 1);
    RETURN_IF_ERROR(check_names(*entries, folder));
    directory.root = escaped(folder.substr(0, folder.size() - 1));
    return directory;
}

}  // namespace pawl::torchfile
