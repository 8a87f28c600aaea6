// See manifest.h.
#include "checkpoint/manifest.h"

#include <nlohmann/json.hpp>

#include <array>
#include <cmath>
#include <set>
#include <span>

namespace pawl::checkpoint {
namespace {

using nlohmann::json;

constexpr std::array<std::pair<Reason, std::string_view>, 7> kReasons = {{
    {Reason::kCadence, "cadence"},
    {Reason::kSigterm, "sigterm"},
    {Reason::kNotice, "notice"},
    {Reason::kRequest, "request"},
    {Reason::kFinal, "final"},
    {Reason::kImport, "import"},
    {Reason::kAdopt, "adopt"},
}};

constexpr std::string_view kDigestStart = ",\n  \"digest\": \"";
constexpr std::string_view kDigestEnd = "\"\n}\n";

Digest digest_of(std::string_view text) {
    return xxh3_128(std::as_bytes(std::span(text)));
}

json json_of(const FileEntry& file) {
    json chunks = json::array();
    for (const Digest& chunk : file.chunks)
        chunks.push_back(chunk.hex());
    return {{"name", file.name},
            {"bytes", file.bytes},
            {"chunk_bytes", file.chunk_bytes},
            {"xxh3_128", std::move(chunks)}};
}

json json_of(const ShardedTensor& tensor) {
    json parts = json::object();
    for (const auto& [file, part] : tensor.parts)
        parts[file] = {{"offsets", part.offsets}, {"sizes", part.sizes}};
    return {{"dtype", tensor.whole.dtype},
            {"shape", tensor.whole.shape},
            {"flat", tensor.whole.is_flat},
            {"parts", std::move(parts)}};
}

json json_of(const Manifest& manifest) {
    json body = json::parse(manifest.unknown_fields);
    body["format_version"] = kFormatVersion;
    body["job"] = manifest.job;
    body["sequence"] = manifest.sequence.value;
    body["parent"] = manifest.parent ? json(manifest.parent->value) : json(nullptr);
    body["step"] = manifest.step.value;
    body["epoch"] = manifest.epoch.value;
    body["world_size"] = manifest.world_size;
    body["incarnation"] = manifest.incarnation.value;
    body["time_ms"] = manifest.time.time_since_epoch().count();
    body["reason"] = to_string(manifest.reason);
    body["metrics"] = json::object();
    for (const auto& [name, value] : manifest.metrics) {
        // JSON has no NaN: a metric that is none is left null.
        body["metrics"][name] = std::isfinite(value) ? json(value) : json(nullptr);
    }
    body["pawl_version"] = manifest.pawl_version;
    body["framework"] = manifest.framework;
    body["files"] = json::array();
    for (const FileEntry& file : manifest.files)
        body["files"].push_back(json_of(file));
    for (const auto& [name, tensor] : manifest.tensors)
        body["tensors"][name] = json_of(tensor);
    if (!manifest.is_adopted()) return body;
    body["adopted"] = json::array();
    for (const AdoptedFile& file : manifest.adopted) {
        body["adopted"].push_back({{"name", file.name},
                                   {"path", file.path},
                                   {"mode", file.mode},
                                   {"modified_ns", file.modified_ns}});
    }
    return body;
}

// The text without its digest, once the digest has been found and holds.
Result<std::string_view> verified_body(std::string_view text) {
    const auto start = text.rfind(kDigestStart);
    const std::size_t tail = kDigestStart.size() + 32 + kDigestEnd.size();
    if (start == std::string_view::npos || text.size() - start != tail ||
        !text.ends_with(kDigestEnd)) {
        return make_error(ErrorKind::kCorrupt,
                          "the manifest does not end with its digest: it was cut or changed");
    }
    const auto stated = Digest::from_hex(text.substr(start + kDigestStart.size(), 32));
    if (!stated) return stated.error();
    const std::string_view body = text.substr(0, start);
    if (digest_of(body) != *stated) {
        return make_error(ErrorKind::kCorrupt,
                          "the manifest's digest is {}, its text has {}: it was changed",
                          stated->hex(), digest_of(body).hex());
    }
    return body;
}

bool is_plain_file_name(const std::string& name) {
    return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
           name.find('/') == std::string::npos && name.find('\0') == std::string::npos;
}

Result<FileEntry> file_of(const json& entry) {
    FileEntry file;
    file.name = entry.at("name").get<std::string>();
    file.bytes = entry.at("bytes").get<std::uint64_t>();
    file.chunk_bytes = entry.at("chunk_bytes").get<std::uint64_t>();
    if (!is_plain_file_name(file.name)) {
        return make_error(ErrorKind::kCorrupt, "file name '{}' is none that a checkpoint can hold",
                          file.name);
    }
    if (file.chunk_bytes < 4096 || file.chunk_bytes > (std::uint64_t{1} << 30)) {
        return make_error(ErrorKind::kCorrupt,
                          "file '{}': chunks of {} bytes, 4096 to 2^30 were expected", file.name,
                          file.chunk_bytes);
    }
    for (const json& chunk : entry.at("xxh3_128")) {
        const auto digest = Digest::from_hex(chunk.get<std::string>());
        if (!digest) return digest.error();
        file.chunks.push_back(*digest);
    }
    const std::uint64_t chunks =
        file.bytes / file.chunk_bytes + (file.bytes % file.chunk_bytes != 0 ? 1 : 0);
    if (file.chunks.size() != chunks) {
        return make_error(ErrorKind::kCorrupt,
                          "file '{}' of {} bytes has {} digests, {} were expected", file.name,
                          file.bytes, file.chunks.size(), chunks);
    }
    return file;
}

Result<ShardedTensor> tensor_of(const json& entry, const std::set<std::string>& files) {
    ShardedTensor tensor{.whole = {.dtype = entry.at("dtype").get<std::string>(),
                                   .shape = entry.at("shape").get<std::vector<std::uint64_t>>(),
                                   .is_flat = entry.at("flat").get<bool>()}};
    for (const auto& [file, value] : entry.at("parts").items()) {
        if (!files.contains(file))
            return make_error(ErrorKind::kCorrupt, "file '{}' is not listed", file);
        const Part part{.offsets = value.at("offsets").get<std::vector<std::uint64_t>>(),
                        .sizes = value.at("sizes").get<std::vector<std::uint64_t>>()};
        RETURN_IF_ERROR(check_part(tensor.whole, part));
        tensor.parts.emplace(file, part);
    }
    return tensor;
}

Result<void> read_adopted(const json& entries, Manifest& manifest) {
    for (const json& entry : entries) {
        AdoptedFile file{.name = entry.at("name").get<std::string>(),
                         .path = entry.at("path").get<std::string>(),
                         .mode = entry.at("mode").get<std::uint32_t>() & 07777,
                         .modified_ns = entry.at("modified_ns").get<std::int64_t>()};
        if (file.path.empty() || file.path.find('\0') != std::string::npos) {
            return make_error(ErrorKind::kCorrupt, "adopted file '{}' has no path", file.name);
        }
        manifest.adopted.push_back(std::move(file));
    }
    bool agrees = manifest.adopted.size() == manifest.files.size();
    for (std::size_t i = 0; agrees && i < manifest.files.size(); ++i)
        agrees = manifest.adopted[i].name == manifest.files[i].name;
    if (agrees) return {};
    return make_error(ErrorKind::kCorrupt, "its adopted files are not the files that it lists");
}

Result<Manifest> manifest_of(json& body) {
    Manifest manifest;
    manifest.job = body.at("job").get<std::string>();
    manifest.sequence = Sequence{body.at("sequence").get<std::uint64_t>()};
    if (!body.at("parent").is_null())
        manifest.parent = Sequence{body.at("parent").get<std::uint64_t>()};
    manifest.step = Step{body.at("step").get<std::uint64_t>()};
    manifest.epoch = Epoch{body.at("epoch").get<std::uint64_t>()};
    manifest.world_size = body.at("world_size").get<std::uint64_t>();
    manifest.incarnation = Incarnation{body.at("incarnation").get<std::uint64_t>()};
    manifest.time = WallTime{milliseconds{body.at("time_ms").get<std::int64_t>()}};
    const auto reason = parse_reason(body.at("reason").get<std::string>());
    if (!reason) {
        return make_error(ErrorKind::kCorrupt, "unknown reason '{}'",
                          body.at("reason").get<std::string>());
    }
    manifest.reason = *reason;
    for (const auto& [name, value] : body.at("metrics").items()) {
        manifest.metrics[name] = value.is_null() ? std::nan("") : value.get<double>();
    }
    manifest.pawl_version = body.at("pawl_version").get<std::string>();
    manifest.framework = body.at("framework").get<std::string>();
    std::set<std::string> names;
    for (const json& entry : body.at("files")) {
        auto file = file_of(entry);
        if (!file) return file.error();
        if (!names.insert(file->name).second) {
            return make_error(ErrorKind::kCorrupt, "file '{}' is listed twice", file->name);
        }
        manifest.files.push_back(std::move(*file));
    }
    if (body.contains("tensors")) {
        for (const auto& [name, entry] : body.at("tensors").items()) {
            auto tensor = tensor_of(entry, names);
            if (!tensor) {
                return Error(tensor.error())
                    .while_doing("read which file holds which part of tensor '{}'", name);
            }
            manifest.tensors.emplace(name, std::move(*tensor));
        }
    }
    if (body.contains("adopted")) RETURN_IF_ERROR(read_adopted(body.at("adopted"), manifest));
    for (const char* known : {"format_version", "job", "sequence", "parent", "step", "epoch",
                              "world_size", "incarnation", "time_ms", "reason", "metrics",
                              "pawl_version", "framework", "files", "tensors", "adopted"}) {
        body.erase(known);
    }
    manifest.unknown_fields = body.dump();
    return manifest;
}

}  // namespace

std::string_view to_string(Reason reason) {
    for (const auto& [value, text] : kReasons) {
        if (value == reason) return text;
    }
    return "unknown";
}

std::optional<Reason> parse_reason(std::string_view text) {
    for (const auto& [value, name] : kReasons) {
        if (name == text) return value;
    }
    return std::nullopt;
}

std::uint64_t Manifest::total_bytes() const {
    std::uint64_t bytes = 0;
    for (const FileEntry& file : files)
        bytes += file.bytes;
    return bytes;
}

std::string write_manifest(const Manifest& manifest) {
    // Text that is not UTF-8 (a job's name can't be, a framework's might) is replaced, never thrown
    // at.
    std::string text = json_of(manifest).dump(2, ' ', false, json::error_handler_t::replace);
    text.resize(text.size() - std::string_view("\n}").size());
    const std::string digest = digest_of(text).hex();
    text += kDigestStart;
    text += digest;
    text += kDigestEnd;
    return text;
}

Result<Manifest> read_manifest(std::string_view text) {
    const auto body_text = verified_body(text);
    if (!body_text) return body_text.error();
    try {
        json body = json::parse(std::string(*body_text) + "\n}");
        const auto version = body.at("format_version").get<std::uint64_t>();
        if (version > kFormatVersion) {
            return make_error(
                ErrorKind::kUnsupported,
                "the manifest has format version {}, this pawl reads up to {}: a newer pawl "
                "(it says {}) is needed",
                version, kFormatVersion, body.value("pawl_version", std::string("no version")));
        }
        return manifest_of(body);
    } catch (const json::exception& error) {
        return make_error(ErrorKind::kCorrupt, "the manifest is not what it should be: {}",
                          error.what());
    }
}

}  // namespace pawl::checkpoint
