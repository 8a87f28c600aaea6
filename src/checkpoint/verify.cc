// See verify.h.
#include "checkpoint/verify.h"

#include "checkpoint/name.h"
#include "torchfile/archive.h"

#include <algorithm>

namespace pawl::checkpoint {
namespace {

// Names the record, and the tensor in it, that lies in [begin, end) and does not have its CRC.
// Best effort: a damaged directory or pickle leaves the fields empty.
void name_record(const ByteSource& source, Damage& damage) {
    const auto directory = torchfile::read_directory(source);
    if (!directory) {
        damage.text += fmt::format(" ({})", directory.error().text());
        return;
    }
    torchfile::Directory overlapping{.root = directory->root};
    for (const torchfile::Record& record : directory->records) {
        const bool overlaps = record.data.offset < damage.chunk_end &&
                              record.data.offset + record.data.bytes > damage.chunk_begin;
        if (overlaps) overlapping.records.push_back(record);
    }
    const auto damaged = torchfile::first_damaged_record(source, overlapping);
    if (!damaged || !damaged->has_value()) {
        damage.text += " (outside the data of all records)";
        return;
    }
    damage.record = overlapping.records[**damaged].name;
    const auto archive = torchfile::read_archive(source);
    if (!archive) return;
    const std::vector<std::string> paths = torchfile::storage_paths(archive->document);
    for (std::size_t i = 0; i < archive->storages.size(); ++i) {
        if (archive->storages[i] == overlapping.records[**damaged].data) damage.tensor = paths[i];
    }
}

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
        name_record(source, damage);
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
