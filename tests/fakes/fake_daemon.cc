// See fake_daemon.h.
#include "tests/fakes/fake_daemon.h"

#include "staging/socket.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <array>
#include <cstdlib>

namespace pawl::fakes {
namespace {

// Whether `fd` becomes readable, before `or_else` does (-1: there is no such).
bool becomes_readable(int fd, int or_else = -1) {
    constexpr int kPatienceMs = 20'000;
    std::array what = {pollfd{.fd = fd, .events = POLLIN, .revents = 0},
                       pollfd{.fd = or_else, .events = POLLIN, .revents = 0}};
    int ready = 0;
    do {
        ready = ::poll(what.data(), what.size(), kPatienceMs);
    } while (ready < 0 && errno == EINTR);
    return ready > 0 && what.front().revents != 0;
}

}  // namespace

std::optional<staging::RankMessage> FakeSession::receive() {
    if (!becomes_readable(socket_.get())) {
        ADD_FAILURE() << "the rank said nothing";
        return std::nullopt;
    }
    const auto packet = staging::receive_packet(socket_.get(), staging::Wait::kNoBlock);
    if (!packet || !packet->has_value()) {
        ADD_FAILURE() << "nothing could be received";
        return std::nullopt;
    }
    if ((*packet)->text.empty()) return std::nullopt;
    auto message = staging::decode_rank_message((*packet)->text);
    EXPECT_TRUE(message.has_value()) << (*packet)->text;
    return message ? std::optional(std::move(*message)) : std::nullopt;
}

void FakeSession::send(const staging::DaemonMessage& message, const std::vector<int>& descriptors) {
    const auto sent = staging::send_packet(socket_.get(), staging::encode(message), descriptors);
    EXPECT_TRUE(sent.has_value() || sent.error().kind() == ErrorKind::kCancelled)
        << sent.error().text();
}

void FakeSession::welcome() {
    expect<staging::Hello>();
    auto memory = staging::make_sealed_memory("fake-pages", staging::kPagesBytes);
    ASSERT_TRUE(memory.has_value());
    auto mapping =
        staging::Mapping::of(memory->get(), 0, staging::kPagesBytes, staging::Access::kReadWrite);
    ASSERT_TRUE(mapping.has_value());
    pages_ = std::move(*memory);
    pages_mapping_ = std::move(*mapping);
    send(staging::Welcome{.job = "fake"}, {pages_.get()});
}

void FakeSession::ask_for(const staging::Control& control) {
    std::byte* const page = pages_mapping_.bytes().data() + staging::kPageBytes;
    staging::write(*reinterpret_cast<staging::ControlPage*>(page), control);
}

std::optional<staging::Progress> FakeSession::progress() const {
    return staging::read(
        *reinterpret_cast<const staging::ProgressPage*>(pages_mapping_.bytes().data()));
}

void FakeSession::grant(const staging::ArenaRequest& request) {
    const auto arena = staging::make_sealed_memory("fake-arena", request.bytes);
    ASSERT_TRUE(arena.has_value());
    send(staging::ArenaGranted{.slot = request.slot, .bytes = request.bytes}, {arena->get()});
}

FakeDaemon::FakeDaemon(Script script) {
    auto listener = staging::listen_at(path_);
    EXPECT_TRUE(listener.has_value());
    listener_ = std::move(*listener);
    over_.reset(::eventfd(0, EFD_CLOEXEC));
    ::setenv("PAWL_SOCKET", path_.c_str(), 1);
    thread_ = std::thread([this, script = std::move(script)] {
        if (!becomes_readable(listener_.get(), over_.get())) return;
        auto connection = staging::accept_from(listener_.get());
        ASSERT_TRUE(connection.has_value() && connection->has_value());
        listener_.reset();
        FakeSession session(std::move((*connection)->socket));
        script(session);
    });
}

FakeDaemon::~FakeDaemon() {
    ::eventfd_write(over_.get(), 1);
    join();
    ::unsetenv("PAWL_SOCKET");
}

void FakeDaemon::join() {
    if (thread_.joinable()) thread_.join();
}

}  // namespace pawl::fakes
