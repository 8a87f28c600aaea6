// See document.h.
#include "config/document.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <array>
#include <sstream>

namespace pawl::config {

namespace {

// The bytes of the character that `text` begins with; 0 if it is none of UTF-8 (RFC 3629).
std::size_t utf8_size(std::string_view text) {
    const auto byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    if (byte(0) < 0x80) return 1;
    // The second byte's range keeps out overlong forms, surrogates and what is above U+10FFFF.
    struct Form {
        unsigned char first_min, first_max, second_min, second_max;
        std::size_t size;
    };
    constexpr std::array kForms = {
        Form{0xC2, 0xDF, 0x80, 0xBF, 2}, Form{0xE0, 0xE0, 0xA0, 0xBF, 3},
        Form{0xE1, 0xEC, 0x80, 0xBF, 3}, Form{0xED, 0xED, 0x80, 0x9F, 3},
        Form{0xEE, 0xEF, 0x80, 0xBF, 3}, Form{0xF0, 0xF0, 0x90, 0xBF, 4},
        Form{0xF1, 0xF3, 0x80, 0xBF, 4}, Form{0xF4, 0xF4, 0x80, 0x8F, 4},
    };
    for (const Form& form : kForms) {
        if (byte(0) < form.first_min || byte(0) > form.first_max) continue;
        if (text.size() < form.size) return 0;
        if (byte(1) < form.second_min || byte(1) > form.second_max) return 0;
        for (std::size_t i = 2; i < form.size; ++i) {
            if (byte(i) < 0x80 || byte(i) > 0xBF) return 0;
        }
        return form.size;
    }
    return 0;
}

// yaml-cpp takes some control characters for the end of the file, and would drop what follows; and
// it replaces what is not UTF-8 without a word, so that a path would be another one.
Result<void> check_text(std::string_view yaml, const Source& source) {
    if (yaml.size() > kFileBytesMax) {
        return source.error_at(
            {}, fmt::format("expected a file of at most {} bytes, found more", kFileBytesMax));
    }
    Position position;
    for (std::size_t i = 0; i < yaml.size();) {
        const auto byte = static_cast<unsigned char>(yaml[i]);
        if (byte < ' ' && byte != '\t' && byte != '\n' && byte != '\r') {
            return source.error_at(
                position,
                fmt::format("expected UTF-8 text, found the control character {:#04x}", byte));
        }
        const std::size_t size = utf8_size(yaml.substr(i));
        if (size == 0) {
            return source.error_at(position,
                                   fmt::format("expected UTF-8 text, found the byte {:#04x}, which "
                                               "is none here (another encoding?)",
                                               byte));
        }
        i += size;
        position.column += static_cast<int>(size);
        if (byte == '\n') position = {.line = position.line + 1, .column = 1};
    }
    return {};
}

// Keeps nothing of a document but where it begins.
class DocumentStart final : public YAML::EventHandler {
public:
    void OnDocumentStart(const YAML::Mark& mark) override { mark_ = mark; }
    void OnDocumentEnd() override {}
    void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
    void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
    void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  const std::string&) override {}
    void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                         YAML::EmitterStyle::value) override {}
    void OnSequenceEnd() override {}
    void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                    YAML::EmitterStyle::value) override {}
    void OnMapEnd() override {}

    [[nodiscard]] Position position() const { return position_of(mark_); }

private:
    YAML::Mark mark_;
};

// Not YAML::LoadAll: at a stray ',' between documents yaml-cpp 0.7 takes no token and hands
// out empty documents for ever, until memory ends. YAML::Load would drop what follows the first.
Result<void> check_one_document(const std::string& yaml, const Source& source) {
    std::istringstream stream(yaml);  // the parser takes nothing else
    YAML::Parser parser(stream);
    DocumentStart start;
    if (!parser.HandleNextDocument(start) || !parser.HandleNextDocument(start)) return {};
    return source.error_at(
        start.position(),
        "expected one YAML document, found more after its end (a '---' or a ',' too many?)");
}

}  // namespace

Position position_of(const YAML::Mark& mark) {
    if (mark.is_null()) return {};
    return {.line = mark.line + 1, .column = mark.column + 1};
}

Result<YAML::Node> read_document(const std::string& text, const Source& source) {
    RETURN_IF_ERROR(check_text(text, source));
    RETURN_IF_ERROR(check_one_document(text, source));
    return YAML::Load(text);
}

}  // namespace pawl::config
