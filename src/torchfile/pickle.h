// Python's pickle, protocol 2, for torch.save's data.pkl: a writer, and a reader that runs nothing.
// Opcodes: Python's Lib/pickletools.py. Persistent ids and globals: docs/formats.md, "data.pkl".
#pragma once

#include "base/result.h"
#include "torchfile/value.h"

#include <cstddef>
#include <span>
#include <vector>

namespace pawl::torchfile {

// Fails (kInvalidArgument) on a Tensor that lies outside its storage or names none, and on keys
// that Python could not have in a dict.
[[nodiscard]] Result<std::vector<std::byte>> write_pickle(const Document& document);

// Only the globals that describe data are known; any other is refused by name (kUnsupported), and
// nothing is ever called. Every error names the offset within the pickle. Depth, memo size and
// lengths are bounded by the input's own size, so hostile input costs no more memory than its size
// times a small constant. Storages are in order of first appearance.
[[nodiscard]] Result<Document> read_pickle(std::span<const std::byte> pickle);

}  // namespace pawl::torchfile
