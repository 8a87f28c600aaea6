// Mechanisms that lose, halve or stall a checkpoint. Each test names one; all are in the fault
// model of the fake disk or in the order of the coordinator's events.
#include "checkpoint/coordinator.h"
#include "checkpoint/store.h"
#include "tests/checkpoint/sample.h"
#include "tests/fakes/fake_file_system.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <errno.h>

#include <algorithm>

namespace pawl::checkpoint {
namespace {

using fakes::FakeFileSystem;

constexpr std::size_t kDisksMax = 64;
constexpr std::uint64_t kSeed = 7;

// ---- the store ----

struct Disk {
    FakeFileSystem fs;
    SystemClock clock;
    NoLedger ledger;
    std::vector<std::byte> image = sample_image(256, 5);

    Result<Committed> commit(Store& store, std::uint64_t step, std::uint32_t keep_last = 100) {
        return store.commit({.step = Step{step}}, {{.rank = Rank{0}, .bytes = image}},
                            {.keep_last = keep_last});
    }
};

TEST(Store, TheFirstCheckpointInANewDirectorySurvivesAPowerCut) {
    Disk disk;
    Store store(disk.fs, disk.clock, disk.ledger, "/data/ckpt", "lm");
    ASSERT_TRUE(store.open());

    ASSERT_TRUE(disk.commit(store, 10));

    for (FakeFileSystem& after : disk.fs.possible_disks(kDisksMax, kSeed)) {
        const auto listed = list_checkpoints(after, "/data/ckpt");
        ASSERT_TRUE(listed.has_value())
            << listed.error().text() << " although step 10 was reported durable:\n"
            << after.history();
        EXPECT_EQ(listed->size(), 1u) << after.history();
    }
}

TEST(Store, APowerCutWhileRetentionRemovesLeavesNoHalfCheckpointUnderACommittedName) {
    Disk counted;
    Store counted_store(counted.fs, counted.clock, counted.ledger, "/ckpt", "lm");
    ASSERT_TRUE(counted_store.open());
    ASSERT_TRUE(counted.commit(counted_store, 10));
    const int before = counted.fs.operations_done();
    ASSERT_TRUE(counted.commit(counted_store, 20, 1));
    const int operations = counted.fs.operations_done() - before;

    for (int operation = 0; operation <= operations; ++operation) {
        Disk disk;
        Store store(disk.fs, disk.clock, disk.ledger, "/ckpt", "lm");
        ASSERT_TRUE(store.open());
        ASSERT_TRUE(disk.commit(store, 10));
        disk.fs.sync_everything();
        disk.fs.cut_power_before(disk.fs.operations_done() + operation);
        std::ignore = disk.commit(store, 20, 1).has_value();

        for (FakeFileSystem& after : disk.fs.possible_disks(kDisksMax, kSeed)) {
            SCOPED_TRACE(
                fmt::format("power cut before operation {}:\n{}", operation, after.history()));
            const auto listed = list_checkpoints(after, "/ckpt");
            ASSERT_TRUE(listed.has_value()) << listed.error().text();
            for (const Listed& one : *listed) {
                const auto verification = verify(after, one.path);
                ASSERT_TRUE(verification.has_value()) << verification.error().text();
                ASSERT_TRUE(verification->is_valid())
                    << one.path << ": " << verification->damages.front().describe();
            }
        }
    }
}

TEST(Store, ADamagedCheckpointThatCannotBeMovedDoesNotHideTheValidOneBeforeIt) {
    Disk disk;
    Store store(disk.fs, disk.clock, disk.ledger, "/ckpt", "lm");
    ASSERT_TRUE(store.open());
    ASSERT_TRUE(disk.commit(store, 10));
    ASSERT_TRUE(disk.commit(store, 20));
    disk.fs.flip_bit("/ckpt/000002-step-20/rank-00000.pt", 700);
    disk.fs.fail_at(disk.fs.operations_done(), ENOSPC);  // "create directory /ckpt/quarantine"

    const auto choice = store.choose();

    ASSERT_TRUE(choice.has_value()) << choice.error().text();
    ASSERT_TRUE(choice->chosen.has_value());
    EXPECT_EQ(choice->chosen->step, Step{10});
}

// ---- verification ----

// Counts the bytes that are read of a disk.
class CountingFileSystem final : public FileSystem {
public:
    explicit CountingFileSystem(FileSystem& fs) : fs_(fs) {}

    Result<void> create_directory(const std::string& path) override {
        return fs_.create_directory(path);
    }
    Result<std::vector<DirectoryEntry>> list_directory(const std::string& path) override {
        return fs_.list_directory(path);
    }
    Result<std::optional<FileStatus>> status(const std::string& path) override {
        return fs_.status(path);
    }
    Result<std::unique_ptr<WritableFile>> create_file(const std::string& path,
                                                      std::uint64_t bytes) override {
        return fs_.create_file(path, bytes);
    }
    Result<std::unique_ptr<ByteSource>> open_file(const std::string& path) override {
        auto source = fs_.open_file(path);
        if (!source) return source.error();
        return std::unique_ptr<ByteSource>(
            std::make_unique<CountingSource>(std::move(*source), bytes_read_));
    }
    Result<void> rename(const std::string& from, const std::string& to) override {
        return fs_.rename(from, to);
    }
    Result<void> replace_link(const std::string& target, const std::string& path) override {
        return fs_.replace_link(target, path);
    }
    Result<void> sync_directory(const std::string& path) override {
        return fs_.sync_directory(path);
    }
    Result<void> remove(const std::string& path) override { return fs_.remove(path); }

    [[nodiscard]] std::uint64_t bytes_read() const { return bytes_read_; }

private:
    class CountingSource final : public ByteSource {
    public:
        CountingSource(std::unique_ptr<ByteSource> source, std::uint64_t& bytes_read)
            : source_(std::move(source)), bytes_read_(bytes_read) {}
        [[nodiscard]] std::uint64_t size() const override { return source_->size(); }
        Result<void> read_at(std::uint64_t offset, std::span<std::byte> target) const override {
            bytes_read_ += target.size();
            return source_->read_at(offset, target);
        }

    private:
        std::unique_ptr<ByteSource> source_;
        std::uint64_t& bytes_read_;
    };

    FileSystem& fs_;
    std::uint64_t bytes_read_ = 0;
};

// Two tensors of `chunks` chunks each, in checkpoint 1 of step 1.
FakeFileSystem disk_with_large_tensors(std::uint64_t chunks) {
    FakeFileSystem disk;
    const std::vector<std::byte> image = sample_image(chunks * kChunkBytes, 3);
    EXPECT_TRUE(disk.create_directory("/ckpt"));
    EXPECT_TRUE(commit(disk, "/ckpt", sample_manifest(1, 1), {{.rank = Rank{0}, .bytes = image}}));
    return disk;
}

TEST(Verify, NamesTheRecordThatIsDamagedInAChunkThoughItsNeighbourIsDamagedElsewhere) {
    // The first tensor ends, and the second begins, near the beginning of chunk 1.
    FakeFileSystem disk = disk_with_large_tensors(1);
    disk.flip_bit("/ckpt/000001-step-1/rank-00000.pt", kChunkBytes / 2);
    disk.flip_bit("/ckpt/000001-step-1/rank-00000.pt", kChunkBytes + kChunkBytes / 2);

    const auto verification = verify(disk, "/ckpt/000001-step-1");

    ASSERT_EQ(verification->damages.size(), 2u);
    EXPECT_EQ(verification->damages[0].tensor, "first");
    EXPECT_EQ(verification->damages[1].tensor, "second");
}

TEST(Verify, ReadsARecordOnceToNameItHoweverManyOfItsChunksAreDamaged) {
    constexpr std::uint64_t kChunks = 8;
    FakeFileSystem disk = disk_with_large_tensors(kChunks);
    for (std::uint64_t chunk = 0; chunk < kChunks; ++chunk)
        disk.flip_bit("/ckpt/000001-step-1/rank-00000.pt", chunk * kChunkBytes + kChunkBytes / 2);
    CountingFileSystem counted(disk);

    const auto verification = verify(counted, "/ckpt/000001-step-1");

    ASSERT_EQ(verification->damages.size(), kChunks);
    EXPECT_LE(counted.bytes_read(), 3 * disk.content("/ckpt/000001-step-1/rank-00000.pt").size());
}

// ---- the coordinator ----

constexpr MonotonicTime at(int second) {
    return MonotonicTime{seconds{second}};
}

constexpr Moment moment(std::uint64_t step, std::uint64_t epoch) {
    return {.step = Step{step}, .epoch = Epoch{epoch}};
}

Sealed sealed(std::uint64_t rank, std::uint64_t step, std::uint64_t epoch = 0) {
    return {.rank = Rank{rank}, .slot = 0, .step = Step{step}, .epoch = Epoch{epoch}, .bytes = 100};
}

template <class Wanted>
std::vector<Wanted> all(const CoordinatorActions& actions) {
    std::vector<Wanted> found;
    for (const CoordinatorAction& action : actions) {
        if (const auto* wanted = std::get_if<Wanted>(&action)) found.push_back(*wanted);
    }
    return found;
}

std::uint64_t request_of(const CoordinatorActions& actions) {
    const auto controls = all<SetControl>(actions);
    return controls.empty() ? 0 : controls.back().control.request;
}

Coordinator every_ten_steps(std::uint64_t world_size) {
    return {world_size, {.cadence = {.every_steps = 10}}, {}, /*is_durable=*/false, at(0)};
}

// A cadence checkpoint of step 10 is still being written when the training ends at step 25.
struct EndOverACheckpoint {
    Coordinator coordinator = every_ten_steps(1);
    Persist cadence;
    std::uint64_t final_request = 0;

    EndOverACheckpoint() {
        const auto request = request_of(coordinator.begin(at(0)));
        const auto complete = coordinator.sealed(request, sealed(0, 10), {}, at(1));
        cadence = all<Persist>(complete).at(0);
        const auto finishing = coordinator.finishing(Rank{0}, moment(25, 1), at(2));
        final_request = all<WakeFinishing>(finishing).at(0).request;
    }
};

TEST(Coordinator, ACheckpointThatBecomesDurableDoesNotWithdrawTheFinalRequest) {
    EndOverACheckpoint end;

    std::ignore = end.coordinator.persisted(end.cadence, true, "", at(3));
    const auto answered = end.coordinator.sealed(end.final_request, sealed(0, 25, 1), {}, at(4));

    EXPECT_EQ(all<Persist>(answered).size(), 1u)
        << "the only answer that the rank will give was thrown away: it waits for ever";
}

TEST(Coordinator, ACheckpointThatBecomesDurableAsksForNoSecondFinalSnapshot) {
    EndOverACheckpoint end;
    const auto complete = end.coordinator.sealed(end.final_request, sealed(0, 25, 1), {}, at(3));
    ASSERT_EQ(all<Persist>(complete).size(), 1u);

    const auto actions = end.coordinator.persisted(end.cadence, true, "", at(4));
    std::ignore = end.coordinator.persisted(all<Persist>(complete)[0], true, "", at(5));
    const auto lost = end.coordinator.lost(Rank{0}, "it hung up", at(6));

    EXPECT_TRUE(all<WakeFinishing>(actions).empty());
    EXPECT_TRUE(all<AttemptFailed>(lost).empty()) << all<AttemptFailed>(lost)[0].why;
}

TEST(Coordinator, RanksThatFinishAtDifferentStepsAreToldSoInTheRequestTheyWaitFor) {
    Coordinator coordinator = every_ten_steps(2);
    std::ignore = coordinator.begin(at(0));
    std::ignore = coordinator.finishing(Rank{0}, moment(25, 1), at(1));

    const auto actions = coordinator.finishing(Rank{1}, moment(26, 1), at(2));

    // A rank in `finish` is woken by WakeFinishing alone, and by failures of that very request.
    const auto woken = all<WakeFinishing>(actions);
    const auto failed = all<AttemptFailed>(actions);
    ASSERT_EQ(woken.size(), 1u) << "both ranks wait in finish for ever";
    ASSERT_EQ(failed.size(), 1u);
    EXPECT_EQ(failed[0].request, woken[0].request);
}

TEST(Coordinator, ACheckpointAskedForByHandDoesNotTakeADrainsPlace) {
    Coordinator coordinator = every_ten_steps(1);
    std::ignore = coordinator.begin(at(0));
    const Position here{.furthest_step = Step{4}};
    auto request = request_of(coordinator.request_now(Reason::kSigterm, here, at(1)));
    const auto by_hand = coordinator.request_now(Reason::kRequest, here, at(2));
    if (request_of(by_hand) != 0) request = request_of(by_hand);

    const auto complete = coordinator.sealed(request, sealed(0, 5), {}, at(3));
    ASSERT_EQ(all<Persist>(complete).size(), 1u);
    const auto settled =
        all<UrgentSettled>(coordinator.persisted(all<Persist>(complete)[0], true, "", at(4)));

    EXPECT_TRUE(std::ranges::any_of(settled, [](const UrgentSettled& one) {
        return one.reason == Reason::kSigterm && one.is_durable;
    })) << "the drain is never settled: it runs into its deadline";
}

}  // namespace
}  // namespace pawl::checkpoint
