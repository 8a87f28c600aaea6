// See examine.h.
#include "adopt/examine.h"

#include "torchfile/archive.h"

#include <algorithm>
#include <vector>

namespace pawl::adopt {
namespace {

// Above this a pickle is not asked for its numbers.
constexpr std::uint64_t kPickleBytesMax = std::uint64_t{4} << 20;

std::uint64_t pickle_bytes(const torchfile::Directory& directory) {
    const auto found = std::ranges::find(directory.records, directory.root + "/data.pkl",
                                         &torchfile::Record::name);
    return found == directory.records.end() ? 0 : found->data.bytes;
}

// CRCs of the records of a directory, from chunks in their order. Records are in order of their
// offsets and do not overlap.
class RecordCrcs {
public:
    explicit RecordCrcs(const torchfile::Directory& directory)
        : records_(directory.records), crcs_(directory.records.size(), 0) {}

    void add(std::uint64_t begin, std::span<const std::byte> chunk) {
        const std::uint64_t end = begin + chunk.size();
        for (; next_ < records_.size(); ++next_) {
            const torchfile::Extent& data = records_[next_].data;
            const std::uint64_t from = std::max(begin, data.offset);
            const std::uint64_t to = std::min(end, data.offset + data.bytes);
            if (from < to)
                crcs_[next_] = crc32(chunk.subspan(from - begin, to - from), crcs_[next_]);
            if (data.offset + data.bytes > end) break;  // goes on in the next chunk
        }
    }

    // The name of the first record that does not have its CRC, or "".
    [[nodiscard]] std::string first_damaged() const {
        for (std::size_t i = 0; i < records_.size(); ++i) {
            if (crcs_[i] != records_[i].crc) return records_[i].name;
        }
        return "";
    }

    // PyTorch saves so after torch.serialization.set_crc32_options(False).
    [[nodiscard]] bool are_all_left_out() const {
        return std::ranges::all_of(records_, [](const auto& record) { return record.crc == 0; });
    }

private:
    const std::vector<torchfile::Record>& records_;
    std::vector<std::uint32_t> crcs_;
    std::size_t next_ = 0;
};

bool is_same(const torchfile::Directory& one, const torchfile::Directory& other) {
    return one.central_offset == other.central_offset &&
           std::ranges::equal(one.records, other.records,
                              [](const torchfile::Record& a, const torchfile::Record& b) {
                                  return a.data == b.data && a.crc == b.crc && a.name == b.name;
                              });
}

std::string why_foreign(std::string_view what, std::string_view what_to_do) {
    return fmt::format("{}. A file without checksums can't be told from one that was torn{}", what,
                       what_to_do);
}

// What a foreign file is, and what the script may do: the error's own advice is for people.
std::string why_foreign(const Error& error) {
    if (error.message().find("before 1.6") == std::string::npos)
        return fmt::format("{}. Only what torch.save writes is kept", error.message());
    return why_foreign(error.message(),
                       ". If the script calls torch.save with "
                       "_use_new_zipfile_serialization=False, leave that out");
}

// Whether the error tells something of the file, and what; else it is handed on.
Result<void> judge(const Error& error, Examined& result) {
    // Of so few bytes any format could be the beginning: also a zip archive that was cut short.
    constexpr std::uint64_t kTooFewBytes = 4;
    result.why = error.text();
    const bool is_cut =
        error.kind() == ErrorKind::kUnsupported && result.facts.bytes < kTooFewBytes;
    if (error.kind() == ErrorKind::kCorrupt || is_cut) {
        result.wholeness = Wholeness::kTorn;
    } else if (error.kind() == ErrorKind::kUnsupported) {
        result.wholeness = Wholeness::kForeign;
        result.why = why_foreign(error);
    } else if (error.kind() == ErrorKind::kNotFound) {
        result.wholeness = Wholeness::kAbsent;
    } else {
        return error;
    }
    return {};
}

Result<void> read_all(const ByteSource& source, Examined& result) {
    const auto directory = torchfile::read_directory(source);
    if (!directory) return judge(directory.error(), result);
    RecordCrcs crcs(*directory);
    checkpoint::FileEntry& entry = result.entry;
    entry.bytes = source.size();
    std::vector<std::byte> buffer(std::min(entry.chunk_bytes, entry.bytes));
    for (std::uint64_t begin = 0; begin < entry.bytes; begin += entry.chunk_bytes) {
        const std::span<std::byte> chunk =
            std::span(buffer).first(std::min(entry.chunk_bytes, entry.bytes - begin));
        if (const auto read = source.read_at(begin, chunk); !read)
            return judge(read.error(), result);
        entry.chunks.push_back(xxh3_128(chunk));
        crcs.add(begin, chunk);
    }
    const std::string damaged = crcs.first_damaged();
    if (!damaged.empty() && crcs.are_all_left_out()) {
        result.wholeness = Wholeness::kForeign;
        result.why = why_foreign("it was saved without its checksums",
                                 ". If the script calls "
                                 "torch.serialization.set_crc32_options(False), leave that out");
        return {};
    }
    if (!damaged.empty()) {
        result.wholeness = Wholeness::kTorn;
        result.why = fmt::format("record '{}' does not have the CRC that it states", damaged);
        return {};
    }
    const auto again = torchfile::read_directory(source);
    result.wholeness =
        again && is_same(*directory, *again) ? Wholeness::kWhole : Wholeness::kChanging;
    // What it is a version of is nice to know. A pickle that holds more than data says it not, and
    // a large one is not worth what it costs: read, it takes many times its size.
    if (pickle_bytes(*directory) > kPickleBytesMax) return {};
    if (const auto archive = torchfile::read_archive(source))
        result.numbers = checkpoint::numbers_in(archive->document);
    return {};
}

template <class Read>
Result<Examined> look_at(FileSystem& fs, const std::string& path, const Read& read) {
    Examined result;
    const auto before = facts_of(path);
    if (!before) return before.error();
    if (!before->has_value()) return result;
    result.facts = **before;
    const auto source = fs.open_file(path);
    if (!source) {
        if (source.error().kind() == ErrorKind::kNotFound) return result;
        return source.error();
    }
    RETURN_IF_ERROR(read(**source, result));
    const auto after = facts_of(path);
    if (!after) return after.error();
    if (*after != *before) result.wholeness = Wholeness::kChanging;
    return result;
}

}  // namespace

Result<Examined> examine(FileSystem& fs, const std::string& path) {
    return look_at(fs, path, read_all);
}

Result<Examined> glance(FileSystem& fs, const std::string& path) {
    return look_at(fs, path, [](const ByteSource& source, Examined& result) -> Result<void> {
        const auto directory = torchfile::read_directory(source);
        if (!directory) return judge(directory.error(), result);
        result.wholeness = Wholeness::kWhole;
        return {};
    });
}

}  // namespace pawl::adopt
