// See transfer.h.
#include "checkpoint/transfer.h"

#include "base/crash_point.h"
#include "checkpoint/name.h"
#include "checkpoint/store.h"
#include "torchfile/archive.h"

#include <unistd.h>

#include <cmath>

namespace pawl::checkpoint {
namespace {

// Floats too, where they are whole: a script may count in them.
std::optional<std::uint64_t> whole_number(const torchfile::Value* value) {
    if (value == nullptr) return std::nullopt;
    if (const auto* number = value->get_if<std::int64_t>(); number != nullptr && *number >= 0)
        return static_cast<std::uint64_t>(*number);
    constexpr double kExactMax = 9007199254740992.0;  // 2^53
    if (const auto* number = value->get_if<double>(); number != nullptr && *number >= 0 &&
                                                      *number <= kExactMax &&
                                                      std::floor(*number) == *number) {
        return static_cast<std::uint64_t>(*number);
    }
    return std::nullopt;
}

Result<void> copy_file(FileSystem& fs, const std::string& from, const FileEntry& entry,
                       const std::string& to) {
    const auto source = fs.open_file(join_path(from, entry.name));
    if (!source) return source.error();
    if ((*source)->size() != entry.bytes) {
        return make_error(ErrorKind::kCorrupt, "{}: it has {} bytes, the manifest says {}",
                          entry.name, (*source)->size(), entry.bytes);
    }
    const auto target = fs.create_file(to, entry.bytes);
    if (!target) return target.error();
    std::vector<std::byte> buffer(std::min(entry.chunk_bytes, entry.bytes));
    for (std::size_t i = 0; i < entry.chunks.size(); ++i) {
        const std::uint64_t begin = i * entry.chunk_bytes;
        const std::span<std::byte> chunk =
            std::span(buffer).first(std::min(entry.chunk_bytes, entry.bytes - begin));
        RETURN_IF_ERROR((*source)->read_at(begin, chunk));
        if (xxh3_128(chunk) != entry.chunks[i]) {
            return make_error(ErrorKind::kCorrupt,
                              "{}, chunk {}: its digest is not what the manifest says; see: pawl "
                              "checkpoints verify",
                              entry.name, i);
        }
        RETURN_IF_ERROR((*target)->write_at(begin, chunk));
    }
    return (*target)->sync_data();
}

Result<void> copy_manifest(FileSystem& fs, const std::string& from, const std::string& to) {
    const auto text = read_text(fs, join_path(from, kManifestName), kManifestBytesMax);
    if (!text) return text.error();
    const auto target = fs.create_file(to, text->size());
    if (!target) return target.error();
    RETURN_IF_ERROR((*target)->write_at(0, std::as_bytes(std::span(*text))));
    return (*target)->sync_data();
}

Result<void> copy_all(FileSystem& fs, const std::string& from, const Manifest& manifest,
                      const std::string& to) {
    if (manifest.files.size() == 1) return copy_file(fs, from, manifest.files.front(), to);
    RETURN_IF_ERROR(fs.create_directory(to));
    for (const FileEntry& entry : manifest.files)
        RETURN_IF_ERROR(copy_file(fs, from, entry, join_path(to, entry.name)));
    RETURN_IF_ERROR(copy_manifest(fs, from, join_path(to, kManifestName)));
    return fs.sync_directory(to);
}

}  // namespace

Result<Imported> inspect_torch_file(const ByteSource& source) {
    const auto directory = torchfile::read_directory(source);
    if (!directory) return directory.error();
    const auto damaged = torchfile::first_damaged_record(source, *directory);
    if (!damaged) return damaged.error();
    if (damaged->has_value()) {
        return make_error(ErrorKind::kCorrupt, "record '{}' does not have the CRC that it states",
                          directory->records[**damaged].name);
    }
    const auto archive = torchfile::read_archive(source);
    if (!archive) return archive.error();
    return numbers_in(archive->document);
}

Imported numbers_in(const torchfile::Document& document) {
    Imported imported;
    const auto* root = document.root.get_if<torchfile::Dict>();
    if (root == nullptr) return imported;
    for (const char* const key : {"step", "global_step", "iteration", "iter_num"}) {
        const auto step = whole_number(root->find(key));
        if (step && !imported.step) imported.step = Step{*step};
    }
    if (const auto epoch = whole_number(root->find("epoch"))) imported.epoch = Epoch{*epoch};
    return imported;
}

Result<Exported> export_checkpoint(FileSystem& fs, const std::string& path,
                                   const std::string& target) {
    const auto slash = target.find_last_of('/');
    const std::string parent = slash == std::string::npos ? "."
                               : slash == 0               ? "/"
                                                          : target.substr(0, slash);
    const std::string name = slash == std::string::npos ? target : target.substr(slash + 1);
    const std::string temporary =
        join_path(parent, fmt::format("{}{}.{}", kTemporaryPrefix, name, ::getpid()));
    const auto export_in_order = [&]() -> Result<Exported> {
        if (name.empty()) {
            return make_error(ErrorKind::kInvalidArgument, "'{}' does not name a file", target);
        }
        const auto there = fs.status(target);
        if (!there) return there.error();
        if (there->has_value()) {
            return make_error(ErrorKind::kAlreadyExists, "'{}' is there already", target);
        }
        auto manifest = read_manifest_of(fs, path);
        if (!manifest) return manifest.error();
        RETURN_IF_ERROR(copy_all(fs, path, *manifest, temporary));
        crash_point("export: copied");
        RETURN_IF_ERROR(fs.rename(temporary, target));
        crash_point("export: renamed");
        RETURN_IF_ERROR(fs.sync_directory(parent));
        const std::uint64_t bytes = manifest->total_bytes();
        return Exported{.manifest = std::move(*manifest), .bytes = bytes};
    };
    auto exported = export_in_order();
    if (!exported) {
        auto error =
            Error(exported.error()).while_doing("export checkpoint '{}' to '{}'", path, target);
        if (exported.error().kind() == ErrorKind::kAlreadyExists) return error;
        // Best effort: its name says what it is, and nobody looks for it.
        static_cast<void>(remove_tree(fs, temporary));
        return error;
    }
    return exported;
}

}  // namespace pawl::checkpoint
