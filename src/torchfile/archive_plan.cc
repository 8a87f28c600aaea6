// Plans the image of a torch.save file from a Document: where every storage goes, and all bytes
// around them. Pure. docs/formats.md, "A rank's file"; the zip structures are drawn in
// zip_format.h.
#include "base/invariant.h"
#include "torchfile/archive.h"
#include "torchfile/pickle.h"
#include "torchfile/text.h"
#include "torchfile/value_rules.h"
#include "torchfile/zip_format.h"

#include <cstring>
#include <unordered_set>

namespace pawl::torchfile {
namespace {

constexpr std::uint64_t kAlignment = 64;
// Records that are worth direct I/O and pages of their own.
constexpr std::uint64_t kPageAlignment = 4096;
constexpr std::uint64_t kPageAlignedFromBytes = 65536;
static_assert(kPageAlignment % kAlignment == 0);
static_assert(kPageAlignment + kAlignment < zip::kAllOnes16, "padding fits an extra field");

constexpr std::size_t kNameBytesMax = 200;  // of the root folder, and of a storage's key
constexpr std::uint64_t kImageBytesMax = std::uint64_t{1} << 60;

constexpr std::uint16_t kVersion = 45;               // of the zip specification: zip64
constexpr std::uint16_t kFirstOfJanuary1980 = 0x21;  // files of equal content are equal files
constexpr std::uint16_t kFlags = zip::kHasDescriptor | zip::kUtf8Names;
constexpr std::size_t kLocalZip64Bytes = zip::kExtraHeaderBytes + 16;
constexpr std::size_t kCentralZip64Bytes = zip::kExtraHeaderBytes + 24;

constexpr std::string_view kByteOrder = "little";
constexpr std::string_view kFormatVersion = "3\n";

bool is_large(std::uint64_t bytes) {
    return bytes >= zip::kAllOnes32;
}

// Appends records one after another. Bytes that are known go into pieces; room for storages is
// left out.
class Planner {
public:
    explicit Planner(std::string_view root) : root_(root) {}

    void add_content(std::string_view name, std::span<const std::byte> content) {
        begin_record(name, content.size());
        fields().bytes(content);
        position_ += content.size();
        end_record();
    }

    Extent add_storage(std::string_view name, std::uint64_t bytes) {
        begin_record(name, bytes);
        const Extent extent{.offset = position_, .bytes = bytes};
        position_ += bytes;
        if (bytes > 0) pieces_.push_back({.offset = position_, .bytes = {}});
        end_record();
        return extent;
    }

    ImagePlan finish(std::vector<Extent> storages) && {
        const std::uint64_t central_offset = position_;
        for (const Entry& entry : entries_)
            add_central_entry(entry);
        const std::uint64_t central_bytes = position_ - central_offset;
        add_end(central_offset, central_bytes);
        return {.bytes = position_, .storages = std::move(storages), .pieces = std::move(pieces_)};
    }

private:
    struct Entry {
        std::string name;
        std::uint64_t header_offset = 0;
        std::uint64_t bytes = 0;
    };

    void begin_record(std::string_view name, std::uint64_t bytes) {
        entries_.push_back({.name = fmt::format("{}/{}", root_, name),
                            .header_offset = position_,
                            .bytes = bytes});
        const Entry& entry = entries_.back();
        const std::size_t zip64_bytes = is_large(bytes) ? kLocalZip64Bytes : 0;
        const std::uint64_t unpadded =
            position_ + zip::kLocalBytes + entry.name.size() + zip64_bytes + zip::kExtraHeaderBytes;
        const std::uint64_t alignment =
            bytes >= kPageAlignedFromBytes ? kPageAlignment : kAlignment;
        const std::uint64_t padding = (alignment - unpadded % alignment) % alignment;
        const std::size_t extra_bytes = zip64_bytes + zip::kExtraHeaderBytes + padding;

        // Flag bit 3 puts the truth into the descriptor. A zip64 extra field says, besides, that
        // the descriptor's sizes have 8 bytes each; readers that stream depend on that.
        const std::uint32_t size_here = is_large(bytes) ? zip::kAllOnes32 : 0;
        fields().u32(zip::kLocalSignature).u16(kVersion).u16(kFlags).u16(0);
        fields().u16(0).u16(kFirstOfJanuary1980).u32(0).u32(size_here).u32(size_here);
        fields().u16(static_cast<std::uint16_t>(entry.name.size()));
        fields().u16(static_cast<std::uint16_t>(extra_bytes)).text(entry.name);
        if (is_large(bytes)) fields().u16(zip::kZip64ExtraId).u16(16).u64(bytes).u64(bytes);
        fields().u16(zip::kPaddingExtraId).u16(static_cast<std::uint16_t>(padding)).zeros(padding);
        position_ = unpadded + padding;
    }

    void end_record() {
        const std::uint64_t bytes = entries_.back().bytes;
        fields().u32(zip::kDescriptorSignature).u32(0);
        if (is_large(bytes)) {
            fields().u64(bytes).u64(bytes);
            position_ += zip::kDescriptor64Bytes;
        } else {
            const auto short_bytes = static_cast<std::uint32_t>(bytes);
            fields().u32(short_bytes).u32(short_bytes);
            position_ += zip::kDescriptorBytes;
        }
    }

    void add_central_entry(const Entry& entry) {
        fields().u32(zip::kCentralSignature).u16(kVersion).u16(kVersion).u16(kFlags).u16(0);
        fields().u16(0).u16(kFirstOfJanuary1980).u32(0).u32(zip::kAllOnes32).u32(zip::kAllOnes32);
        fields().u16(static_cast<std::uint16_t>(entry.name.size())).u16(kCentralZip64Bytes);
        fields().u16(0).u16(0).u16(0).u32(0).u32(zip::kAllOnes32).text(entry.name);
        fields().u16(zip::kZip64ExtraId).u16(kCentralZip64Bytes - zip::kExtraHeaderBytes);
        fields().u64(entry.bytes).u64(entry.bytes).u64(entry.header_offset);
        position_ += zip::kCentralBytes + entry.name.size() + kCentralZip64Bytes;
    }

    void add_end(std::uint64_t central_offset, std::uint64_t central_bytes) {
        const std::uint64_t end64_offset = position_;
        fields().u32(zip::kEnd64Signature).u64(zip::kEnd64Bytes - 12).u16(kVersion).u16(kVersion);
        fields().u32(0).u32(0).u64(entries_.size()).u64(entries_.size());
        fields().u64(central_bytes).u64(central_offset);
        fields().u32(zip::kLocatorSignature).u32(0).u64(end64_offset).u32(1);
        fields().u32(zip::kEndSignature).u16(0).u16(0).u16(zip::kAllOnes16).u16(zip::kAllOnes16);
        fields().u32(zip::kAllOnes32).u32(zip::kAllOnes32).u16(0);
        position_ += zip::kEnd64Bytes + zip::kLocatorBytes + zip::kEndBytes;
    }

    [[nodiscard]] zip::Fields fields() { return zip::Fields(pieces_.back().bytes); }

    std::string root_;
    std::uint64_t position_ = 0;
    std::vector<Entry> entries_;
    std::vector<ImagePlan::Piece> pieces_{ImagePlan::Piece{}};
};

// What may stand between two slashes of a record's name.
Result<void> check_name(std::string_view name, std::string_view what) {
    const bool is_plain = !name.empty() && name.size() <= kNameBytesMax && name != "." &&
                          name != ".." && is_valid_utf8(name);
    bool is_safe = is_plain;
    for (const char character : name) {
        is_safe = is_safe && static_cast<unsigned char>(character) >= ' ' && character != '/' &&
                  character != '\\' && character != '\x7f';
    }
    if (is_safe) return {};
    return make_error(ErrorKind::kInvalidArgument, "'{}' cannot be {} of a torch.save file",
                      printable(name), what);
}

struct StorageRecord {
    std::string key;
    std::uint64_t bytes = 0;
};

ImagePlan plan_records(std::string_view root, std::span<const std::byte> pickle,
                       const std::vector<StorageRecord>& records,
                       std::span<const OtherRecord> others = {}) {
    Planner planner(root);
    planner.add_content("data.pkl", pickle);
    planner.add_content("byteorder", std::as_bytes(std::span(kByteOrder)));
    for (const OtherRecord& other : others)
        planner.add_content(other.name, std::as_bytes(std::span(other.content)));
    std::vector<Extent> storages;
    storages.reserve(records.size());
    for (const StorageRecord& record : records)
        storages.push_back(planner.add_storage("data/" + record.key, record.bytes));
    planner.add_content("version", std::as_bytes(std::span(kFormatVersion)));
    return std::move(planner).finish(std::move(storages));
}

Result<void> check_storages(const std::vector<Storage>& storages) {
    std::unordered_set<std::string_view> keys;
    std::uint64_t bytes_left = kImageBytesMax;
    for (const Storage& storage : storages) {
        RETURN_IF_ERROR(check_name(storage.key, "the key of a storage"));
        if (!keys.insert(storage.key).second) {
            return make_error(ErrorKind::kInvalidArgument, "two storages have the key '{}'",
                              storage.key);
        }
        if (storage.elements > kStorageElementsMax || storage.bytes() > bytes_left) {
            return make_error(ErrorKind::kInvalidArgument,
                              "storage '{}' of {} elements makes the file larger than {} bytes",
                              storage.key, storage.elements, kImageBytesMax);
        }
        bytes_left -= storage.bytes();
    }
    return {};
}

}  // namespace

Result<ImagePlan> plan_image(const Document& document, std::string_view root) {
    RETURN_IF_ERROR(check_name(root, "the root folder"));
    RETURN_IF_ERROR(check_storages(document.storages));
    auto pickle = write_pickle(document);
    if (!pickle) return std::move(pickle).error();

    std::vector<StorageRecord> records;
    records.reserve(document.storages.size());
    for (const Storage& storage : document.storages)
        records.push_back({.key = storage.key, .bytes = storage.bytes()});
    return plan_records(root, *pickle, records);
}

Result<ImagePlan> plan_image(std::span<const std::byte> pickle,
                             std::span<const std::uint64_t> storage_bytes, std::string_view root,
                             std::span<const OtherRecord> others) {
    RETURN_IF_ERROR(check_name(root, "the root folder"));
    for (const OtherRecord& other : others) {
        RETURN_IF_ERROR(check_name(other.name, "the name of a record"));
        for (const std::string_view taken : {"data.pkl", "byteorder", "version"}) {
            if (other.name == taken) {
                return make_error(ErrorKind::kInvalidArgument,
                                  "'{}' is a record of torch.save's own", taken);
            }
        }
    }
    std::uint64_t bytes_left = kImageBytesMax;
    std::vector<StorageRecord> records;
    records.reserve(storage_bytes.size());
    for (const std::uint64_t bytes : storage_bytes) {
        if (bytes > bytes_left) {
            return make_error(ErrorKind::kInvalidArgument,
                              "storage '{}' of {} bytes makes the file larger than {} bytes",
                              records.size(), bytes, kImageBytesMax);
        }
        bytes_left -= bytes;
        records.push_back({.key = fmt::format("{}", records.size()), .bytes = bytes});
    }
    return plan_records(root, pickle, records, others);
}

void lay_out(const ImagePlan& plan, std::span<std::byte> image) {
    invariant(image.size() == plan.bytes, "an image has the size that was planned");
    for (const ImagePlan::Piece& piece : plan.pieces) {
        invariant(piece.offset <= image.size() && piece.bytes.size() <= image.size() - piece.offset,
                  "a piece lies within its image");
        if (piece.bytes.empty()) continue;
        std::memcpy(image.data() + piece.offset, piece.bytes.data(), piece.bytes.size());
    }
}

}  // namespace pawl::torchfile
