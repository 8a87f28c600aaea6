// The zip structures that archive_plan.cc writes and archive_reader.cc reads: APPNOTE 6.3.
// Private to torchfile. Everything is little-endian.
//
//   local header   signature 4  needed 2  flags 2  method 2  time 2  date 2  crc 4  packed 4  size
//   4
//                  name length 2  extra length 2  name  extra
//   data
//   descriptor     signature 4  crc 4  packed 4 or 8  size 4 or 8
//   central entry  signature 4  made by 2  needed 2  flags 2  method 2  time 2  date 2  crc 4
//                  packed 4  size 4  name length 2  extra length 2  comment length 2  disk 2
//                  internal 2  external 4  local header's offset 4  name  extra  comment
//   zip64 end      signature 4  bytes after this field 8  made by 2  needed 2  disk 4
//                  directory's disk 4  entries here 8  entries 8  directory's bytes 8  its offset 8
//   zip64 locator  signature 4  disk 4  zip64 end's offset 8  disks 4
//   end            signature 4  disk 2  directory's disk 2  entries here 2  entries 2
//                  directory's bytes 4  its offset 4  comment length 2  comment
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace pawl::torchfile::zip {

inline constexpr std::uint32_t kLocalSignature = 0x04034b50;
inline constexpr std::uint32_t kDescriptorSignature = 0x08074b50;
inline constexpr std::uint32_t kCentralSignature = 0x02014b50;
inline constexpr std::uint32_t kEnd64Signature = 0x06064b50;
inline constexpr std::uint32_t kLocatorSignature = 0x07064b50;
inline constexpr std::uint32_t kEndSignature = 0x06054b50;

inline constexpr std::size_t kLocalBytes = 30;
inline constexpr std::size_t kDescriptorBytes = 16;
inline constexpr std::size_t kDescriptor64Bytes = 24;
inline constexpr std::size_t kCentralBytes = 46;
inline constexpr std::size_t kEnd64Bytes = 56;
inline constexpr std::size_t kLocatorBytes = 20;
inline constexpr std::size_t kEndBytes = 22;
inline constexpr std::size_t kCommentBytesMax = 0xffff;

// Where the CRC stands in a descriptor and in a central entry.
inline constexpr std::size_t kDescriptorCrcAt = 4;
inline constexpr std::size_t kCentralCrcAt = 16;

inline constexpr std::uint16_t kHasDescriptor = 1U << 3;
inline constexpr std::uint16_t kUtf8Names = 1U << 11;

inline constexpr std::uint16_t kZip64ExtraId = 0x0001;
inline constexpr std::uint16_t kPaddingExtraId = 0x4246;  // "FB", as torch.save writes it
inline constexpr std::size_t kExtraHeaderBytes = 4;       // id 2, length 2

// A field that holds this says: look into the zip64 extra field, or the zip64 end record.
inline constexpr std::uint32_t kAllOnes32 = 0xffffffff;
inline constexpr std::uint16_t kAllOnes16 = 0xffff;

// The caller has checked that `at + bytes` lies within.
[[nodiscard]] inline std::uint64_t load(std::span<const std::byte> from, std::size_t at,
                                        std::size_t bytes) {
    std::uint64_t value = 0;
    for (std::size_t index = 0; index < bytes; ++index) {
        value |= std::to_integer<std::uint64_t>(from[at + index]) << (8 * index);
    }
    return value;
}
[[nodiscard]] inline std::uint16_t load16(std::span<const std::byte> from, std::size_t at) {
    return static_cast<std::uint16_t>(load(from, at, 2));
}
[[nodiscard]] inline std::uint32_t load32(std::span<const std::byte> from, std::size_t at) {
    return static_cast<std::uint32_t>(load(from, at, 4));
}
[[nodiscard]] inline std::uint64_t load64(std::span<const std::byte> from, std::size_t at) {
    return load(from, at, 8);
}

inline void store32(std::span<std::byte> to, std::size_t at, std::uint32_t value) {
    for (std::size_t index = 0; index < 4; ++index) {
        to[at + index] = static_cast<std::byte>((value >> (8 * index)) & 0xff);
    }
}

// Appends fields one after another.
class Fields {
public:
    explicit Fields(std::vector<std::byte>& target) : target_(target) {}

    Fields& u16(std::uint16_t value) { return put(value, 2); }
    Fields& u32(std::uint32_t value) { return put(value, 4); }
    Fields& u64(std::uint64_t value) { return put(value, 8); }
    Fields& zeros(std::size_t bytes) {
        target_.resize(target_.size() + bytes);
        return *this;
    }
    Fields& bytes(std::span<const std::byte> bytes) {
        target_.insert(target_.end(), bytes.begin(), bytes.end());
        return *this;
    }
    Fields& text(std::string_view text) {
        return bytes(std::as_bytes(std::span(text.data(), text.size())));
    }

private:
    Fields& put(std::uint64_t value, std::size_t bytes) {
        for (std::size_t index = 0; index < bytes; ++index) {
            target_.push_back(static_cast<std::byte>((value >> (8 * index)) & 0xff));
        }
        return *this;
    }

    std::vector<std::byte>& target_;
};

}  // namespace pawl::torchfile::zip
