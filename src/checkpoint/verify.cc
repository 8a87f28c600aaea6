// See verify.h.
#include "checkpoint/verify.h"

#include "checkpoint/name.h"
#include "torchfile/archive.h"

#include <algorithm>
#include <map>

namespace pawl::checkpoint {
namespace {

// Names the record, and the tensor in it, that lies in a damaged chunk and does not have its CRC.
// Best effort: a damaged directory or pickle leaves the fields empty. Each record is read once,
// however many of its chunks are damaged.
class RecordNames {
public:
    explicit RecordNames(const ByteSource& source) : source_(source) {}

    void name_record(Damage& damage) {
        if (!directory_) read();
        if (!*directory_) {
            damage.text += fmt::format(" ({})", directory_->error().text());
            return;
        }
        const auto& records = (*directory_)->records;
        std::optional<std::size_t> found;
        for (std::size_t i = 0; i < records.size(); ++i) {
            const torchfile::Extent& data = records[i].data;
            const bool overlaps =
                data.offset < damage.chunk_end && data.offset + data.bytes > damage.chunk_begin;
            if (!overlaps || !is_damaged(i)) continue;
            // One that reaches in from a chunk before was named there; it may be whole in here.
            if (!found || is_named_[*found]) found = i;
        }
        if (!found) {
            damage.text += " (outside the data of all records)";
            return;
        }
        is_named_[*found] = true;
        damage.record = records[*found].name;
        if (const auto tensor = tensors_.find(records[*found].data.offset);
            tensor != tensors_.end()) {
            damage.tensor = tensor->second;
        }
    }

private:
    void read() {
        directory_ = torchfile::read_directory(source_);
        if (!*directory_) return;
        is_damaged_.resize((*directory_)->records.size());
        is_named_.resize((*directory_)->records.size());
        const auto archive = torchfile::read_archive(source_);
        if (!archive) return;
        const std::vector<std::string> paths = torchfile::storage_paths(archive->document);
        for (std::size_t i = 0; i < archive->storages.size(); ++i) {
            if (archive->storages[i].bytes > 0) tensors_[archive->storages[i].offset] = paths[i];
        }
    }

    bool is_damaged(std::size_t index) {
        auto& known = is_damaged_[index];
        if (!known) {
            const torchfile::Directory one{.records = {(*directory_)->records[index]},
                                           .root = (*directory_)->root};
            const auto damaged = torchfile::first_damaged_record(source_, one);
            known = damaged.has_value() && damaged->has_value();
        }
        return *known;
    }

    const ByteSource& source_;
    std::optional<Result<torchfile::Directory>> directory_;
    std::vector<std::optional<bool>> is_damaged_;
    std::vector<bool> is_named_;
    std::map<std::uint64_t, std::string> tensors_;  // by the offset of their storage
};

void verify_file(FileSystem& fs, const std::string& path, const FileEntry& entry,
                 Verification& result) {
    const auto file = fs.open_file(join_path(path, entry.name));
    if (!file) {
        result.damages.push_back({.file = entry.name, .text = file.error().text()});
        return;
    }
    const ByteSource& source = **file;
    if (source.size() != entry.bytes) {
        result.damages.push_back({.file = entry.name,
                                  .text = fmt::format("it has {} bytes, the manifest says {}",
                                                      source.size(), entry.bytes)});
        return;
    }
    RecordNames names(source);
    std::vector<std::byte> buffer(std::min(entry.chunk_bytes, entry.bytes));
    for (std::size_t i = 0; i < entry.chunks.size(); ++i) {
        const std::uint64_t begin = i * entry.chunk_bytes;
        const std::uint64_t end = std::min(begin + entry.chunk_bytes, entry.bytes);
        const std::span<std::byte> chunk = std::span(buffer).first(end - begin);
        Damage damage{.file = entry.name, .chunk = i, .chunk_begin = begin, .chunk_end = end};
        if (const auto read = source.read_at(begin, chunk); !read) {
            damage.text = read.error().text();
            result.damages.push_back(std::move(damage));
            continue;
        }
        result.bytes_read += chunk.size();
        const Digest found = xxh3_128(chunk);
        if (found == entry.chunks[i]) continue;
        damage.text = fmt::format("its digest is {}, the manifest says {}", found.hex(),
                                  entry.chunks[i].hex());
        names.name_record(damage);
        result.damages.push_back(std::move(damage));
    }
}

// A directory's name and its manifest agree: else a copy or a rename by hand has confused the
// order.
void verify_name(const std::string& path, const Manifest& manifest, Verification& result) {
    const std::string name = path.substr(path.find_last_of('/') + 1);
    const auto parsed = parse_checkpoint_name(name);
    // Other names (quarantine/000007-step-70.2, a copy made by hand) promise nothing.
    if (!parsed) return;
    const CheckpointName stated{.sequence = manifest.sequence, .step = manifest.step};
    if (*parsed == stated) return;
    result.damages.push_back(
        {.file = std::string(kManifestName),
         .text = fmt::format("it describes checkpoint '{}'", to_string(stated))});
}

}  // namespace

std::string Damage::describe() const {
    std::string where = file;
    if (chunk) where += fmt::format(", chunk {} (bytes {} to {})", *chunk, chunk_begin, chunk_end);
    if (!record.empty()) where += fmt::format(", record {}", record);
    if (!tensor.empty()) where += fmt::format(" ({})", tensor);
    return where + ": " + text;
}

Result<Verification> verify(FileSystem& fs, const std::string& path) {
    Verification result;
    const auto status = fs.status(path);
    if (!status) return status.error();
    if (!status->has_value() || (*status)->type != FileType::kDirectory) {
        return make_error(ErrorKind::kNotFound, "there is no checkpoint directory '{}'", path);
    }
    const auto text = read_text(fs, join_path(path, kManifestName), kManifestBytesMax);
    if (!text) {
        result.damages.push_back({.file = std::string(kManifestName), .text = text.error().text()});
        return result;
    }
    result.bytes_read += text->size();
    auto manifest = read_manifest(*text);
    if (!manifest) {
        if (manifest.error().kind() == ErrorKind::kUnsupported) {
            return Error(manifest.error()).while_doing("verify checkpoint '{}'", path);
        }
        result.damages.push_back(
            {.file = std::string(kManifestName), .text = manifest.error().text()});
        return result;
    }
    verify_name(path, *manifest, result);
    if (manifest->files.size() != manifest->world_size) {
        result.damages.push_back(
            {.file = std::string(kManifestName),
             .text = fmt::format("it lists {} files for {} ranks", manifest->files.size(),
                                 manifest->world_size)});
    }
    for (const FileEntry& entry : manifest->files)
        verify_file(fs, path, entry, result);
    result.manifest = std::move(*manifest);
    return result;
}

}  // namespace pawl::checkpoint
