// See terminal.h.
#include "tools/terminal.h"

#include "base/clock.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

namespace pawl::tools {
namespace {

std::size_t columns_of_terminal() {
    winsize size = {};
    if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
    return size.ws_col;
}

std::string line_of(const control::JobStatus& status) {
    std::string line =
        fmt::format("[{}] step {} epoch {}", status.state, status.step, status.epoch);
    if (std::isfinite(status.loss)) line += fmt::format(" loss {:.4f}", status.loss);
    if (status.steps_per_second > 0) line += fmt::format(" {:.0f}/s", status.steps_per_second);
    if (status.checkpoint) line += fmt::format(" | durable: step {}", status.checkpoint->step);
    if (status.restarts > 0) line += fmt::format(" | restarts: {}", status.restarts);
    return line;
}

void put(int fd, std::string_view text) {
    while (!text.empty()) {
        const ssize_t written = ::write(fd, text.data(), text.size());
        if (written <= 0) return;  // whoever was looking is gone; training goes on
        text.remove_prefix(static_cast<std::size_t>(written));
    }
}

}  // namespace

TerminalReporter::TerminalReporter(TerminalOptions options)
    : options_(std::move(options)), is_terminal_(::isatty(STDERR_FILENO) != 0) {
    // What earlier runs wrote has been seen.
    struct stat information = {};
    if (::stat(options_.output_path.c_str(), &information) == 0) {
        output_offset_ = static_cast<std::uint64_t>(information.st_size);
    }
}

TerminalReporter::~TerminalReporter() {
    copy_output();
    clear_line();
}

void TerminalReporter::clear_line() {
    if (!has_line_) return;
    put(STDERR_FILENO, "\r\033[K");
    has_line_ = false;
}

void TerminalReporter::event(const std::string&, daemon::ReportLevel level,
                             const std::string& text) {
    copy_output();
    clear_line();
    if (is_terminal_ && !std::exchange(is_at_line_start_, true)) put(STDERR_FILENO, "\n");
    std::string_view prefix = "pawl: ";
    if (level == daemon::ReportLevel::kWarning) prefix = "pawl: warning: ";
    if (level == daemon::ReportLevel::kError) prefix = "pawl: error: ";
    put(STDERR_FILENO, fmt::format("{}{}\n", prefix, text));
}

void TerminalReporter::progress(const control::JobStatus& status) {
    copy_output();
    // A line or a bar that is not complete is the program's, and stays.
    if (!is_terminal_ || !is_at_line_start_) return;
    const auto is_attached = [](const control::RankStatus& rank) { return rank.is_attached; };
    if (std::ranges::none_of(status.ranks, is_attached)) return clear_line();  // it has no steps
    std::string line = line_of(status);
    line.resize(std::min(line.size(), columns_of_terminal() - 1));
    put(STDERR_FILENO, "\r" + line + "\033[K");
    has_line_ = true;
}

// What rank 0 has written since the last look. The file is only read: it is the rank's own.
void TerminalReporter::copy_output() {
    if (options_.output_path.empty()) return;
    const UniqueFd file(::open(options_.output_path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.is_open()) return;
    struct stat information = {};
    if (::fstat(file.get(), &information) != 0) return;
    // Rotated at a restart: this is a new file.
    if (static_cast<std::uint64_t>(information.st_size) < output_offset_) output_offset_ = 0;
    std::array<char, 8192> buffer{};
    ssize_t got = 0;
    while ((got = ::pread(file.get(), buffer.data(), buffer.size(),
                          static_cast<off_t>(output_offset_))) > 0) {
        clear_line();
        put(STDOUT_FILENO, std::string_view(buffer.data(), static_cast<std::size_t>(got)));
        output_offset_ += static_cast<std::uint64_t>(got);
        is_at_line_start_ = buffer.at(static_cast<std::size_t>(got) - 1) == '\n';
    }
}

}  // namespace pawl::tools
