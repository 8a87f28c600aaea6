// Small torch.save images and manifests for the checkpoint room's tests.
#pragma once

#include "checkpoint/commit.h"
#include "torchfile/archive.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <string>
#include <vector>

namespace pawl::checkpoint {

// An image with tensors 'first' and 'second' of `bytes` bytes each (a multiple of 4), filled with a
// pattern that depends on `seed`. CRCs are zero, as a trainer leaves them.
inline std::vector<std::byte> sample_image(std::uint64_t bytes, unsigned seed) {
    torchfile::Document document;
    torchfile::Dict root;
    root.set("step", static_cast<std::int64_t>(seed));
    for (const char* name : {"first", "second"}) {
        const auto elements = static_cast<std::int64_t>(bytes / 4);
        root.set(name,
                 torchfile::Tensor{
                     .storage = document.storages.size(), .shape = {elements}, .stride = {1}});
        document.storages.push_back({.key = std::to_string(document.storages.size()),
                                     .dtype = torchfile::DType::kFloat32,
                                     .elements = bytes / 4});
    }
    document.root = std::move(root);
    const auto plan = torchfile::plan_image(document, "archive");
    EXPECT_TRUE(plan.has_value()) << plan.error().text();
    std::vector<std::byte> image(plan->bytes);
    torchfile::lay_out(*plan, image);
    unsigned state = seed;
    for (const torchfile::Extent& extent : plan->storages) {
        for (std::uint64_t i = 0; i < extent.bytes; ++i) {
            state = state * 1664525 + 1013904223;
            image[extent.offset + i] = static_cast<std::byte>(state >> 24);
        }
    }
    return image;
}

inline Manifest sample_manifest(std::uint64_t sequence, std::uint64_t step) {
    return {
        .job = "lm", .sequence = Sequence{sequence}, .step = Step{step}, .pawl_version = "test"};
}

}  // namespace pawl::checkpoint
