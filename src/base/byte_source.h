// ByteSource: random access to bytes that do not change while they are read.
#pragma once

#include "base/result.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace pawl {

// A file, an arena or a buffer. Reads may be made from any thread.
class ByteSource {
public:
    virtual ~ByteSource() = default;
    [[nodiscard]] virtual std::uint64_t size() const = 0;
    // Fills the whole target or fails; a range beyond size() is an error (kCorrupt), not a short
    // read.
    virtual Result<void> read_at(std::uint64_t offset, std::span<std::byte> target) const = 0;
};

// Borrows memory that outlives it.
class MemorySource final : public ByteSource {
public:
    explicit MemorySource(std::span<const std::byte> bytes) : bytes_(bytes) {}

    [[nodiscard]] std::uint64_t size() const override { return bytes_.size(); }
    Result<void> read_at(std::uint64_t offset, std::span<std::byte> target) const override {
        if (offset > bytes_.size() || target.size() > bytes_.size() - offset) {
            return make_error(ErrorKind::kCorrupt,
                              "{} bytes at offset {} lie beyond the end ({} bytes)", target.size(),
                              offset, bytes_.size());
        }
        if (!target.empty()) std::memcpy(target.data(), bytes_.data() + offset, target.size());
        return {};
    }

private:
    std::span<const std::byte> bytes_;
};

}  // namespace pawl
