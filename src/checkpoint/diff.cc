// See diff.h.
#include "checkpoint/diff.h"

#include "torchfile/archive.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>

namespace pawl::checkpoint {
namespace {

using torchfile::Archive;
using torchfile::Tensor;
using torchfile::Value;

constexpr std::size_t kReadBytes = std::size_t{1} << 20;

std::string text_of(const Value& value) {
    if (value.get_if<torchfile::None>() != nullptr) return "None";
    if (const auto* flag = value.get_if<bool>()) return *flag ? "True" : "False";
    if (const auto* number = value.get_if<std::int64_t>()) return fmt::format("{}", *number);
    if (const auto* number = value.get_if<double>()) return fmt::format("{}", *number);
    if (const auto* text = value.get_if<std::string>()) {
        constexpr std::size_t kShownMax = 60;
        return fmt::format("'{}{}'", text->substr(0, kShownMax),
                           text->size() > kShownMax ? "..." : "");
    }
    return std::string(value.type_name());
}

template <class T>
T load(std::span<const std::byte> item) {
    T value{};
    std::memcpy(&value, item.data(), sizeof(T));
    return value;
}

// A single element as a person would read it.
std::string number_of(torchfile::DType dtype, std::span<const std::byte> item) {
    switch (dtype) {
        case torchfile::DType::kFloat32:
            return fmt::format("{}", load<float>(item));
        case torchfile::DType::kFloat64:
            return fmt::format("{}", load<double>(item));
        case torchfile::DType::kInt64:
            return fmt::format("{}", load<std::int64_t>(item));
        case torchfile::DType::kInt32:
            return fmt::format("{}", load<std::int32_t>(item));
        case torchfile::DType::kBool:
            return load<std::uint8_t>(item) == 0 ? "False" : "True";
        default: {
            std::string bytes = "0x";
            for (std::size_t i = item.size(); i-- > 0;)
                bytes += fmt::format("{:02x}", static_cast<unsigned>(item[i]));
            return bytes;
        }
    }
}

std::string shape_of(const Tensor& tensor) {
    return fmt::format("[{}]", fmt::join(tensor.shape, ", "));
}

std::uint64_t elements_of(const Tensor& tensor) {
    std::uint64_t elements = 1;
    for (const std::int64_t extent : tensor.shape)
        elements *= static_cast<std::uint64_t>(extent);
    return elements;
}

bool is_contiguous(const Tensor& tensor) {
    std::int64_t expected = 1;
    for (std::size_t i = tensor.shape.size(); i-- > 0;) {
        if (tensor.shape[i] != 1 && tensor.stride[i] != expected) return false;
        expected *= tensor.shape[i];
    }
    return true;
}

// A tensor's elements in logical order, in pieces of a bounded size.
class Elements {
public:
    Elements(const ByteSource& source, const torchfile::Extent& storage, const Tensor& tensor,
             std::size_t item_bytes)
        : source_(source),
          storage_(storage),
          tensor_(tensor),
          item_bytes_(item_bytes),
          is_contiguous_(is_contiguous(tensor)),
          index_(tensor.shape.size(), 0) {}

    // The next elements, as many as fit into the target.
    Result<void> read(std::span<std::byte> target) {
        if (is_contiguous_) {
            const std::uint64_t begin =
                storage_.offset + static_cast<std::uint64_t>(tensor_.offset) * item_bytes_ + done_;
            done_ += target.size();
            return source_.read_at(begin, target);
        }
        for (std::size_t at = 0; at < target.size(); at += item_bytes_) {
            RETURN_IF_ERROR(read_item(target.subspan(at, item_bytes_)));
            advance();
        }
        return {};
    }

private:
    // Through a window of the file, for neighbours in a view are seldom far apart.
    Result<void> read_item(std::span<std::byte> item) {
        std::int64_t element = tensor_.offset;
        for (std::size_t i = 0; i < index_.size(); ++i)
            element += index_[i] * tensor_.stride[i];
        const std::uint64_t begin = static_cast<std::uint64_t>(element) * item_bytes_;
        const bool is_inside =
            begin >= window_begin_ && begin + item_bytes_ <= window_begin_ + window_.size();
        if (!is_inside) {
            window_begin_ = begin;
            window_.resize(std::min<std::uint64_t>(kReadBytes, storage_.bytes - begin));
            RETURN_IF_ERROR(source_.read_at(storage_.offset + begin, window_));
        }
        std::memcpy(item.data(), window_.data() + (begin - window_begin_), item_bytes_);
        return {};
    }

    void advance() {
        for (std::size_t i = index_.size(); i-- > 0;) {
            if (++index_[i] < tensor_.shape[i]) return;
            index_[i] = 0;
        }
    }

    const ByteSource& source_;
    torchfile::Extent storage_;
    const Tensor& tensor_;
    std::size_t item_bytes_;
    bool is_contiguous_;
    std::uint64_t done_ = 0;
    std::vector<std::int64_t> index_;
    std::vector<std::byte> window_;
    std::uint64_t window_begin_ = 0;
};

struct Side {
    const ByteSource& source;
    Archive archive;
};

class Comparison {
public:
    Comparison(Side a, Side b) : a_(std::move(a)), b_(std::move(b)) {}

    Result<FileDifferences> run() {
        RETURN_IF_ERROR(compare("", a_.archive.document.root, b_.archive.document.root));
        return std::move(result_);
    }

private:
    Result<void> compare(const std::string& path, const Value& a, const Value& b) {
        const auto* dict_a = a.get_if<torchfile::Dict>();
        const auto* dict_b = b.get_if<torchfile::Dict>();
        if (dict_a != nullptr && dict_b != nullptr) return compare_dicts(path, *dict_a, *dict_b);
        const auto* list_a = a.get_if<torchfile::List>();
        const auto* list_b = b.get_if<torchfile::List>();
        if (list_a != nullptr && list_b != nullptr)
            return compare_items(path, list_a->items, list_b->items);
        const auto* tuple_a = a.get_if<torchfile::Tuple>();
        const auto* tuple_b = b.get_if<torchfile::Tuple>();
        if (tuple_a != nullptr && tuple_b != nullptr)
            return compare_items(path, tuple_a->items, tuple_b->items);
        ++result_.values_compared;
        const auto* tensor_a = a.get_if<Tensor>();
        const auto* tensor_b = b.get_if<Tensor>();
        if (tensor_a != nullptr && tensor_b != nullptr)
            return compare_tensors(path, *tensor_a, *tensor_b);
        if (a.data.index() != b.data.index()) {
            add(DifferenceKind::kType, path, described(a), described(b));
        } else if (a == b) {
            ++result_.values_equal;
        } else {
            add(DifferenceKind::kValue, path, text_of(a), text_of(b));
        }
        return {};
    }

    Result<void> compare_dicts(const std::string& path, const torchfile::Dict& a,
                               const torchfile::Dict& b) {
        for (const auto& [key, value] : a.items) {
            const Value* const other = find(b, key);
            if (other == nullptr) {
                add(DifferenceKind::kOnlyInA, below(path, key), described(value), "");
            } else {
                RETURN_IF_ERROR(compare(below(path, key), value, *other));
            }
        }
        for (const auto& [key, value] : b.items) {
            if (find(a, key) == nullptr)
                add(DifferenceKind::kOnlyInB, below(path, key), "", described(value));
        }
        return {};
    }

    Result<void> compare_items(const std::string& path, const std::vector<Value>& a,
                               const std::vector<Value>& b) {
        if (a.size() != b.size()) {
            add(DifferenceKind::kShape, path, fmt::format("{} items", a.size()),
                fmt::format("{} items", b.size()));
        }
        for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
            RETURN_IF_ERROR(compare(fmt::format("{}[{}]", path, i), a[i], b[i]));
        return {};
    }

    Result<void> compare_tensors(const std::string& path, const Tensor& a, const Tensor& b) {
        const torchfile::Storage& storage_a = a_.archive.document.storages[a.storage];
        const torchfile::Storage& storage_b = b_.archive.document.storages[b.storage];
        if (storage_a.dtype != storage_b.dtype) {
            add(DifferenceKind::kType, path, std::string(name_of(storage_a.dtype)),
                std::string(name_of(storage_b.dtype)));
            return {};
        }
        if (a.shape != b.shape) {
            add(DifferenceKind::kShape, path, shape_of(a), shape_of(b));
            return {};
        }
        const std::size_t item_bytes = torchfile::item_bytes_of(storage_a.dtype);
        Difference difference{.kind = DifferenceKind::kElements,
                              .path = path,
                              .tensor = fmt::format("{} {}", name_of(storage_a.dtype), shape_of(a)),
                              .elements = elements_of(a)};
        Elements elements_a(a_.source, a_.archive.storages[a.storage], a, item_bytes);
        Elements elements_b(b_.source, b_.archive.storages[b.storage], b, item_bytes);
        std::uint64_t left = difference.elements * item_bytes;
        while (left > 0) {
            const std::size_t bytes = std::min<std::uint64_t>(left, kReadBytes);
            buffer_a_.resize(bytes);
            buffer_b_.resize(bytes);
            RETURN_IF_ERROR(elements_a.read(buffer_a_));
            RETURN_IF_ERROR(elements_b.read(buffer_b_));
            count(item_bytes, difference);
            left -= bytes;
        }
        if (difference.elements == 1) {
            difference.a = number_of(storage_a.dtype, buffer_a_);
            difference.b = number_of(storage_a.dtype, buffer_b_);
        }
        if (difference.elements_differing == 0) {
            ++result_.values_equal;
        } else {
            result_.differences.push_back(std::move(difference));
        }
        return {};
    }

    void count(std::size_t item_bytes, Difference& difference) const {
        if (buffer_a_ == buffer_b_) return;
        for (std::size_t at = 0; at < buffer_a_.size(); at += item_bytes) {
            std::uint64_t bytes = 0;
            for (std::size_t i = at; i < at + item_bytes; ++i)
                bytes += buffer_a_[i] != buffer_b_[i] ? 1 : 0;
            difference.bytes_differing += bytes;
            difference.elements_differing += bytes > 0 ? 1 : 0;
        }
    }

    static const Value* find(const torchfile::Dict& dict, const Value& key) {
        if (const auto* name = key.get_if<std::string>()) return dict.find(*name);
        const auto found = std::ranges::find(
            dict.items, key, [](const auto& item) -> const Value& { return item.first; });
        return found == dict.items.end() ? nullptr : &found->second;
    }

    static std::string below(const std::string& path, const Value& key) {
        if (const auto* name = key.get_if<std::string>())
            return path.empty() ? *name : fmt::format("{}.{}", path, *name);
        return fmt::format("{}[{}]", path, text_of(key));
    }

    static std::string described(const Value& value) {
        const bool is_plain = value.get_if<torchfile::Dict>() == nullptr &&
                              value.get_if<torchfile::List>() == nullptr &&
                              value.get_if<torchfile::Tuple>() == nullptr;
        if (const auto* tensor = value.get_if<Tensor>())
            return fmt::format("tensor {}", shape_of(*tensor));
        const std::string text = text_of(value);
        return is_plain && text != value.type_name() ? fmt::format("{} {}", value.type_name(), text)
                                                     : std::string(value.type_name());
    }

    void add(DifferenceKind kind, const std::string& path, std::string a, std::string b) {
        result_.differences.push_back(
            {.kind = kind, .path = path, .a = std::move(a), .b = std::move(b)});
    }

    Side a_;
    Side b_;
    FileDifferences result_;
    std::vector<std::byte> buffer_a_;
    std::vector<std::byte> buffer_b_;
};

}  // namespace

Result<FileDifferences> diff_files(const ByteSource& a, const ByteSource& b) {
    auto archive_a = torchfile::read_archive(a);
    if (!archive_a) return archive_a.error();
    auto archive_b = torchfile::read_archive(b);
    if (!archive_b) return archive_b.error();
    return Comparison({.source = a, .archive = std::move(*archive_a)},
                      {.source = b, .archive = std::move(*archive_b)})
        .run();
}

std::string_view to_string(DifferenceKind kind) {
    switch (kind) {
        case DifferenceKind::kOnlyInA:
            return "only_in_a";
        case DifferenceKind::kOnlyInB:
            return "only_in_b";
        case DifferenceKind::kType:
            return "type";
        case DifferenceKind::kShape:
            return "shape";
        case DifferenceKind::kValue:
            return "value";
        case DifferenceKind::kElements:
            return "elements";
    }
    return "unknown";
}

}  // namespace pawl::checkpoint
