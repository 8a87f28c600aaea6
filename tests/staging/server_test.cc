// The daemon's end of the trainer protocol, spoken to over real sockets.
#include "staging/server.h"

#include "staging/memory.h"
#include "staging/socket.h"
#include "tests/fakes/temporary_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/stat.h>

#include <thread>

namespace pawl::staging {
namespace {

using testing::HasSubstr;

class Server : public testing::Test {
protected:
    // Runs the loop until `received_` or `lost_` has something, while `talk` speaks as a rank.
    template <class Talk>
    void serve(const std::string& path, const Talk& talk) {
        auto server =
            RankServer::listen(loop_, path,
                               {.received =
                                    [this](SessionId session, const RankMessage& message) {
                                        received_.push_back(message);
                                        if (on_message_) return on_message_(session);
                                        loop_.stop();
                                    },
                                .lost =
                                    [this](SessionId, const std::string& why) {
                                        lost_.push_back(why);
                                        loop_.stop();
                                    }});
        ASSERT_TRUE(server.has_value()) << server.error().text();
        server_ = std::move(*server);
        std::thread rank([&] { talk(); });
        loop_.run();
        rank.join();
        server_.reset();
    }

    fakes::TemporaryDirectory directory_;
    std::string path_ = directory_.path() + "/rank.sock";
    Loop loop_;
    std::unique_ptr<RankServer> server_;
    std::function<void(SessionId)> on_message_;
    std::vector<RankMessage> received_;
    std::vector<std::string> lost_;
};

TEST_F(Server, HearsAHelloAndAnswersWithADescriptor) {
    std::string welcome;
    std::size_t descriptors = 0;
    on_message_ = [this](SessionId session) {
        const auto memory = make_sealed_memory("pages", kMessageBytesMax);
        server_->send(session, Welcome{.job = "lm"}, {memory->get()});
    };
    serve(path_, [&] {
        const auto socket = connect_to(path_);
        ASSERT_TRUE(send_packet(socket->get(), encode(RankMessage{Hello{.rank = Rank{2}}}), {}));
        const auto packet = receive_packet(socket->get(), Wait::kBlock);
        welcome = (*packet)->text;
        descriptors = (*packet)->descriptors.size();
    });

    EXPECT_EQ(std::get<Hello>(received_.at(0)).rank, Rank{2});
    EXPECT_THAT(welcome, HasSubstr("Welcome"));
    EXPECT_EQ(descriptors, 1u);
    EXPECT_THAT(lost_, testing::ElementsAre("it hung up"));
}

TEST_F(Server, ARankThatSendsRubbishIsLost) {
    serve(path_, [&] {
        const auto socket = connect_to(path_);
        ASSERT_TRUE(send_packet(socket->get(), "\xff\xfe rubbish", {}));
        const auto packet = receive_packet(socket->get(), Wait::kBlock);
        EXPECT_TRUE(packet.has_value() && (*packet)->text.empty()) << "the connection is closed";
    });

    EXPECT_TRUE(received_.empty());
    ASSERT_EQ(lost_.size(), 1u);
    EXPECT_THAT(lost_[0], HasSubstr("not a message of the trainer protocol"));
}

TEST_F(Server, ARankThatHasStoppedReadingIsLostAndBlocksNobody) {
    on_message_ = [this](SessionId session) {
        for (int i = 0; i < 100'000; ++i)
            server_->send(session, Refused{.why = std::string(1000, 'x')}, {});
    };
    UniqueFd held;
    serve(path_, [&] {
        auto socket = connect_to(path_);
        ASSERT_TRUE(send_packet(socket->get(), encode(RankMessage{Hello{}}), {}));
        held = std::move(*socket);
    });

    EXPECT_THAT(lost_, testing::ElementsAre("it has stopped reading"));
}

TEST_F(Server, ListensAlsoWhereThePathIsLongerThanASocketAddress) {
    std::string deep = directory_.path();
    for (int i = 0; i < 8; ++i) {
        deep += "/a-directory-with-a-long-name";
        ASSERT_EQ(::mkdir(deep.c_str(), 0700), 0);
    }
    const std::string path = deep + "/rank.sock";
    serve(path, [&] {
        const auto socket = connect_to(path);
        ASSERT_TRUE(socket.has_value()) << socket.error().text();
        ASSERT_TRUE(send_packet(socket->get(), encode(RankMessage{Hello{}}), {}));
    });

    EXPECT_EQ(received_.size(), 1u);
}

}  // namespace
}  // namespace pawl::staging
