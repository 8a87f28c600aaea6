// See variables.h.
#include "config/variables.h"

#include "config/limits.h"

namespace pawl::config {

namespace {

constexpr std::string_view kFirst = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_";
constexpr std::string_view kRest =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789";

struct Reference {
    std::string name;
    std::optional<std::string_view> otherwise;
    std::size_t size = 0;  // with "${" and "}"
};

// `text` begins with "${".
Result<Reference> reference_at(std::string_view text) {
    const std::size_t close = text.find('}');
    const auto refuse = [&] {
        return make_error(
            ErrorKind::kInvalidArgument,
            "expected ${{NAME}} or ${{NAME:-DEFAULT}}, found {}. Write $$ for a "
            "dollar that is to stay",
            in_quotes(text.substr(0, close == std::string_view::npos ? close : close + 1)));
    };
    if (close == std::string_view::npos) return refuse();
    std::string_view inner = text.substr(2, close - 2);
    Reference reference{.size = close + 1};
    if (inner.empty() || kFirst.find(inner.front()) == std::string_view::npos) return refuse();
    const std::size_t name_size = std::min(inner.find_first_not_of(kRest), inner.size());
    reference.name = inner.substr(0, name_size);
    inner.remove_prefix(name_size);
    if (inner.empty()) return reference;
    // A dollar in a default would look like a variable in a variable, which there is not.
    if (!inner.starts_with(":-") || inner.find('$') != std::string_view::npos) return refuse();
    reference.otherwise = inner.substr(2);
    return reference;
}

}  // namespace

Result<std::string> expand(std::string_view text, const Lookup& lookup) {
    std::string expanded;
    while (!text.empty()) {
        const std::size_t plain = std::min(text.find('$'), text.size());
        expanded += text.substr(0, plain);
        text.remove_prefix(plain);
        if (text.empty()) break;
        if (!text.starts_with("${")) {
            expanded += '$';
            text.remove_prefix(text.starts_with("$$") ? 2 : 1);
            continue;
        }
        const auto reference = reference_at(text);
        if (!reference) return reference.error();
        std::optional<std::string> value = lookup(reference->name);
        if (reference->otherwise && (!value || value->empty())) value = *reference->otherwise;
        if (!value) {
            return make_error(ErrorKind::kInvalidArgument,
                              "the variable '{}' is not set. Set it, or write ${{{}:-DEFAULT}}",
                              reference->name, reference->name);
        }
        expanded += *value;
        text.remove_prefix(reference->size);
        if (expanded.size() > kValueBytesMax) {
            return make_error(ErrorKind::kInvalidArgument,
                              "expected a text of at most {} bytes, found more once the variables "
                              "are filled in",
                              kValueBytesMax);
        }
    }
    return expanded;
}

std::string escape(std::string_view text) {
    std::string escaped;
    for (const char character : text) {
        escaped += character;
        if (character == '$') escaped += '$';
    }
    return escaped;
}

}  // namespace pawl::config
