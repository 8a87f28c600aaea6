// See memory.h.
#include "staging/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

namespace pawl::staging {
namespace {

int protection_of(Access access) {
    return access == Access::kReadOnly ? PROT_READ : PROT_READ | PROT_WRITE;
}

}  // namespace

Result<Mapping> Mapping::of(int fd, std::uint64_t offset, std::uint64_t bytes, Access access) {
    void* const address =
        ::mmap(nullptr, bytes, protection_of(access), MAP_SHARED, fd, static_cast<off_t>(offset));
    if (address == MAP_FAILED) return error_from_errno("map {} bytes of shared memory", bytes);
    Mapping mapping;
    mapping.address_ = address;
    mapping.bytes_ = bytes;
    return mapping;
}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
    std::swap(address_, other.address_);
    std::swap(bytes_, other.bytes_);
    return *this;
}

Mapping::~Mapping() {
    // Fails only for arguments that no mapping of ours has.
    if (address_ != nullptr) ::munmap(address_, bytes_);
}

Result<void> Mapping::protect(Access access) {
    if (::mprotect(address_, bytes_, protection_of(access)) != 0) {
        return error_from_errno("change the protection of {} bytes of shared memory", bytes_);
    }
    return {};
}

Result<void> Mapping::keep_from_children() {
    if (::madvise(address_, bytes_, MADV_DONTFORK) != 0) {
        return error_from_errno("keep {} bytes of shared memory from forked children", bytes_);
    }
    return {};
}

void Mapping::touch() {
    // Since Linux 5.14, and younger than some headers. Where there is none, each page is met when
    // it is first written to, which takes several times as long.
    constexpr int kPopulateWrite = 23;
    static_cast<void>(::madvise(address_, bytes_, kPopulateWrite));
}

Result<UniqueFd> make_sealed_memory(const std::string& name, std::uint64_t bytes) {
    UniqueFd fd(::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!fd.is_open()) return error_from_errno("make shared memory '{}'", name);
    // Allocates (and zeroes) every page now: neither a snapshot nor a trainer meets a missing one.
    int code = 0;
    do {
        code = ::fallocate(fd.get(), 0, 0, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
    } while (code == EINTR);
    if (code != 0) {
        return error_from_code(code,
                               fmt::format("allocate {} bytes of shared memory '{}'", bytes, name));
    }
    if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        return error_from_errno("seal shared memory '{}'", name);
    }
    return fd;
}

Result<void> check_sealed_memory(int fd, std::uint64_t bytes) {
    const int seals = ::fcntl(fd, F_GET_SEALS);
    if (seals < 0) return error_from_errno("read the seals of received shared memory");
    if ((seals & F_SEAL_SHRINK) == 0) {
        return make_error(ErrorKind::kInvalidArgument,
                          "received shared memory could still be shrunk");
    }
    struct stat information = {};
    if (::fstat(fd, &information) != 0) return error_from_errno("look at received shared memory");
    if (static_cast<std::uint64_t>(information.st_size) < bytes) {
        return make_error(ErrorKind::kInvalidArgument,
                          "received shared memory has {} bytes, {} were promised",
                          information.st_size, bytes);
    }
    return {};
}

}  // namespace pawl::staging
