// Requests from bytes: what is understood, what is refused and how, wherever the bytes are cut.
#include "control/http.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <random>

namespace pawl::control {
namespace {

using State = RequestReader::State;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;

Request read(const std::string& bytes) {
    RequestReader reader;
    EXPECT_EQ(reader.take(bytes), State::kComplete) << bytes << reader.refusal().body;
    return reader.request();
}

TEST(HttpRequest, IsReadWithItsPathParametersAndBody) {
    const Request request = read(
        "POST /v1/jobs/l%6d/events?kind=rank_exited&since=2h%20&empty=&none&plus=a+b&x=1%3d2 "
        "HTTP/1.1\r\nHost: pawl\r\nCONTENT-length:  3 \r\n\r\nabcd");

    EXPECT_EQ(request.method, "POST");
    EXPECT_THAT(request.parts, ElementsAre("v1", "jobs", "lm", "events"));
    EXPECT_THAT(request.parameters,
                ElementsAre(Pair("empty", ""), Pair("kind", "rank_exited"), Pair("none", ""),
                            Pair("plus", "a b"), Pair("since", "2h "), Pair("x", "1=2")));
    EXPECT_EQ(request.body, "abc");
}

TEST(HttpRequest, MayComeByteByByte) {
    const std::string bytes = "POST /healthz HTTP/1.1\r\nContent-Length: 2\r\n\r\nok";
    RequestReader reader;

    for (std::size_t i = 0; i + 1 < bytes.size(); ++i)
        ASSERT_EQ(reader.take(bytes.substr(i, 1)), State::kIncomplete) << i;
    EXPECT_EQ(reader.take(bytes.substr(bytes.size() - 1)), State::kComplete);
    EXPECT_EQ(reader.request().body, "ok");
}

TEST(HttpRequest, NeedsNoHeaders) {
    EXPECT_THAT(read("GET / HTTP/1.0\r\n\r\n").parts, ElementsAre(""));
    EXPECT_THAT(read("POST /v1/jobs/lm/stop HTTP/1.1\r\n\r\n").body, IsEmpty());
    EXPECT_THAT(read("GET /a//b/ HTTP/1.1\r\n\r\n").parts, ElementsAre("a", "", "b", ""));
}

TEST(HttpRequest, AnEncodedSlashIsPartOfAName) {
    EXPECT_THAT(read("GET /a%2Fb HTTP/1.1\r\n\r\n").parts, ElementsAre("a/b"));
}

TEST(HttpRequest, ThatIsRubbishIsRefusedAndSaysWhy) {
    struct Case {
        const char* name;
        std::string bytes;
        int http_status;
        const char* why;
    };
    const std::string begin = "GET / HTTP/1.1\r\n";
    std::string many = begin;
    for (std::size_t i = 0; i <= kHeadersMax; ++i)
        many += "a: b\r\n";
    for (const Case& one : {
             Case{"nothing", "\r\n\r\n", 400, "no request"},
             Case{"binary", std::string("\x16\x03\x01\0\r\n\r\n", 8), 400, "no request"},
             Case{"another protocol", "GET / SPDY/9\r\n\r\n", 400, "no request"},
             Case{"no protocol", "GET /\r\n\r\n", 400, "no request"},
             Case{"no path", "GET  HTTP/1.1\r\n\r\n", 400, "no request"},
             Case{"a URL", "GET http://a/ HTTP/1.1\r\n\r\n", 400, "no request"},
             Case{"small letters", "get / HTTP/1.1\r\n\r\n", 400, "no request"},
             Case{"percent", "GET /%zz HTTP/1.1\r\n\r\n", 400, "'%'"},
             Case{"percent at the end", "GET /%4 HTTP/1.1\r\n\r\n", 400, "'%'"},
             Case{"percent in a value", "GET /?a=%% HTTP/1.1\r\n\r\n", 400, "'%'"},
             Case{"twice", "GET /?a=1&a=2 HTTP/1.1\r\n\r\n", 400, "'a' is given twice"},
             Case{"no colon", begin + "header\r\n\r\n", 400, "header has no name"},
             Case{"no name", begin + ": x\r\n\r\n", 400, "header has no name"},
             Case{"a folded header", begin + "a: b\r\n c: d\r\n\r\n", 400, "header has no name"},
             Case{"no length", begin + "Content-Length: x\r\n\r\n", 400, "no length"},
             Case{"an empty length", begin + "Content-Length:\r\n\r\n", 400, "no length"},
             Case{"a negative length", begin + "Content-Length: -1\r\n\r\n", 400, "no length"},
             Case{"two lengths", begin + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400,
                  "no length"},
             Case{"a large body", begin + "Content-Length: 65537\r\n\r\n", 413, "65536 bytes"},
             Case{"a huge body", begin + "Content-Length: 99999999999999999999\r\n\r\n", 413,
                  "65536 bytes"},
             Case{"chunks", begin + "Transfer-Encoding: chunked\r\n\r\n", 501, "Content-Length"},
             Case{"many headers", many + "\r\n", 431, "100 headers"},
             Case{"a long line", "GET /" + std::string(kHeadBytesMax, 'a'), 431, "16384 bytes"},
             Case{"a long head", begin + "a: " + std::string(kHeadBytesMax, 'a') + "\r\n\r\n", 431,
                  "16384 bytes"},
         }) {
        RequestReader reader;

        ASSERT_EQ(reader.take(one.bytes), State::kRefused) << one.name;
        EXPECT_EQ(reader.refusal().http_status, one.http_status) << one.name;
        const auto body = nlohmann::json::parse(reader.refusal().body);
        EXPECT_THAT(body.at("error").get<std::string>(), HasSubstr(one.why)) << one.name;
    }
}

// Whatever comes, in whatever pieces: it ends in one of the three states, within the bounds.
TEST(HttpRequest, OfRandomBytesIsReadWithinBounds) {
    constexpr unsigned kSeed = 20'261'124;
    SCOPED_TRACE(kSeed);
    std::mt19937 random(kSeed);
    const std::string alphabet = "GET /?&=%+:aZ09\r\n\r\n\t \x80";
    for (int i = 0; i < 20'000; ++i) {
        RequestReader reader;
        State state = State::kIncomplete;
        std::string sent = random() % 2 == 0 ? "GET /?" : "POST / HTTP/1.1\r\n";
        state = reader.take(sent);
        for (int piece = 0; piece < 8 && state == State::kIncomplete; ++piece) {
            std::string bytes;
            for (std::size_t length = random() % 16; length > 0; --length)
                bytes += alphabet[random() % alphabet.size()];
            sent += bytes;
            state = reader.take(bytes);
        }
        if (state == State::kRefused) {
            EXPECT_GE(reader.refusal().http_status, 400) << sent;
        }
    }
}

TEST(HttpAnswer, EndsItsConnectionAndStatesItsLength) {
    EXPECT_EQ(to_bytes({.body = "ok\n", .content_type = "text/plain"}),
              "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n"
              "Connection: close\r\n\r\nok\n");
    EXPECT_EQ(error_answer(404, "no \"x\"").body, "{\"error\":\"no \\\"x\\\"\"}\n");
    EXPECT_EQ(error_answer(500, "\xff").body, "{\"error\":\"\xef\xbf\xbd\"}\n");
}

}  // namespace
}  // namespace pawl::control
