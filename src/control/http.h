// HTTP/1.1 as much of it as the control API speaks: one request a connection, then an answer.
//
// Pure: bytes in, a request or an error out. What a client sends is hostile input; its limits are
// here, those in time and number are the listener's (listener.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace pawl::control {

inline constexpr std::size_t kHeadBytesMax =
    std::size_t{16} * 1024;  // request line and all headers
inline constexpr std::size_t kHeadersMax = 100;
inline constexpr std::size_t kBodyBytesMax = std::size_t{64} * 1024;

struct Request {
    std::string method;
    std::string path;                // as it was sent, for messages
    std::vector<std::string> parts;  // of the path: decoded, without the slashes between them
    std::map<std::string, std::string> parameters;  // behind the "?": decoded
    std::string body;
};

struct Answer {
    int http_status = 200;
    std::string body;
    std::string content_type = "application/json";
};
[[nodiscard]] Answer error_answer(int http_status, std::string_view text);
// The bytes on the wire; the connection ends behind them.
[[nodiscard]] std::string to_bytes(const Answer& answer);

// Puts a request together from what comes in.
class RequestReader {
public:
    enum class State { kIncomplete, kComplete, kRefused };

    // Takes bytes until the state is another than kIncomplete.
    State take(std::string_view bytes);
    [[nodiscard]] Request& request() { return request_; }
    [[nodiscard]] const Answer& refusal() const { return refusal_; }

private:
    State refuse(int http_status, std::string_view text);
    State read_head(std::string_view head);
    State read_target(std::string_view target);
    State read_header(std::string_view line);

    std::string bytes_;
    bool has_head_ = false;
    bool has_length_ = false;
    std::uint64_t body_bytes_ = 0;
    Request request_;
    Answer refusal_;
};

}  // namespace pawl::control
