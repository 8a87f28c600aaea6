// Shared memory: sealed memfds and their mappings.
//
// An arena is a memfd that the daemon makes, allocates in full (so that lack of memory is an error
// here and not SIGBUS in a trainer) and seals against shrinking and growing (so that a trainer
// can't make the daemon fault). It is nowhere in the file system, and is gone with its last holder.
#pragma once

#include "base/fd.h"
#include "base/result.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

namespace pawl::staging {

enum class Access { kReadOnly, kReadWrite };

// A shared mapping of a part of a descriptor, unmapped by its owner.
class Mapping {
public:
    Mapping() = default;
    [[nodiscard]] static Result<Mapping> of(int fd, std::uint64_t offset, std::uint64_t bytes,
                                            Access access);

    Mapping(Mapping&& other) noexcept
        : address_(std::exchange(other.address_, nullptr)),
          bytes_(std::exchange(other.bytes_, 0)) {}
    Mapping& operator=(Mapping&& other) noexcept;
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    ~Mapping();

    [[nodiscard]] std::span<std::byte> bytes() const {
        return {static_cast<std::byte*>(address_), bytes_};
    }
    [[nodiscard]] bool is_mapped() const { return address_ != nullptr; }

    // A stray write to a read-only mapping faults in the process that made it.
    Result<void> protect(Access access);
    // Maps every page now and for writing, so that the first copy into it is as quick as the
    // others. Takes about twice as long as a copy; where the kernel can't, nothing happens.
    void touch();
    // Forked children (data-loader workers) do not get the mapping: they are no clients.
    Result<void> keep_from_children();
    // In such a child: what is mapped there now is somebody else's, and is not unmapped.
    void forget() noexcept {
        address_ = nullptr;
        bytes_ = 0;
    }

private:
    void* address_ = nullptr;
    std::uint64_t bytes_ = 0;
};

// A new sealed memfd of `bytes`, all of them allocated. `name` shows in /proc/PID/maps.
[[nodiscard]] Result<UniqueFd> make_sealed_memory(const std::string& name, std::uint64_t bytes);

// Whether `fd`, received from somebody else, has `bytes` that can't go away. For the client, which
// trusts the daemon no more than it must.
Result<void> check_sealed_memory(int fd, std::uint64_t bytes);

}  // namespace pawl::staging
