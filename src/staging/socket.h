// Unix SEQPACKET sockets with descriptors beside the messages (SCM_RIGHTS).
#pragma once

#include "base/fd.h"
#include "base/result.h"

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pawl::staging {

// Paths longer than sockaddr_un holds (107 bytes) work too: they are reached through their
// directory.
[[nodiscard]] Result<UniqueFd> listen_at(
    const std::string& path);  // replaces a stale socket; non-blocking
// Blocking. kCancelled if the socket is there and nobody listens any more.
[[nodiscard]] Result<UniqueFd> connect_to(const std::string& path);
struct Accepted {
    UniqueFd socket;  // non-blocking
    pid_t pid = 0;    // who connected; 0 if that is not seen from here (another pid namespace)
};
// nullopt when nobody is waiting. kBusy if the user who connected is neither ours nor root.
[[nodiscard]] Result<std::optional<Accepted>> accept_from(int listener);

struct Packet {
    std::string text;  // empty: the other side is gone
    std::vector<UniqueFd> descriptors;
};

inline constexpr std::size_t kDescriptorsMax = 4;

// kBusy if the socket is non-blocking and full: the other side has stopped reading. kCancelled if
// it is gone.
Result<void> send_packet(int socket, std::string_view text, const std::vector<int>& descriptors);
enum class Wait { kBlock, kNoBlock };
// nullopt with kNoBlock when there is none.
[[nodiscard]] Result<std::optional<Packet>> receive_packet(int socket, Wait wait);

}  // namespace pawl::staging
