// JobRunner: the memory into which ranks lay their snapshots. Made on the arena worker, in full:
// its pages are charged to the daemon, and where there are none that is found here.
//
// Ahead of need, where its size can be known: a rank that asks while it is saving stands still
// until the kernel has zeroed every page, which takes as long as its copy. So the first arena
// is made while a resumed trainer still imports, and the second when the first is filled.
#include "daemon/job.h"
#include "staging/available_memory.h"

#include <algorithm>
#include <limits>

namespace pawl::daemon {
namespace {

// The numbers in an image grow, and it with them by some bytes: no reason for another arena.
constexpr std::uint64_t kRoomToGrow = 64 * std::uint64_t{1024};

std::uint64_t with_room_to_grow(std::uint64_t bytes) {
    return bytes + std::min(kRoomToGrow, std::numeric_limits<std::uint64_t>::max() - bytes);
}

// On the arena worker. Allocated in full, or not at all.
Result<std::shared_ptr<Arena>> make_arena(const std::string& name, std::uint64_t bytes) {
    auto memory = staging::make_sealed_memory(name, bytes);
    if (!memory) return memory.error();
    auto mapping = staging::Mapping::of(memory->get(), 0, bytes, staging::Access::kReadWrite);
    if (!mapping) return mapping.error();
    auto arena = std::make_shared<Arena>();
    arena->memory = std::move(*memory);
    arena->mapping = std::move(*mapping);
    return arena;
}

}  // namespace

void JobRunner::arena_requested(RankHolder& rank, const staging::ArenaRequest& request) {
    const auto refuse = [&](const std::string& why) {
        server_->send(*rank.session, staging::ArenaRefused{.slot = request.slot, .why = why}, {});
    };
    if (request.slot >= rank.slots.size()) return refuse("there is no such slot");
    RankSlot& slot = rank.slots.at(request.slot);
    if (slot.is_sealed) return refuse("the slot is being made durable");
    if (request.bytes == 0) return refuse("an arena of no bytes");
    if (slot.requested_bytes) {
        return break_off(rank, fmt::format("it asked for an arena in slot {} while one was being "
                                           "made for it",
                                           request.slot));
    }
    slot.requested_bytes = request.bytes;
    if (slot.ahead == Ahead::kBeingMade) return;  // looked at when it is there
    give_arena(rank, request.slot);
}

// What the rank waits for: the one that was made ahead, or a new one.
void JobRunner::give_arena(RankHolder& rank, std::uint32_t slot_number) {
    RankSlot& slot = rank.slots.at(slot_number);
    const std::uint64_t bytes = *slot.requested_bytes;
    const bool fits = slot.ahead == Ahead::kMade && bytes <= slot.arena->mapping.bytes().size();
    slot.ahead = Ahead::kNo;
    if (!fits) return post_arena(rank, slot_number, bytes);
    slot.requested_bytes.reset();
    server_->send(
        *rank.session,
        staging::ArenaGranted{.slot = slot_number, .bytes = slot.arena->mapping.bytes().size()},
        {slot.arena->memory.get()});
}

// As large as what each rank is to resume from: its next image is that, but for some numbers.
void JobRunner::make_arenas_for_resume() {
    const auto& chosen = launch_->verdict->chosen;
    if (is_adopting() || !chosen || chosen->is_adopted()) return;
    if (chosen->files.size() != launch_->ranks.size()) return;  // what each holds now is not known
    for (RankHolder& rank : launch_->ranks)
        make_arena_ahead(rank, chosen->files.at(rank.rank.value).bytes);
}

// In a slot that has none. Without a word if there is too little memory: the rank that needs it is
// told.
void JobRunner::make_arena_ahead(RankHolder& rank, std::uint64_t bytes) {
    for (std::uint32_t number = 0; number < rank.slots.size(); ++number) {
        RankSlot& slot = rank.slots.at(number);
        if (slot.ahead != Ahead::kNo) return;
        if (slot.arena || slot.requested_bytes) continue;
        slot.ahead = Ahead::kBeingMade;
        return post_arena(rank, number, bytes);
    }
}

void JobRunner::post_arena(RankHolder& rank, std::uint32_t slot_number, std::uint64_t bytes) {
    RankSlot& slot = rank.slots.at(slot_number);
    const bool is_ahead = slot.ahead == Ahead::kBeingMade;
    const std::string name =
        fmt::format("pawl-arena-{}-{}-{}", config_.name, rank.rank, slot_number);
    arena_worker_.post([this, number = launch_->number, id = rank.rank, slot_number, bytes, name,
                        is_ahead, old = std::move(slot.arena)]() mutable {
        // Given up before the larger one is made: the rank has unmapped it, so memory is not held
        // twice.
        old.reset();
        // What is made ahead leaves as much again to those who have a need now.
        const auto fits =
            staging::check_fits(is_ahead ? 2 * bytes : bytes, staging::available_memory());
        auto arena = fits ? make_arena(name, with_room_to_grow(bytes))
                          : Result<std::shared_ptr<Arena>>(fits.error());
        services_.loop.post([this, number, id, slot_number, arena = std::move(arena)]() mutable {
            arena_made(number, id, slot_number, std::move(arena));
        });
    });
}

void JobRunner::arena_made(Incarnation number, Rank id, std::uint32_t slot_number,
                           Result<std::shared_ptr<Arena>> arena) {
    if (!launch_ || launch_->number != number || launch_->is_over) {
        if (arena) drop_arenas({std::move(*arena)});
        return;
    }
    RankHolder& rank = launch_->ranks.at(id.value);
    RankSlot& slot = rank.slots.at(slot_number);
    const bool was_ahead = slot.ahead == Ahead::kBeingMade;
    slot.ahead = arena ? Ahead::kMade : Ahead::kNo;
    if (arena) slot.arena = std::move(*arena);
    if (!slot.requested_bytes) return;
    if (arena || was_ahead) return give_arena(rank, slot_number);
    slot.requested_bytes.reset();
    report(ReportLevel::kError, "no_memory",
           fmt::format("rank {} gets no memory for a snapshot: {}. Training goes on", rank.rank,
                       arena.error().text()));
    server_->send(*rank.session,
                  staging::ArenaRefused{.slot = slot_number, .why = arena.error().text()}, {});
}

void JobRunner::drop_arenas(std::vector<std::shared_ptr<Arena>> arenas) {
    arena_worker_.post([arenas = std::move(arenas)]() mutable { arenas.clear(); });
}

}  // namespace pawl::daemon
