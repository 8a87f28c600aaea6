// A script's directory with its store and adopter, and versions as torch.save writes them.
#pragma once

#include "adopt/adopter.h"
#include "base/clock.h"
#include "tests/checkpoint/sample.h"
#include "tests/fakes/temporary_directory.h"
#include "torchfile/archive.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/stat.h>

#include <array>
#include <filesystem>
#include <fstream>

namespace pawl::adopt {

using Bytes = std::vector<std::byte>;

// As torch.save writes it: with its CRCs. Its key `step` is the seed.
inline Bytes version(unsigned seed, std::uint64_t bytes = 64) {
    Bytes image = checkpoint::sample_image(bytes, seed);
    EXPECT_TRUE(torchfile::fill_crcs(image));
    return image;
}

inline void write(const std::string& path, const Bytes& bytes) {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    ASSERT_TRUE(file.flush());
}

inline Bytes read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    const auto bytes = std::as_bytes(std::span(text));
    return {bytes.begin(), bytes.end()};
}

inline Bytes half(const Bytes& bytes) {
    return {bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(bytes.size() / 2)};
}

inline constexpr unsigned kAhead = 2'000'000'000;  // seconds: long after any test runs

struct Script {
    fakes::TemporaryDirectory place;
    std::unique_ptr<FileSystem> fs;
    SystemClock clock;
    checkpoint::NoLedger ledger;
    checkpoint::Store store{*fs, clock, ledger, place.path() + "/ckpt", "lm"};
    Watches watches = std::move(*Watches::make());
    Adopter adopter{*fs, store, watches};
    Settings settings{.working_directory = place.path()};
    Context context{.retention = {.keep_last = 100}};

    explicit Script(std::vector<std::string> patterns,
                    std::unique_ptr<FileSystem> its_fs = make_posix_file_system())
        : fs(std::move(its_fs)) {
        settings.patterns = std::move(patterns);
        EXPECT_TRUE(store.open());
    }
    [[nodiscard]] std::string path(const std::string& name) const {
        return place.path() + "/" + name;
    }
    Prepared start() {
        auto choice = store.choose();
        EXPECT_TRUE(choice.has_value());
        Prepared prepared = adopter.prepare(settings, *choice, context);
        EXPECT_FALSE(prepared.impossible) << prepared.impossible->text();
        return prepared;
    }
    Looked look() { return adopter.look(context); }
    // Seconds after a time that is long past.
    void set_time(const std::string& name, unsigned seconds) const {
        const timespec time{.tv_sec = 1'700'000'000 + seconds, .tv_nsec = 0};
        const std::array times{time, time};
        ASSERT_EQ(::utimensat(AT_FDCWD, path(name).c_str(), times.data(), AT_SYMLINK_NOFOLLOW), 0);
    }
    void link(const std::string& target, const std::string& name) const {
        std::filesystem::remove(path(name));
        std::filesystem::create_symlink(target, path(name));
    }
    [[nodiscard]] std::vector<std::string> hidden() const {
        std::vector<std::string> names;
        for (const auto& entry : std::filesystem::directory_iterator(place.path())) {
            if (entry.path().filename().string().starts_with('.'))
                names.push_back(entry.path().filename().string());
        }
        std::ranges::sort(names);
        return names;
    }
};

}  // namespace pawl::adopt
