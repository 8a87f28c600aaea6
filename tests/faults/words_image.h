// A torch.save image that holds one tensor of 64-bit words, which depend on a seed.
#pragma once

#include "torchfile/archive.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace pawl::faults {

inline torchfile::Document words_document(std::size_t words) {
    torchfile::Document document;
    torchfile::Dict root;
    root.set("words",
             torchfile::Tensor{.shape = {static_cast<std::int64_t>(words)}, .stride = {1}});
    document.storages.push_back({.key = "0", .dtype = torchfile::DType::kInt64, .elements = words});
    document.root = std::move(root);
    return document;
}

inline std::vector<std::byte> words_image(std::size_t words, std::uint64_t seed) {
    // The document is ours: a plan that fails is a mistake of the test's, and value() says so.
    const auto plan = torchfile::plan_image(words_document(words), "archive").value();
    std::vector<std::byte> image(plan.bytes);
    torchfile::lay_out(plan, image);
    std::vector<std::uint64_t> content(words);
    for (std::uint64_t& word : content)
        word = seed = seed * 6364136223846793005u + 1442695040888963407u;
    std::memcpy(image.data() + plan.storages[0].offset, content.data(), plan.storages[0].bytes);
    return image;
}

}  // namespace pawl::faults
