// Any bytes as a torch.save file: refused with a message, or every record lies within the file, no
// two overlap, and with its CRCs filled in it is whole.
#include "base/invariant.h"
#include "torchfile/archive.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
    using namespace pawl::torchfile;
    const pawl::MemorySource source(std::as_bytes(std::span(data, bytes)));
    const auto directory = read_directory(source);
    const auto archive = read_archive(source);
    if (!directory) {
        pawl::invariant(!archive, "no archive without a directory");
        pawl::invariant(!directory.error().text().empty(), "a refusal says why");
        return 0;
    }
    std::uint64_t end = 0;
    for (const Record& record : directory->records) {
        pawl::invariant(record.data.offset >= end, "records do not overlap");
        pawl::invariant(
            record.data.bytes <= bytes && record.data.offset <= bytes - record.data.bytes,
            "a record lies within the file");
        end = record.data.offset + record.data.bytes;
    }
    pawl::invariant(first_damaged_record(source, *directory).has_value(), "every record is read");
    if (archive) {
        pawl::invariant(archive->storages.size() == archive->document.storages.size(),
                        "every storage has its place");
        pawl::invariant(storage_paths(archive->document).size() == archive->storages.size(),
                        "every storage has a path");
    }
    const auto all = std::as_bytes(std::span(data, bytes));
    std::vector<std::byte> image(all.begin(), all.end());
    if (!fill_crcs(image)) return 0;
    const auto filled = read_directory(pawl::MemorySource(image));
    pawl::invariant(filled.has_value(), "an image with its CRCs is read");
    const auto damaged = first_damaged_record(pawl::MemorySource(image), *filled);
    pawl::invariant(damaged.has_value() && !damaged->has_value(),
                    "an image with its CRCs is whole");
    return 0;
}
