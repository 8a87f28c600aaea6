// See socket.h.
#include "staging/socket.h"

#include "staging/messages.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <array>
#include <cstring>

namespace pawl::staging {
namespace {

// The directory is opened and the socket reached as /proc/self/fd/N/NAME, however long its path is.
struct Address {
    UniqueFd directory;
    sockaddr_un socket{};
};

Result<Address> address_of(const std::string& path) {
    const auto slash = path.find_last_of('/');
    const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
    const std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
    Address address;
    address.directory.reset(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!address.directory.is_open()) return error_from_errno("open directory '{}'", directory);
    const std::string short_path =
        fmt::format("/proc/self/fd/{}/{}", address.directory.get(), name);
    if (short_path.size() >= sizeof address.socket.sun_path) {
        return make_error(ErrorKind::kInvalidArgument, "socket name '{}' is too long", name);
    }
    address.socket.sun_family = AF_UNIX;
    std::memcpy(address.socket.sun_path, short_path.c_str(), short_path.size() + 1);
    return address;
}

Result<UniqueFd> make_socket(int flags) {
    UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | flags, 0));
    if (!fd.is_open()) return error_from_errno("make a Unix socket");
    return fd;
}

}  // namespace

Result<UniqueFd> listen_at(const std::string& path) {
    auto address = address_of(path);
    if (!address) return address.error();
    auto fd = make_socket(SOCK_NONBLOCK);
    if (!fd) return fd.error();
    if (::unlink(path.c_str()) != 0 && errno != ENOENT)
        return error_from_errno("remove old socket '{}'", path);
    const auto* generic = reinterpret_cast<const sockaddr*>(&address->socket);
    if (::bind(fd->get(), generic, sizeof address->socket) != 0)
        return error_from_errno("bind socket '{}'", path);
    if (::chmod(path.c_str(), 0600) != 0) return error_from_errno("restrict socket '{}'", path);
    if (::listen(fd->get(), SOMAXCONN) != 0) return error_from_errno("listen on socket '{}'", path);
    return fd;
}

Result<UniqueFd> connect_to(const std::string& path) {
    auto address = address_of(path);
    if (!address) return address.error();
    auto fd = make_socket(0);
    if (!fd) return fd.error();
    const auto* generic = reinterpret_cast<const sockaddr*>(&address->socket);
    int code = 0;
    do {
        code = ::connect(fd->get(), generic, sizeof address->socket) == 0 ? 0 : errno;
    } while (code == EINTR);
    if (code != 0) {
        const Error error =
            error_from_code(code, fmt::format("connect to pawld's socket '{}'", path));
        const bool is_nobody_there = code == ECONNREFUSED || code == ECONNRESET;
        return is_nobody_there ? Error(ErrorKind::kCancelled, error.message()) : error;
    }
    return fd;
}

Result<std::optional<Accepted>> accept_from(int listener) {
    UniqueFd fd(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd.is_open()) {
        if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
            return std::optional<Accepted>{};
        return error_from_errno("accept a rank's connection");
    }
    ucred peer = {};
    socklen_t length = sizeof peer;
    if (::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
        return error_from_errno("ask who connected");
    }
    if (peer.uid != 0 && peer.uid != ::geteuid()) {
        return make_error(ErrorKind::kBusy, "user {} may not attach to a job of user {}", peer.uid,
                          ::geteuid());
    }
    return std::optional<Accepted>{Accepted{.socket = std::move(fd), .pid = peer.pid}};
}

Result<void> send_packet(int socket, std::string_view text, const std::vector<int>& descriptors) {
    iovec part = {.iov_base = const_cast<char*>(text.data()), .iov_len = text.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(kDescriptorsMax * sizeof(int))> control{};
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (!descriptors.empty()) {
        const std::size_t bytes = descriptors.size() * sizeof(int);
        if (descriptors.size() > kDescriptorsMax) {
            return make_error(ErrorKind::kInternal, "{} descriptors in one message",
                              descriptors.size());
        }
        message.msg_control = control.data();
        message.msg_controllen = CMSG_SPACE(bytes);
        cmsghdr* const header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(bytes);
        std::memcpy(CMSG_DATA(header), descriptors.data(), bytes);
    }
    while (::sendmsg(socket, &message, MSG_NOSIGNAL) < 0) {
        if (errno == EINTR) continue;
        const bool is_gone = errno == EPIPE || errno == ECONNRESET;
        const Error error = error_from_errno("send a message");
        return is_gone ? Error(ErrorKind::kCancelled, error.message()) : error;
    }
    return {};
}

Result<std::optional<Packet>> receive_packet(int socket, Wait wait) {
    Packet packet;
    packet.text.resize(kMessageBytesMax);
    iovec part = {.iov_base = packet.text.data(), .iov_len = packet.text.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(kDescriptorsMax * sizeof(int))> control{};
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    const int flags = MSG_CMSG_CLOEXEC | (wait == Wait::kNoBlock ? MSG_DONTWAIT : 0);
    ssize_t got = 0;
    while ((got = ::recvmsg(socket, &message, flags)) < 0) {
        if (errno == EINTR) continue;
        if (errno == EAGAIN) return std::optional<Packet>{};
        if (errno == ECONNRESET) {
            got = 0;
            break;
        }
        return error_from_errno("receive a message");
    }
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
         header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < count; ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
            packet.descriptors.emplace_back(fd);
        }
    }
    packet.text.resize(static_cast<std::size_t>(got));
    if ((message.msg_flags & MSG_CTRUNC) != 0) {
        return make_error(ErrorKind::kInvalidArgument, "a message has more than {} descriptors",
                          kDescriptorsMax);
    }
    if ((message.msg_flags & MSG_TRUNC) != 0) {
        return make_error(ErrorKind::kInvalidArgument, "a message is longer than {} bytes",
                          kMessageBytesMax);
    }
    return std::optional<Packet>{std::move(packet)};
}

}  // namespace pawl::staging
