// The control socket: who may reach it, what it answers when something is wrong, and that it lives
// on. What it answers when all is well is in status_test.cc.
#include "control/server.h"

#include "tests/fakes/temporary_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <mutex>
#include <stdexcept>
#include <thread>

namespace pawl::control {
namespace {

using nlohmann::json;
using testing::HasSubstr;

class ControlSocket : public testing::Test {
protected:
    void start(Handlers handlers) {
        auto server = Server::start(path_, std::move(handlers));
        ASSERT_TRUE(server.has_value()) << server.error().text();
        server_ = std::move(*server);
    }
    Response ask(Method method, const std::string& target) {
        auto response = call(path_, method, target);
        EXPECT_TRUE(response.has_value()) << response.error().text();
        return response.value_or(Response{});
    }

    fakes::TemporaryDirectory directory_;
    std::string path_ = directory_.path() + "/pawld.sock";
    std::unique_ptr<Server> server_;
};

TEST_F(ControlSocket, IsForItsUserAndGroupOnly) {
    start({.status_json = [] { return std::string("{}"); }});

    struct stat information = {};
    ASSERT_EQ(::stat(path_.c_str(), &information), 0);
    EXPECT_EQ(information.st_mode & 0777, 0660u);
    EXPECT_TRUE(S_ISSOCK(information.st_mode));
}

TEST_F(ControlSocket, ReplacesWhatADeadDaemonLeft) {
    std::ofstream(path_) << "stale";

    start({.status_json = [] { return std::string("new"); }});

    EXPECT_EQ(ask(Method::kGet, "/v1/status").body, "new");
}

TEST_F(ControlSocket, WhereNobodyListensTheErrorNamesThePath) {
    std::ofstream(path_) << "stale";

    const auto stale = call(path_, Method::kGet, "/v1/status");
    const auto missing = call(directory_.path() + "/none.sock", Method::kGet, "/v1/status");

    ASSERT_FALSE(stale.has_value());
    EXPECT_EQ(stale.error().kind(), ErrorKind::kNotFound);
    EXPECT_THAT(stale.error().text(), HasSubstr("no daemon answers at '" + path_ + "'"));
    ASSERT_FALSE(missing.has_value());
    EXPECT_THAT(missing.error().text(), HasSubstr("none.sock'"));
}

TEST_F(ControlSocket, ASocketInADirectoryThatIsNotThereCannotBeStarted) {
    const std::string nowhere = directory_.path() + "/nowhere/pawld.sock";

    const auto server = Server::start(nowhere, {});

    ASSERT_FALSE(server.has_value());
    EXPECT_THAT(server.error().text(), HasSubstr("'" + nowhere + "'"));
}

TEST_F(ControlSocket, EveryKindOfErrorHasItsHttpStatusAndSaysWhyInJson) {
    ErrorKind kind{};
    start({.status_json = [] { return std::string("{}"); },
           .command = [&](const std::string&, const std::string&) -> Result<void> {
               return make_error(kind, "not \"now\"");
           }});
    struct Case {
        ErrorKind kind;
        int expected;
    };

    for (const Case& one : {Case{ErrorKind::kInvalidArgument, 400}, Case{ErrorKind::kNotFound, 404},
                            Case{ErrorKind::kBusy, 409}, Case{ErrorKind::kIo, 500},
                            Case{ErrorKind::kInternal, 500}}) {
        kind = one.kind;
        const Response response = ask(Method::kPost, "/v1/jobs/lm/stop");
        EXPECT_EQ(response.http_status, one.expected) << to_string(one.kind);
        EXPECT_EQ(json::parse(response.body).at("error"), "not \"now\"") << response.body;
    }
}

TEST_F(ControlSocket, WhatItDoesNotKnowIsRefusedByName) {
    start({.status_json = [] { return std::string("{}"); },
           .command = [](const std::string& job, const std::string&) -> Result<void> {
               ADD_FAILURE() << "handed on for '" << job << "'";
               return {};
           }});
    struct Case {
        Method method;
        const char* target;
    };

    for (const Case& one :
         {Case{Method::kGet, "/"}, Case{Method::kGet, "/v2/status"},
          Case{Method::kPost, "/v1/status"}, Case{Method::kGet, "/v1/jobs/lm/stop"},
          Case{Method::kPost, "/v1/jobs//stop"}, Case{Method::kPost, "/v1/jobs/a%2Fb/stop"},
          Case{Method::kPost, "/v1/jobs/lm/stop/"}, Case{Method::kPost, "/v1/jobs/lm/kill"}}) {
        const Response response = ask(one.method, one.target);
        EXPECT_EQ(response.http_status, 404) << one.target;
        EXPECT_THAT(response.body, HasSubstr("no such thing: ")) << one.target;
    }
}

TEST_F(ControlSocket, AHandlerThatThrowsIsAnErrorOfOneRequestOnly) {
    std::atomic<bool> is_broken{true};
    start({.status_json =
               [&] {
                   if (is_broken) throw std::runtime_error("broken");
                   return std::string("whole");
               },
           .command = [](const std::string&, const std::string&) -> Result<void> { return {}; }});

    EXPECT_EQ(ask(Method::kGet, "/v1/status").http_status, 500);
    is_broken = false;
    EXPECT_EQ(ask(Method::kGet, "/v1/status").body, "whole");
}

TEST_F(ControlSocket, ManyCallersAreAllAnswered) {
    std::atomic<int> asked{0};
    start({.status_json = [&] {
        ++asked;
        return std::string(100'000, 'x');
    }});
    constexpr int kCallers = 8;
    constexpr int kCalls = 10;
    std::atomic<int> answered{0};
    std::mutex last_error_mutex;  // guards last_error
    std::string last_error;
    std::vector<std::thread> callers;

    for (int i = 0; i < kCallers; ++i) {
        callers.emplace_back([&] {
            for (int j = 0; j < kCalls; ++j) {
                const auto response = call(path_, Method::kGet, "/v1/status");
                if (response && response->body.size() == 100'000) ++answered;
                if (response) continue;
                const std::lock_guard lock(last_error_mutex);
                last_error = response.error().text();
            }
        });
    }
    for (std::thread& caller : callers)
        caller.join();

    EXPECT_EQ(answered, kCallers * kCalls) << last_error;
    EXPECT_EQ(asked, kCallers * kCalls);
}

// httplib's types are larger in a library built with OpenSSL than in a program that does not say
// so: then its constructor writes behind the client on our stack, over the number of a descriptor.
TEST_F(ControlSocket, ACallOverALongPathClosesItsOwnDescriptorAndNoOther) {
    const std::string deep = directory_.path() + "/" + std::string(100, 'd');
    ASSERT_TRUE(std::filesystem::create_directory(deep));
    path_ = deep + "/pawld.sock";
    start({.status_json = [] { return std::string("{}"); }});
    const pid_t caller = ::fork();
    if (caller == 0) {
        ::dup2(::open("/dev/null", O_RDONLY | O_CLOEXEC), STDIN_FILENO);
        const int next = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
        ::close(next);
        if (!call(path_, Method::kGet, "/v1/status")) ::_exit(1);
        if (::fcntl(STDIN_FILENO, F_GETFD) < 0) ::_exit(2);  // standard input was closed
        if (::open("/dev/null", O_RDONLY | O_CLOEXEC) != next) ::_exit(3);  // one was left open
        ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(caller, &status, 0), caller);

    EXPECT_EQ(WEXITSTATUS(status), 0) << "the line of that number above";
}

TEST_F(ControlSocket, MayBeStartedAgainAtTheSamePath) {
    for (int i = 0; i < 5; ++i) {
        start({.status_json = [i] { return std::to_string(i); }});
        EXPECT_EQ(ask(Method::kGet, "/v1/status").body, std::to_string(i));
        server_.reset();
        EXPECT_FALSE(std::filesystem::exists(path_));
    }
}

TEST_F(ControlSocket, AReloadAnswersWithTheChangesOrWithWhatIsWrong) {
    bool is_right = true;
    start({.status_json = [] { return std::string("{}"); },
           .reload = [&]() -> Result<std::string> {
               if (is_right) return std::string(R"({"changes": []})");
               return make_error(ErrorKind::kInvalidArgument, "pawld.yaml:3:5: no");
           }});

    const Response right = ask(Method::kPost, "/v1/reload");
    is_right = false;
    const Response wrong = ask(Method::kPost, "/v1/reload");
    const Response looked_at = ask(Method::kGet, "/v1/reload");

    EXPECT_EQ(right.http_status, 200);
    EXPECT_EQ(json::parse(right.body), (json{{"changes", json::array()}}));
    EXPECT_EQ(wrong.http_status, 400);
    EXPECT_EQ(json::parse(wrong.body).at("error"), "pawld.yaml:3:5: no");
    EXPECT_EQ(looked_at.http_status, 404);
}

}  // namespace
}  // namespace pawl::control
