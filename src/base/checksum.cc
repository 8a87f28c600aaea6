// See checksum.h. XXH3 is compiled three times (checksum_xxh3.inc), because its header chooses the
// vector path at compile time: 4.6 GB/s without -mavx2 against 33 with it on the same machine.
#include "base/checksum.h"

#include <isa-l/crc.h>

namespace pawl {

using Xxh3Function = void (*)(const void* data, std::size_t bytes, std::uint8_t* digest);

void xxh3_128_sse2(const void* data, std::size_t bytes, std::uint8_t* digest);
void xxh3_128_avx2(const void* data, std::size_t bytes, std::uint8_t* digest);
void xxh3_128_avx512(const void* data, std::size_t bytes, std::uint8_t* digest);

namespace {

Xxh3Function fastest_xxh3() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f")) return xxh3_128_avx512;
    if (__builtin_cpu_supports("avx2")) return xxh3_128_avx2;
#endif
    return xxh3_128_sse2;
}

int value_of_hex_digit(char digit) {
    if (digit >= '0' && digit <= '9') return digit - '0';
    if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
    return -1;
}

}  // namespace

std::uint32_t crc32(std::span<const std::byte> bytes, std::uint32_t previous) {
    return ::crc32_gzip_refl(previous, reinterpret_cast<const unsigned char*>(bytes.data()),
                             bytes.size());
}

Digest xxh3_128(std::span<const std::byte> bytes) {
    static const Xxh3Function function = fastest_xxh3();
    Digest digest;
    function(bytes.data(), bytes.size(), digest.bytes.data());
    return digest;
}

std::string Digest::hex() const {
    std::string text;
    text.reserve(2 * bytes.size());
    for (const std::uint8_t byte : bytes)
        fmt::format_to(std::back_inserter(text), "{:02x}", byte);
    return text;
}

Result<Digest> Digest::from_hex(std::string_view text) {
    Digest digest;
    if (text.size() != 2 * digest.bytes.size()) {
        return make_error(ErrorKind::kCorrupt, "a digest has {} characters, 32 were expected",
                          text.size());
    }
    for (std::size_t i = 0; i < digest.bytes.size(); ++i) {
        const int high = value_of_hex_digit(text[2 * i]);
        const int low = value_of_hex_digit(text[2 * i + 1]);
        if (high < 0 || low < 0) {
            return make_error(ErrorKind::kCorrupt, "'{}' is no digest in lower-case hex", text);
        }
        digest.bytes.at(i) = static_cast<std::uint8_t>(16 * high + low);
    }
    return digest;
}

}  // namespace pawl
