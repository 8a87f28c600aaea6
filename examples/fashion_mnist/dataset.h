// Fashion-MNIST from its gzip'ed IDX files (Debian: dataset-fashion-mnist).
#pragma once

#include <torch/torch.h>

#include <string>

namespace fashion_mnist {

struct Dataset {
    torch::Tensor images;  // float32 [N, 1, 28, 28], normalised
    torch::Tensor labels;  // int64 [N], 0 to 9
};

enum class Split { kTrain, kTest };

// Throws std::runtime_error that names the file.
Dataset load(const std::string& directory, Split split);

}  // namespace fashion_mnist
