// See rank.h.
#include "daemon/rank.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <random>

namespace pawl::daemon {

Result<void> RankHolder::make_pages(const std::string& job) {
    auto memory = staging::make_sealed_memory(fmt::format("pawl-pages-{}-{}", job, rank),
                                              staging::kPagesBytes);
    if (!memory) return memory.error();
    auto mapping =
        staging::Mapping::of(memory->get(), 0, staging::kPagesBytes, staging::Access::kReadWrite);
    if (!mapping) return mapping.error();
    pages = std::move(*memory);
    pages_mapping = std::move(*mapping);
    std::byte* const bytes = pages_mapping.bytes().data();
    progress_page = reinterpret_cast<staging::ProgressPage*>(bytes);
    control_page = reinterpret_cast<staging::ControlPage*>(bytes + staging::kPageBytes);
    staging::write(*control_page, staging::Control{});
    return {};
}

Result<void> RankHolder::read_progress(MonotonicTime now) {
    if (progress_page == nullptr) return {};
    const auto progress = staging::read(*progress_page);
    if (!progress || progress->phase == staging::Phase::kStarting) return {};
    if (progress->step.value > staging::kCountMax || progress->epoch.value > staging::kCountMax) {
        return make_error(ErrorKind::kInvalidArgument,
                          "its page says step {} of epoch {}, which nobody counts to",
                          progress->step, progress->epoch);
    }
    // Its own clock is not believed: a change is a sign of life, whatever time it says.
    const bool has_changed = !has_reported || last.time != progress->time ||
                             last.step != progress->step || last.phase != progress->phase;
    if (has_changed) heard = now;
    last = *progress;
    has_reported = true;
    return {};
}

void RankHolder::write_control(const staging::Control& control) const {
    if (control_page != nullptr) staging::write(*control_page, control);
}

std::uint64_t RankHolder::arena_bytes() const {
    std::uint64_t bytes = 0;
    for (const RankSlot& slot : slots) {
        if (slot.arena) bytes += slot.arena->mapping.bytes().size();
    }
    return bytes;
}

std::vector<std::shared_ptr<Arena>> RankHolder::take_arenas() {
    std::vector<std::shared_ptr<Arena>> arenas;
    for (RankSlot& slot : slots)
        arenas.push_back(std::move(slot.arena));
    return arenas;
}

std::vector<std::string> environment_of(const RankEnvironment& given, Rank rank,
                                        const std::vector<std::string>& base) {
    const std::string number = fmt::format("{}", rank);
    const std::string world = fmt::format("{}", given.world_size);
    using Variables = std::vector<std::pair<std::string, std::string>>;
    const Variables torchrun = {
        {"RANK", number},
        {"LOCAL_RANK", number},
        {"WORLD_SIZE", world},
        {"LOCAL_WORLD_SIZE", world},
        {"GROUP_RANK", "0"},
        {"GROUP_WORLD_SIZE", "1"},
        {"ROLE_NAME", "default"},
        {"ROLE_RANK", number},
        {"ROLE_WORLD_SIZE", world},
        {"MASTER_ADDR", "127.0.0.1"},
        {"MASTER_PORT", fmt::format("{}", given.master_port)},
        {"TORCHELASTIC_RESTART_COUNT", fmt::format("{}", given.incarnation)},
        {"TORCHELASTIC_MAX_RESTARTS", fmt::format("{}", given.restarts_max)},
        {"TORCHELASTIC_RUN_ID", given.job},
    };
    const Variables own = {
        {"PAWL_SOCKET", given.socket_path},
        {"PAWL_JOB", given.job},
        {"PAWL_INCARNATION", fmt::format("{}", given.incarnation)},
        {std::string(supervisor::kJobKeyVariable), given.job_key},
    };
    const auto is_in = [](const Variables& variables, const std::string& name) {
        return std::ranges::any_of(variables, [&](const auto& pair) { return name == pair.first; });
    };
    const auto is_ours = [&](const std::string& variable) {
        const std::string name = variable.substr(0, variable.find('='));
        constexpr std::array kNotForRanks = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID",
                                             "LISTEN_FDS",    "LISTEN_PID",    "LISTEN_FDNAMES"};
        return name.starts_with("PAWL_") ||
               std::ranges::any_of(kNotForRanks,
                                   [&](const char* other) { return name == other; }) ||
               is_in(own, name) ||
               // An address that was given is no word of ranks.
               (is_in(torchrun, name) && (given.is_distributed || !name.starts_with("MASTER_")));
    };
    std::vector<std::string> environment;
    bool has_thread_count = false;
    for (const std::string& variable : base) {
        if (is_ours(variable)) continue;
        has_thread_count = has_thread_count || variable.starts_with("OMP_NUM_THREADS=");
        environment.push_back(variable);
    }
    for (const Variables& variables : {given.is_distributed ? torchrun : Variables(), own}) {
        for (const auto& [name, value] : variables)
            environment.push_back(fmt::format("{}={}", name, value));
    }
    // As torchrun does: several ranks with a thread a core each would only fight.
    if (given.world_size > 1 && !has_thread_count) environment.emplace_back("OMP_NUM_THREADS=1");
    return environment;
}

double draw_jitter() {
    static std::random_device device;
    return std::uniform_real_distribution<double>(0, 1)(device);
}

Result<std::uint16_t> free_port() {
    const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd.is_open()) return error_from_errno("make a TCP socket");
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    auto* const generic = reinterpret_cast<sockaddr*>(&address);
    if (::bind(fd.get(), generic, sizeof address) != 0)
        return error_from_errno("find a free TCP port");
    socklen_t length = sizeof address;
    if (::getsockname(fd.get(), generic, &length) != 0)
        return error_from_errno("find a free TCP port");
    return ntohs(address.sin_port);
}

}  // namespace pawl::daemon
