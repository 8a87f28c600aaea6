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

// What a directory holds, by name.
using Types = std::map<std::string, FileType>;

bool is_unavailable(const Error& error) {
    return error.kind() == ErrorKind::kUnavailable;
}

// Why a name can't be one of a checkpoint's files; empty if it can.
std::string type_problem(const Types& types, const std::string& name) {
    const auto found = types.find(name);
    if (found == types.end() || found->second == FileType::kRegular) return "";
    if (found->second == FileType::kSymlink)
        return "it is a symlink; a checkpoint holds its files itself";
    return found->second == FileType::kDirectory ? "it is a directory" : "it is no regular file";
}

// Fails only where nothing can be said of the file.
Result<void> verify_file(FileSystem& fs, const std::string& path, const FileEntry& entry,
                         const Types& types, const VerifyOptions& options, Verification& result) {
    if (std::string problem = type_problem(types, entry.name); !problem.empty()) {
        result.damages.push_back({.file = entry.name, .text = std::move(problem)});
        return {};
    }
    const auto file = fs.open_file(join_path(path, entry.name));
    if (!file) {
        if (is_unavailable(file.error())) return file.error();
        result.damages.push_back({.file = entry.name, .text = file.error().text()});
        return {};
    }
    const ByteSource& source = **file;
    if (source.size() != entry.bytes) {
        result.damages.push_back({.file = entry.name,
                                  .text = fmt::format("it has {} bytes, the manifest says {}",
                                                      source.size(), entry.bytes)});
        return {};
    }
    RecordNames names(source);
    std::vector<std::byte> buffer(std::min(entry.chunk_bytes, entry.bytes));
    for (std::size_t i = 0; i < entry.chunks.size(); ++i) {
        const std::uint64_t begin = i * entry.chunk_bytes;
        const std::uint64_t end = std::min(begin + entry.chunk_bytes, entry.bytes);
        const std::span<std::byte> chunk = std::span(buffer).first(end - begin);
        if (options.before_read) RETURN_IF_ERROR(options.before_read(chunk.size()));
        Damage damage{.file = entry.name, .chunk = i, .chunk_begin = begin, .chunk_end = end};
        if (const auto read = source.read_at(begin, chunk); !read) {
            if (is_unavailable(read.error())) return read.error();
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
    return {};
}

// The manifest, or why there is none.
Result<void> verify_manifest(FileSystem& fs, const std::string& path, const Types& types,
                             const VerifyOptions& options, Verification& result) {
    const auto damaged = [&result](std::string text) -> Result<void> {
        result.damages.push_back({.file = std::string(kManifestName), .text = std::move(text)});
        return {};
    };
    if (std::string problem = type_problem(types, std::string(kManifestName)); !problem.empty())
        return damaged(std::move(problem));
    const auto text = read_text(fs, join_path(path, kManifestName), kManifestBytesMax);
    if (!text) {
        if (is_unavailable(text.error())) return text.error();
        return damaged(text.error().text());
    }
    if (options.before_read) RETURN_IF_ERROR(options.before_read(text->size()));
    result.bytes_read += text->size();
    auto manifest = read_manifest(*text);
    if (!manifest) {
        if (manifest.error().kind() == ErrorKind::kUnsupported) return manifest.error();
        return damaged(manifest.error().text());
    }
    result.manifest = std::move(*manifest);
    return {};
}

void note_extra_names(const Types& types, Verification& result) {
    for (const auto& [name, type] : types) {
        const bool is_ours = name == kManifestName || name == kPinName || name == kSetAsideName;
        const bool is_listed = std::ranges::find(result.manifest->files, name, &FileEntry::name) !=
                               result.manifest->files.end();
        if (!is_ours && !is_listed) result.extra_names.push_back(name);
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

Result<Verification> verify(FileSystem& fs, const std::string& path, const VerifyOptions& options) {
    Verification result;
    const auto verify_all = [&]() -> Result<void> {
        const auto status = fs.status(path);
        if (!status) return status.error();
        if (!status->has_value() || (*status)->type != FileType::kDirectory) {
            return make_error(ErrorKind::kNotFound, "there is no checkpoint directory '{}'", path);
        }
        const auto entries = fs.list_directory(path);
        if (!entries && is_unavailable(entries.error())) return entries.error();
        Types types;  // empty if the disk can't read them: its files then say so one by one
        if (entries) {
            for (const DirectoryEntry& entry : *entries)
                types[entry.name] = entry.type;
        }
        RETURN_IF_ERROR(verify_manifest(fs, path, types, options, result));
        if (!result.manifest) return {};
        const Manifest& manifest = *result.manifest;
        verify_name(path, manifest, result);
        if (!manifest.is_adopted() && manifest.files.size() != manifest.world_size) {
            result.damages.push_back(
                {.file = std::string(kManifestName),
                 .text = fmt::format("it lists {} files for {} ranks", manifest.files.size(),
                                     manifest.world_size)});
        }
        for (const FileEntry& entry : manifest.files)
            RETURN_IF_ERROR(verify_file(fs, path, entry, types, options, result));
        note_extra_names(types, result);
        return {};
    };
    if (auto verified = verify_all(); !verified) {
        const bool is_unread = is_unavailable(verified.error());
        auto error = Error(verified.error()).while_doing("verify checkpoint '{}'", path);
        if (!is_unread) return error;
        return std::move(error).consequence(
            "It could not be read, which says nothing of what it holds: it stays where it is");
    }
    return result;
}

}  // namespace pawl::checkpoint
