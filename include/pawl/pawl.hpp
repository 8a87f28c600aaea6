// pawl.hpp: pawl.h for C++17. A run that closes itself, and exceptions for what should end a
// trainer.
#pragma once

#include <pawl/pawl.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace pawl {

// A failed call: `code()` is a pawl_error, `what()` says what was tried, on what, and why it
// failed.
class RunError : public std::runtime_error {
public:
    RunError(int code, const std::string& text) : std::runtime_error(text), code_(code) {}
    int code() const noexcept { return code_; }

private:
    int code_;
};

struct Actions {
    bool take_snapshot = false;
    bool stop = false;
};

// Owns a pawl_run. Used by one thread at a time, except request_stop.
class Run {
public:
    explicit Run(const pawl_attach_options& options) {
        pawl_run* run = nullptr;
        check(pawl_attach(&options, &run));
        run_.reset(run);
    }

    int rank() const { return pawl_rank(run_.get()); }
    int world_size() const { return pawl_world_size(run_.get()); }
    bool is_attached() const { return pawl_is_attached(run_.get()) != 0; }

    // Empty while the run works; else why it does not, and training goes on without snapshots.
    std::string inert_reason() const { return pawl_inert_reason(run_.get()); }

    pawl_resume resume() const {
        pawl_resume resume{};
        resume.struct_size = sizeof resume;
        check(pawl_get_resume(run_.get(), &resume));
        return resume;
    }
    void release_resume() { pawl_release_resume(run_.get()); }

    // A failure after attaching makes the run inert; it is no reason to end the training.
    Actions step(std::uint64_t step, std::uint64_t epoch, double loss = std::nan("")) {
        const pawl_progress progress{sizeof progress, step, epoch, loss};
        std::uint32_t actions = 0;
        pawl_step(run_.get(), &progress, &actions);
        return actions_of(actions);
    }
    Actions epoch_end(std::uint64_t step, std::uint64_t epoch, double loss,
                      const std::vector<std::pair<std::string, double>>& metrics) {
        const pawl_progress progress{sizeof progress, step, epoch, loss};
        const auto list = metrics_of(metrics);
        std::uint32_t actions = 0;
        pawl_epoch_end(run_.get(), &progress, list.data(), list.size(), &actions);
        return actions_of(actions);
    }
    Actions poll(pawl_phase phase) {
        std::uint32_t actions = 0;
        pawl_poll(run_.get(), phase, &actions);
        return actions_of(actions);
    }

    // A checkpoint without waiting for the cadence: now, or at a step that step() will say.
    // Neither, and pawl_last_error(), if there will be none.
    Actions request_checkpoint(bool* is_asked = nullptr) {
        std::uint32_t actions = 0;
        const int code = pawl_request_checkpoint(run_.get(), &actions);
        if (is_asked != nullptr) *is_asked = code == PAWL_OK;
        return actions_of(actions);
    }

    // nullptr: no snapshot this time.
    void* snapshot_begin(std::uint64_t bytes) {
        void* image = nullptr;
        return pawl_snapshot_begin(run_.get(), bytes, &image) == PAWL_OK ? image : nullptr;
    }
    // Standalone this is where a checkpoint is written: false, and pawl_last_error(), if that
    // failed.
    bool snapshot_seal(const std::vector<std::pair<std::string, double>>& metrics) {
        const auto list = metrics_of(metrics);
        return pawl_snapshot_seal(run_.get(), list.data(), list.size()) == PAWL_OK;
    }
    void snapshot_abort(const std::string& why) { pawl_snapshot_abort(run_.get(), why.c_str()); }

    Actions finish() {
        std::uint32_t actions = 0;
        pawl_finish(run_.get(), &actions);
        return actions_of(actions);
    }
    // False, and pawl_last_error(), if the final checkpoint did not become durable.
    bool finish_wait() { return pawl_finish_wait(run_.get()) == PAWL_OK; }

    // Async-signal-safe.
    void request_stop() noexcept { pawl_request_stop(run_.get()); }

private:
    static void check(int code) {
        if (code < 0) throw RunError(code, pawl_last_error());
    }
    static Actions actions_of(std::uint32_t bits) {
        Actions actions;
        actions.take_snapshot = (bits & PAWL_TAKE_SNAPSHOT) != 0;
        actions.stop = (bits & PAWL_STOP) != 0;
        return actions;
    }
    static std::vector<pawl_metric> metrics_of(
        const std::vector<std::pair<std::string, double>>& metrics) {
        std::vector<pawl_metric> list;
        list.reserve(metrics.size());
        for (const auto& metric : metrics)
            list.push_back({metric.first.c_str(), metric.second});
        return list;
    }

    struct Detach {
        void operator()(pawl_run* run) const { pawl_detach(run); }
    };
    std::unique_ptr<pawl_run, Detach> run_;
};

}  // namespace pawl
