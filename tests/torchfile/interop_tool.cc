// A tool for interop_table_test.py, which compares with PyTorch what this room reads and writes.
//
//   interop_tool --describe PATH       says in a line of ASCII what a torch.save file holds, to the
//                                      last bit; interop_values.py says the same of Python objects
//   interop_tool --rewrite FROM TO     reads a file and writes what it holds anew
//   interop_tool --location L FROM TO  the same, with storages that were on device L
//   interop_tool --sparse BYTES TO     a file with a tensor of so many bytes, without their room on
//   disk interop_tool --places PATH         where the storages of a file lie
#include "base/file_system.h"
#include "torchfile/archive.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

namespace pawl::torchfile {
namespace {

std::string hexadecimal(std::string_view data) {
    std::string text;
    for (const char byte : data)
        text += fmt::format("{:02x}", static_cast<unsigned char>(byte));
    return text;
}

std::string hexadecimal(double number) {
    return fmt::format("{:016x}", std::bit_cast<std::uint64_t>(number));
}

std::string joined(const std::vector<std::string>& parts) {
    return fmt::format("{}", fmt::join(parts, ", "));
}

class Describer {
public:
    explicit Describer(std::vector<std::string> storage_bytes)
        : storage_bytes_(std::move(storage_bytes)) {}

    std::string describe(const Document& document) {
        document_ = &document;
        return of(document.root);
    }

private:
    std::string of(const Value& value) {
        return std::visit([this](const auto& held) { return held_text(held); }, value.data);
    }

    std::string held_text(None /*none*/) { return "None"; }
    std::string held_text(bool flag) { return flag ? "True" : "False"; }
    std::string held_text(std::int64_t integer) { return fmt::format("int {}", integer); }
    std::string held_text(const BigInteger& integer) {
        return "int x" + hexadecimal(integer.bytes);
    }
    std::string held_text(double number) { return "float " + hexadecimal(number); }
    std::string held_text(const Complex& number) {
        return fmt::format("complex {} {}", hexadecimal(number.real),
                           hexadecimal(number.imaginary));
    }
    std::string held_text(const std::string& text) { return "str " + hexadecimal(text); }
    std::string held_text(const Bytes& bytes) {
        return (bytes.is_bytearray ? "bytearray " : "bytes ") + hexadecimal(bytes.data);
    }
    std::string held_text(const Size& size) {
        return fmt::format("Size({})", fmt::join(size.sizes, ", "));
    }
    std::string held_text(const Device& device) {
        return fmt::format("device {}{}", device.type,
                           device.index ? fmt::format(":{}", *device.index) : "");
    }
    std::string held_text(DType dtype) { return fmt::format("dtype {}", name_of(dtype)); }
    std::string held_text(const NumpyScalar& scalar) {
        return fmt::format("numpy {} {}", scalar.type, hexadecimal(scalar.data));
    }

    std::string held_text(const List& list) {
        const auto [number, is_new] = number_of(list.object);
        if (!is_new) return fmt::format("same#{}", number);
        return fmt::format("list#{}[{}]", number, joined(all_of(list.items)));
    }
    std::string held_text(const Tuple& tuple) { return "(" + joined(all_of(tuple.items)) + ")"; }
    std::string held_text(const Set& set) {
        std::string name = "frozenset";
        if (!set.is_frozen) {
            const auto [number, is_new] = number_of(set.object);
            if (!is_new) return fmt::format("same#{}", number);
            name = fmt::format("set#{}", number);
        }
        auto items = all_of(set.items);
        std::sort(items.begin(), items.end());
        return name + "{" + joined(items) + "}";
    }
    std::string held_text(const Dict& dict) {
        const auto [number, is_new] = number_of(dict.object);
        if (!is_new) return fmt::format("same#{}", number);
        std::string text =
            fmt::format("{}#{}", dict.is_ordered_dict ? "OrderedDict" : "dict", number);
        text += pairs_of(dict.items);
        if (!dict.attributes.empty()) text += pairs_of(dict.attributes);
        return text;
    }

    std::string held_text(const Tensor& tensor) {
        const auto [number, is_new] = number_of(tensor.object);
        if (!is_new) return fmt::format("same#{}", number);
        const Storage& storage = document_->storages.at(tensor.storage);
        std::string text =
            fmt::format("{}#{}<{} shape ({}) stride ({}) offset {}{}{}{}",
                        tensor.is_parameter ? "Parameter" : "tensor", number,
                        name_of(dtype_of(tensor, storage)), fmt::join(tensor.shape, ", "),
                        fmt::join(tensor.stride, ", "), tensor.offset,
                        tensor.requires_grad ? " requires_grad" : "",
                        tensor.is_conjugate ? " conj" : "", tensor.is_negative ? " neg" : "");
        if (!tensor.attributes.empty()) text += " " + pairs_of(tensor.attributes);
        return text + " " + storage_text(tensor.storage) + ">";
    }

    std::string storage_text(std::size_t index) {
        const std::string& bytes = storage_bytes_.at(index);
        if (bytes.empty()) return "empty";
        const auto [found, is_new] = storages_.try_emplace(index, storages_.size() + 1);
        return fmt::format("storage@{}{}{}", found->second, is_new ? " " : "",
                           is_new ? hexadecimal(bytes) : "");
    }

    std::vector<std::string> all_of(const std::vector<Value>& items) {
        std::vector<std::string> texts;
        for (const Value& item : items)
            texts.push_back(of(item));
        return texts;
    }

    std::string pairs_of(const Items& items) {
        std::vector<std::string> texts;
        for (const auto& [key, item] : items) {
            std::string text = of(key) + ": ";
            texts.push_back(text + of(item));
        }
        return "{" + joined(texts) + "}";
    }

    // Objects are numbered as they are met.
    std::pair<std::size_t, bool> number_of(std::uint32_t object) {
        if (object == 0) return {++objects_met_, true};
        const auto [found, is_new] = objects_.try_emplace(object, objects_met_ + 1);
        if (is_new) ++objects_met_;
        return {found->second, is_new};
    }

    std::vector<std::string> storage_bytes_;
    const Document* document_ = nullptr;
    std::map<std::uint32_t, std::size_t> objects_;
    std::size_t objects_met_ = 0;
    std::map<std::size_t, std::size_t> storages_;
};

struct Read {
    Archive archive;
    std::vector<std::string> storage_bytes;
};

Result<Read> read_whole(const std::string& path) {
    const auto fs = make_posix_file_system();
    auto file = fs->open_file(path);
    if (!file) return std::move(file).error();
    auto archive = read_archive(**file);
    if (!archive) return std::move(archive).error();
    auto directory = read_directory(**file);
    if (!directory) return std::move(directory).error();
    auto damaged = first_damaged_record(**file, *directory);
    if (!damaged) return std::move(damaged).error();
    if (*damaged) return make_error(ErrorKind::kCorrupt, "record {} is damaged", **damaged);
    Read read{.archive = std::move(*archive), .storage_bytes = {}};
    for (const Extent& extent : read.archive.storages) {
        std::vector<std::byte> bytes(extent.bytes);
        RETURN_IF_ERROR((*file)->read_at(extent.offset, bytes));
        read.storage_bytes.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    }
    return read;
}

Result<void> describe(const std::string& path) {
    auto read = read_whole(path);
    if (!read) return std::move(read).error();
    Describer describer(std::move(read->storage_bytes));
    std::printf("%s\n", describer.describe(read->archive.document).c_str());
    return {};
}

Result<void> rewrite(const std::string& from, const std::string& to, const std::string& location) {
    auto read = read_whole(from);
    if (!read) return std::move(read).error();
    Document document = std::move(read->archive.document);
    for (Storage& storage : document.storages) {
        if (!location.empty()) storage.location = location;
    }
    auto plan = plan_image(document, "archive");
    if (!plan) return std::move(plan).error();
    std::vector<std::byte> image(plan->bytes);
    lay_out(*plan, image);
    for (std::size_t index = 0; index < plan->storages.size(); ++index) {
        const auto bytes = std::as_bytes(std::span(read->storage_bytes[index]));
        std::copy(bytes.begin(), bytes.end(),
                  image.begin() + static_cast<std::ptrdiff_t>(plan->storages[index].offset));
    }
    RETURN_IF_ERROR(fill_crcs(image));
    const auto fs = make_posix_file_system();
    auto file = fs->create_file(to, image.size());
    if (!file) return std::move(file).error();
    return (*file)->write_at(0, image);
}

// The tensor's first and last byte are 1.
Result<void> write_sparse(std::uint64_t bytes, const std::string& to) {
    Document document;
    document.storages.push_back({.key = "0", .dtype = DType::kUInt8, .elements = bytes});
    document.storages.push_back({.key = "1", .dtype = DType::kUInt8, .elements = 1});
    Dict root;
    root.set("large",
             Tensor{.storage = 0, .shape = {static_cast<std::int64_t>(bytes)}, .stride = {1}});
    root.set("after", Tensor{.storage = 1, .shape = {1}, .stride = {1}});
    document.root = std::move(root);
    auto plan = plan_image(document, "archive");
    if (!plan) return std::move(plan).error();
    std::FILE* const file = std::fopen(to.c_str(), "wb");
    if (file == nullptr) return error_from_errno("create '{}'", to);
    const auto put = [file](std::uint64_t offset, std::span<const std::byte> data) {
        return std::fseek(file, static_cast<long>(offset), SEEK_SET) == 0 &&
               std::fwrite(data.data(), 1, data.size(), file) == data.size();
    };
    const std::byte one{1};
    bool is_written = put(plan->storages[0].offset, std::span(&one, 1)) &&
                      put(plan->storages[0].offset + bytes - 1, std::span(&one, 1)) &&
                      put(plan->storages[1].offset, std::span(&one, 1));
    for (const ImagePlan::Piece& piece : plan->pieces)
        is_written = is_written && put(piece.offset, piece.bytes);
    is_written = std::fclose(file) == 0 && is_written;
    if (!is_written) return error_from_errno("write '{}'", to);
    return {};
}

// Where each storage lies, without reading any: for files that are larger than memory.
Result<void> places(const std::string& path) {
    const auto fs = make_posix_file_system();
    auto file = fs->open_file(path);
    if (!file) return std::move(file).error();
    auto archive = read_archive(**file);
    if (!archive) return std::move(archive).error();
    const auto paths = storage_paths(archive->document);
    for (std::size_t index = 0; index < paths.size(); ++index) {
        std::printf("%s %llu %llu\n", paths[index].c_str(),
                    static_cast<unsigned long long>(archive->storages[index].offset),
                    static_cast<unsigned long long>(archive->storages[index].bytes));
    }
    return {};
}

Result<void> run(const std::vector<std::string>& arguments) {
    const std::size_t count = arguments.size();
    const std::string& what = arguments.empty() ? std::string() : arguments[0];
    if (what == "--describe" && count == 2) return describe(arguments[1]);
    if (what == "--rewrite" && count == 3) return rewrite(arguments[1], arguments[2], "");
    if (what == "--places" && count == 2) return places(arguments[1]);
    if (what == "--location" && count == 4) {
        return rewrite(arguments[2], arguments[3], arguments[1]);
    }
    if (what == "--sparse" && count == 3) {
        std::uint64_t bytes = 0;
        std::from_chars(arguments[1].data(), arguments[1].data() + arguments[1].size(), bytes);
        return write_sparse(bytes, arguments[2]);
    }
    return make_error(ErrorKind::kInvalidArgument,
                      "give --describe PATH, --places PATH, --rewrite FROM TO, --location L FROM "
                      "TO or --sparse BYTES TO");
}

}  // namespace
}  // namespace pawl::torchfile

int main(int argc, char** argv) {
    const auto done = pawl::torchfile::run({argv + 1, argv + argc});
    if (done) return 0;
    std::fprintf(stderr, "interop_tool: %s\n", done.error().text().c_str());
    return 1;
}
