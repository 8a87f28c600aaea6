// See process.h.
#include "supervisor/process.h"

#include "base/file_system.h"
#include "base/signals_blocked.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

// Not in glibc 2.35 and older headers for C++; the numbers are the kernel's.
#ifndef P_PIDFD
#define P_PIDFD 3
#endif

namespace pawl::supervisor {
namespace {

// What a child that could not exec writes before it ends.
struct StartFailure {
    enum Stage : int { kWorkingDirectory, kOutput, kExec };
    int stage = kExec;
    int code = 0;
};

std::vector<char*> pointers_to(const std::vector<std::string>& texts) {
    std::vector<char*> pointers;
    pointers.reserve(texts.size() + 1);
    for (const std::string& text : texts)
        pointers.push_back(const_cast<char*>(text.c_str()));
    pointers.push_back(nullptr);
    return pointers;
}

// Where the command is, by the PATH that the rank will have: resolved before the fork, so that
// between fork and exec there is only what is async-signal-safe.
std::vector<std::string> candidates_of(const SpawnRequest& request) {
    const std::string& command = request.command.front();
    if (command.find('/') != std::string::npos) return {command};
    std::string path = "/usr/local/bin:/usr/bin:/bin";
    for (const std::string& variable : request.environment) {
        if (variable.starts_with("PATH=")) path = variable.substr(5);
    }
    std::vector<std::string> candidates;
    std::size_t begin = 0;
    while (begin <= path.size()) {
        const std::size_t end = std::min(path.find(':', begin), path.size());
        const std::string directory = path.substr(begin, end - begin);
        candidates.push_back(join_path(directory.empty() ? "." : directory, command));
        begin = end + 1;
    }
    return candidates;
}

[[noreturn]] void give_up(int error_pipe, int stage) {
    const StartFailure failure{.stage = stage, .code = errno};
    // If even this fails, the exit code is all that is left to say.
    [[maybe_unused]] const ssize_t written = ::write(error_pipe, &failure, sizeof failure);
    ::_exit(127);
}

struct ChildPlan {
    std::vector<char*> arguments;
    std::vector<char*> environment;
    std::vector<std::string> candidates;
    const char* working_directory = nullptr;
    const char* output_path = nullptr;
    int error_pipe = -1;
};

// Between fork and exec: async-signal-safe calls only, no allocation, no lock. All signals are
// blocked.
[[noreturn]] void run_child(const ChildPlan& plan) {
    ::setsid();
    // All of them: what the daemon ignores (SIGPIPE), or whoever started it did, is nothing to a
    // rank.
    for (int number = 1; number < NSIG; ++number) {
        // NOLINTNEXTLINE(concurrency-mt-unsafe): a child of fork has one thread
        static_cast<void>(::signal(number, SIG_DFL));
    }
    // Only now: what came since the fork is for the rank, and the daemon's handlers would tell it
    // to the daemon's loop, with which the child still shares its pipes.
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    if (::chdir(plan.working_directory) != 0)
        give_up(plan.error_pipe, StartFailure::kWorkingDirectory);
    const int input = ::open("/dev/null", O_RDONLY);
    const int output = ::open(plan.output_path, O_WRONLY | O_APPEND | O_CREAT, 0644);
    if (input < 0 || output < 0) give_up(plan.error_pipe, StartFailure::kOutput);
    ::dup2(input, STDIN_FILENO);
    ::dup2(output, STDOUT_FILENO);
    ::dup2(output, STDERR_FILENO);
    if (input > STDERR_FILENO) ::close(input);
    if (output > STDERR_FILENO) ::close(output);
    // Whatever descriptor the daemon itself was given, or a library opened carelessly, ends here.
    ::close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);
    int code = ENOENT;
    for (const std::string& candidate : plan.candidates) {
        ::execve(candidate.c_str(), plan.arguments.data(), plan.environment.data());
        // As execvp: a file that is there but can't be run is the better answer than "not found".
        if (errno != ENOENT && errno != ENOTDIR) code = errno;
    }
    errno = code;
    give_up(plan.error_pipe, StartFailure::kExec);
}

std::optional<StartFailure> read_failure(int pipe) {
    StartFailure failure;
    const ssize_t got = ::read(pipe, &failure, sizeof failure);
    if (got != static_cast<ssize_t>(sizeof failure)) return std::nullopt;
    return failure;
}

std::optional<pid_t> parse_pid(std::string_view text) {
    pid_t pid = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), pid);
    if (code != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return pid;
}

std::string read_proc(const std::string& path) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    std::string text;
    if (!fd.is_open()) return text;
    std::array<char, 8192> buffer{};
    ssize_t got = 0;
    while ((got = ::read(fd.get(), buffer.data(), buffer.size())) > 0) {
        text.append(buffer.data(), static_cast<std::size_t>(got));
    }
    return text;
}

bool carries(pid_t pid, const std::string& variable) {
    const std::string environment = read_proc(fmt::format("/proc/{}/environ", pid));
    std::size_t begin = 0;
    while (begin < environment.size()) {
        const std::size_t end = std::min(environment.find('\0', begin), environment.size());
        if (environment.compare(begin, end - begin, variable) == 0) return true;
        begin = end + 1;
    }
    return false;
}

class KernelProcessRunner final : public ProcessRunner {
public:
    Result<Spawned> spawn(const SpawnRequest& request) override {
        std::array<int, 2> pipe_ends{};
        if (::pipe2(pipe_ends.data(), O_CLOEXEC | O_NONBLOCK) != 0)
            return error_from_errno("make a pipe");
        UniqueFd read_end(pipe_ends[0]);
        const UniqueFd write_end(pipe_ends[1]);
        const ChildPlan plan{.arguments = pointers_to(request.command),
                             .environment = pointers_to(request.environment),
                             .candidates = candidates_of(request),
                             .working_directory = request.working_directory.c_str(),
                             .output_path = request.output_path.c_str(),
                             .error_pipe = write_end.get()};
        pid_t pid = -1;
        {
            const SignalsBlocked blocked;
            pid = ::fork();
            if (pid < 0) return error_from_errno("fork for '{}'", request.command.front());
            if (pid == 0) run_child(plan);
        }
        Spawned spawned{.pid = pid, .exec_error = std::move(read_end)};
        // The child can't be reaped by anyone but us, so its pid and its pidfd are the same
        // process.
        spawned.pidfd.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
        if (!spawned.pidfd.is_open()) {
            const Error error = error_from_errno("watch process {}", pid);
            ::kill(pid, SIGKILL);
            ::waitpid(pid, nullptr, 0);
            return error;
        }
        spawned.start_ticks = start_ticks_of(pid).value_or(0);
        return spawned;
    }

    std::optional<ExitStatus> take_exit(const Spawned& process) override {
        siginfo_t information = {};
        const auto id = static_cast<id_t>(process.pidfd.get());
        if (::waitid(static_cast<idtype_t>(P_PIDFD), id, &information, WEXITED | WNOHANG) != 0) {
            return ExitStatus{
                .cause = ExitCause::kError, .number = 1, .detail = "its end was not seen"};
        }
        if (information.si_pid == 0) return std::nullopt;
        if (const auto failure = read_failure(process.exec_error.get()))
            return start_failure(*failure);
        if (information.si_code != CLD_EXITED) {
            return ExitStatus{.cause = ExitCause::kSignal, .number = information.si_status};
        }
        if (information.si_status == 0) return ExitStatus{};
        return ExitStatus{.cause = ExitCause::kError, .number = information.si_status};
    }

    void send_signal(const Spawned& process, int signal) override {
        // Fails only for a process that has ended, which its pidfd reports.
        ::syscall(SYS_pidfd_send_signal, process.pidfd.get(), signal, nullptr, 0);
    }

    Result<std::vector<pid_t>> find(const std::string& job_key) override {
        const std::string variable = fmt::format("{}={}", kJobKeyVariable, job_key);
        DIR* const directory = ::opendir("/proc");
        if (directory == nullptr) return error_from_errno("list processes in '/proc'");
        const std::unique_ptr<DIR, int (*)(DIR*)> closer(directory, ::closedir);
        std::vector<pid_t> found;
        while (const dirent* entry =
                   ::readdir(directory)) {  // NOLINT(concurrency-mt-unsafe): our own DIR
            const auto pid = parse_pid(entry->d_name);
            if (pid && *pid != ::getpid() && carries(*pid, variable)) found.push_back(*pid);
        }
        return found;
    }

    std::optional<UniqueFd> watch(pid_t pid) override {
        UniqueFd fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
        if (!fd.is_open()) return std::nullopt;
        return fd;
    }

    void kill_now(pid_t pid) override { ::kill(pid, SIGKILL); }

    void reap_orphans(const std::vector<pid_t>& known) override {
        const std::string tasks = "/proc/self/task";
        const auto fs = make_posix_file_system();
        const auto entries = fs->list_directory(tasks);
        if (!entries) return;  // without /proc zombies stay: no harm but their pids
        for (const DirectoryEntry& task : *entries) {
            const std::string children = read_proc(fmt::format("{}/{}/children", tasks, task.name));
            std::size_t begin = 0;
            while (begin < children.size()) {
                const std::size_t end = std::min(children.find(' ', begin), children.size());
                const auto pid = parse_pid(std::string_view(children).substr(begin, end - begin));
                if (pid && std::ranges::find(known, *pid) == known.end())
                    ::waitpid(*pid, nullptr, WNOHANG);
                begin = end + 1;
            }
        }
    }

private:
    static ExitStatus start_failure(const StartFailure& failure) {
        const char* what = "cannot run the command";
        if (failure.stage == StartFailure::kWorkingDirectory)
            what = "cannot enter the working directory";
        if (failure.stage == StartFailure::kOutput) what = "cannot open the output file";
        return {.cause = ExitCause::kCouldNotStart,
                .number = failure.code,
                .detail = error_from_code(failure.code, what).text()};
    }
};

}  // namespace

std::unique_ptr<ProcessRunner> make_process_runner() {
    return std::make_unique<KernelProcessRunner>();
}

Result<void> become_subreaper() {
    if (::prctl(PR_SET_CHILD_SUBREAPER, 1) != 0)
        return error_from_errno("become the subreaper of all ranks");
    return {};
}

std::vector<pid_t> ancestors_of(pid_t pid) {
    std::vector<pid_t> ancestors;
    // Bounded, should pids be reused while we look.
    constexpr std::size_t kAncestorsMax = 256;
    while (pid > 1 && ancestors.size() < kAncestorsMax) {
        const std::string stat = read_proc(fmt::format("/proc/{}/stat", pid));
        // "PID (command) STATE PARENT …"; the command may hold anything.
        const auto bracket = stat.rfind(") ");
        if (bracket == std::string::npos || bracket + 4 >= stat.size()) break;
        const std::size_t begin = bracket + 4;
        const auto parent =
            parse_pid(std::string_view(stat).substr(begin, stat.find(' ', begin) - begin));
        if (!parent || *parent <= 0) break;
        pid = *parent;
        ancestors.push_back(pid);
    }
    return ancestors;
}

bool carries_key(pid_t pid, const std::string& job_key) {
    return carries(pid, fmt::format("{}={}", kJobKeyVariable, job_key));
}

std::optional<std::uint64_t> start_ticks_of(pid_t pid) {
    const std::string stat = read_proc(fmt::format("/proc/{}/stat", pid));
    // The command in brackets may hold anything, brackets and spaces too: fields are counted behind
    // it.
    const auto bracket = stat.rfind(')');
    if (bracket == std::string::npos) return std::nullopt;
    std::size_t begin = bracket + 2;
    if (begin < stat.size() && stat[begin] == 'Z') return std::nullopt;
    constexpr int kFieldsBefore = 22 - 3;
    for (int i = 0; i < kFieldsBefore; ++i) {
        begin = stat.find(' ', begin);
        if (begin == std::string::npos) return std::nullopt;
        ++begin;
    }
    std::uint64_t ticks = 0;
    std::from_chars(stat.data() + begin, stat.data() + stat.size(), ticks);
    return ticks;
}

}  // namespace pawl::supervisor
