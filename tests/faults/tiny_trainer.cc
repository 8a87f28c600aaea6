// tiny_trainer: a trainer that is over in milliseconds, for tests that run hundreds of them.
//
//   tiny_trainer --steps N [--step-us N] [--words N] [--losses FILE] [--weights FILE]
//
// Its state is a list of words, and each step mixes its number into all of them: a step that is
// left out, done twice or done from another state shows in every later "loss". Losses are one line
// a step (number, bits, a number for people), weights the words at the end. Through the C ABI.
#include "tests/faults/words_image.h"
#include "torchfile/archive.h"

#include <pawl/pawl.h>

#include <fcntl.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

namespace {

struct Options {
    std::uint64_t steps = 40;
    std::uint64_t step_us = 1000;
    std::size_t words = 1000;
    std::string losses;
    std::string weights;
};

using Words = std::vector<std::uint64_t>;

[[noreturn]] void give_up(const std::string& what) {
    std::fprintf(stderr, "tiny_trainer: %s\n", what.c_str());
    std::exit(1);
}

void check(int code, const char* what) {
    if (code < 0) give_up(std::string(what) + ": " + pawl_last_error());
}

Options options_of(int argc, char** argv) {
    Options options;
    for (int i = 1; i + 1 < argc; i += 2) {
        const std::string name = argv[i];
        const std::string value = argv[i + 1];
        if (name == "--steps") {
            options.steps = std::stoull(value);
        } else if (name == "--step-us") {
            options.step_us = std::stoull(value);
        } else if (name == "--words") {
            options.words = std::stoull(value);
        } else if (name == "--losses") {
            options.losses = value;
        } else if (name == "--weights") {
            options.weights = value;
        } else {
            give_up("what is " + name + "?");
        }
    }
    return options;
}

void train(Words& words, std::uint64_t step) {
    for (std::uint64_t& word : words)
        word = (word ^ step) * 6364136223846793005u + 1442695040888963407u;
}

void take_snapshot(pawl_run* run, const Words& words) {
    const auto plan =
        pawl::torchfile::plan_image(pawl::faults::words_document(words.size()), "archive");
    if (!plan) give_up(plan.error().text());
    void* image = nullptr;
    if (pawl_snapshot_begin(run, plan->bytes, &image) != PAWL_OK) return;
    auto* const bytes = static_cast<std::byte*>(image);
    pawl::torchfile::lay_out(*plan, std::span(bytes, plan->bytes));
    std::memcpy(bytes + plan->storages[0].offset, words.data(), plan->storages[0].bytes);
    // Standalone a failure is told here; training goes on without the checkpoint.
    if (pawl_snapshot_seal(run, nullptr, 0) < 0) std::fprintf(stderr, "%s\n", pawl_last_error());
}

void restore(const pawl_resume& resume, Words& words) {
    const std::span image(static_cast<const std::byte*>(resume.image), resume.image_bytes);
    const auto archive = pawl::torchfile::read_archive(pawl::MemorySource(image));
    if (!archive) give_up(archive.error().text());
    words.resize(archive->storages[0].bytes / sizeof words[0]);
    std::memcpy(words.data(), image.data() + archive->storages[0].offset,
                archive->storages[0].bytes);
}

void append(const std::string& path, const std::string& text, int flags) {
    if (path.empty()) return;
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0666);
    const bool is_written =
        fd >= 0 && ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    if (!is_written) give_up("cannot write " + path);
    ::close(fd);
}

void pass_time(std::uint64_t us) {
    const timespec time = {.tv_sec = static_cast<time_t>(us / 1'000'000),
                           .tv_nsec = static_cast<long>(us % 1'000'000 * 1000)};
    ::nanosleep(&time, nullptr);
}

int train_all(const Options& options) {
    pawl_attach_options attach = {};
    attach.struct_size = sizeof attach;
    attach.framework = "tiny";
    pawl_run* run = nullptr;
    check(pawl_attach(&attach, &run), "attach");
    Words words(options.words, 0x9e3779b97f4a7c15u);
    pawl_resume resume = {};
    resume.struct_size = sizeof resume;
    check(pawl_get_resume(run, &resume), "resume");
    if (resume.image != nullptr) restore(resume, words);
    pawl_release_resume(run);

    pawl_progress progress = {sizeof progress, resume.step, resume.epoch, std::nan("")};
    std::uint32_t actions = 0;
    while (progress.step < options.steps) {
        train(words, progress.step);
        char line[80];
        std::snprintf(line, sizeof line, "%llu %016llx %llu\n",
                      static_cast<unsigned long long>(progress.step),
                      static_cast<unsigned long long>(words[0]),
                      static_cast<unsigned long long>(words[0] >> 44));
        append(options.losses, line, O_APPEND);
        pass_time(options.step_us);
        ++progress.step;
        progress.loss = static_cast<double>(words[0] >> 44);
        check(pawl_step(run, &progress, &actions), "step");
        if ((actions & PAWL_TAKE_SNAPSHOT) != 0) take_snapshot(run, words);
        if ((actions & PAWL_STOP) != 0) break;
    }
    if ((actions & PAWL_STOP) == 0) {
        progress.epoch = 1;
        if (resume.epoch == 0) check(pawl_epoch_end(run, &progress, nullptr, 0, &actions), "end");
        if ((actions & PAWL_TAKE_SNAPSHOT) != 0) take_snapshot(run, words);
        check(pawl_finish(run, &actions), "finish");
        if ((actions & PAWL_TAKE_SNAPSHOT) != 0) take_snapshot(run, words);
        check(pawl_finish_wait(run), "wait for the final checkpoint");
        append(options.weights,
               {reinterpret_cast<const char*>(words.data()), words.size() * sizeof words[0]},
               O_TRUNC);
    }
    pawl_detach(run);
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    return train_all(options_of(argc, argv));
}
