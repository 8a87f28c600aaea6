// See dataset.h. IDX: a big-endian magic number (type, dimensions), the sizes, the bytes.
#include "dataset.h"

#include <zlib.h>

#include <array>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <vector>

namespace fashion_mnist {
namespace {

struct CloseGzip {
    void operator()(gzFile_s* file) const { gzclose(file); }
};

// The bytes of an IDX file of unsigned bytes with the given number of dimensions, and those sizes.
struct Idx {
    std::vector<std::int64_t> sizes;
    std::vector<std::uint8_t> bytes;
};

void read_all(gzFile_s* file, const std::string& path, void* target, std::size_t bytes) {
    const int got = gzread(file, target, static_cast<unsigned>(bytes));
    if (got < 0 || static_cast<std::size_t>(got) != bytes)
        throw std::runtime_error("'" + path + "' is cut short");
}

std::uint32_t big_endian(const std::array<std::uint8_t, 4>& bytes) {
    return static_cast<std::uint32_t>(bytes[0]) << 24 | static_cast<std::uint32_t>(bytes[1]) << 16 |
           static_cast<std::uint32_t>(bytes[2]) << 8 | static_cast<std::uint32_t>(bytes[3]);
}

Idx read_idx(const std::string& path, std::uint32_t dimensions) {
    const std::unique_ptr<gzFile_s, CloseGzip> file(gzopen(path.c_str(), "rb"));
    if (!file) {
        throw std::runtime_error("cannot open '" + path +
                                 "' (Debian: apt install dataset-fashion-mnist)");
    }
    std::array<std::uint8_t, 4> word{};
    read_all(file.get(), path, word.data(), word.size());
    if (big_endian(word) != (0x0800 | dimensions))
        throw std::runtime_error("'" + path + "' is no IDX file of bytes");
    Idx idx;
    std::size_t count = 1;
    for (std::uint32_t i = 0; i < dimensions; ++i) {
        read_all(file.get(), path, word.data(), word.size());
        idx.sizes.push_back(big_endian(word));
        count *= big_endian(word);
    }
    idx.bytes.resize(count);
    read_all(file.get(), path, idx.bytes.data(), count);
    return idx;
}

}  // namespace

Dataset load(const std::string& directory, Split split) {
    const std::string prefix = directory + (split == Split::kTrain ? "/train" : "/t10k");
    Idx images = read_idx(prefix + "-images-idx3-ubyte.gz", 3);
    Idx labels = read_idx(prefix + "-labels-idx1-ubyte.gz", 1);
    if (images.sizes[0] != labels.sizes[0])
        throw std::runtime_error("'" + prefix + "': images and labels differ");
    const auto bytes = torch::TensorOptions().dtype(torch::kByte);
    constexpr double kMean = 0.2860;  // of the training images
    constexpr double kDeviation = 0.3530;
    const torch::Tensor raw = torch::from_blob(
        images.bytes.data(), {images.sizes[0], 1, images.sizes[1], images.sizes[2]}, bytes);
    return {.images = raw.to(torch::kFloat).div_(255).sub_(kMean).div_(kDeviation),
            .labels = torch::from_blob(labels.bytes.data(), labels.sizes, bytes).to(torch::kLong)};
}

}  // namespace fashion_mnist
