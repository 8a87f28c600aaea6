// TerminalReporter: what `pawl run` shows. Events as lines on standard error, the output of rank 0
// on standard output, and on a terminal one line of progress below them.
#pragma once

#include "base/fd.h"
#include "daemon/reporter.h"

#include <string>

namespace pawl::tools {

struct TerminalOptions {
    // The output file of rank 0, shown from its present end on; "": not shown.
    std::string output_path;
};

class TerminalReporter final : public daemon::Reporter {
public:
    explicit TerminalReporter(TerminalOptions options);
    ~TerminalReporter() override;
    TerminalReporter(const TerminalReporter&) = delete;
    TerminalReporter& operator=(const TerminalReporter&) = delete;

    void event(const std::string& job, daemon::ReportLevel level, const std::string& text) override;
    void progress(const control::JobStatus& status) override;

private:
    void clear_line();
    void copy_output();

    TerminalOptions options_;
    bool is_terminal_;
    bool has_line_ = false;
    bool is_at_line_start_ = true;  // the output that was copied ended with a line feed
    std::uint64_t output_offset_ = 0;
};

}  // namespace pawl::tools
