// Python's pickle for torch.save's data.pkl: a writer of protocol 2, and a reader of protocols 2 to
// 5 that runs nothing.
// Opcodes: Python's Lib/pickletools.py. Persistent ids and globals: docs/formats.md, "data.pkl".
#pragma once

#include "base/result.h"
#include "torchfile/value.h"

#include <cstddef>
#include <span>
#include <vector>

namespace pawl::torchfile {

// Real skeletons have at most a few MiB.
inline constexpr std::size_t kPickleBytesMax = std::size_t{1} << 30;

// Fails (kInvalidArgument) on a Tensor that lies outside its storage or names none, on keys that
// Python could not have in a dict, and on whatever else Python or PyTorch would not hold.
[[nodiscard]] Result<std::vector<std::byte>> write_pickle(const Document& document);

// Only the globals that describe data are known; any other is refused by name (kUnsupported), with
// the place in the value and advice, and nothing is ever called. Every error names the offset
// within the pickle. Depth, memo size and lengths are bounded by the input's own size, so hostile
// input costs no more memory than its size times some hundreds: what Python's own objects would
// cost. Storages are in order of first appearance, each of the type of its first tensor.
[[nodiscard]] Result<Document> read_pickle(std::span<const std::byte> pickle);

}  // namespace pawl::torchfile
