// Which format a file has that is no torch.save archive, told by its first bytes or its names.
#include "torchfile/other_formats.h"

#include "torchfile/zip_format.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

namespace pawl::torchfile {
namespace {

using namespace std::string_view_literals;

constexpr std::size_t kHeadBytes = 512;

struct Magic {
    std::size_t at;
    std::string_view bytes;
    std::string_view format;
    std::string_view what_to_do;
};

constexpr auto kSaveAgain = "Load it with torch.load and write it again with torch.save."sv;
constexpr auto kUnpack = "Unpack it first."sv;

constexpr std::array kMagics{
    Magic{257, "ustar"sv, "torch.save's format of before 1.6, or a tar archive"sv, kSaveAgain},
    Magic{0, "\x1f\x8b"sv, "gzip"sv, kUnpack},
    Magic{0, "BZh"sv, "bzip2"sv, kUnpack},
    Magic{0, "\xfd\x37zXZ"sv, "xz"sv, kUnpack},
    Magic{0, "\x28\xb5\x2f\xfd"sv, "zstd"sv, kUnpack},
    Magic{0, "7z\xbc\xaf\x27\x1c"sv, "7z"sv, kUnpack},
    Magic{0, "\x89HDF\r\n\x1a\n"sv, "HDF5 (Keras, or MATLAB)"sv,
          "Load it with h5py and write its tensors with torch.save."sv},
    Magic{0, "\x93NUMPY"sv, "NumPy's .npy"sv,
          "Load it with numpy.load and write torch.from_numpy(x) with torch.save."sv},
    Magic{0, "GGUF"sv, "GGUF"sv, "Use the checkpoint that it was converted from."sv},
    Magic{0, "PK\5\6"sv, "an empty zip archive"sv, "It holds nothing."sv},
    Magic{0, "version https://git-lfs"sv, "a pointer of Git LFS"sv,
          "Fetch the file itself with git lfs pull."sv},
};

std::string_view text_of(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

Error other(std::string_view format, std::string_view what_to_do) {
    return make_error(ErrorKind::kUnsupported, "the file is no torch.save archive but {}", format)
        .consequence("{}", what_to_do);
}

// The integer 0x1950a86a20f9469cfc6c, which begins what torch.save wrote before 1.6, stands behind
// the protocol number and, from protocol 4 on, a frame.
bool is_legacy_pickle(std::string_view head) {
    constexpr auto kMagicNumber = "\x8a\x0al\xfc\x9c\x46\xf9\x20j\xa8P\x19"sv;
    constexpr std::size_t kBeforeMax = 11;
    return head.substr(0, kBeforeMax + kMagicNumber.size()).find(kMagicNumber) !=
           std::string_view::npos;
}

bool is_pickle(std::string_view head) {
    return head.size() >= 2 && head[0] == '\x80' && head[1] >= '\2' && head[1] <= '\5';
}

// The length of a JSON header in 8 bytes, then the header.
bool is_safetensors(std::string_view head, std::uint64_t file_bytes) {
    if (head.size() < 9 || head[8] != '{') return false;
    const std::uint64_t header_bytes = zip::load64(std::as_bytes(std::span(head)), 0);
    return header_bytes >= 2 && header_bytes <= file_bytes - 8;
}

bool is_text(std::string_view head) {
    return std::all_of(head.begin(), head.end(), [](char character) {
        const bool is_space = character == '\n' || character == '\r' || character == '\t';
        return is_space || (character >= ' ' && character <= '~');
    });
}

bool is_zeros(std::string_view head) {
    return head.find_first_not_of('\0') == std::string_view::npos;
}

}  // namespace

Result<void> refuse_other_formats(const ByteSource& source) {
    if (source.size() == 0) return make_error(ErrorKind::kCorrupt, "the file is empty");
    std::vector<std::byte> bytes(std::min<std::uint64_t>(source.size(), kHeadBytes));
    RETURN_IF_ERROR(source.read_at(0, bytes));
    const std::string_view head = text_of(bytes);
    if (head.starts_with("PK\3\4")) return {};

    if (is_legacy_pickle(head)) return other("torch.save's format of before 1.6", kSaveAgain);
    if (is_pickle(head)) {
        return other("a plain pickle",
                     "Load it with pickle.load and write it again with torch.save.");
    }
    for (const Magic& magic : kMagics) {
        if (head.size() > magic.at && head.substr(magic.at).starts_with(magic.bytes)) {
            return other(magic.format, magic.what_to_do);
        }
    }
    if (is_safetensors(head, source.size())) {
        return other("safetensors",
                     "Load it with safetensors.torch.load_file and write it with torch.save.");
    }
    if (is_text(head)) return other("text", "Was an error page saved under the file's name?");
    if (is_zeros(head)) {
        return make_error(ErrorKind::kCorrupt,
                          "the file begins with zeros: it was never written in full");
    }
    return make_error(ErrorKind::kCorrupt,
                      "the file does not begin as a zip archive: it is damaged, or no torch.save "
                      "file");
}

Result<void> refuse_other_archives(std::span<const std::byte> central_directory) {
    while (central_directory.size() >= zip::kCentralBytes &&
           zip::load32(central_directory, 0) == zip::kCentralSignature) {
        const std::size_t name_bytes = zip::load16(central_directory, 28);
        const std::size_t entry_bytes = zip::kCentralBytes + name_bytes +
                                        zip::load16(central_directory, 30) +
                                        zip::load16(central_directory, 32);
        if (entry_bytes > central_directory.size()) break;
        const std::string_view name =
            text_of(central_directory.subspan(zip::kCentralBytes, name_bytes));
        const std::size_t slash = name.find('/');
        const std::string_view below = slash == name.npos ? "" : name.substr(slash + 1);
        if (below == "constants.pkl" || below.starts_with("code/")) {
            return other("TorchScript's",
                         "Load it with torch.jit.load and write its state_dict() with torch.save.");
        }
        if (slash == name.npos && name.ends_with(".npy")) {
            return other("NumPy's .npz",
                         "Load it with numpy.load and write torch.from_numpy(x) with torch.save.");
        }
        central_directory = central_directory.subspan(entry_bytes);
    }
    return {};
}

}  // namespace pawl::torchfile
