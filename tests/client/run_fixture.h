// What tests of libpawl share: runs that detach themselves, calls with good defaults, children.
#pragma once

#include <gtest/gtest.h>
#include <pawl/pawl.h>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <string>

namespace pawl::client {

struct Detach {
    void operator()(pawl_run* run) const { pawl_detach(run); }
};
using OwnedRun = std::unique_ptr<pawl_run, Detach>;

// nullptr, and pawl_last_error(), if it failed.
inline OwnedRun attach(const pawl_attach_options* options = nullptr) {
    pawl_run* run = nullptr;
    pawl_attach(options, &run);
    return OwnedRun(run);
}

struct Outcome {
    int code = 0;
    std::uint32_t actions = 0;
    std::string error;
    friend bool operator==(const Outcome&, const Outcome&) = default;
};
inline void PrintTo(const Outcome& outcome, std::ostream* out) {
    *out << pawl_error_name(outcome.code) << ", actions " << outcome.actions << ", \""
         << outcome.error << "\"";
}

inline Outcome step(const OwnedRun& run, std::uint64_t number, std::uint64_t epoch = 0) {
    const pawl_progress progress{sizeof progress, number, epoch, 0.5};
    Outcome outcome;
    outcome.code = pawl_step(run.get(), &progress, &outcome.actions);
    outcome.error = pawl_last_error();
    return outcome;
}

inline Outcome epoch_end(const OwnedRun& run, std::uint64_t number, std::uint64_t epoch) {
    const pawl_progress progress{sizeof progress, number, epoch, 0.5};
    Outcome outcome;
    outcome.code = pawl_epoch_end(run.get(), &progress, nullptr, 0, &outcome.actions);
    outcome.error = pawl_last_error();
    return outcome;
}

// How a child that runs `body` ends: 0 at its end; else the signal, or the exit code, that ended
// it.
template <class Body>
int end_of_child(const Body& body) {
    const pid_t child = ::fork();
    if (child == 0) {
        for (const int signal :
             {SIGSEGV, SIGFPE, SIGABRT, SIGBUS, SIGSYS})  // sanitizers catch some
            ::signal(signal, SIG_DFL);
        body();
        ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

// Set for a test, and as it was afterwards.
class Setting {
public:
    Setting(const char* name, const std::string& value) : name_(name) {
        if (const char* before = ::getenv(name)) before_ = before;
        ::setenv(name, value.c_str(), 1);
    }
    ~Setting() {
        if (before_) {
            ::setenv(name_, before_->c_str(), 1);
        } else {
            ::unsetenv(name_);
        }
    }
    Setting(const Setting&) = delete;
    Setting& operator=(const Setting&) = delete;

private:
    const char* name_;
    std::optional<std::string> before_;
};

}  // namespace pawl::client
