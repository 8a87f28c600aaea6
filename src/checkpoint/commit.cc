// See commit.h.
#include "checkpoint/commit.h"

#include "base/crash_point.h"
#include "base/invariant.h"
#include "checkpoint/image_writer.h"
#include "checkpoint/shards.h"
#include "torchfile/archive.h"

#include <memory>

namespace pawl::checkpoint {
namespace {

struct OpenFile {
    std::string name;
    std::unique_ptr<WritableFile> file;
    torchfile::Directory directory;
};

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

// Step 1: a full disk fails here, with nothing touched.
// `tensors` is told what the images say of their parts.
Result<std::vector<OpenFile>> preallocate(FileSystem& fs, const std::string& temporary,
                                          const std::vector<RankImage>& images,
                                          ShardedTensors& tensors) {
    std::vector<OpenFile> files;
    for (const RankImage& image : images) {
        auto zip_directory = directory_of(image);
        if (!zip_directory) return zip_directory.error();
        const std::string name = rank_file_name(image.rank);
        RETURN_IF_ERROR(add_shards(tensors, name, image.bytes, *zip_directory));
        auto file = fs.create_file(join_path(temporary, name), image.bytes.size());
        if (!file) return file.error();
        files.push_back(
            {.name = name, .file = std::move(*file), .directory = std::move(*zip_directory)});
    }
    return files;
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

// Order: space, data, manifest, directory, rename, parent. A crash before the rename leaves only
// .tmp-….
Result<Manifest> commit_in_order(FileSystem& fs, const std::string& directory,
                                 const std::string& temporary, Manifest manifest,
                                 const std::vector<RankImage>& images) {
    RETURN_IF_ERROR(fs.create_directory(temporary));
    crash_point("commit: temporary directory made");
    auto files = preallocate(fs, temporary, images, manifest.tensors);
    if (!files) return files.error();
    crash_point("commit: files allocated");

    for (std::size_t i = 0; i < images.size(); ++i) {
        OpenFile& open = (*files)[i];
        auto entry = write_image(*open.file, images[i].bytes, open.directory);
        if (!entry) return entry.error();
        crash_point("commit: data written");
        RETURN_IF_ERROR(open.file->sync_data());
        crash_point("commit: data synced");
        entry->name = open.name;
        manifest.files.push_back(std::move(*entry));
    }

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

}  // namespace

Result<Manifest> commit(FileSystem& fs, const std::string& directory, Manifest manifest,
                        const std::vector<RankImage>& images) {
    invariant(images.size() == manifest.world_size, "a commit has the image of every rank");
    invariant(!manifest.parent || *manifest.parent < manifest.sequence,
              "a checkpoint's sequence is above its parent's");
    invariant(manifest.files.empty(), "the files of a manifest are filled in by the commit");
    const Sequence sequence = manifest.sequence;
    const std::string job = manifest.job;
    const std::string name = to_string({.sequence = sequence, .step = manifest.step});
    const std::string temporary = join_path(directory, fmt::format("{}{}", kTemporaryPrefix, name));

    auto committed = commit_in_order(fs, directory, temporary, std::move(manifest), images);
    if (!committed) {
        // The space is wanted back at once. If even that fails, the next start sweeps it; and if
        // the rename had been done, the temporary name is gone and this removes nothing.
        static_cast<void>(remove_tree(fs, temporary));
        return Error(committed.error())
            .while_doing("commit checkpoint {} of job '{}' in '{}'", sequence, job, directory);
    }
    return committed;
}

}  // namespace pawl::checkpoint
