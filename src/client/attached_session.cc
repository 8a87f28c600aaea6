// See attached.h: the handshake, messages, and the end of a connection.
#include "client/arguments.h"
#include "client/attached.h"
#include "staging/socket.h"

#include <sys/stat.h>

#include <algorithm>

namespace pawl::client {
namespace {

using staging::Access;
using staging::Mapping;

Error broken_protocol(const Error& why) {
    return make_error(ErrorKind::kCancelled, "pawld breaks the trainer protocol: {}", why.text());
}

}  // namespace

AttachedRun::AttachedRun(UniqueFd socket, Rank rank, std::uint64_t world_size, Origin& origin)
    : origin_(origin), socket_(std::move(socket)), rank_(rank), world_size_(world_size) {
    // A worker that outlives this process must not look like this rank.
    origin_.close_in_children(socket_.get());
}

AttachedRun::~AttachedRun() {
    origin_.close_in_children(-1);
}

// ---- the handshake ----

Result<void> AttachedRun::greet(const AttachOptions& options, Incarnation incarnation) {
    RETURN_IF_ERROR(send(staging::Hello{.rank = rank_,
                                        .incarnation = incarnation,
                                        .world_size = world_size_,
                                        .framework = options.framework}));
    while (true) {
        auto received = receive();
        if (!received) return received.error();
        auto& [message, descriptors] = *received;
        if (const auto* refused = std::get_if<staging::Refused>(&message)) {
            return make_error(ErrorKind::kInvalidArgument, "pawld refused this rank: {}",
                              refused->why);
        }
        if (std::holds_alternative<staging::Welcome>(message) && descriptors.size() == 1) {
            RETURN_IF_ERROR(map_pages(descriptors.front().get()));
        } else if (const auto* resume = std::get_if<staging::Resume>(&message)) {
            if (progress_page_ == nullptr) {
                return make_error(ErrorKind::kCancelled, "pawld sent a verdict before its pages");
            }
            if (resume->sequence && descriptors.size() != 1) {
                return make_error(ErrorKind::kCancelled, "pawld sent no file to resume from");
            }
            if (resume->sequence) {
                RETURN_IF_ERROR(map_resume(*resume, descriptors.front().get()));
            }
            has_verdict_ = true;
            return {};
        }
    }
}

Result<void> AttachedRun::map_pages(int fd) {
    if (const auto sealed = staging::check_sealed_memory(fd, staging::kPagesBytes); !sealed) {
        return broken_protocol(sealed.error());
    }
    auto progress = Mapping::of(fd, 0, staging::kPageBytes, Access::kReadWrite);
    if (!progress) return progress.error();
    auto control = Mapping::of(fd, staging::kPageBytes, staging::kPageBytes, Access::kReadOnly);
    if (!control) return control.error();
    RETURN_IF_ERROR(progress->keep_from_children());
    RETURN_IF_ERROR(control->keep_from_children());
    progress_mapping_ = std::move(*progress);
    control_mapping_ = std::move(*control);
    progress_page_ = reinterpret_cast<staging::ProgressPage*>(progress_mapping_.bytes().data());
    control_page_ = reinterpret_cast<const staging::ControlPage*>(control_mapping_.bytes().data());
    return {};
}

Result<void> AttachedRun::map_resume(const staging::Resume& resume, int fd) {
    struct stat information = {};
    if (::fstat(fd, &information) != 0) return error_from_errno("look at the file to resume from");
    if (!S_ISREG(information.st_mode) || information.st_size <= 0) {
        return make_error(ErrorKind::kCancelled,
                          "what pawld sent to resume from ('{}') is no file with anything in it",
                          resume.path);
    }
    auto mapping =
        Mapping::of(fd, 0, static_cast<std::uint64_t>(information.st_size), Access::kReadOnly);
    if (!mapping)
        return Error(mapping.error()).while_doing("open '{}' to resume from", resume.path);
    RETURN_IF_ERROR(mapping->keep_from_children());
    resume_mapping_ = std::move(*mapping);
    resume_ = {.image = resume_mapping_.bytes(),
               .sequence = *resume.sequence,
               .step = resume.step,
               .epoch = resume.epoch};
    progress_.step = resume.step;
    progress_.epoch = resume.epoch;
    return {};
}

// ---- messages ----

Result<void> AttachedRun::send(const staging::RankMessage& message) {
    const std::string text = staging::encode(message);
    if (text.size() > staging::kMessageBytesMax) {
        return make_error(ErrorKind::kInvalidArgument,
                          "metrics and texts of one call may take {} bytes, these take {}; pawld "
                          "was told nothing",
                          staging::kMessageBytesMax, text.size());
    }
    if (const auto sent = staging::send_packet(socket_.get(), text, {}); !sent)
        return give_up(Error(sent.error()).while_doing("speak to pawld"));
    return {};
}

Result<AttachedRun::Received> AttachedRun::receive() {
    auto packet = staging::receive_packet(socket_.get(), staging::Wait::kBlock);
    if (!packet) return give_up(Error(packet.error()).while_doing("hear from pawld"));
    if ((*packet)->text.empty())
        return give_up(make_error(ErrorKind::kCancelled, "pawld closed the connection"));
    auto message = staging::decode_daemon_message((*packet)->text);
    if (!message) return give_up(broken_protocol(message.error()));
    return Received{.message = std::move(*message),
                    .descriptors = std::move((*packet)->descriptors)};
}

Result<void> AttachedRun::drain_messages() {
    while (true) {
        auto packet = staging::receive_packet(socket_.get(), staging::Wait::kNoBlock);
        if (!packet) return give_up(Error(packet.error()).while_doing("hear from pawld"));
        if (!packet->has_value()) return {};
        if ((*packet)->text.empty())
            return give_up(make_error(ErrorKind::kCancelled, "pawld closed the connection"));
        const auto message = staging::decode_daemon_message((*packet)->text);
        if (message) note(*message);
    }
}

void AttachedRun::note(const staging::DaemonMessage& message) {
    if (const auto* released = std::get_if<staging::SlotReleased>(&message)) {
        if (released->slot >= slots_.size()) return;
        Slot& slot = slots_.at(released->slot);
        // Only a mapping that can be written to is a slot of ours again.
        slot.is_ours =
            slot.mapping.is_mapped() && slot.mapping.protect(Access::kReadWrite).has_value();
    }
    if (!is_finishing_) return;
    if (const auto* durable = std::get_if<staging::SnapshotDurable>(&message)) {
        if (durable->step == progress_.step && durable->epoch == progress_.epoch)
            final_verdict_ = Result<void>{};
    }
    if (const auto* failed = std::get_if<staging::SnapshotFailed>(&message)) {
        if (failed->request == final_request_) {
            final_verdict_ = Result<void>(make_error(
                ErrorKind::kIo, "the final checkpoint did not become durable: {}", failed->why));
        }
    }
}

// ---- the end of a connection ----

Error AttachedRun::give_up(const Error& why) {
    const std::string text = why.text();
    hang_up(text);
    Error error(ErrorKind::kCancelled, text);
    if (!has_verdict_) return error;  // attach fails, and says what that means
    return std::move(error).consequence(
        "Training goes on without pawld: steps cost nothing, no snapshot is asked for");
}

void AttachedRun::hang_up(std::string_view why) noexcept {
    if (is_inert()) return;
    // The daemon sees it, and does not wait for this rank.
    origin_.close_in_children(-1);
    socket_.reset();
    const std::size_t count = std::min(why.size(), inert_reason_.size() - 1);
    std::copy_n(why.data(), count, inert_reason_.data());
}

const char* AttachedRun::inert_reason() const noexcept {
    if (!is_inert()) return "";
    return inert_reason_.front() != '\0' ? inert_reason_.data() : "the connection is gone";
}

void AttachedRun::forget() noexcept {
    origin_.let_go();
    std::ignore = socket_.release();
    // None of these is in a child, whatever is at their addresses now.
    progress_mapping_.forget();
    control_mapping_.forget();
    resume_mapping_.forget();
    for (Slot& slot : slots_)
        slot.mapping.forget();
}

Result<std::unique_ptr<Run>> attach_to_daemon(const std::string& socket,
                                              const AttachOptions& options, const Shared& shared) {
    const auto attach = [&]() -> Result<std::unique_ptr<Run>> {
        const auto rank = number_from_environment("RANK");
        if (!rank) return rank.error();
        const auto world_size = world_size_from_environment();
        if (!world_size) return world_size.error();
        const auto incarnation = number_from_environment("PAWL_INCARNATION");
        if (!incarnation) return incarnation.error();
        auto connection = staging::connect_to(socket);
        if (!connection) return connection.error();
        auto run = std::make_unique<AttachedRun>(std::move(*connection), Rank{rank->value_or(0)},
                                                 *world_size, shared.origin);
        RETURN_IF_ERROR(run->greet(options, Incarnation{incarnation->value_or(0)}));
        return std::unique_ptr<Run>(std::move(run));
    };
    auto attached = attach();
    if (attached) return attached;
    Error error = Error(attached.error()).while_doing("attach to pawld at '{}'", socket);
    if (error.kind() != ErrorKind::kCancelled && error.kind() != ErrorKind::kNotFound) return error;
    return Error(ErrorKind::kCancelled, error.text())
        .consequence(
            "Is pawld running? Without PAWL_SOCKET in its environment a program needs none");
}

}  // namespace pawl::client
