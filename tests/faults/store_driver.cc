// store_driver: the daemon's code for checkpoints on a real directory, without the daemon.
//
//   store_driver DIRECTORY COMMAND…     what one process does, one command after the other
//
//   open            as a daemon opens it: made, locked, swept
//   choose:KEEP     as a launch does it: verify, quarantine, retention
//   commit:STEP:KEEP[:WORDS]   two ranks' images, the second of so many words
//   rollback:SEQUENCE
//   verify          every committed checkpoint; changes nothing
//   descriptors     how many this process has
//
// For each a line on stdout, when it is done: "ok COMMAND WHAT" or "error COMMAND TEXT"; before it
// "warning COMMAND TEXT", "quarantined SEQUENCE WHY". A failed command does not end the process.
#include "base/file_lock.h"
#include "checkpoint/store.h"
#include "tests/faults/words_image.h"

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <functional>
#include <map>

namespace pawl {
namespace {

using checkpoint::Store;

// Unbuffered, so that what was said before a kill was heard.
void say(const std::string& text) {
    const std::string line = text + "\n";
    if (::write(STDOUT_FILENO, line.data(), line.size()) < 0) std::_Exit(1);
}

std::vector<std::string> split(const std::string& text) {
    std::vector<std::string> parts;
    std::size_t begin = 0;
    while (begin <= text.size()) {
        const std::size_t end = std::min(text.find(':', begin), text.size());
        parts.push_back(text.substr(begin, end - begin));
        begin = end + 1;
    }
    return parts;
}

class Driver {
public:
    explicit Driver(const std::string& directory)
        : fs_(make_posix_file_system()), store_(*fs_, clock_, ledger_, directory, "lm") {}

    void run(const std::string& command) {
        const std::vector<std::string> words = split(command);
        const auto verb = verbs_.find(words[0]);
        if (verb == verbs_.end()) {
            std::fprintf(stderr, "store_driver: what is '%s'?\n", command.c_str());
            std::exit(64);
        }
        const Result<std::string> done = verb->second(words);
        if (done) {
            say(fmt::format("ok {} {}", words[0], *done));
        } else {
            say(fmt::format("error {} {}", words[0], done.error().text()));
        }
    }

private:
    using Words = std::vector<std::string>;

    [[nodiscard]] static std::uint64_t number(const Words& words, std::size_t index,
                                              std::uint64_t otherwise) {
        return index < words.size() ? std::stoull(words[index]) : otherwise;
    }

    // daemon/job.cc, JobRunner::open.
    Result<std::string> open() {
        RETURN_IF_ERROR(create_directories(*fs_, store_.directory()));
        auto lock = FileLock::take(join_path(store_.directory(), kLockName));
        if (!lock) return lock.error();
        lock_ = std::move(*lock);
        RETURN_IF_ERROR(store_.open());
        return std::string();
    }

    // daemon/job_launch.cc, JobRunner::launch.
    Result<std::string> choose(const Words& words) {
        const auto choice = store_.choose();
        if (!choice) return choice.error();
        for (const auto& rejected : choice->rejected)
            say(fmt::format("quarantined {} {}", rejected.name.sequence, rejected.why));
        for (const std::string& warning : choice->warnings)
            say("warning choose " + warning);
        const auto keep = static_cast<std::uint32_t>(number(words, 1, 3));
        for (const std::string& warning : store_.apply_retention({.keep_last = keep}))
            say("warning choose " + warning);
        if (!choice->chosen) return std::string(choice->some_existed ? "none-valid" : "none");
        return fmt::format("{} {}", choice->chosen->sequence, choice->chosen->step);
    }

    // daemon/job_snapshot.cc, JobRunner::persist.
    Result<std::string> commit(const Words& words) {
        const std::uint64_t step = number(words, 1, 0);
        const auto keep = static_cast<std::uint32_t>(number(words, 2, 3));
        const auto first = faults::words_image(500, step);
        const auto second = faults::words_image(number(words, 3, 1000), step + 1);
        const auto committed =
            store_.commit({.step = Step{step}, .world_size = 2},
                          {{.rank = Rank{0}, .bytes = first}, {.rank = Rank{1}, .bytes = second}},
                          {.keep_last = keep});
        if (!committed) return committed.error();
        for (const std::string& warning : committed->warnings)
            say("warning commit " + warning);
        return fmt::format("{} {}", committed->manifest.sequence, step);
    }

    // tools/, `pawl rollback`.
    Result<std::string> rollback(const Words& words) {
        const auto done = store_.rollback(Sequence{number(words, 1, 0)});
        if (!done) return done.error();
        for (const std::string& warning : done->warnings)
            say("warning rollback " + warning);
        return fmt::format("{} {}", words.at(1), done->abandoned.size());
    }

    Result<std::string> verify() {
        const auto listed = store_.list();
        if (!listed) return listed.error();
        std::string text;
        for (const auto& one : *listed) {
            const auto verification = checkpoint::verify(*fs_, one.path);
            if (!verification) return verification.error();
            text += fmt::format("{}{}={}", text.empty() ? "" : " ", one.name.sequence,
                                verification->is_valid() ? "valid" : "damaged");
        }
        return text;
    }

    static Result<std::string> descriptors() {
        const std::filesystem::directory_iterator open("/proc/self/fd");
        return fmt::format("{}", std::distance(begin(open), end(open)));
    }

    SystemClock clock_;
    std::unique_ptr<FileSystem> fs_;
    checkpoint::NoLedger ledger_;
    std::optional<FileLock> lock_;
    Store store_;
    const std::map<std::string, std::function<Result<std::string>(const Words&)>> verbs_ = {
        {"open", [this](const Words&) { return open(); }},
        {"choose", [this](const Words& words) { return choose(words); }},
        {"commit", [this](const Words& words) { return commit(words); }},
        {"rollback", [this](const Words& words) { return rollback(words); }},
        {"verify", [this](const Words&) { return verify(); }},
        {"descriptors", [](const Words&) { return descriptors(); }},
    };
};

}  // namespace
}  // namespace pawl

int main(int argc, char** argv) {
    if (argc < 3) {
        std::fprintf(stderr, "usage: store_driver DIRECTORY COMMAND…\n");
        return 64;
    }
    pawl::Driver driver(argv[1]);
    for (int i = 2; i < argc; ++i)
        driver.run(argv[i]);
    return 0;
}
