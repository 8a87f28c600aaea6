// The C ABI: arguments checked, calls on one run kept apart, exceptions stopped, errors kept as
// text for the calling thread. docs/client.md is its contract.
#include "pawl/pawl.h"

#include "base/invariant.h"
#include "client/arguments.h"
#include "client/error_code.h"
#include "client/error_text.h"
#include "client/run.h"

#include <exception>
#include <limits>
#include <new>

#ifndef PAWL_VERSION
#define PAWL_VERSION "unknown"
#endif

// Never freed, so that a handle that was detached is still known for one: some 100 bytes a run. In
// a forked child it is a copy, of a run that stays the parent's.
struct pawl_run {
    enum class State : unsigned { kIdle, kBusy, kDetached };
    mutable std::atomic<State> state{State::kDetached};
    std::atomic<bool> stop_requested{false};
    pawl::client::Origin origin;
    std::unique_ptr<pawl::client::Run> run;
    // Constant while it is attached.
    int rank = 0;
    int world_size = 1;
    bool is_attached = false;
};

namespace pawl::client {
namespace {

using State = pawl_run::State;

constexpr const char* kIsForked =
    "this process was forked from the one that attached, whose run it does not disturb: nothing "
    "was done";

// Room for a run whose attach has failed: the next attach takes it.
std::atomic<pawl_run*> g_spare{nullptr};

int fail(const char* call, int code, std::string_view text) noexcept {
    error_text::set(call, text);
    return code;
}

int fail(const char* call, const Error& error) {
    return fail(call, code_of(error.kind()), error.text());
}

// No exception leaves the library; a broken invariant is one here (see set_invariant_failure).
// `run` may be null; it learns that it was left in the middle of something.
template <class Body>
int guarded(const char* call, Run* run, const Body& body) noexcept {
    const auto interrupted = [&](int code, const char* text) {
        if (run != nullptr) run->interrupted(text);
        return fail(call, code, text);
    };
    try {
        return body();
    } catch (const BrokenInvariant& broken) {
        return interrupted(PAWL_E_INTERNAL, broken.text.data());
    } catch (const std::bad_alloc&) {
        return interrupted(PAWL_E_NO_SPACE, "there is no memory left for it");
    } catch (const std::exception& error) {
        return interrupted(PAWL_E_INTERNAL, error.what());
    } catch (...) {
        return interrupted(PAWL_E_INTERNAL, "an unknown exception");
    }
}

// A call's hold on its run. Two threads at once, or a signal handler in the middle of a call, find
// it busy.
class Hold {
public:
    Hold(const char* call, const pawl_run* run) noexcept : run_(run) {
        error_text::clear();
        if (run == nullptr) {
            code_ = fail(call, PAWL_E_INVALID, "the run is NULL; nothing was done");
        } else if (run->state.load() == State::kDetached) {
            code_ = fail(call, PAWL_E_INVALID, "this run was detached already; nothing was done");
        } else if (!run->origin.is_here()) {
            code_ = fail(call, PAWL_SKIPPED, kIsForked);
        } else {
            State idle = State::kIdle;
            is_held_ = run->state.compare_exchange_strong(idle, State::kBusy);
            if (!is_held_) {
                code_ = fail(call, PAWL_E_BUSY,
                             "another call on this run is under way: one thread at a time may use "
                             "it. Nothing was done");
            }
        }
    }
    ~Hold() {
        if (is_held_) run_->state = State::kIdle;
    }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

    [[nodiscard]] bool is_held() const { return is_held_; }
    [[nodiscard]] int code() const { return code_; }

private:
    const pawl_run* run_;
    bool is_held_ = false;
    int code_ = PAWL_OK;
};

template <class Body>
int call_on(const char* call, const pawl_run* run, const Body& body) noexcept {
    const Hold hold(call, run);
    if (!hold.is_held()) return hold.code();
    Run& inner = *run->run;
    return guarded(call, &inner, [&] { return body(inner); });
}

int skipped(const char* call, const Run& run, const char* otherwise) {
    const char* const why = run.inert_reason();
    return fail(call, PAWL_SKIPPED, *why != '\0' ? why : otherwise);
}

int refuse(const char* call, const char* argument) noexcept {
    error_text::set(call, argument);
    return PAWL_E_INVALID;
}

int hand_over(const char* call, const Result<Wanted>& wanted, std::uint32_t* actions) {
    if (!wanted) return fail(call, wanted.error());
    *actions = (wanted->snapshot ? std::uint32_t{PAWL_TAKE_SNAPSHOT} : 0) |
               (wanted->stop ? std::uint32_t{PAWL_STOP} : 0);
    return PAWL_OK;
}

Result<Report> report_of(const pawl_progress& given) {
    pawl_progress missing{};
    missing.loss = std::numeric_limits<double>::quiet_NaN();
    const auto known = copy_known(given, offsetof(pawl_progress, loss), "pawl_progress", missing);
    if (!known) return known.error();
    return Report{.step = Step{known->step}, .epoch = Epoch{known->epoch}, .loss = known->loss};
}

int clamped(std::uint64_t number) {
    constexpr int kMax = std::numeric_limits<int>::max();
    return number > static_cast<std::uint64_t>(kMax) ? kMax : static_cast<int>(number);
}

Result<pawl_run*> attach(const pawl_attach_options* given) {
    const auto options = options_of(given);
    if (!options) return options.error();
    pawl_run* spare = g_spare.exchange(nullptr);
    if (spare == nullptr) spare = new pawl_run;
    // Whatever happens, it is not lost: it may be on the list of origins for good.
    const auto give_back = [](pawl_run* run) { g_spare = run; };
    std::unique_ptr<pawl_run, decltype(give_back)> room(spare, give_back);
    RETURN_IF_ERROR(spare->origin.enroll());
    spare->stop_requested = false;
    const Shared shared{.origin = spare->origin, .stop_requested = spare->stop_requested};
    const char* const socket = environment("PAWL_SOCKET");
    auto attached = socket != nullptr ? attach_to_daemon(socket, *options, shared)
                                      : run_standalone(*options, shared);
    if (!attached) return attached.error();
    spare->run = std::move(*attached);
    spare->rank = clamped(spare->run->rank().value);
    spare->world_size = clamped(spare->run->world_size());
    spare->is_attached = spare->run->is_attached();
    spare->state = State::kIdle;
    return room.release();
}

}  // namespace
}  // namespace pawl::client

using namespace pawl::client;  // the functions below are C's, in no namespace

const char* pawl_version(void) {
    return PAWL_VERSION;
}

const char* pawl_last_error(void) {
    return error_text::get();
}

const char* pawl_error_name(int code) {
    switch (code) {
        case PAWL_OK:
            return "PAWL_OK";
        case PAWL_SKIPPED:
            return "PAWL_SKIPPED";
        case PAWL_E_INVALID:
            return "PAWL_E_INVALID";
        case PAWL_E_NOT_FOUND:
            return "PAWL_E_NOT_FOUND";
        case PAWL_E_CORRUPT:
            return "PAWL_E_CORRUPT";
        case PAWL_E_UNSUPPORTED:
            return "PAWL_E_UNSUPPORTED";
        case PAWL_E_NO_SPACE:
            return "PAWL_E_NO_SPACE";
        case PAWL_E_IO:
            return "PAWL_E_IO";
        case PAWL_E_BUSY:
            return "PAWL_E_BUSY";
        case PAWL_E_DISCONNECTED:
            return "PAWL_E_DISCONNECTED";
        case PAWL_E_INTERNAL:
            return "PAWL_E_INTERNAL";
        default:
            return "unknown pawl_error";
    }
}

int pawl_attach(const pawl_attach_options* given, pawl_run** run) {
    error_text::clear();
    if (run == nullptr) {
        return refuse("pawl_attach", "the place for the run is NULL; nothing was attached");
    }
    *run = nullptr;
    return guarded("pawl_attach", nullptr, [&] {
        pawl::set_invariant_failure(pawl::InvariantFailure::kThrow);
        const auto attached = attach(given);
        if (!attached) return fail("pawl_attach", attached.error());
        *run = *attached;
        return static_cast<int>(PAWL_OK);
    });
}

void pawl_detach(pawl_run* run) {
    error_text::clear();
    if (run == nullptr) return;
    State before = State::kIdle;
    if (!run->state.compare_exchange_strong(before, State::kDetached)) {
        if (before == State::kDetached) {
            fail("pawl_detach", PAWL_E_INVALID, "this run was detached already; nothing was done");
            return;
        }
        // A child that was forked in the middle of a call can't know what that call had in hand:
        // its copy is left as it is. In the process that attached, whoever is in a call needs it.
        if (!run->origin.is_here()) {
            run->state = State::kDetached;
            return;
        }
        fail("pawl_detach", PAWL_E_BUSY,
             "another call on this run is under way; nothing was detached");
        return;
    }
    if (!run->origin.is_here()) run->run->forget();
    run->run.reset();
}

int pawl_rank(const pawl_run* run) {
    return run == nullptr ? 0 : run->rank;
}
int pawl_world_size(const pawl_run* run) {
    return run == nullptr ? 1 : run->world_size;
}
int pawl_is_attached(const pawl_run* run) {
    return run != nullptr && run->is_attached ? 1 : 0;
}

const char* pawl_inert_reason(const pawl_run* run) {
    if (run == nullptr || run->state.load() == State::kDetached) return "it is not attached";
    if (!run->origin.is_here()) return kIsForked;
    return run->run->inert_reason();
}

int pawl_get_resume(const pawl_run* run, pawl_resume* resume) {
    constexpr const char* kCall = "pawl_get_resume";
    const Hold hold(kCall, run);
    if (hold.code() == PAWL_SKIPPED) return fail(kCall, PAWL_E_UNSUPPORTED, kIsForked);
    if (!hold.is_held()) return hold.code();
    if (resume == nullptr) return refuse(kCall, "the place for the resume point is NULL");
    return guarded(kCall, run->run.get(), [&] {
        const auto known = copy_known(*resume, offsetof(pawl_resume, sequence), "pawl_resume");
        if (!known) return fail(kCall, known.error());
        const ResumePoint& point = run->run->resume_point();
        const pawl_resume full{.struct_size = resume->struct_size,
                               .image = point.image.empty() ? nullptr : point.image.data(),
                               .image_bytes = point.image.size(),
                               .sequence = point.sequence.value,
                               .step = point.step.value,
                               .epoch = point.epoch.value};
        std::memcpy(resume, &full, std::min(resume->struct_size, sizeof full));
        return static_cast<int>(PAWL_OK);
    });
}

void pawl_release_resume(pawl_run* run) {
    if (run == nullptr) return error_text::clear();
    call_on("pawl_release_resume", run, [&](Run& inner) {
        inner.release_resume();
        return static_cast<int>(PAWL_OK);
    });
}

int pawl_step(pawl_run* run, const pawl_progress* progress, uint32_t* actions) {
    constexpr const char* kCall = "pawl_step";
    if (actions != nullptr) *actions = 0;
    return call_on(kCall, run, [&](Run& inner) {
        if (progress == nullptr) return refuse(kCall, "the progress is NULL; nothing was reported");
        if (actions == nullptr) return refuse(kCall, "the place for the actions is NULL");
        const auto report = report_of(*progress);
        if (!report) return fail(kCall, report.error());
        return hand_over(kCall, inner.step(*report), actions);
    });
}

int pawl_epoch_end(pawl_run* run, const pawl_progress* progress, const pawl_metric* metrics,
                   size_t metric_count, uint32_t* actions) {
    constexpr const char* kCall = "pawl_epoch_end";
    if (actions != nullptr) *actions = 0;
    return call_on(kCall, run, [&](Run& inner) {
        if (progress == nullptr) return refuse(kCall, "the progress is NULL; nothing was reported");
        if (actions == nullptr) return refuse(kCall, "the place for the actions is NULL");
        const auto report = report_of(*progress);
        if (!report) return fail(kCall, report.error());
        return hand_over(kCall, inner.epoch_end(*report, metrics_of(metrics, metric_count)),
                         actions);
    });
}

int pawl_poll(pawl_run* run, enum pawl_phase phase, uint32_t* actions) {
    constexpr const char* kCall = "pawl_poll";
    if (actions != nullptr) *actions = 0;
    return call_on(kCall, run, [&](Run& inner) {
        if (actions == nullptr) return refuse(kCall, "the place for the actions is NULL");
        if (phase != PAWL_PHASE_TRAINING && phase != PAWL_PHASE_EVALUATION) {
            return refuse(kCall,
                          "the phase is neither PAWL_PHASE_TRAINING nor "
                          "PAWL_PHASE_EVALUATION; nothing was reported");
        }
        return hand_over(kCall,
                         inner.poll(phase == PAWL_PHASE_EVALUATION ? Run::PollPhase::kEvaluation
                                                                   : Run::PollPhase::kTraining),
                         actions);
    });
}

int pawl_request_checkpoint(pawl_run* run, uint32_t* actions) {
    constexpr const char* kCall = "pawl_request_checkpoint";
    if (actions != nullptr) *actions = 0;
    return call_on(kCall, run, [&](Run& inner) {
        if (actions == nullptr) return refuse(kCall, "the place for the actions is NULL");
        const auto asked = inner.request_checkpoint();
        if (!asked) return fail(kCall, asked.error());
        std::ignore = hand_over(kCall, asked->wanted, actions);
        if (asked->why_not.empty()) return static_cast<int>(PAWL_OK);
        return fail(kCall, PAWL_SKIPPED, asked->why_not);
    });
}

int pawl_snapshot_begin(pawl_run* run, uint64_t bytes, void** image) {
    constexpr const char* kCall = "pawl_snapshot_begin";
    if (image != nullptr) *image = nullptr;
    return call_on(kCall, run, [&](Run& inner) {
        if (image == nullptr) return refuse(kCall, "the place for the image's address is NULL");
        if (bytes == 0) return refuse(kCall, "an image of 0 bytes; nothing was begun");
        const auto begun = inner.snapshot_begin(bytes);
        if (!begun) return fail(kCall, begun.error());
        if (begun->empty()) {
            return skipped(kCall, inner, "both arenas are still being made durable; train on");
        }
        *image = begun->data();
        return static_cast<int>(PAWL_OK);
    });
}

int pawl_snapshot_seal(pawl_run* run, const pawl_metric* metrics, size_t metric_count) {
    constexpr const char* kCall = "pawl_snapshot_seal";
    return call_on(kCall, run, [&](Run& inner) {
        const auto sealed = inner.snapshot_seal(metrics_of(metrics, metric_count));
        if (!sealed) return fail(kCall, sealed.error());
        if (*sealed == Run::Sealing::kSkipped) return skipped(kCall, inner, "nothing was begun");
        return static_cast<int>(PAWL_OK);
    });
}

int pawl_snapshot_abort(pawl_run* run, const char* why) {
    constexpr const char* kCall = "pawl_snapshot_abort";
    return call_on(kCall, run, [&](Run& inner) {
        const auto aborted =
            inner.snapshot_abort(why == nullptr ? "the trainer gave no reason" : why);
        return aborted ? static_cast<int>(PAWL_OK) : fail(kCall, aborted.error());
    });
}

int pawl_finish(pawl_run* run, uint32_t* actions) {
    constexpr const char* kCall = "pawl_finish";
    if (actions != nullptr) *actions = 0;
    return call_on(kCall, run, [&](Run& inner) {
        if (actions == nullptr) return refuse(kCall, "the place for the actions is NULL");
        return hand_over(kCall, inner.finish(), actions);
    });
}

int pawl_finish_wait(pawl_run* run) {
    constexpr const char* kCall = "pawl_finish_wait";
    return call_on(kCall, run, [&](Run& inner) {
        const auto finished = inner.finish_wait();
        return finished ? static_cast<int>(PAWL_OK) : fail(kCall, finished.error());
    });
}

void pawl_request_stop(pawl_run* run) {
    if (run != nullptr) run->stop_requested = true;
}
