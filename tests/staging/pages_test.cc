// The pages as two processes see them, through one memfd, and at the edges of their words.
#include "staging/pages.h"

#include "staging/memory.h"

#include <gtest/gtest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <limits>
#include <new>
#include <thread>

namespace pawl::staging {
namespace {

// A page that lies in shared memory, as in a rank and in the daemon.
template <class Page>
class SharedPage {
public:
    SharedPage() {
        auto memory = make_sealed_memory("pages", kPageBytes);
        EXPECT_TRUE(memory.has_value()) << memory.error().text();
        memory_ = std::move(*memory);
        auto mapping = Mapping::of(memory_.get(), 0, kPageBytes, Access::kReadWrite);
        EXPECT_TRUE(mapping.has_value()) << mapping.error().text();
        mapping_ = std::move(*mapping);
        page_ = new (mapping_.bytes().data()) Page{};  // lives in the mapping, trivially destroyed
    }
    Page& operator*() { return *page_; }

private:
    UniqueFd memory_;
    Mapping mapping_;
    Page* page_ = nullptr;
};

TEST(SharedPages, WhatOneProcessWritesAnotherReads) {
    SharedPage<ProgressPage> page;
    const Progress written{.step = Step{7}, .epoch = Epoch{2}, .phase = Phase::kSaving};
    const pid_t child = ::fork();
    if (child == 0) {
        write(*page, written);
        ::_exit(0);
    }
    ASSERT_EQ(::waitpid(child, nullptr, 0), child);

    EXPECT_EQ(read(*page), written);
}

TEST(SharedPages, AWriterKilledInTheMiddleLeavesAPageThatTheNextOneRepairs) {
    SharedPage<ProgressPage> page;
    const pid_t child = ::fork();
    if (child == 0) {
        (*page).generation.fetch_add(1);  // as write() begins
        (*page).step = 99;
        ::_exit(0);
    }
    ASSERT_EQ(::waitpid(child, nullptr, 0), child);
    ASSERT_EQ(read(*page), std::nullopt);

    write(*page, Progress{.step = Step{1}});

    EXPECT_EQ(read(*page)->step, Step{1});
}

TEST(SharedPages, ARequestIsNeverSeenMixedWithTheOneBefore) {
    SharedPage<ControlPage> page;
    write(*page, Control{});
    std::atomic<bool> is_over{false};
    std::thread daemon([&] {
        for (std::uint64_t i = 1; i <= 200'000; ++i) {
            write(*page, Control{.request = i,
                                 .at_step = Step{i},
                                 .at_epoch = Epoch{i},
                                 .is_urgent = i % 2 == 1,
                                 .should_stop = i % 2 == 1});
        }
        is_over = true;
    });

    std::uint64_t torn = 0;
    std::uint64_t seen = 0;
    do {
        const auto control = read(*page);
        if (!control || control->request == 0) continue;
        ++seen;
        const bool is_odd = control->request % 2 == 1;
        if (control->at_step != Step{control->request} ||
            control->at_epoch != Epoch{control->request} || control->is_urgent != is_odd ||
            control->should_stop != is_odd) {
            ++torn;
        }
    } while (!is_over || seen == 0);
    daemon.join();

    EXPECT_EQ(torn, 0u) << "of " << seen;
}

TEST(SharedPages, PhasesAreKeptAndUnknownOnesAreTakenAsTheLast) {
    struct Case {
        std::uint64_t word;
        Phase expected;
    };
    for (const Case& one :
         {Case{0, Phase::kStarting}, Case{1, Phase::kTraining}, Case{2, Phase::kEvaluation},
          Case{3, Phase::kSaving}, Case{4, Phase::kFinished}, Case{5, Phase::kFinished},
          Case{kNone, Phase::kFinished}}) {
        ProgressPage page{};
        page.phase = one.word;

        EXPECT_EQ(read(page)->phase, one.expected) << "phase " << one.word;
    }
}

TEST(SharedPages, ALossKeepsAllItsBits) {
    for (const double loss : {-0.0, std::numeric_limits<double>::infinity(),
                              std::numeric_limits<double>::denorm_min(), std::nan("7")}) {
        ProgressPage page{};
        write(page, Progress{.loss = loss});

        EXPECT_EQ(std::bit_cast<std::uint64_t>(read(page)->loss),
                  std::bit_cast<std::uint64_t>(loss))
            << loss;
    }
}

TEST(SharedPages, AGenerationThatOverflowsIsEvenAgain) {
    for (const std::uint64_t before : {kNone, kNone - 1}) {
        ControlPage page{};
        page.generation = before;

        write(page, Control{.request = 3});

        EXPECT_EQ(page.generation.load(), 0u);
        EXPECT_EQ(read(page), Control{.request = 3});
    }
}

TEST(SharedPages, StepZeroIsATargetAndNoneIsNot) {
    ControlPage page{};

    write(page, Control{.at_step = Step{0}});

    EXPECT_EQ(read(page)->at_step, Step{0});
    EXPECT_EQ(read(page)->at_epoch, std::nullopt);
}

}  // namespace
}  // namespace pawl::staging
