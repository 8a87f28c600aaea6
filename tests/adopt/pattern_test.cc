// Which files a script saves: by name, in a series, and how they are called in a checkpoint.
#include "adopt/pattern.h"

#include "torchfile/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pawl::adopt {
namespace {

using testing::ElementsAre;

TEST(Pattern, WithoutAWildcardIsOneFile) {
    const Pattern pattern = pattern_of("out/./x/../checkpoint.pth", "/work");

    EXPECT_EQ(pattern, (Pattern{.directory = "/work/out", .components = {"checkpoint.pth"}}));
    EXPECT_TRUE(matches(pattern, "/work/out/checkpoint.pth"));
    EXPECT_FALSE(matches(pattern, "/work/checkpoint.pth"));
    EXPECT_FALSE(matches(pattern, "/work/out/checkpoint.pth.tar"));
}

TEST(Pattern, WithAWildcardIsASeries) {
    const Pattern pattern = pattern_of("runs/*/epoch_?.pth", "/work");

    EXPECT_EQ(pattern, (Pattern{.directory = "/work/runs",
                                .components = {"*", "epoch_?.pth"},
                                .is_series = true}));
    EXPECT_TRUE(matches(pattern, "/work/runs/a/epoch_7.pth"));
    EXPECT_FALSE(matches(pattern, "/work/runs/a/b/epoch_7.pth"));
    EXPECT_FALSE(matches(pattern, "/work/runs/a/epoch_10.pth"));
    EXPECT_FALSE(matches(pattern, "/work/runs/epoch_7.pth"));
}

TEST(Pattern, TakesTheWorkingDirectoryAsItIs) {
    const Pattern series = pattern_of("*.pth", "/work/[a]*");
    const Pattern one = pattern_of("c.pth", "/work/[a]*");

    EXPECT_EQ(series.directory, "/work/[a]*");
    EXPECT_TRUE(matches(series, "/work/[a]*/c.pth"));
    EXPECT_FALSE(matches(series, "/work/ab/c.pth"));
    EXPECT_TRUE(matches(one, "/work/[a]*/c.pth"));
}

TEST(Pattern, MayBeAbsolute) {
    EXPECT_EQ(pattern_of("/data/c.pth", "/work"),
              (Pattern{.directory = "/data", .components = {"c.pth"}}));
    EXPECT_EQ(pattern_of("/c?.pth", "/work"),
              (Pattern{.directory = "/", .components = {"c?.pth"}, .is_series = true}));
    EXPECT_TRUE(matches(pattern_of("/c?.pth", "/work"), "/c1.pth"));
    EXPECT_EQ(pattern_of("../[ab].pth", "/work/x").directory, "/work");
}

TEST(Pattern, OfEverythingLeavesWhatWasSetAsideAlone) {
    const Pattern pattern = pattern_of("*", "/work");

    EXPECT_TRUE(matches(pattern, "/work/checkpoint.pth"));
    EXPECT_FALSE(matches(pattern, "/work/.checkpoint.pth.torn-1"));
    EXPECT_FALSE(matches(pattern, "/work/.checkpoint.pth.pawl-new"));
}

TEST(Pattern, PathsAreSaidAsAPersonWould) {
    EXPECT_EQ(shown_path("/work/out/c.pth", "/work"), "out/c.pth");
    EXPECT_EQ(shown_path("/workshop/c.pth", "/work"), "/workshop/c.pth");
    EXPECT_EQ(shown_path("/c.pth", "/"), "c.pth");
    EXPECT_EQ(whole_path("out/c.pth", "/work"), "/work/out/c.pth");
    EXPECT_EQ(whole_path("/data/c.pth", "/work"), "/data/c.pth");
}

TEST(Pattern, FilesHaveNamesOfTheirOwnInACheckpoint) {
    EXPECT_THAT(names_in_checkpoint({"/w/a/c.pth", "/w/b/c.pth", "/w/manifest.json", "/w/pinned"}),
                ElementsAre("c.pth", "2-c.pth", "2-manifest.json", "2-pinned"));
    const std::string long_name(255, 'x');
    for (const std::string& name : names_in_checkpoint({"/w/" + long_name, "/v/" + long_name}))
        EXPECT_LE(name.size(), 255u);
}

TEST(Pattern, NamesInACheckpointCanBeSaidInItsManifest) {
    std::string cyrillic;  // of 252 bytes: to be cut, in the middle of a letter
    for (int i = 0; i < 125; ++i)
        cyrillic += "\xd0\xb6";
    const std::string cut = names_in_checkpoint({"/w/x" + cyrillic + "y"}).front();

    EXPECT_THAT(names_in_checkpoint({"/w/a\xff.pth", "/w/a\xfe.pth", "/w/a\nb.pth", "/w/\xd0\xb6"}),
                ElementsAre("a_.pth", "2-a_.pth", "a_b.pth", "\xd0\xb6"));
    EXPECT_TRUE(torchfile::is_valid_utf8(cut)) << cut;
}

}  // namespace
}  // namespace pawl::adopt
