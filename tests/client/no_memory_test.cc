// Want of memory in the middle of any call: an error, never the end of the trainer.
#include "tests/checkpoint/sample.h"
#include "tests/client/failing_new.h"
#include "tests/client/run_fixture.h"
#include "tests/fakes/fake_daemon.h"

#include <gmock/gmock.h>

#include <sys/resource.h>

#include <cstring>

namespace pawl::client {
namespace {

using testing::HasSubstr;

// A short training, each call of which must return one of the codes it may. The first code that is
// none of PAWL_OK and PAWL_SKIPPED.
int train(pawl_run* run, const std::vector<std::byte>& image) {
    int first = PAWL_OK;
    const auto see = [&first](int code) {
        if (first == PAWL_OK && code < 0) first = code;
        return code;
    };
    const pawl_progress progress{sizeof progress, 10, 1, 0.5};
    const pawl_metric metric{"a metric whose name is longer than a short string", 0.5};
    std::uint32_t actions = 0;
    void* memory = nullptr;
    see(pawl_step(run, &progress, &actions));
    see(pawl_epoch_end(run, &progress, &metric, 1, &actions));
    see(pawl_finish(run, &actions));
    if (see(pawl_snapshot_begin(run, image.size(), &memory)) == PAWL_OK) {
        std::memcpy(memory, image.data(), image.size());
        see(pawl_snapshot_seal(run, &metric, 1));
    }
    see(pawl_finish_wait(run));
    return first;
}

TEST(NoMemory, AnyLargeAllocationOfAStandaloneRunMayFail) {
    const auto image = checkpoint::sample_image(4096, 1);
    constexpr long kAllocationsMax = 5000;
    bool was_enough = false;
    for (long count = 0; count < kAllocationsMax && !was_enough; ++count) {
        SCOPED_TRACE(count);
        const fakes::TemporaryDirectory place;
        pawl_attach_options options{};
        options.struct_size = sizeof options;
        options.checkpoint_directory = place.path().c_str();
        options.every_steps = 10;
        pawl_run* run = nullptr;
        int code = PAWL_OK;
        {
            const fakes::MemoryFor allocations(count);
            code = pawl_attach(&options, &run);
            if (code == PAWL_OK) code = train(run, image);
            pawl_detach(run);
        }
        was_enough = !fakes::MemoryFor::has_failed();
        if (was_enough) {
            EXPECT_EQ(code, PAWL_OK) << pawl_last_error();
        } else {
            EXPECT_LT(code, 0) << "a call that had no memory must say so";
        }
        // What failed left the directory to the next.
        ASSERT_EQ(pawl_attach(&options, &run), PAWL_OK) << pawl_last_error();
        pawl_detach(run);
    }
    EXPECT_TRUE(was_enough) << "the sweep has not come to its end";
}

TEST(NoMemory, AnyLargeAllocationOfAnAttachedRunMayFail) {
    const auto image = checkpoint::sample_image(4096, 1);
    constexpr long kAllocationsMax = 5000;
    bool was_enough = false;
    for (long count = 0; count < kAllocationsMax && !was_enough; ++count) {
        SCOPED_TRACE(count);
        // Takes part for as long as the rank does; hangs up with it.
        const fakes::FakeDaemon daemon([](fakes::FakeSession& rank) {
            rank.attach({.request = 1, .at_epoch = Epoch{1}});
            while (const auto message = rank.receive()) {
                if (const auto* arena = std::get_if<staging::ArenaRequest>(&*message)) {
                    rank.grant(*arena);
                } else if (std::holds_alternative<staging::Finishing>(*message)) {
                    rank.send(staging::TakeSnapshot{.request = 2});
                } else if (const auto* seal = std::get_if<staging::SnapshotSealed>(&*message)) {
                    rank.send(staging::SnapshotDurable{
                        .sequence = Sequence{1}, .step = seal->step, .epoch = seal->epoch});
                } else if (std::holds_alternative<staging::SnapshotSkipped>(*message)) {
                    rank.send(staging::SnapshotFailed{.request = 2, .why = "it was skipped"});
                }
            }
        });
        pawl_run* run = nullptr;
        int code = PAWL_OK;
        {
            const fakes::MemoryFor allocations(count);
            code = pawl_attach(nullptr, &run);
            if (code == PAWL_OK) code = train(run, image);
            pawl_detach(run);
        }
        was_enough = !fakes::MemoryFor::has_failed();
        if (was_enough) {
            EXPECT_EQ(code, PAWL_OK) << pawl_last_error();
        } else {
            EXPECT_LT(code, 0) << "a call that had no memory must say so";
        }
    }
    EXPECT_TRUE(was_enough) << "the sweep has not come to its end";
}

// As `ulimit -v` or a batch system sets it.
TEST(NoMemory, AnAddressSpaceThatIsFullCostsTheSnapshotAndNotTheTrainer) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "a sanitizer's own address space is above any limit";
#endif
    const fakes::TemporaryDirectory place;
    const auto image = checkpoint::sample_image(4096, 1);

    const int end = end_of_child([&] {
        pawl_attach_options options{};
        options.struct_size = sizeof options;
        options.checkpoint_directory = place.path().c_str();
        options.every_steps = 10;
        const OwnedRun run = attach(&options);
        if (run == nullptr) ::_exit(2);
        constexpr rlim_t kBytes = rlim_t{1} << 30;
        const rlimit limit{.rlim_cur = kBytes, .rlim_max = kBytes};
        if (::setrlimit(RLIMIT_AS, &limit) != 0) ::_exit(3);
        void* memory = nullptr;
        if (pawl_snapshot_begin(run.get(), 2 * kBytes, &memory) != PAWL_E_NO_SPACE) ::_exit(4);
        if (train(run.get(), image) != PAWL_OK) ::_exit(5);
    });

    EXPECT_EQ(end, 0) << SIGABRT << ": it was terminated";
}

TEST(NoMemory, AnImageThatDoesNotFitIsAnErrorAndTheRunGoesOn) {
    const fakes::TemporaryDirectory place;
    pawl_attach_options options{};
    options.struct_size = sizeof options;
    options.checkpoint_directory = place.path().c_str();
    options.every_steps = 10;
    const OwnedRun run = attach(&options);
    ASSERT_NE(run, nullptr) << pawl_last_error();
    void* memory = nullptr;

    for (const std::uint64_t bytes : {std::uint64_t{1} << 62, ~std::uint64_t{0}}) {
        EXPECT_EQ(pawl_snapshot_begin(run.get(), bytes, &memory), PAWL_E_NO_SPACE);
        EXPECT_THAT(pawl_last_error(), HasSubstr("memory"));
        EXPECT_EQ(memory, nullptr);
    }

    EXPECT_EQ(train(run.get(), checkpoint::sample_image(4096, 1)), PAWL_OK) << pawl_last_error();
}

}  // namespace
}  // namespace pawl::client
