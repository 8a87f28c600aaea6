// Sockets and descriptors beside messages; and the server behind them where a rank or the machine
// gives it a hard time. What it does for ordinary ranks is in server_test.cc.
#include "staging/socket.h"

#include "staging/memory.h"
#include "staging/messages.h"
#include "staging/server.h"
#include "tests/fakes/temporary_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <map>
#include <thread>

namespace pawl::staging {
namespace {

using testing::HasSubstr;

struct Pair {
    UniqueFd one;
    UniqueFd other;

    Pair() {
        std::array<int, 2> ends{};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()), 0);
        one.reset(ends[0]);
        other.reset(ends[1]);
    }
};

std::size_t open_descriptors() {
    std::size_t count = 0;
    const std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir("/proc/self/fd"), ::closedir);
    while (::readdir(directory.get()) != nullptr)
        ++count;
    return count;
}

ino_t inode_of(int fd) {
    struct stat information = {};
    EXPECT_EQ(::fstat(fd, &information), 0);
    return information.st_ino;
}

TEST(Socket, DescriptorsArriveInOrderAndClosedAtExec) {
    const Pair pair;
    std::vector<UniqueFd> sent;
    std::vector<int> raw;
    for (std::size_t i = 0; i < kDescriptorsMax; ++i) {
        sent.push_back(std::move(*make_sealed_memory("test", 4096)));
        raw.push_back(sent.back().get());
    }

    ASSERT_TRUE(send_packet(pair.one.get(), "four", raw).has_value());
    const auto packet = receive_packet(pair.other.get(), Wait::kBlock);

    ASSERT_TRUE(packet.has_value() && packet->has_value());
    EXPECT_EQ((*packet)->text, "four");
    ASSERT_EQ((*packet)->descriptors.size(), kDescriptorsMax);
    for (std::size_t i = 0; i < kDescriptorsMax; ++i) {
        const int fd = (*packet)->descriptors[i].get();
        EXPECT_EQ(inode_of(fd), inode_of(raw[i])) << "descriptor " << i;
        EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0) << "descriptor " << i;
    }
}

TEST(Socket, MoreDescriptorsThanAMessageTakesAreRefusedByTheSender) {
    const Pair pair;
    const std::vector<int> too_many(kDescriptorsMax + 1, STDIN_FILENO);

    const auto sent = send_packet(pair.one.get(), "five", too_many);

    ASSERT_FALSE(sent.has_value());
    EXPECT_THAT(sent.error().text(), HasSubstr("5 descriptors in one message"));
}

TEST(Socket, AMessageThatIsTooLongIsRefusedAndLeaksNoDescriptor) {
    const Pair pair;
    const auto memory = make_sealed_memory("test", 4096);
    const std::string too_long(kMessageBytesMax + 1, 'x');
    ASSERT_TRUE(send_packet(pair.one.get(), too_long, {memory->get()}).has_value());
    const std::size_t before = open_descriptors();

    const auto packet = receive_packet(pair.other.get(), Wait::kBlock);

    ASSERT_FALSE(packet.has_value());
    EXPECT_EQ(packet.error().kind(), ErrorKind::kInvalidArgument);
    EXPECT_THAT(packet.error().text(), HasSubstr("longer than 65536 bytes"));
    EXPECT_EQ(open_descriptors(), before);
}

TEST(Socket, MessagesKeepTheirBoundariesAndTheLongestFits) {
    const Pair pair;
    const std::string longest(kMessageBytesMax, 'x');
    ASSERT_TRUE(send_packet(pair.one.get(), "a", {}).has_value());
    ASSERT_TRUE(send_packet(pair.one.get(), longest, {}).has_value());
    ASSERT_TRUE(send_packet(pair.one.get(), "c", {}).has_value());

    for (const std::string& expected : {std::string("a"), longest, std::string("c")}) {
        const auto packet = receive_packet(pair.other.get(), Wait::kBlock);
        ASSERT_TRUE(packet.has_value() && packet->has_value());
        EXPECT_EQ((*packet)->text.size(), expected.size());
        EXPECT_TRUE((*packet)->text == expected);
    }
}

TEST(Socket, NothingYetGoneAndFullAreToldApart) {
    Pair pair;
    ASSERT_EQ(::fcntl(pair.one.get(), F_SETFL, O_NONBLOCK), 0);

    const auto nothing = receive_packet(pair.other.get(), Wait::kNoBlock);
    Result<void> full;
    for (int i = 0; i < 100'000 && full; ++i)
        full = send_packet(pair.one.get(), std::string(1000, 'x'), {});
    pair.one.reset();
    while (*receive_packet(pair.other.get(), Wait::kNoBlock) &&
           !(*receive_packet(pair.other.get(), Wait::kNoBlock))->text.empty()) {
    }
    const auto gone = receive_packet(pair.other.get(), Wait::kNoBlock);

    EXPECT_EQ(*nothing, std::nullopt);
    ASSERT_FALSE(full.has_value());
    EXPECT_EQ(full.error().kind(), ErrorKind::kBusy);
    ASSERT_TRUE(gone.has_value() && gone->has_value());
    EXPECT_EQ((*gone)->text, "");
}

TEST(Socket, SendingToOneThatIsGoneIsAnErrorAndNoSignal) {
    Pair pair;
    pair.other.reset();

    const auto sent = send_packet(pair.one.get(), "hello", {});

    ASSERT_FALSE(sent.has_value());
    EXPECT_THAT(sent.error().text(), HasSubstr("Broken pipe"));
    EXPECT_EQ(sent.error().kind(), ErrorKind::kCancelled) << "told apart from one that is slow";
}

TEST(Socket, AStaleSocketIsReplacedAndTheNewOneIsOursAlone) {
    const fakes::TemporaryDirectory directory;
    const std::string path = directory.path() + "/rank.sock";
    ASSERT_TRUE(listen_at(path).has_value());
    ASSERT_FALSE(connect_to(path).has_value()) << "nobody listens any more";

    const auto listener = listen_at(path);

    ASSERT_TRUE(listener.has_value()) << listener.error().text();
    EXPECT_TRUE(connect_to(path).has_value());
    struct stat information = {};
    ASSERT_EQ(::stat(path.c_str(), &information), 0);
    EXPECT_EQ(information.st_mode & 0777, 0600u);
}

TEST(Socket, FailuresNameThePath) {
    const fakes::TemporaryDirectory directory;
    const std::string nobody = directory.path() + "/nobody.sock";
    const std::string nowhere = directory.path() + "/nowhere/rank.sock";
    const std::string long_name = directory.path() + "/" + std::string(108, 'n');

    EXPECT_THAT(connect_to(nobody).error().text(), HasSubstr("'" + nobody + "'"));
    EXPECT_THAT(connect_to(nowhere).error().text(), HasSubstr(directory.path() + "/nowhere/"));
    EXPECT_THAT(listen_at(nowhere).error().text(), HasSubstr(directory.path() + "/nowhere/"));
    EXPECT_THAT(listen_at(long_name).error().text(), HasSubstr("is too long"));
    EXPECT_EQ(connect_to(nobody).error().kind(), ErrorKind::kNotFound);
}

// ---- the server in trouble ----

struct Heard {
    std::vector<std::pair<SessionId, RankMessage>> messages;
    std::map<SessionId, std::string> lost;
};

// What a test does to itself it does in a child: limits, and a loop that may never come back.
template <class Body>
int status_of_child(const Body& body) {
    constexpr unsigned kPatienceSeconds = 5;
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(kPatienceSeconds);  // a body that hangs ends by SIGALRM
        ::_exit(body());
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return status;
}

TEST(ServerInTrouble, AConnectionThatCannotBeAcceptedDoesNotStopTheLoop) {
#ifdef __SANITIZE_ADDRESS__
    GTEST_SKIP() << "the sanitizers' own checks open pipes, for which there is no descriptor here";
#endif
    const fakes::TemporaryDirectory directory;
    const std::string path = directory.path() + "/rank.sock";
    const int status = status_of_child([&] {
        Loop loop;
        const auto server = RankServer::listen(loop, path, {});
        const auto socket = connect_to(path);
        if (!server || !socket) return 2;
        // No descriptor is left for the accepted connection: EMFILE.
        const rlimit none = {.rlim_cur = 0, .rlim_max = 0};
        Timer timer(loop, [&loop] { loop.stop(); });
        timer.start(milliseconds{50});
        if (::setrlimit(RLIMIT_NOFILE, &none) != 0) return 3;
        loop.run();
        return 0;
    });

    EXPECT_FALSE(WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
        << "accept_all() tries again for ever, and nothing else of the loop runs";
    EXPECT_EQ(status, 0);
}

TEST(ServerInTrouble, ALossThatIsStillToBeToldDiesWithTheServer) {
    const fakes::TemporaryDirectory directory;
    const std::string path = directory.path() + "/rank.sock";
    const int status = status_of_child([&] {
        Loop loop;
        std::unique_ptr<RankServer> server;
        int told_after_its_end = 0;
        auto listening =
            RankServer::listen(loop, path,
                               {.received =
                                    [&](SessionId session, const RankMessage&) {
                                        // The server ends in the loop's next turn …
                                        loop.post([&] { server.reset(); });
                                        // … behind which stands that this session is lost: the rank
                                        // reads no more.
                                        server->send(session, Welcome{.job = "lm"}, {});
                                        loop.post([&loop] { loop.stop(); });
                                    },
                                .lost =
                                    [&](SessionId, const std::string&) {
                                        if (server == nullptr) ++told_after_its_end;
                                    }});
        server = std::move(*listening);
        const auto rank = connect_to(path);
        if (!send_packet(rank->get(), encode(RankMessage{Hello{}}), {})) return 2;
        ::shutdown(rank->get(), SHUT_RD);
        loop.run();
        return told_after_its_end;
    });

    EXPECT_EQ(status, 0) << "a task of the loop used the server after its end";
}

class Served : public testing::Test {
protected:
    void listen() {
        auto listening =
            RankServer::listen(loop_, path_,
                               {.received =
                                    [this](SessionId session, const RankMessage& message) {
                                        heard_.messages.emplace_back(session, message);
                                        if (on_message_) on_message_(session);
                                    },
                                .lost =
                                    [this](SessionId session, const std::string& why) {
                                        heard_.lost[session] = why;
                                        if (heard_.lost.size() == lost_awaited_) loop_.stop();
                                    }});
        ASSERT_TRUE(listening.has_value()) << listening.error().text();
        server_ = std::move(*listening);
    }

    fakes::TemporaryDirectory directory_;
    std::string path_ = directory_.path() + "/rank.sock";
    Loop loop_;
    std::unique_ptr<RankServer> server_;
    std::function<void(SessionId)> on_message_;
    std::size_t lost_awaited_ = 1;
    Heard heard_;
};

TEST_F(Served, WhatARankSaidBeforeItHungUpIsHeardInFull) {
    listen();
    constexpr std::uint64_t kMessages = 50;  // more than one turn takes
    {
        const auto rank = connect_to(path_);
        ASSERT_TRUE(rank.has_value());
        for (std::uint64_t i = 0; i < kMessages; ++i) {
            ASSERT_TRUE(
                send_packet(rank->get(), encode(RankMessage{SnapshotPassed{.step = Step{i}}}), {}));
        }
    }

    loop_.run();

    ASSERT_EQ(heard_.messages.size(), kMessages);
    EXPECT_EQ(std::get<SnapshotPassed>(heard_.messages.back().second).step, Step{kMessages - 1});
    EXPECT_THAT(heard_.lost, testing::ElementsAre(testing::Pair(1u, "it hung up")));
}

TEST_F(Served, ASessionClosedFromWithinIsNotToldAsLost) {
    listen();
    on_message_ = [this](SessionId session) {
        server_->close(session);
        loop_.post([this] { loop_.stop(); });
    };
    const auto rank = connect_to(path_);
    ASSERT_TRUE(send_packet(rank->get(), encode(RankMessage{Hello{}}), {}));
    ASSERT_TRUE(send_packet(rank->get(), encode(RankMessage{Hello{}}), {}));

    loop_.run();

    EXPECT_EQ(heard_.messages.size(), 1u) << "the second hello came after the close";
    EXPECT_TRUE(heard_.lost.empty());
    EXPECT_EQ((*receive_packet(rank->get(), Wait::kBlock))->text, "");
}

TEST_F(Served, OneRanksRubbishCostsNoOtherItsSession) {
    listen();
    const auto good = connect_to(path_);
    const auto bad = connect_to(path_);
    ASSERT_TRUE(send_packet(bad->get(), "rubbish", {}));
    ASSERT_TRUE(send_packet(good->get(), encode(RankMessage{Hello{.rank = Rank{1}}}), {}));

    loop_.run();
    lost_awaited_ = 0;
    on_message_ = [this](SessionId) { loop_.stop(); };
    ASSERT_TRUE(send_packet(good->get(), encode(RankMessage{Hello{.rank = Rank{2}}}), {}));
    if (heard_.messages.size() < 2) loop_.run();
    while (heard_.messages.size() < 2)
        loop_.run();

    EXPECT_EQ(heard_.lost.size(), 1u);
    EXPECT_EQ(std::get<Hello>(heard_.messages.back().second).rank, Rank{2});
    EXPECT_EQ(heard_.messages[0].first, heard_.messages[1].first) << "still its session";
}

TEST_F(Served, SendingToASessionThatNeverWasChangesNothing) {
    listen();

    server_->send(999, Welcome{.job = "lm"}, {});
    server_->close(999);
    loop_.post([this] { loop_.stop(); });
    loop_.run();

    EXPECT_TRUE(heard_.lost.empty());
}

// ---- strangers and liars ----

TEST_F(Served, AMessageWithDescriptorsIsRefusedAndTheyAreClosed) {
    listen();
    const auto socket = connect_to(path_);
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK), 0);
    const UniqueFd read_end(ends[0]);
    UniqueFd write_end(ends[1]);
    ASSERT_TRUE(send_packet(socket->get(), encode(RankMessage{Hello{}}), {write_end.get()}));
    write_end.reset();

    loop_.run();

    EXPECT_EQ(heard_.lost.at(1), "it sent descriptors, which no message of a rank has");
    EXPECT_TRUE(heard_.messages.empty());
    char byte = 0;
    EXPECT_EQ(::read(read_end.get(), &byte, 1), 0) << "the last write end is still held";
}

TEST_F(Served, WhoConnectedIsKnownAlsoWhenItIsLost) {
    listen();
    pid_t seen = 0;
    on_message_ = [&](SessionId session) { seen = server_->pid_of(session); };
    const auto socket = connect_to(path_);
    ASSERT_TRUE(send_packet(socket->get(), encode(RankMessage{Hello{}}), {}));
    ASSERT_TRUE(send_packet(socket->get(), "rubbish", {}));

    loop_.run();

    EXPECT_EQ(seen, ::getpid());
    EXPECT_EQ(server_->pid_of(1), 0) << "it is gone";
}

TEST_F(Served, ARankThatSendsThousandsOfMessagesIsLost) {
    listen();
    on_message_ = [](SessionId) {};
    std::thread rank([&] {
        const auto socket = connect_to(path_);
        const std::string hello = encode(RankMessage{Hello{}});
        // Blocks while the server has not read; ends when it has hung up.
        while (send_packet(socket->get(), hello, {})) {
        }
    });

    loop_.run();
    rank.join();

    EXPECT_EQ(heard_.lost.at(1), "it sent more than 10000 messages in 10 s");
    EXPECT_EQ(heard_.messages.size(), 10'000u);
}

TEST_F(Served, StrangersThatSayNothingKeepNobodyOut) {
    listen();
    std::vector<UniqueFd> strangers;
    SessionId admitted = 0;
    on_message_ = [&](SessionId session) {
        if (admitted == 0) {
            admitted = session;
            server_->admit(session);
            for (int i = 0; i < 300; ++i)
                strangers.push_back(std::move(*connect_to(path_)));
            strangers.push_back(std::move(*connect_to(path_)));
            ASSERT_TRUE(send_packet(strangers.back().get(),
                                    encode(RankMessage{Hello{.rank = Rank{7}}}), {}));
        } else {
            loop_.stop();
        }
    };
    lost_awaited_ = 1'000;  // the last hello ends it
    const auto first = connect_to(path_);
    ASSERT_TRUE(send_packet(first->get(), encode(RankMessage{Hello{}}), {}));

    loop_.run();

    ASSERT_EQ(heard_.messages.size(), 2u);
    EXPECT_EQ(std::get<Hello>(heard_.messages[1].second).rank, Rank{7});
    EXPECT_FALSE(heard_.lost.contains(admitted)) << "one that was admitted stays";
    EXPECT_GE(heard_.lost.size(), 45u);
    EXPECT_EQ(heard_.lost.begin()->second, "it said no hello, and others wait to say theirs");
}

}  // namespace
}  // namespace pawl::staging
