// See checkpoint_commands.h: pin, unpin, rollback, import, export.
//
// Rollback and import are for the directory's one writer. A daemon that has the job is asked;
// without one the directory's lock is taken here, and the journal is told if there is one.
#include "base/file_lock.h"
#include "checkpoint/pin.h"
#include "checkpoint/transfer.h"
#include "control/server.h"
#include "control/status.h"
#include "daemon/ledger.h"
#include "journal/journal.h"
#include "staging/memory.h"
#include "tools/checkpoint_commands.h"
#include "tools/output.h"

#include <fcntl.h>

#include <algorithm>
#include <limits>

#ifndef PAWL_VERSION
#define PAWL_VERSION "unknown"
#endif

namespace pawl::tools {
namespace {

using nlohmann::json;

// Verification of hundreds of gigabytes; the daemon hangs up when it is done or dead.
constexpr seconds kRollbackLimit{24 * 3600};

// A checkpoint directory that nobody else writes to, and the journal of its job.
class OwnDirectory {
public:
    [[nodiscard]] static Result<std::unique_ptr<OwnDirectory>> open(FileSystem& fs,
                                                                    const Place& place,
                                                                    const std::string& directory,
                                                                    const std::string& job) {
        auto own = std::make_unique<OwnDirectory>();
        auto lock = FileLock::take(join_path(directory, kLockName));
        if (!lock) {
            return Error(lock.error())
                .while_doing("use checkpoint directory '{}'", directory)
                .consequence("Stop the job that uses it first: pawl stop");
        }
        own->lock_ = std::move(*lock);
        own->job_ = job;
        own->open_journal(fs, join_path(state_directory_of(place), "journal"), directory);
        checkpoint::Ledger* ledger = own->journal_ledger_.get();
        if (ledger == nullptr) ledger = &own->no_ledger_;
        own->store_ = std::make_unique<checkpoint::Store>(fs, own->clock_, *ledger, directory, job);
        if (own->journal_) {
            const auto known = own->journal_->checkpoints(job);
            if (!known) return known.error();
            for (const auto& record : *known)
                own->store_->set_sequence_floor(record.sequence);
        }
        RETURN_IF_ERROR(own->store_->open());
        return own;
    }

    [[nodiscard]] checkpoint::Store& store() { return *store_; }
    [[nodiscard]] const std::string& note() const { return note_; }

    void tell(const std::string& kind, const std::string& text) {
        if (!journal_) return;
        journal::EventRecord event{.time = clock_.wall_now(), .kind = kind, .text = text};
        if (const auto told = journal_->append_event(job_, event); !told)
            note_ = told.error().text();
    }

private:
    // The directory is the truth: what a journal does not hear now, it is told at the next start.
    void open_journal(FileSystem& fs, const std::string& path, const std::string& directory) {
        const auto there = fs.status(path);
        if (!there || !there->has_value()) return;
        journal::OpenReport report;
        auto journal = journal::Journal::open(path, clock_, report);
        if (!journal) {
            note_ = journal.error().text() + ". It is told at the job's next start";
            return;
        }
        journal_ = std::move(*journal);
        journal_ledger_ =
            std::make_unique<daemon::JournalLedger>(*journal_, clock_, job_, directory);
    }

    SystemClock clock_;
    FileLock lock_;
    std::string job_;
    std::string note_;
    checkpoint::NoLedger no_ledger_;
    std::unique_ptr<journal::Journal> journal_;
    std::unique_ptr<daemon::JournalLedger> journal_ledger_;
    std::unique_ptr<checkpoint::Store> store_;
};

// The job as a running daemon knows it, if one has it.
std::optional<control::JobStatus> job_of_daemon(const Place& place) {
    if (!place.checkpoint_directory.empty()) return std::nullopt;
    const auto response = control::call(socket_of(place), control::Method::kGet, "/v1/status");
    if (!response) return std::nullopt;
    const auto status = control::status_from_json(response->body);
    if (!status) return std::nullopt;
    for (const control::JobStatus& job : status->jobs) {
        if (place.job.empty() ? status->jobs.size() == 1 : job.name == place.job) return job;
    }
    return std::nullopt;
}

// Whose journal is told: as given, else as the newest checkpoint says.
std::string job_name_in(FileSystem& fs, const Place& place, const std::string& directory) {
    if (!place.job.empty()) return place.job;
    const auto listed = checkpoint::list_checkpoints(fs, directory);
    for (const checkpoint::Listed& one : listed ? *listed : std::vector<checkpoint::Listed>{}) {
        const auto manifest = checkpoint::read_manifest_of(fs, one.path);
        if (manifest) return manifest->job;
    }
    return "run";
}

Result<int> roll_back_by_daemon(const Place& place, const control::JobStatus& job,
                                const std::string& target, Format format) {
    const auto response =
        control::call(socket_of(place), control::Method::kPost,
                      fmt::format("/v1/jobs/{}/rollback/{}", job.name, target), kRollbackLimit);
    if (!response) return response.error();
    if (response->http_status != 202) {
        const json body = json::parse(response->body, nullptr, /*allow_exceptions=*/false);
        const ErrorKind kind = response->http_status == 404   ? ErrorKind::kNotFound
                               : response->http_status == 409 ? ErrorKind::kBusy
                                                              : ErrorKind::kCorrupt;
        return make_error(kind, "{}",
                          body.is_object() ? body.value("error", response->body) : response->body);
    }
    if (format == Format::kJson) {
        print_json({{"job", job.name}, {"rolled_back_to", target}});
    } else {
        print(fmt::format("job {} is rolled back to checkpoint {}; see: pawl journal\n", job.name,
                          target));
    }
    return 0;
}

void print_note(const OwnDirectory& own) {
    if (!own.note().empty()) std::fprintf(stderr, "pawl: %s\n", own.note().c_str());
}

}  // namespace

Result<int> change_pin(const Place& place, const std::string& name, Pinning pinning,
                       Format format) {
    const auto fs = make_posix_file_system();
    const auto found = find_checkpoint(*fs, place, name);
    if (!found) return found.error();
    const auto there = fs->status(join_path(found->path, checkpoint::kManifestName));
    if (!there) return there.error();
    if (!there->has_value()) {
        return make_error(ErrorKind::kNotFound, "'{}' is no checkpoint: it has no manifest",
                          found->path);
    }
    const bool is_pin = pinning == Pinning::kPin;
    RETURN_IF_ERROR(is_pin ? checkpoint::pin(*fs, found->path)
                           : checkpoint::unpin(*fs, found->path));
    if (format == Format::kJson) {
        print_json({{"path", found->path}, {"pinned", is_pin}});
    } else {
        print(fmt::format("{}: {}\n", found->path,
                          is_pin ? "pinned, retention leaves it alone" : "no longer pinned"));
    }
    return 0;
}

Result<int> roll_back(const Place& place, const std::string& target, Format format) {
    if (const auto job = job_of_daemon(place))
        return roll_back_by_daemon(place, *job, target, format);
    const auto fs = make_posix_file_system();
    const std::string directory = checkpoint_directory_of(place);
    const auto found = find_checkpoint(*fs, place, target);
    if (!found) return found.error();
    if (found->name.sequence == Sequence{}) {
        return make_error(ErrorKind::kInvalidArgument,
                          "'{}' is a path: name a checkpoint of '{}' by its sequence or name",
                          target, directory);
    }
    auto own = OwnDirectory::open(*fs, place, directory, job_name_in(*fs, place, directory));
    if (!own) return own.error();
    const auto done = (*own)->store().rollback(found->name.sequence);
    if (!done) return done.error();
    (*own)->tell("rolled_back", describe(*done));
    print_note(**own);
    json abandoned = json::array();
    for (const checkpoint::CheckpointName& name : done->abandoned)
        abandoned.push_back(to_string(name));
    if (format == Format::kJson) {
        print_json({{"to", done->to.sequence.value},
                    {"step", done->to.step.value},
                    {"path", done->path},
                    {"abandoned", abandoned},
                    {"warnings", done->warnings}});
        return 0;
    }
    print(describe(*done) + "\n");
    for (const std::string& warning : done->warnings)
        std::fprintf(stderr, "pawl: %s\n", warning.c_str());
    return 0;
}

Result<int> import_checkpoint(const Place& place, const ImportOptions& options, Format format) {
    const auto fs = make_posix_file_system();
    const auto source = fs->open_file(options.file);
    if (!source) return Error(source.error()).while_doing("import '{}'", options.file);
    const auto found = checkpoint::inspect_torch_file(**source);
    if (!found) {
        return Error(found.error())
            .while_doing("import '{}'", options.file)
            .consequence("Nothing was written");
    }
    const auto step = options.step ? std::optional(Step{*options.step}) : found->step;
    if (!step) {
        return make_error(ErrorKind::kInvalidArgument,
                          "'{}' has no whole number 'step' at its root: say it with --step",
                          options.file);
    }
    const Epoch epoch = options.epoch ? Epoch{*options.epoch} : found->epoch.value_or(Epoch{});
    const UniqueFd fd(::open(options.file.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd.is_open()) return error_from_errno("open '{}'", options.file);
    const auto mapping =
        staging::Mapping::of(fd.get(), 0, (*source)->size(), staging::Access::kReadOnly);
    if (!mapping) return mapping.error();

    const std::string directory = checkpoint_directory_in_use(place);
    const auto there = fs->status(directory);
    if (!there) return there.error();
    // Made only where somebody has said so: by default it may be the whole machine's.
    if (!there->has_value() && place.checkpoint_directory.empty()) {
        return make_error(ErrorKind::kNotFound,
                          "there is no checkpoint directory '{}': name it with --checkpoint-dir, "
                          "and it is made",
                          directory);
    }
    RETURN_IF_ERROR(create_directories(*fs, directory));
    auto own = OwnDirectory::open(*fs, place, directory, job_name_in(*fs, place, directory));
    if (!own) return own.error();
    const auto committed =
        (*own)->store().commit({.step = *step,
                                .epoch = epoch,
                                .reason = checkpoint::Reason::kImport,
                                .pawl_version = PAWL_VERSION},
                               {{.rank = Rank{0}, .bytes = mapping->bytes()}},
                               {.keep_last = std::numeric_limits<std::uint32_t>::max()});
    if (!committed) return committed.error();
    const std::string text =
        fmt::format("checkpoint {} of step {} was imported from '{}'", committed->manifest.sequence,
                    committed->manifest.step, options.file);
    (*own)->tell("checkpoint_committed", text);
    print_note(**own);
    if (format == Format::kJson) {
        print_json({{"sequence", committed->manifest.sequence.value},
                    {"step", step->value},
                    {"epoch", epoch.value},
                    {"path", committed->path}});
    } else {
        print(text + "\n");
    }
    for (const std::string& warning : committed->warnings)
        std::fprintf(stderr, "pawl: %s\n", warning.c_str());
    return 0;
}

Result<int> export_to(const Place& place, const std::string& name, const std::string& target,
                      Format format) {
    const auto fs = make_posix_file_system();
    const auto found = find_checkpoint(*fs, place, name);
    if (!found) return found.error();
    std::string path = target;
    while (path.size() > 1 && path.ends_with('/'))
        path.pop_back();
    const auto exported = checkpoint::export_checkpoint(*fs, found->path, path);
    if (!exported) return exported.error();
    if (format == Format::kJson) {
        print_json({{"sequence", exported->manifest.sequence.value},
                    {"step", exported->manifest.step.value},
                    {"bytes", exported->bytes},
                    {"path", path}});
    } else {
        print(fmt::format("checkpoint {} of step {}, {}, is in '{}', verified\n",
                          exported->manifest.sequence, exported->manifest.step,
                          format_bytes(exported->bytes), path));
    }
    return 0;
}

}  // namespace pawl::tools
