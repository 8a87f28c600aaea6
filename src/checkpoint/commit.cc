// See commit.h.
#include "checkpoint/commit.h"

#include "base/crash_point.h"
#include "base/invariant.h"
#include "checkpoint/image_writer.h"
#include "checkpoint/shards.h"
#include "torchfile/archive.h"

#include <algorithm>
#include <functional>
#include <memory>

namespace pawl::checkpoint {
namespace {

using Files = std::vector<FileEntry>;

// A file of the checkpoint, and how its bytes are written into one that is open and allocated.
struct Source {
    std::string name;
    std::uint64_t bytes = 0;
    std::function<Result<FileEntry>(WritableFile&)> write;
};
using Sources = std::vector<Source>;

// Steps 1 and 2: all are allocated, so that a full disk fails with nothing touched; then each is
// written and synced.
Result<Files> write_files(FileSystem& fs, const std::string& temporary, const Sources& sources) {
    std::vector<std::unique_ptr<WritableFile>> open;
    for (const Source& source : sources) {
        auto file = fs.create_file(join_path(temporary, source.name), source.bytes);
        if (!file) return file.error();
        open.push_back(std::move(*file));
    }
    crash_point("commit: files allocated");
    Files entries;
    for (std::size_t i = 0; i < sources.size(); ++i) {
        auto entry = sources[i].write(*open[i]);
        if (!entry) return entry.error();
        crash_point("commit: data written");
        RETURN_IF_ERROR(open[i]->sync_data());
        crash_point("commit: data synced");
        entry->name = sources[i].name;
        entries.push_back(std::move(*entry));
    }
    return entries;
}

// The zip directory of an image that a trainer laid out: input from outside, refused if it is
// wrong.
Result<torchfile::Directory> directory_of(const RankImage& image) {
    auto directory = torchfile::read_directory(MemorySource(image.bytes));
    if (!directory) {
        return Error(directory.error())
            .while_doing("read the snapshot of rank {} as a torch.save file", image.rank);
    }
    return directory;
}

// `tensors` is told what the images say of their parts.
Result<Sources> sources_of(const std::vector<RankImage>& images, ShardedTensors& tensors) {
    Sources sources;
    for (const RankImage& image : images) {
        auto zip_directory = directory_of(image);
        if (!zip_directory) return zip_directory.error();
        const std::string name = rank_file_name(image.rank);
        RETURN_IF_ERROR(add_shards(tensors, name, image.bytes, *zip_directory));
        sources.push_back(
            {.name = name,
             .bytes = image.bytes.size(),
             .write = [bytes = image.bytes, records = std::move(*zip_directory)](
                          WritableFile& file) { return write_image(file, bytes, records); }});
    }
    return sources;
}

Result<void> write_manifest_file(FileSystem& fs, const std::string& temporary,
                                 const Manifest& manifest) {
    const std::string text = write_manifest(manifest);
    auto file = fs.create_file(join_path(temporary, kManifestName), text.size());
    if (!file) return file.error();
    RETURN_IF_ERROR((*file)->write_at(0, std::as_bytes(std::span(text))));
    crash_point("commit: manifest written");
    return (*file)->sync_data();
}

Result<void> copy_known(const KnownFile& known, WritableFile& file) {
    const FileEntry& entry = known.entry;
    std::vector<std::byte> buffer(std::min(entry.chunk_bytes, entry.bytes));
    for (std::size_t i = 0; i < entry.chunks.size(); ++i) {
        const std::uint64_t begin = i * entry.chunk_bytes;
        const std::span<std::byte> chunk =
            std::span(buffer).first(std::min(entry.chunk_bytes, entry.bytes - begin));
        const auto read = known.source->read_at(begin, chunk);
        if (known.is_checkpoints) {
            if (!read) return make_error(ErrorKind::kCorrupt, "{}", read.error().text());
            if (xxh3_128(chunk) != entry.chunks[i]) {
                return make_error(ErrorKind::kCorrupt,
                                  "'{}', chunk {}: its digest is not what its manifest says",
                                  entry.name, i);
            }
        }
        if (!read && read.error().kind() != ErrorKind::kCorrupt) return read.error();
        if (!read || xxh3_128(chunk) != entry.chunks[i])
            return make_error(ErrorKind::kBusy, "'{}' changed while it was copied", entry.name);
        RETURN_IF_ERROR(file.write_at(begin, chunk));
    }
    return {};
}

Sources sources_of(const std::vector<KnownFile>& known) {
    Sources sources;
    for (const KnownFile& one : known) {
        sources.push_back({.name = one.entry.name,
                           .bytes = one.entry.bytes,
                           .write = [&one](WritableFile& file) -> Result<FileEntry> {
                               RETURN_IF_ERROR(copy_known(one, file));
                               return one.entry;
                           }});
    }
    return sources;
}

// Order: space, data, manifest, directory, rename, parent. A crash before the rename leaves only
// .tmp-….
Result<Manifest> commit_in_order(FileSystem& fs, const std::string& directory,
                                 const std::string& temporary, Manifest manifest,
                                 const Result<Sources>& sources) {
    if (!sources) return sources.error();
    RETURN_IF_ERROR(fs.create_directory(temporary));
    crash_point("commit: temporary directory made");
    auto files = write_files(fs, temporary, *sources);
    if (!files) return files.error();
    manifest.files = std::move(*files);

    RETURN_IF_ERROR(write_manifest_file(fs, temporary, manifest));
    crash_point("commit: manifest synced");
    RETURN_IF_ERROR(fs.sync_directory(temporary));
    crash_point("commit: directory synced");

    const std::string name = to_string({.sequence = manifest.sequence, .step = manifest.step});
    RETURN_IF_ERROR(fs.rename(temporary, join_path(directory, name)));
    crash_point("commit: renamed");
    RETURN_IF_ERROR(fs.sync_directory(directory));
    crash_point("commit: parent synced");
    return manifest;
}

Result<Manifest> commit_whole(FileSystem& fs, const std::string& directory, Manifest manifest,
                              const Result<Sources>& sources) {
    invariant(!manifest.parent || *manifest.parent < manifest.sequence,
              "a checkpoint's sequence is above its parent's");
    invariant(manifest.files.empty(), "the files of a manifest are filled in by the commit");
    const Sequence sequence = manifest.sequence;
    const std::string job = manifest.job;
    const std::string name = to_string({.sequence = sequence, .step = manifest.step});
    const std::string temporary = join_path(directory, fmt::format("{}{}", kTemporaryPrefix, name));

    auto committed = commit_in_order(fs, directory, temporary, std::move(manifest), sources);
    if (!committed) {
        // The space is wanted back at once. If even that fails, the next start sweeps it; and if
        // the rename had been done, the temporary name is gone and this removes nothing.
        static_cast<void>(remove_tree(fs, temporary));
        return Error(committed.error())
            .while_doing("commit checkpoint {} of job '{}' in '{}'", sequence, job, directory);
    }
    return committed;
}

}  // namespace

Result<Manifest> commit(FileSystem& fs, const std::string& directory, Manifest manifest,
                        const std::vector<RankImage>& images) {
    invariant(images.size() == manifest.world_size, "a commit has the image of every rank");
    const auto sources = sources_of(images, manifest.tensors);
    return commit_whole(fs, directory, std::move(manifest), sources);
}

Result<Manifest> commit(FileSystem& fs, const std::string& directory, Manifest manifest,
                        const std::vector<KnownFile>& files) {
    invariant(!files.empty() && files.size() == manifest.adopted.size(),
              "a commit of what a script has saved has every file that it names");
    return commit_whole(fs, directory, std::move(manifest), sources_of(files));
}

}  // namespace pawl::checkpoint
