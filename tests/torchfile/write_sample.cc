// A tool for torch_interop_test.py, which compares with PyTorch what this room writes and reads.
//
//   write_sample PATH                    writes a sample of every kind of value
//   write_sample --without-floats PATH   the same without Python floats (PyTorch 1.13,
//   weights_only) write_sample --without-crcs PATH     the same with CRCs of zero write_sample
//   --dump PATH             prints a torch.save file as a Python literal
#include "base/file_system.h"
#include "torchfile/archive.h"

#include <bit>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

namespace pawl::torchfile {
namespace {

enum class Floats { kYes, kNo };
enum class Crcs { kYes, kNo };

constexpr DType kDTypes[] = {DType::kFloat32,  DType::kFloat64,   DType::kFloat16,
                             DType::kBFloat16, DType::kInt64,     DType::kInt32,
                             DType::kInt16,    DType::kInt8,      DType::kUInt8,
                             DType::kBool,     DType::kComplex64, DType::kComplex128};

// One tensor of each dtype; two views of one storage; a large storage; an empty one.
Document sample_document(Floats floats) {
    Document document;
    Dict dtypes;
    dtypes.is_ordered_dict = true;
    const auto add_storage = [&document](DType dtype, std::uint64_t elements) {
        const std::size_t index = document.storages.size();
        document.storages.push_back(
            {.key = std::to_string(index), .dtype = dtype, .elements = elements});
        return index;
    };
    for (const DType dtype : kDTypes) {
        dtypes.set(name_of(dtype),
                   Tensor{.storage = add_storage(dtype, 6), .shape = {2, 3}, .stride = {3, 1}});
    }
    const std::size_t shared = add_storage(DType::kFloat32, 10);
    const std::size_t large = add_storage(DType::kFloat32, 100000);
    const std::size_t empty = add_storage(DType::kFloat32, 0);

    Dict root;
    root.set("dtypes", dtypes);
    root.set("first", Tensor{.storage = shared, .shape = {4}, .stride = {1}});
    root.set("second", Tensor{.storage = shared, .offset = 2, .shape = {2, 2}, .stride = {1, 4}});
    root.set(
        "large",
        Tensor{.storage = large, .shape = {100, 1000}, .stride = {1000, 1}, .requires_grad = true});
    root.set("scalar", Tensor{.storage = shared, .offset = 3});
    root.set("empty", Tensor{.storage = empty, .shape = {0}, .stride = {1}});
    List integers;
    for (const std::int64_t integer :
         {std::int64_t{0}, std::int64_t{255}, std::int64_t{256}, std::int64_t{65536},
          std::int64_t{-1}, std::int64_t{1} << 31, INT64_MIN, INT64_MAX}) {
        integers.items.emplace_back(integer);
    }
    root.set("integers", integers);
    root.set("tuples",
             Tuple{{Tuple{}, Tuple{{1}}, Tuple{{1, 2}}, Tuple{{1, 2, 3}}, Tuple{{1, 2, 3, 4}}}});
    root.set("nothing", None{});
    root.set("flags", List{{true, false}});
    root.set("text", "Gr\xc3\xbc\xc3\x9f dich");
    Dict by_integer;
    by_integer.items.emplace_back(0, Dict{});
    by_integer.items.emplace_back(1, List{});
    root.set("by_integer", by_integer);
    if (floats == Floats::kYes) {
        root.set("floats", Tuple{{0.1, -0.0, 1e300, std::bit_cast<double>(0x7ff0000000000000ULL)}});
    }
    return {.root = std::move(root), .storages = std::move(document.storages)};
}

// Element i is i modulo 4 (modulo 2 for bools), as a value of its type.
void fill(DType dtype, std::span<std::byte> bytes) {
    const std::size_t item_bytes = item_bytes_of(dtype);
    for (std::size_t index = 0; index * item_bytes < bytes.size(); ++index) {
        const std::size_t value = index % (dtype == DType::kBool ? 2 : 4);
        std::byte* const target = bytes.data() + index * item_bytes;
        const auto put = [target](const auto& item) { std::memcpy(target, &item, sizeof item); };
        constexpr std::uint16_t kHalves[] = {0, 0x3c00, 0x4000, 0x4200};
        const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(value));
        switch (dtype) {
            case DType::kFloat32:
            case DType::kComplex64:
                put(static_cast<float>(value));
                break;
            case DType::kFloat64:
            case DType::kComplex128:
                put(static_cast<double>(value));
                break;
            case DType::kFloat16:
                put(kHalves[value]);
                break;
            case DType::kBFloat16:
                put(static_cast<std::uint16_t>(bits >> 16));
                break;
            default:
                put(static_cast<std::uint8_t>(value));
                break;
        }
    }
}

Result<void> write_sample(const std::string& path, Floats floats, Crcs crcs) {
    const Document document = sample_document(floats);
    auto plan = plan_image(document, "archive");
    if (!plan) return std::move(plan).error();
    std::vector<std::byte> image(plan->bytes);
    lay_out(*plan, image);
    for (std::size_t index = 0; index < plan->storages.size(); ++index) {
        const Extent& extent = plan->storages[index];
        fill(document.storages[index].dtype, std::span(image).subspan(extent.offset, extent.bytes));
    }
    if (crcs == Crcs::kYes) RETURN_IF_ERROR(fill_crcs(image));
    const auto fs = make_posix_file_system();
    auto file = fs->create_file(path, image.size());
    if (!file) return std::move(file).error();
    RETURN_IF_ERROR((*file)->write_at(0, image));
    return {};
}

std::string quoted(std::string_view text) {
    std::string result = "'";
    for (const char character : text) {
        const bool is_plain = character != '\'' && character != '\\' && character != '\n';
        result += is_plain ? std::string(1, character)
                           : fmt::format("\\x{:02x}", static_cast<unsigned>(character));
    }
    return result + "'";
}

std::string literal_of(const Value& value);

std::string items_of(const std::vector<Value>& items) {
    std::string text;
    for (const Value& item : items)
        text += literal_of(item) + ", ";
    return text;
}

std::string literal_of(const Tensor& tensor) {
    const auto tuple_of = [](const std::vector<std::int64_t>& integers) {
        std::string text = "(";
        for (const std::int64_t integer : integers)
            text += fmt::format("{},", integer);
        return text + ")";
    };
    return fmt::format("{{'tensor': {}, 'offset': {}, 'shape': {}, 'stride': {}, 'grad': {}}}",
                       tensor.storage, tensor.offset, tuple_of(tensor.shape),
                       tuple_of(tensor.stride), tensor.requires_grad ? "True" : "False");
}

std::string literal_of(const Value& value) {
    if (const auto* flag = value.get_if<bool>()) return *flag ? "True" : "False";
    if (const auto* integer = value.get_if<std::int64_t>()) return fmt::format("{}", *integer);
    if (const auto* number = value.get_if<double>()) return fmt::format("float('{}')", *number);
    if (const auto* text = value.get_if<std::string>()) return quoted(*text);
    if (const auto* list = value.get_if<List>()) return "[" + items_of(list->items) + "]";
    if (const auto* tuple = value.get_if<Tuple>()) {
        return tuple->items.empty() ? "()" : "(" + items_of(tuple->items) + ")";
    }
    if (const auto* tensor = value.get_if<Tensor>()) return literal_of(*tensor);
    if (const auto* dict = value.get_if<Dict>()) {
        std::string text = "{";
        for (const auto& [key, item] : dict->items) {
            text += literal_of(key) + ": " + literal_of(item) + ", ";
        }
        return text + "}";
    }
    return "None";
}

// {'value': ..., 'storages': [(dtype, location, hexadecimal bytes), ...]}
Result<void> dump(const std::string& path) {
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

    std::string text = "{'value': " + literal_of(archive->document.root) + ", 'storages': [";
    for (std::size_t index = 0; index < archive->storages.size(); ++index) {
        const Storage& storage = archive->document.storages[index];
        std::vector<std::byte> bytes(archive->storages[index].bytes);
        RETURN_IF_ERROR((*file)->read_at(archive->storages[index].offset, bytes));
        text += fmt::format("('{}', {}, '", name_of(storage.dtype), quoted(storage.location));
        for (const std::byte byte : bytes)
            text += fmt::format("{:02x}", std::to_integer<int>(byte));
        text += "'), ";
    }
    std::printf("%s]}\n", text.c_str());
    return {};
}

Result<void> run(const std::vector<std::string>& arguments) {
    if (arguments.size() == 1) return write_sample(arguments[0], Floats::kYes, Crcs::kYes);
    if (arguments.size() == 2 && arguments[0] == "--without-floats") {
        return write_sample(arguments[1], Floats::kNo, Crcs::kYes);
    }
    if (arguments.size() == 2 && arguments[0] == "--without-crcs") {
        return write_sample(arguments[1], Floats::kYes, Crcs::kNo);
    }
    if (arguments.size() == 2 && arguments[0] == "--dump") return dump(arguments[1]);
    return make_error(ErrorKind::kInvalidArgument,
                      "give [--without-floats|--without-crcs|--dump] PATH");
}

}  // namespace
}  // namespace pawl::torchfile

int main(int argc, char** argv) {
    const auto done = pawl::torchfile::run({argv + 1, argv + argc});
    if (done) return 0;
    std::fprintf(stderr, "write_sample: %s\n", done.error().text().c_str());
    return 1;
}
