// See arguments.h.
#include "config/arguments.h"

#include <algorithm>
#include <cctype>

namespace pawl::config {

namespace {

constexpr std::string_view kCheckpoint = "{checkpoint}";

// The next placeholder from `begin` on, with its braces; empty if there is none.
std::string_view next_placeholder(std::string_view word, std::size_t& begin) {
    for (begin = word.find('{', begin); begin != std::string_view::npos;
         begin = word.find('{', begin + 1)) {
        const std::size_t end = word.find('}', begin);
        if (end == std::string_view::npos) break;
        const std::string_view name = word.substr(begin + 1, end - begin - 1);
        const bool is_name =
            !name.empty() && std::ranges::all_of(name, [](unsigned char character) {
                return std::isalpha(character) != 0 || character == '_';
            });
        if (is_name) return word.substr(begin, end - begin + 1);
    }
    return {};
}

}  // namespace

Result<std::vector<std::string>> split_words(std::string_view text) {
    std::vector<std::string> words;
    std::string word;
    bool is_in_word = false;
    char quote = '\0';
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char character = text[i];
        const bool is_escape = character == '\\' && quote != '\'' && i + 1 < text.size() &&
                               (quote == '\0' || text[i + 1] == '"' || text[i + 1] == '\\');
        if (is_escape) {
            word += text[++i];
            is_in_word = true;
        } else if (quote != '\0') {
            if (character == quote) {
                quote = '\0';
            } else {
                word += character;
            }
        } else if (character == '\'' || character == '"') {
            quote = character;
            is_in_word = true;
        } else if (character == ' ' || character == '\t' || character == '\n') {
            if (is_in_word) words.push_back(std::exchange(word, {}));
            is_in_word = false;
        } else {
            word += character;
            is_in_word = true;
        }
    }
    if (quote != '\0')
        return make_error(ErrorKind::kInvalidArgument, "the quote {} is not closed", quote);
    if (is_in_word) words.push_back(std::move(word));
    return words;
}

std::string placeholder_problem(const std::vector<std::string>& words, Start start) {
    for (const std::string& word : words) {
        for (std::size_t at = 0;; ++at) {
            const std::string_view found = next_placeholder(word, at);
            if (found.empty()) break;
            if (found != kCheckpoint) {
                return fmt::format("expected {} as the only placeholder, found '{}'", kCheckpoint,
                                   found);
            }
            if (start == Start::kFresh) {
                return fmt::format(
                    "expected no {}, because on a fresh start there is none, found '{}'",
                    kCheckpoint, word);
            }
        }
    }
    return "";
}

std::vector<std::string> filled_in(const std::vector<std::string>& words,
                                   std::string_view checkpoint) {
    std::vector<std::string> filled;
    for (const std::string& word : words) {
        std::string& text = filled.emplace_back(word);
        for (std::size_t at = text.find(kCheckpoint); at != std::string::npos;
             at = text.find(kCheckpoint, at + checkpoint.size())) {
            text.replace(at, kCheckpoint.size(), checkpoint);
        }
    }
    return filled;
}

}  // namespace pawl::config
