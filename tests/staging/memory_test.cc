// Sealed memory: what it promises to the process that holds it, and what is refused as it.
#include "staging/memory.h"

#include "tests/fakes/temporary_directory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>

namespace pawl::staging {
namespace {

using testing::HasSubstr;

constexpr std::uint64_t kBytes = 3 * 4096;

// The signal that kills a child which runs `body`, 0 if none does. A sanitizer reports a fault by
// exiting: then any exit but 0 counts as SIGSEGV.
template <class Body>
int signal_of_child(const Body& body) {
    const pid_t child = ::fork();
    if (child == 0) {
        ::signal(SIGSEGV, SIG_DFL);
        ::signal(SIGBUS, SIG_DFL);
        body();
        ::_exit(0);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) return WTERMSIG(status);
    return WEXITSTATUS(status) == 0 ? 0 : SIGSEGV;
}

TEST(SealedMemory, IsZeroAndAllocatedInFull) {
    const auto memory = make_sealed_memory("test", kBytes);
    ASSERT_TRUE(memory.has_value()) << memory.error().text();
    struct stat information = {};
    ASSERT_EQ(::fstat(memory->get(), &information), 0);
    const auto mapping = Mapping::of(memory->get(), 0, kBytes, Access::kReadOnly);
    ASSERT_TRUE(mapping.has_value());

    EXPECT_EQ(information.st_size, static_cast<off_t>(kBytes));
    EXPECT_GE(information.st_blocks * 512, static_cast<blkcnt_t>(kBytes));
    EXPECT_TRUE(
        std::ranges::all_of(mapping->bytes(), [](std::byte byte) { return byte == std::byte{}; }));
}

TEST(SealedMemory, KeepsItsSealsAndIsNotInheritedAtExec) {
    const auto memory = make_sealed_memory("test", kBytes);
    ASSERT_TRUE(memory.has_value());

    EXPECT_EQ(::fcntl(memory->get(), F_ADD_SEALS, F_SEAL_WRITE), -1) << "no more seals";
    EXPECT_EQ(errno, EPERM);
    EXPECT_NE(::fcntl(memory->get(), F_GETFD) & FD_CLOEXEC, 0);
}

// Under a limit of the file's size, never with a size that the machine might try to give: fallocate
// of a memfd takes real memory until there is none.
TEST(SealedMemory, WhatCannotBeAllocatedIsAnErrorThatSaysHowMuchWasAsked) {
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    const UniqueFd reader(ends[0]);
    UniqueFd writer(ends[1]);
    const int signal = signal_of_child([&] {
        const rlimit limit = {.rlim_cur = 4096, .rlim_max = 4096};
        ::setrlimit(RLIMIT_FSIZE, &limit);
        ::signal(SIGXFSZ, SIG_IGN);
        const auto memory = make_sealed_memory("test", kBytes);
        const std::string text = memory ? "it was given" : memory.error().text();
        if (::write(writer.get(), text.data(), text.size()) < 0) ::_exit(1);
    });
    writer.reset();
    std::string text(1000, '\0');
    const ssize_t got = ::read(reader.get(), text.data(), text.size());
    ASSERT_GE(got, 0);
    text.resize(static_cast<std::size_t>(got));

    EXPECT_EQ(signal, 0);
    EXPECT_EQ(text, "allocate 12288 bytes of shared memory 'test': File too large");
}

TEST(SealedMemory, OutlivesItsDescriptorAndTheProcessThatFilledIt) {
    auto memory = make_sealed_memory("test", kBytes);
    ASSERT_TRUE(memory.has_value());
    const auto mapping = Mapping::of(memory->get(), 0, kBytes, Access::kReadWrite);
    ASSERT_TRUE(mapping.has_value());
    memory->reset();

    const int signal = signal_of_child([&] {
        mapping->bytes()[100] = std::byte{42};
        ::raise(SIGKILL);
    });

    EXPECT_EQ(signal, SIGKILL);
    EXPECT_EQ(mapping->bytes()[100], std::byte{42});
}

TEST(SealedMemory, AReadOnlyMappingFaultsOnAWriteFromTheFirstMoment) {
    const auto memory = make_sealed_memory("test", kBytes);
    const auto mapping = Mapping::of(memory->get(), 0, kBytes, Access::kReadOnly);
    ASSERT_TRUE(mapping.has_value());

    EXPECT_EQ(signal_of_child([&] { mapping->bytes()[0] = std::byte{1}; }), SIGSEGV);
    EXPECT_EQ(mapping->bytes()[0], std::byte{0});
}

TEST(SealedMemory, AWriteMappingOfAReadOnlyDescriptorIsRefused) {
    const auto memory = make_sealed_memory("test", kBytes);
    const std::string again = "/proc/self/fd/" + std::to_string(memory->get());
    const UniqueFd reader(::open(again.c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(reader.is_open());

    EXPECT_TRUE(Mapping::of(reader.get(), 0, kBytes, Access::kReadOnly).has_value());
    EXPECT_THAT(Mapping::of(reader.get(), 0, kBytes, Access::kReadWrite).error().text(),
                HasSubstr("map 12288 bytes of shared memory: Permission denied"));
}

TEST(SealedMemory, AMappingIsUnmappedOnceByItsLastOwner) {
    const auto memory = make_sealed_memory("test", kBytes);
    std::byte* address = nullptr;
    {
        auto first = Mapping::of(memory->get(), 0, kBytes, Access::kReadWrite);
        ASSERT_TRUE(first.has_value());
        address = first->bytes().data();
        Mapping second = std::move(*first);
        EXPECT_FALSE(first->is_mapped());
        Mapping third;
        third = std::move(second);
        EXPECT_EQ(third.bytes().data(), address);
        EXPECT_EQ(third.bytes().size(), kBytes);
    }

    // mincore(2) knows mapped pages only.
    std::array<unsigned char, 3> resident{};
    EXPECT_EQ(::mincore(address, kBytes, resident.data()), -1);
    EXPECT_EQ(errno, ENOMEM);
}

TEST(SealedMemory, AChildForkedBeforeItIsKeptFromChildrenHasItStill) {
    const auto memory = make_sealed_memory("test", kBytes);
    auto mapping = Mapping::of(memory->get(), 0, kBytes, Access::kReadWrite);
    ASSERT_TRUE(mapping.has_value());
    const auto touch = [&] { mapping->bytes()[0] = std::byte{1}; };

    EXPECT_EQ(signal_of_child(touch), 0);
    ASSERT_TRUE(mapping->keep_from_children().has_value());
    EXPECT_EQ(signal_of_child(touch), SIGSEGV);
    touch();
    EXPECT_EQ(mapping->bytes()[0], std::byte{1}) << "the owner has it still";
}

TEST(SealedMemory, PagesThatWereTouchedAreWrittenToWithoutAFault) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "the sanitizer's shadow of each page has faults of its own";
#endif
    constexpr std::uint64_t kPages = 4096;
    constexpr std::uint64_t kPageBytes = 4096;
    const auto faults_of_writing_to = [](const Mapping& mapping) {
        rusage before = {};
        rusage after = {};
        ::getrusage(RUSAGE_THREAD, &before);
        for (std::uint64_t page = 0; page < kPages; ++page)
            mapping.bytes()[page * kPageBytes] = std::byte{1};
        ::getrusage(RUSAGE_THREAD, &after);
        return after.ru_minflt - before.ru_minflt;
    };
    const auto memory = make_sealed_memory("test", kPages * kPageBytes);
    auto cold = Mapping::of(memory->get(), 0, kPages * kPageBytes, Access::kReadWrite);
    auto touched = Mapping::of(memory->get(), 0, kPages * kPageBytes, Access::kReadWrite);
    ASSERT_TRUE(cold.has_value() && touched.has_value());
    constexpr int kPopulateWrite = 23;
    if (::madvise(cold->bytes().data(), kPageBytes, kPopulateWrite) != 0)
        GTEST_SKIP() << "this kernel can't";

    touched->touch();

    EXPECT_LT(faults_of_writing_to(*touched), 10);
    EXPECT_GT(faults_of_writing_to(*cold), 100);
}

TEST(SealedMemory, WhatIsNoSealedMemoryIsRefused) {
    const fakes::TemporaryDirectory directory;
    const UniqueFd file(
        ::open((directory.path() + "/file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    std::array<int, 2> ends{};
    ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
    const UniqueFd reader(ends[0]);
    const UniqueFd writer(ends[1]);
    ASSERT_EQ(::ftruncate(file.get(), static_cast<off_t>(kBytes)), 0);

    for (const int fd : {file.get(), reader.get(), -1}) {
        EXPECT_FALSE(check_sealed_memory(fd, 1).has_value()) << "descriptor " << fd;
    }
}

}  // namespace
}  // namespace pawl::staging
