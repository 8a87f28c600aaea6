// Any bytes as a data.pkl: refused with a message, or read, and then what is written of it reads as
// the same, to the last bit.
#include "base/invariant.h"
#include "torchfile/pickle.h"
#include "torchfile/value_rules.h"

#include <cstddef>
#include <cstdint>
#include <span>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
    using namespace pawl::torchfile;
    const auto document = read_pickle(std::as_bytes(std::span(data, bytes)));
    if (!document) {
        pawl::invariant(!document.error().text().empty(), "a refusal says why");
        return 0;
    }
    (void)storage_paths(*document);
    // Refused is what PyTorch would not make: a tensor of integers that requires gradients.
    const auto written = write_pickle(*document);
    if (!written) return 0;
    const auto again = read_pickle(*written);
    pawl::invariant(again.has_value(), "what is written can be read");
    pawl::invariant(is_identical(again->root, document->root), "what is read again is the same");
    return 0;
}
