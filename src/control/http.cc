// See http.h.
#include "control/http.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <optional>

namespace pawl::control {
namespace {

using nlohmann::json;

constexpr std::string_view kLineEnd = "\r\n";
constexpr std::string_view kHeadEnd = "\r\n\r\n";

std::string_view reason_of(int http_status) {
    switch (http_status) {
        case 200:
            return "OK";
        case 202:
            return "Accepted";
        case 400:
            return "Bad Request";
        case 404:
            return "Not Found";
        case 409:
            return "Conflict";
        case 413:
            return "Content Too Large";
        case 431:
            return "Request Header Fields Too Large";
        case 501:
            return "Not Implemented";
        default:
            return http_status < 500 ? "Refused" : "Internal Server Error";
    }
}

// Takes what stands before the separator, and both off the text.
std::string_view take_until(std::string_view& text, std::string_view separator) {
    const std::size_t end = text.find(separator);
    const std::string_view taken = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + separator.size());
    return taken;
}

// Nullopt: a "%" that no two hexadecimal digits follow.
enum class Plus { kIsItself, kIsSpace };
std::optional<std::string> decode(std::string_view text, Plus plus) {
    std::string decoded;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '+' && plus == Plus::kIsSpace) {
            decoded.push_back(' ');
        } else if (text[i] == '%') {
            unsigned byte = 0;
            const std::string_view digits = text.substr(i + 1, 2);
            const char* const end = digits.data() + digits.size();
            const auto parsed = std::from_chars(digits.data(), end, byte, 16);
            if (digits.size() != 2 || parsed.ec != std::errc() || parsed.ptr != end)
                return std::nullopt;
            decoded.push_back(static_cast<char>(byte));
            i += 2;
        } else {
            decoded.push_back(text[i]);
        }
    }
    return decoded;
}

bool is_same_name(std::string_view name, std::string_view lower_case) {
    return std::ranges::equal(name, lower_case, [](char given, char wanted) {
        return (given >= 'A' && given <= 'Z' ? given - 'A' + 'a' : given) == wanted;
    });
}

std::string_view trimmed(std::string_view text) {
    constexpr std::string_view kBlank = " \t";
    const std::size_t begin = text.find_first_not_of(kBlank);
    if (begin == std::string_view::npos) return {};
    return text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
}

}  // namespace

Answer error_answer(int http_status, std::string_view text) {
    constexpr int kOneLine = -1;
    return {
        .http_status = http_status,
        .body = json{{"error", text}}.dump(kOneLine, ' ', false, json::error_handler_t::replace) +
                "\n"};
}

std::string to_bytes(const Answer& answer) {
    return fmt::format(
        "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
        answer.http_status, reason_of(answer.http_status), answer.content_type, answer.body.size(),
        answer.body);
}

RequestReader::State RequestReader::refuse(int http_status, std::string_view text) {
    refusal_ = error_answer(http_status, text);
    bytes_.clear();
    return State::kRefused;
}

RequestReader::State RequestReader::take(std::string_view bytes) {
    bytes_ += bytes;
    if (!has_head_) {
        const std::size_t end = bytes_.find(kHeadEnd);
        if (std::min(end, bytes_.size()) > kHeadBytesMax) {
            return refuse(431,
                          fmt::format("the request's head is longer than {} bytes", kHeadBytesMax));
        }
        if (end == std::string::npos) return State::kIncomplete;
        const std::string head = bytes_.substr(0, end);
        bytes_.erase(0, end + kHeadEnd.size());
        if (const State state = read_head(head); state == State::kRefused) return state;
        has_head_ = true;
    }
    if (bytes_.size() < body_bytes_) return State::kIncomplete;
    request_.body = bytes_.substr(0, body_bytes_);
    return State::kComplete;
}

RequestReader::State RequestReader::read_head(std::string_view head) {
    std::string_view line = take_until(head, kLineEnd);
    request_.method = take_until(line, " ");
    const std::string_view target = take_until(line, " ");
    const bool is_method =
        !request_.method.empty() && std::ranges::all_of(request_.method, [](char letter) {
            return letter >= 'A' && letter <= 'Z';
        });
    if (!is_method || !line.starts_with("HTTP/1.") || target.empty() || target.front() != '/')
        return refuse(400, "this is no request of HTTP/1.1");
    if (const State state = read_target(target); state == State::kRefused) return state;
    for (std::size_t count = 1; !head.empty(); ++count) {
        if (count > kHeadersMax)
            return refuse(431, fmt::format("the request has more than {} headers", kHeadersMax));
        const State state = read_header(take_until(head, kLineEnd));
        if (state == State::kRefused) return state;
    }
    return State::kIncomplete;
}

RequestReader::State RequestReader::read_target(std::string_view target) {
    std::string_view path = take_until(target, "?");
    request_.path = path;
    while (!path.empty()) {
        path.remove_prefix(1);  // the slash
        const std::string_view raw = path.substr(0, path.find('/'));
        const auto part = decode(raw, Plus::kIsItself);
        if (!part) return refuse(400, "the request's path holds a '%' that stands for nothing");
        request_.parts.push_back(*part);
        path.remove_prefix(raw.size());
    }
    while (!target.empty()) {
        std::string_view value = take_until(target, "&");
        if (value.empty()) continue;
        const auto name = decode(take_until(value, "="), Plus::kIsSpace);
        const auto decoded = decode(value, Plus::kIsSpace);
        if (!name || !decoded)
            return refuse(400, "the request's query holds a '%' that stands for nothing");
        if (!request_.parameters.emplace(*name, *decoded).second)
            return refuse(400, fmt::format("parameter '{}' is given twice", *name));
    }
    return State::kIncomplete;
}

RequestReader::State RequestReader::read_header(std::string_view line) {
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos || colon == 0 || line.front() == ' ' ||
        line.front() == '\t') {
        return refuse(400, "a header has no name");
    }
    const std::string_view name = line.substr(0, colon);
    const std::string_view value = trimmed(line.substr(colon + 1));
    if (is_same_name(name, "transfer-encoding"))
        return refuse(501, "a body is taken with a Content-Length only");
    if (!is_same_name(name, "content-length")) return State::kIncomplete;
    std::uint64_t bytes = 0;
    const auto parsed = std::from_chars(value.data(), value.data() + value.size(), bytes);
    const bool is_number = !value.empty() && parsed.ptr == value.data() + value.size() &&
                           parsed.ec != std::errc::invalid_argument;
    if (!is_number || (has_length_ && bytes != body_bytes_))
        return refuse(400, "the Content-Length is no length");
    if (parsed.ec == std::errc::result_out_of_range || bytes > kBodyBytesMax) {
        return refuse(413,
                      fmt::format("the request's body is longer than {} bytes", kBodyBytesMax));
    }
    has_length_ = true;
    body_bytes_ = bytes;
    return State::kIncomplete;
}

}  // namespace pawl::control
