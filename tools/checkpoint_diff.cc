// See checkpoint_commands.h: diff. Reads two checkpoints, at 80 columns.
#include "checkpoint/diff.h"
#include "tools/checkpoint_commands.h"
#include "tools/output.h"

#include <algorithm>

namespace pawl::tools {
namespace {

using checkpoint::Difference;
using checkpoint::DifferenceKind;
using nlohmann::json;

constexpr std::size_t kColumns = 80;

// The end of a path says more than its middle.
std::string fitted(const std::string& text, std::size_t columns) {
    if (text.size() <= columns) return text;
    constexpr std::string_view kDots = "...";
    const std::size_t head = (columns - kDots.size()) / 3;
    const std::size_t tail = columns - kDots.size() - head;
    return fmt::format("{}{}{}", text.substr(0, head), kDots, text.substr(text.size() - tail));
}

std::string mark_of(DifferenceKind kind) {
    if (kind == DifferenceKind::kOnlyInA) return "-";
    return kind == DifferenceKind::kOnlyInB ? "+" : "~";
}

std::string what_of(const Difference& one) {
    switch (one.kind) {
        case DifferenceKind::kOnlyInA:
            return "only in A: " + one.a;
        case DifferenceKind::kOnlyInB:
            return "only in B: " + one.b;
        case DifferenceKind::kElements:
            if (one.elements == 1) return fmt::format("{} -> {} ({})", one.a, one.b, one.tensor);
            return fmt::format("{} of {} elements, {} bytes ({})", one.elements_differing,
                               one.elements, one.bytes_differing, one.tensor);
        default:
            return fmt::format("{} -> {}", one.a, one.b);
    }
}

// One line where both fit, else two.
std::string lines_of(const Difference& one) {
    const std::string path = one.path.empty() ? "(the whole)" : one.path;
    const std::string what = what_of(one);
    const std::string start = fmt::format("  {} ", mark_of(one.kind));
    if (start.size() + path.size() + 2 + what.size() <= kColumns)
        return fmt::format("{}{}  {}\n", start, path, what);
    return fmt::format("{}{}\n      {}\n", start, fitted(path, kColumns - start.size()),
                       fitted(what, kColumns - 6));
}

json json_of(const Difference& one) {
    json object = {{"kind", std::string(to_string(one.kind))}, {"path", one.path}};
    if (!one.a.empty()) object["a"] = one.a;
    if (!one.b.empty()) object["b"] = one.b;
    if (one.kind == DifferenceKind::kElements) {
        object["tensor"] = one.tensor;
        object["elements"] = one.elements;
        object["elements_differing"] = one.elements_differing;
        object["bytes_differing"] = one.bytes_differing;
    }
    return object;
}

struct Compared {
    std::string path;
    checkpoint::Manifest manifest;
};

Result<Compared> compared(FileSystem& fs, const Place& place, const std::string& name) {
    const auto found = find_checkpoint(fs, place, name);
    if (!found) return found.error();
    auto manifest = checkpoint::read_manifest_of(fs, found->path);
    if (!manifest) return Error(manifest.error()).while_doing("read checkpoint '{}'", found->path);
    return Compared{.path = found->path, .manifest = std::move(*manifest)};
}

std::string line_of(char letter, const Compared& one) {
    const std::size_t ranks = one.manifest.files.size();
    return fmt::format("{}  checkpoint {}: step {}, epoch {}, {}\n", letter, one.manifest.sequence,
                       one.manifest.step, one.manifest.epoch,
                       ranks == 1 ? std::string("1 rank") : fmt::format("{} ranks", ranks));
}

bool has_file(const checkpoint::Manifest& manifest, const std::string& name) {
    return std::ranges::find(manifest.files, name, &checkpoint::FileEntry::name) !=
           manifest.files.end();
}

Result<checkpoint::FileDifferences> diff_file(FileSystem& fs, const std::string& a,
                                              const std::string& b) {
    const auto source_a = fs.open_file(a);
    if (!source_a) return source_a.error();
    const auto source_b = fs.open_file(b);
    if (!source_b) return source_b.error();
    auto differences = checkpoint::diff_files(**source_a, **source_b);
    if (!differences) {
        return Error(differences.error())
            .while_doing("compare '{}' with '{}'", a, b)
            .consequence("See whether both are whole: pawl checkpoints verify");
    }
    return differences;
}

}  // namespace

Result<int> diff_checkpoints(const Place& place, const std::string& a, const std::string& b,
                             Format format) {
    const auto fs = make_posix_file_system();
    const auto one = compared(*fs, place, a);
    if (!one) return one.error();
    const auto other = compared(*fs, place, b);
    if (!other) return other.error();
    std::string text = line_of('A', *one) + line_of('B', *other);
    json files = json::array();
    bool is_same = true;
    for (const checkpoint::FileEntry& file : one->manifest.files) {
        if (!has_file(other->manifest, file.name)) {
            is_same = false;
            text += fmt::format("{}: only in A\n", file.name);
            files.push_back({{"name", file.name}, {"only_in", "a"}});
            continue;
        }
        const auto found =
            diff_file(*fs, join_path(one->path, file.name), join_path(other->path, file.name));
        if (!found) return found.error();
        is_same = is_same && found->differences.empty();
        text += fmt::format("{}: {} of {} values are equal\n", file.name, found->values_equal,
                            found->values_compared);
        json differences = json::array();
        for (const Difference& difference : found->differences) {
            text += lines_of(difference);
            differences.push_back(json_of(difference));
        }
        files.push_back({{"name", file.name},
                         {"values_compared", found->values_compared},
                         {"values_equal", found->values_equal},
                         {"differences", std::move(differences)}});
    }
    for (const checkpoint::FileEntry& file : other->manifest.files) {
        if (has_file(one->manifest, file.name)) continue;
        is_same = false;
        text += fmt::format("{}: only in B\n", file.name);
        files.push_back({{"name", file.name}, {"only_in", "b"}});
    }
    if (format == Format::kJson) {
        print_json({{"a", one->path}, {"b", other->path}, {"same", is_same}, {"files", files}});
    } else {
        print(text);
    }
    return is_same ? 0 : 1;
}

}  // namespace pawl::tools
