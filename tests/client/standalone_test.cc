// A standalone run at its edges: what a wrong call or a wrong variable does to a trainer, and what
// the checkpoints that it leaves say. The ordinary life of such a run is in client_test.cc.
#include "checkpoint/store.h"
#include "tests/checkpoint/sample.h"
#include "tests/client/run_fixture.h"
#include "tests/fakes/temporary_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <pawl/pawl.h>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <thread>

namespace pawl {
namespace {

using nlohmann::json;
using testing::HasSubstr;

using client::end_of_child;
using client::OwnedRun;
using client::Setting;

class StandaloneEdge : public testing::Test {
protected:
    [[nodiscard]] pawl_attach_options options() const {
        pawl_attach_options options{};
        options.struct_size = sizeof options;
        options.checkpoint_directory = directory_.c_str();
        options.every_steps = 10;
        options.keep_last = 3;
        options.framework = "LibTorch 1.13.1";
        return options;
    }
    // nullptr, and pawl_last_error(), if that failed.
    [[nodiscard]] OwnedRun attach() const {
        const pawl_attach_options given = options();
        pawl_run* run = nullptr;
        EXPECT_EQ(pawl_attach(&given, &run), PAWL_OK) << pawl_last_error();
        return OwnedRun(run);
    }
    static std::uint32_t step(const OwnedRun& run, std::uint64_t number) {
        const pawl_progress progress{sizeof progress, number, 0, 0.5};
        std::uint32_t actions = 0;
        EXPECT_EQ(pawl_step(run.get(), &progress, &actions), PAWL_OK) << pawl_last_error();
        return actions;
    }
    static void begin(const OwnedRun& run, unsigned seed) {
        const auto image = checkpoint::sample_image(64, seed);
        void* memory = nullptr;
        ASSERT_EQ(pawl_snapshot_begin(run.get(), image.size(), &memory), PAWL_OK);
        std::memcpy(memory, image.data(), image.size());
    }
    static void save(const OwnedRun& run, std::uint64_t number) {
        step(run, number);
        begin(run, static_cast<unsigned>(number));
        EXPECT_EQ(pawl_snapshot_seal(run.get(), nullptr, 0), PAWL_OK) << pawl_last_error();
    }
    static pawl_resume resume_of(const OwnedRun& run) {
        pawl_resume resume{};
        resume.struct_size = sizeof resume;
        EXPECT_EQ(pawl_get_resume(run.get(), &resume), PAWL_OK);
        return resume;
    }
    [[nodiscard]] json manifest(const std::string& name) const {
        std::ifstream file(directory_ + "/" + name + "/manifest.json");
        return json::parse(file, nullptr, false);
    }

    fakes::TemporaryDirectory place_;
    std::string directory_ = place_.path() + "/checkpoints";
};

// ---- wrong calls ----

TEST_F(StandaloneEdge, CallsWithoutARunOrAPlaceAreRefusedAndSayWhich) {
    const OwnedRun run = attach();
    pawl_progress progress{sizeof progress, 1, 0, 0.5};
    pawl_resume resume{};
    std::uint32_t actions = 0;
    void* image = nullptr;
    struct Case {
        const char* name;
        std::function<int()> call;
    };
    pawl_run* const r = run.get();

    for (const Case& one : {
             Case{"pawl_get_resume", [&] { return pawl_get_resume(nullptr, &resume); }},
             Case{"pawl_get_resume", [&] { return pawl_get_resume(r, nullptr); }},
             Case{"pawl_step", [&] { return pawl_step(r, &progress, nullptr); }},
             Case{"pawl_epoch_end",
                  [&] { return pawl_epoch_end(nullptr, &progress, nullptr, 0, &actions); }},
             Case{"pawl_epoch_end",
                  [&] { return pawl_epoch_end(r, nullptr, nullptr, 0, &actions); }},
             Case{"pawl_epoch_end",
                  [&] { return pawl_epoch_end(r, &progress, nullptr, 0, nullptr); }},
             Case{"pawl_poll", [&] { return pawl_poll(nullptr, PAWL_PHASE_TRAINING, &actions); }},
             Case{"pawl_poll", [&] { return pawl_poll(r, PAWL_PHASE_TRAINING, nullptr); }},
             Case{"pawl_request_checkpoint", [&] { return pawl_request_checkpoint(r, nullptr); }},
             Case{"pawl_snapshot_begin", [&] { return pawl_snapshot_begin(nullptr, 1, &image); }},
             Case{"pawl_snapshot_begin", [&] { return pawl_snapshot_begin(r, 0, &image); }},
             Case{"pawl_snapshot_begin", [&] { return pawl_snapshot_begin(r, 1, nullptr); }},
             Case{"pawl_snapshot_seal", [&] { return pawl_snapshot_seal(nullptr, nullptr, 0); }},
             Case{"pawl_snapshot_abort", [&] { return pawl_snapshot_abort(nullptr, "why"); }},
             Case{"pawl_finish", [&] { return pawl_finish(nullptr, &actions); }},
             Case{"pawl_finish", [&] { return pawl_finish(r, nullptr); }},
             Case{"pawl_finish_wait", [&] { return pawl_finish_wait(nullptr); }},
         }) {
        EXPECT_EQ(one.call(), PAWL_E_INVALID) << one.name;
        EXPECT_THAT(pawl_last_error(), HasSubstr(one.name));
    }
    pawl_request_stop(nullptr);
    pawl_release_resume(nullptr);
    EXPECT_EQ(pawl_rank(nullptr), 0);
    EXPECT_EQ(pawl_world_size(nullptr), 1);
    EXPECT_EQ(pawl_is_attached(nullptr), 0);
}

TEST_F(StandaloneEdge, ACountOfMetricsWithoutMetricsDoesNotEndTheTrainer) {
    const OwnedRun run = attach();
    const pawl_progress progress{sizeof progress, 1, 1, 0.5};

    const int at_epoch = end_of_child([&] {
        std::uint32_t actions = 0;
        pawl_epoch_end(run.get(), &progress, nullptr, 3, &actions);
    });
    const int at_seal = end_of_child([&] { pawl_snapshot_seal(run.get(), nullptr, 3); });

    EXPECT_EQ(at_epoch, 0) << "pawl_epoch_end read from address 0";
    EXPECT_EQ(at_seal, 0) << "pawl_snapshot_seal read from address 0";
}

TEST_F(StandaloneEdge, ASealWithoutABeginFailsAndTheRunGoesOn) {
    const OwnedRun run = attach();
    step(run, 10);

    const int sealed = pawl_snapshot_seal(run.get(), nullptr, 0);

    EXPECT_EQ(sealed, PAWL_E_INVALID);
    EXPECT_STRNE(pawl_last_error(), "");
    save(run, 20);
    EXPECT_FALSE(manifest("000001-step-20").is_discarded());
}

TEST_F(StandaloneEdge, AnAbortedOrForgottenSnapshotLeavesNoCheckpoint) {
    {
        const OwnedRun run = attach();
        step(run, 10);
        begin(run, 1);
        EXPECT_EQ(pawl_snapshot_abort(run.get(), nullptr), PAWL_OK);
        EXPECT_EQ(pawl_snapshot_seal(run.get(), nullptr, 0), PAWL_E_INVALID);
        begin(run, 2);
    }

    EXPECT_EQ(resume_of(attach()).image, nullptr);
}

TEST_F(StandaloneEdge, AnErrorBelongsToItsThreadAndIsGoneAfterTheNextGoodCall) {
    const OwnedRun run = attach();
    EXPECT_EQ(pawl_finish_wait(nullptr), PAWL_E_INVALID);
    std::string elsewhere = "unset";
    std::thread([&] { elsewhere = pawl_last_error(); }).join();
    const std::string here = pawl_last_error();

    step(run, 1);

    EXPECT_EQ(elsewhere, "");
    EXPECT_NE(here, "");
    EXPECT_STREQ(pawl_last_error(), "");
}

TEST_F(StandaloneEdge, StructsOfOlderAndNewerHeadersAreTakenAsFarAsBothKnow) {
    {
        const OwnedRun run = attach();
        save(run, 10);
    }
    struct Newer {
        pawl_attach_options known;
        std::uint64_t unknown;
    };
    Newer newer{.known = options(), .unknown = 99};
    newer.known.struct_size = sizeof newer;
    pawl_run* raw = nullptr;
    ASSERT_EQ(pawl_attach(&newer.known, &raw), PAWL_OK) << pawl_last_error();
    const OwnedRun run(raw);

    pawl_resume older{};
    older.struct_size = offsetof(pawl_resume, step);
    older.step = 77;
    ASSERT_EQ(pawl_get_resume(run.get(), &older), PAWL_OK);

    EXPECT_NE(older.image, nullptr);
    EXPECT_EQ(older.sequence, 1u);
    EXPECT_EQ(older.struct_size, offsetof(pawl_resume, step));
    EXPECT_EQ(older.step, 77u) << "behind the end of the caller's struct";
}

// ---- wrong variables ----

TEST_F(StandaloneEdge, ACadenceOfZeroFromTheEnvironmentTurnsItOffAndEndsNoTrainer) {
    for (const char* name : {"PAWL_EVERY_STEPS", "PAWL_EVERY_EPOCHS", "PAWL_EVERY_MS"}) {
        const Setting zero(name, "0");

        const int end = end_of_child([&] {
            const pawl_attach_options given = options();
            pawl_run* run = nullptr;
            pawl_attach(&given, &run);
        });

        EXPECT_EQ(end, 0) << name << "=0 ended the trainer (signal " << end << ")";
    }
}

TEST_F(StandaloneEdge, WrongNumbersAreRefusedByVariableAndText) {
    struct Case {
        const char* name;
        const char* value;
    };
    for (const Case& one :
         {Case{"PAWL_EVERY_STEPS", "-1"}, Case{"PAWL_EVERY_EPOCHS", "1.5"},
          Case{"PAWL_EVERY_MS", " 1"}, Case{"PAWL_EVERY_MS", "1s"},
          Case{"PAWL_EVERY_STEPS", "99999999999999999999"}, Case{"PAWL_KEEP_LAST", "all"},
          Case{"PAWL_KEEP_LAST", "4294967297"}, Case{"WORLD_SIZE", "two"}}) {
        const Setting setting(one.name, one.value);
        const pawl_attach_options given = options();
        pawl_run* run = nullptr;

        const int code = pawl_attach(&given, &run);
        const std::string error = pawl_last_error();
        pawl_detach(run);

        EXPECT_EQ(code, PAWL_E_INVALID) << one.name << "=" << one.value;
        EXPECT_THAT(error, HasSubstr(one.name));
        EXPECT_THAT(error, HasSubstr(one.value));
    }
}

TEST_F(StandaloneEdge, AnEmptyVariableIsAsGoodAsNone) {
    const Setting steps("PAWL_EVERY_STEPS", "");
    const Setting socket("PAWL_SOCKET", "");
    const Setting directory("PAWL_CHECKPOINT_DIRECTORY", "");
    const OwnedRun run = attach();

    EXPECT_EQ(step(run, 10), static_cast<std::uint32_t>(PAWL_TAKE_SNAPSHOT));
    EXPECT_TRUE(std::filesystem::exists(directory_));
}

// ---- what is left on the disk ----

TEST_F(StandaloneEdge, TheManifestSaysWhatRunAndWhyItWasSaved) {
    const Setting job("PAWL_JOB", "lm");
    {
        const OwnedRun run = attach();
        step(run, 10);
        begin(run, 1);
        const pawl_metric metrics[] = {{"accuracy", 0.5}, {nullptr, 1}, {"loss", 0.25}};
        ASSERT_EQ(pawl_snapshot_seal(run.get(), metrics, 3), PAWL_OK) << pawl_last_error();
        save(run, 20);
    }
    const OwnedRun run = attach();
    pawl_request_stop(run.get());
    save(run, 25);

    const json first = manifest("000001-step-10");
    const json third = manifest("000003-step-25");

    EXPECT_EQ(first.value("job", ""), "lm");
    EXPECT_EQ(first.value("framework", ""), "LibTorch 1.13.1");
    EXPECT_EQ(first.value("reason", ""), "cadence");
    EXPECT_EQ(first.value("metrics", json()), (json{{"accuracy", 0.5}, {"loss", 0.25}}));
    EXPECT_EQ(third.value("parent", 0), 2) << "what this run was resumed from";
    EXPECT_EQ(third.value("reason", ""), "sigterm");
}

TEST_F(StandaloneEdge, ADamagedNewestCheckpointIsPassedOverForTheOneBefore) {
    {
        const OwnedRun run = attach();
        save(run, 10);
        save(run, 20);
    }
    const std::string file = directory_ + "/000002-step-20/rank-00000.pt";
    std::fstream(file, std::ios::in | std::ios::out | std::ios::binary).seekp(200).put('!');

    const OwnedRun run = attach();

    EXPECT_EQ(resume_of(run).step, 10u);
    EXPECT_TRUE(std::filesystem::exists(directory_ + "/quarantine/000002-step-20"));
    save(run, 20);
    EXPECT_FALSE(manifest("000003-step-20").is_discarded()) << "a sequence is never used again";
}

TEST_F(StandaloneEdge, ASaveThatFailsIsAnErrorAndTheNextOneMaySucceed) {
    const OwnedRun run = attach();
    step(run, 10);
    void* memory = nullptr;
    ASSERT_EQ(pawl_snapshot_begin(run.get(), 100, &memory), PAWL_OK);
    std::memset(memory, 0, 100);
    ASSERT_EQ(pawl_snapshot_seal(run.get(), nullptr, 0), PAWL_E_CORRUPT);
    EXPECT_EQ(step(run, 11), 0u) << "the next is due at step 20, not at once";

    EXPECT_EQ(step(run, 20), static_cast<std::uint32_t>(PAWL_TAKE_SNAPSHOT));
    save(run, 20);
    EXPECT_FALSE(manifest("000001-step-20").is_discarded() &&
                 manifest("000002-step-20").is_discarded());
}

TEST_F(StandaloneEdge, AReleasedImageIsUnmappedAndTheRestOfTheResumeStays) {
    {
        const OwnedRun run = attach();
        save(run, 10);
    }
    const OwnedRun run = attach();
    const auto* const image = static_cast<const unsigned char*>(resume_of(run).image);
    ASSERT_NE(image, nullptr);

    EXPECT_EQ(end_of_child([&] { ::_exit(*image == 'P' ? 0 : 1); }), 0);
    EXPECT_EQ(end_of_child([&] { *const_cast<unsigned char*>(image) = 0; }), SIGSEGV)
        << "a checkpoint is read-only";
    pawl_release_resume(run.get());

    EXPECT_EQ(resume_of(run).image, nullptr);
    EXPECT_EQ(resume_of(run).step, 10u);
}

// ---- wanted by the trainer ----

TEST_F(StandaloneEdge, ARequestIsSavedAtOnceAndAgainWhereThatStateIsDurable) {
    const OwnedRun run = attach();
    ASSERT_EQ(step(run, 3), 0u);
    for (unsigned time = 0; time < 2; ++time) {
        std::uint32_t actions = 0;
        ASSERT_EQ(pawl_request_checkpoint(run.get(), &actions), PAWL_OK) << pawl_last_error();
        EXPECT_EQ(actions, static_cast<std::uint32_t>(PAWL_TAKE_SNAPSHOT));
        begin(run, time);
        EXPECT_EQ(pawl_snapshot_seal(run.get(), nullptr, 0), PAWL_OK) << pawl_last_error();
    }

    EXPECT_EQ(manifest("000001-step-3")["reason"], "request");
    EXPECT_EQ(manifest("000002-step-3")["reason"], "request");
}

// ---- stopping ----

pawl_run* g_signalled = nullptr;  // a signal handler has no other way

TEST_F(StandaloneEdge, ARequestFromASignalHandlerAsksForASnapshotOnceAndToStop) {
    const OwnedRun run = attach();
    g_signalled = run.get();
    struct sigaction action = {};
    struct sigaction before = {};
    action.sa_handler = [](int) { pawl_request_stop(g_signalled); };
    ASSERT_EQ(::sigaction(SIGUSR1, &action, &before), 0);
    ASSERT_EQ(step(run, 3), 0u);
    ::raise(SIGUSR1);
    ::sigaction(SIGUSR1, &before, nullptr);

    std::uint32_t between = 0;
    ASSERT_EQ(pawl_poll(run.get(), PAWL_PHASE_EVALUATION, &between), PAWL_OK);
    save(run, 3);

    EXPECT_EQ(between, static_cast<std::uint32_t>(PAWL_TAKE_SNAPSHOT | PAWL_STOP));
    EXPECT_EQ(step(run, 3), static_cast<std::uint32_t>(PAWL_STOP)) << "that moment is durable";
}

}  // namespace
}  // namespace pawl
