// The C ABI: arguments checked, exceptions stopped, errors kept as text for the calling thread.
#include "pawl/pawl.h"

#include "base/invariant.h"
#include "client/run.h"

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <limits>
#include <string_view>

#ifndef PAWL_VERSION
#define PAWL_VERSION "unknown"
#endif

struct pawl_run {
    std::unique_ptr<pawl::client::Run> run;
};

namespace pawl::client {
namespace {

thread_local std::string t_last_error;

int code_of(ErrorKind kind) {
    switch (kind) {
        case ErrorKind::kInvalidArgument:
        case ErrorKind::kAlreadyExists:
            return PAWL_E_INVALID;
        case ErrorKind::kNotFound:
            return PAWL_E_NOT_FOUND;
        case ErrorKind::kCorrupt:
            return PAWL_E_CORRUPT;
        case ErrorKind::kUnsupported:
            return PAWL_E_UNSUPPORTED;
        case ErrorKind::kNoSpace:
            return PAWL_E_NO_SPACE;
        case ErrorKind::kIo:
        case ErrorKind::kUnavailable:
            return PAWL_E_IO;
        case ErrorKind::kBusy:
        case ErrorKind::kTimeout:
            return PAWL_E_BUSY;
        case ErrorKind::kCancelled:
            return PAWL_E_DISCONNECTED;
        case ErrorKind::kInternal:
            return PAWL_E_INTERNAL;
    }
    return PAWL_E_INTERNAL;
}

int fail(const Error& error) {
    t_last_error = error.text();
    return code_of(error.kind());
}

// No exception leaves the library; a broken invariant is one here (see set_invariant_failure).
template <class Body>
int guarded(const Body& body) noexcept {
    try {
        t_last_error.clear();
        return body();
    } catch (const BrokenInvariant&) {
        t_last_error =
            "libpawl found a mistake of its own and gives up on this call; see standard error";
    } catch (const std::exception& error) {
        t_last_error = error.what();
    } catch (...) {
        t_last_error = "an unknown exception";
    }
    return PAWL_E_INTERNAL;
}

int invalid(const char* what) {
    return fail(make_error(ErrorKind::kInvalidArgument, "{}", what));
}

std::uint32_t bits_of(const Wanted& wanted) {
    return (wanted.snapshot ? std::uint32_t{PAWL_TAKE_SNAPSHOT} : 0) |
           (wanted.stop ? std::uint32_t{PAWL_STOP} : 0);
}

Report report_of(const pawl_progress& progress) {
    return {.step = Step{progress.step}, .epoch = Epoch{progress.epoch}, .loss = progress.loss};
}

Metrics metrics_of(const pawl_metric* metrics, std::size_t count) {
    Metrics map;
    if (metrics == nullptr) return map;
    for (std::size_t i = 0; i < count; ++i) {
        if (metrics[i].name != nullptr) map[metrics[i].name] = metrics[i].value;
    }
    return map;
}

// The caller's struct may be of an older or newer pawl.h: the part that both know is taken.
template <class Struct>
Struct copy_known(const Struct* given) {
    Struct copy{};
    if (given != nullptr) std::memcpy(&copy, given, std::min(given->struct_size, sizeof copy));
    return copy;
}

const char* environment(const char* name) {
    // NOLINTNEXTLINE(concurrency-mt-unsafe): documented: attach while no other thread sets
    // variables
    const char* value = std::getenv(name);
    return value != nullptr && *value != '\0' ? value : nullptr;
}

Result<std::optional<std::uint64_t>> setting(const char* name, std::uint64_t given) {
    auto value = number_from_environment(name);
    if (!value) return value;
    if (value->has_value()) given = **value;  // 0 turns it off
    return given != 0 ? std::optional{given} : std::nullopt;
}

Result<AttachOptions> options_of(const pawl_attach_options* given) {
    const pawl_attach_options known = copy_known(given);
    AttachOptions options;
    if (known.framework != nullptr) options.framework = known.framework;
    if (known.checkpoint_directory != nullptr)
        options.checkpoint_directory = known.checkpoint_directory;
    if (known.job != nullptr) options.job = known.job;
    if (const char* value = environment("PAWL_CHECKPOINT_DIRECTORY"))
        options.checkpoint_directory = value;
    if (const char* value = environment("PAWL_JOB")) options.job = value;
    const auto every_steps = setting("PAWL_EVERY_STEPS", known.every_steps);
    if (!every_steps) return every_steps.error();
    const auto every_epochs = setting("PAWL_EVERY_EPOCHS", known.every_epochs);
    if (!every_epochs) return every_epochs.error();
    const auto every_ms = setting("PAWL_EVERY_MS", known.every_ms);
    if (!every_ms) return every_ms.error();
    const auto keep_last = setting("PAWL_KEEP_LAST", known.keep_last);
    if (!keep_last) return keep_last.error();
    if (keep_last->value_or(0) > std::numeric_limits<std::uint32_t>::max()) {
        return make_error(ErrorKind::kInvalidArgument,
                          "environment variable PAWL_KEEP_LAST='{}' is too large", **keep_last);
    }
    options.every_steps = *every_steps;
    options.every_epochs = *every_epochs;
    if (*every_ms) options.every_time = milliseconds{**every_ms};
    if (!options.every_steps && !options.every_epochs && !options.every_time) {
        options.every_time = std::chrono::minutes{10};
    }
    options.keep_last = static_cast<std::uint32_t>(keep_last->value_or(3));
    return options;
}

}  // namespace

Result<std::optional<std::uint64_t>> number_from_environment(const char* name) {
    const char* text = environment(name);
    if (text == nullptr) return std::optional<std::uint64_t>{};
    std::uint64_t number = 0;
    const char* const end = text + std::strlen(text);
    const auto [stop, code] = std::from_chars(text, end, number);
    if (code != std::errc{} || stop != end) {
        return make_error(ErrorKind::kInvalidArgument,
                          "environment variable {}='{}' is no whole number", name, text);
    }
    return std::optional{number};
}

}  // namespace pawl::client

using namespace pawl::client;  // the functions below are C's, in no namespace

const char* pawl_version(void) {
    return PAWL_VERSION;
}
const char* pawl_last_error(void) {
    return t_last_error.c_str();
}

int pawl_attach(const pawl_attach_options* given, pawl_run** run) {
    if (run == nullptr) return invalid("pawl_attach needs a place for the run");
    *run = nullptr;
    return guarded([&] {
        pawl::set_invariant_failure(pawl::InvariantFailure::kThrow);
        const auto options = options_of(given);
        if (!options) return fail(options.error());
        const char* socket = environment("PAWL_SOCKET");
        auto attached =
            socket != nullptr ? attach_to_daemon(socket, *options) : run_standalone(*options);
        if (!attached) return fail(attached.error());
        *run = new pawl_run{std::move(*attached)};
        return static_cast<int>(PAWL_OK);
    });
}

void pawl_detach(pawl_run* run) {
    delete run;
}

int pawl_rank(const pawl_run* run) {
    return run == nullptr ? 0 : static_cast<int>(run->run->rank().value);
}
int pawl_world_size(const pawl_run* run) {
    return run == nullptr ? 1 : static_cast<int>(run->run->world_size());
}
int pawl_is_attached(const pawl_run* run) {
    return run != nullptr && run->run->is_attached() ? 1 : 0;
}

int pawl_get_resume(const pawl_run* run, pawl_resume* resume) {
    if (run == nullptr || resume == nullptr)
        return invalid("pawl_get_resume needs a run and a place");
    return guarded([&] {
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
    if (run != nullptr) run->run->release_resume();
}

int pawl_step(pawl_run* run, const pawl_progress* progress, uint32_t* actions) {
    if (run == nullptr || progress == nullptr || actions == nullptr)
        return invalid("pawl_step needs all arguments");
    *actions = 0;
    return guarded([&] {
        *actions = bits_of(run->run->step(report_of(copy_known(progress))));
        return static_cast<int>(PAWL_OK);
    });
}

int pawl_epoch_end(pawl_run* run, const pawl_progress* progress, const pawl_metric* metrics,
                   size_t metric_count, uint32_t* actions) {
    if (run == nullptr || progress == nullptr || actions == nullptr) {
        return invalid("pawl_epoch_end needs a run, progress and a place for actions");
    }
    *actions = 0;
    return guarded([&] {
        const Metrics map = metrics_of(metrics, metric_count);
        *actions = bits_of(run->run->epoch_end(report_of(copy_known(progress)), map));
        return static_cast<int>(PAWL_OK);
    });
}

int pawl_poll(pawl_run* run, enum pawl_phase phase, uint32_t* actions) {
    if (run == nullptr || actions == nullptr)
        return invalid("pawl_poll needs a run and a place for actions");
    *actions = 0;
    return guarded([&] {
        *actions =
            bits_of(run->run->poll(phase == PAWL_PHASE_EVALUATION ? Run::PollPhase::kEvaluation
                                                                  : Run::PollPhase::kTraining));
        return static_cast<int>(PAWL_OK);
    });
}

int pawl_snapshot_begin(pawl_run* run, uint64_t bytes, void** image) {
    if (run == nullptr || image == nullptr || bytes == 0)
        return invalid("pawl_snapshot_begin needs all arguments");
    *image = nullptr;
    return guarded([&] {
        const auto begun = run->run->snapshot_begin(bytes);
        if (!begun) return fail(begun.error());
        if (begun->empty()) return static_cast<int>(PAWL_SKIPPED);
        *image = begun->data();
        return static_cast<int>(PAWL_OK);
    });
}

int pawl_snapshot_seal(pawl_run* run, const pawl_metric* metrics, size_t metric_count) {
    if (run == nullptr) return invalid("pawl_snapshot_seal needs a run");
    return guarded([&] {
        const auto sealed = run->run->snapshot_seal(metrics_of(metrics, metric_count));
        return sealed ? static_cast<int>(PAWL_OK) : fail(sealed.error());
    });
}

int pawl_snapshot_abort(pawl_run* run, const char* why) {
    if (run == nullptr) return invalid("pawl_snapshot_abort needs a run");
    return guarded([&] {
        run->run->snapshot_abort(why == nullptr ? "the trainer gave no reason" : why);
        return static_cast<int>(PAWL_OK);
    });
}

int pawl_finish(pawl_run* run, uint32_t* actions) {
    if (run == nullptr || actions == nullptr)
        return invalid("pawl_finish needs a run and a place for actions");
    *actions = 0;
    return guarded([&] {
        const auto wanted = run->run->finish();
        if (!wanted) return fail(wanted.error());
        *actions = bits_of(*wanted);
        return static_cast<int>(PAWL_OK);
    });
}

int pawl_finish_wait(pawl_run* run) {
    if (run == nullptr) return invalid("pawl_finish_wait needs a run");
    return guarded([&] {
        const auto finished = run->run->finish_wait();
        return finished ? static_cast<int>(PAWL_OK) : fail(finished.error());
    });
}

void pawl_request_stop(pawl_run* run) {
    if (run != nullptr) run->run->request_stop();
}
