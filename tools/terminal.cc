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
#include <cstdio>

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
    : options_(options), is_terminal_(::isatty(STDERR_FILENO) != 0) {
}

TerminalReporter::~TerminalReporter() {
    if (!output_path_.empty()) copy_output(output_path_);
    clear_line();
}

void TerminalReporter::clear_line() {
    if (!has_line_) return;
    put(STDERR_FILENO, "\r\033[K");
    has_line_ = false;
}

void TerminalReporter::event(const std::string&, daemon::ReportLevel level,
                             const std::string& text) {
    if (!output_path_.empty()) copy_output(output_path_);
    clear_line();
    std::string_view prefix = "pawl: ";
    if (level == daemon::ReportLevel::kWarning) prefix = "pawl: warning: ";
    if (level == daemon::ReportLevel::kError) prefix = "pawl: error: ";
    put(STDERR_FILENO, fmt::format("{}{}\n", prefix, text));
}

void TerminalReporter::progress(const control::JobStatus& status) {
    if (!status.ranks.empty()) copy_output(status.ranks.front().output);
    if (!is_terminal_) return;
    std::string line = line_of(status);
    line.resize(std::min(line.size(), columns_of_terminal() - 1));
    put(STDERR_FILENO, "\r" + line + "\033[K");
    has_line_ = true;
}

// What rank 0 has written since the last look. The file is only read: it is the rank's own.
void TerminalReporter::copy_output(const std::string& path) {
    if (!options_.shows_output) return;
    if (output_path_ != path) {
        output_.reset(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
        if (!output_.is_open()) return;
        output_path_ = path;
        // What earlier runs wrote has been seen.
        struct stat information = {};
        if (::fstat(output_.get(), &information) == 0 &&
            information.st_mtime + 2 < ::time(nullptr)) {
            output_offset_ = static_cast<std::uint64_t>(information.st_size);
        }
    }
    std::array<char, 8192> buffer{};
    ssize_t got = 0;
    while ((got = ::pread(output_.get(), buffer.data(), buffer.size(),
                          static_cast<off_t>(output_offset_))) > 0) {
        clear_line();
        put(STDOUT_FILENO, std::string_view(buffer.data(), static_cast<std::size_t>(got)));
        output_offset_ += static_cast<std::uint64_t>(got);
    }
}

}  // namespace pawl::tools
