// Arguments that are added to a command: words as a shell splits them, and their placeholder.
#include "config/arguments.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pawl::config {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(Arguments, AreSplitAsAShellSplitsWords) {
    EXPECT_THAT(*split_words("--resume {checkpoint}"), ElementsAre("--resume", "{checkpoint}"));
    EXPECT_THAT(*split_words("  a\t b\n"), ElementsAre("a", "b"));
    EXPECT_THAT(*split_words(R"('a b' "c 'd'" e\ f '' x'y'"z")"),
                ElementsAre("a b", "c 'd'", "e f", "", "xyz"));
    EXPECT_THAT(*split_words(R"("a\"b\\c\d" 'e\f')"), ElementsAre(R"(a"b\c\d)", R"(e\f)"));
    EXPECT_THAT(*split_words("$HOME * #x"), ElementsAre("$HOME", "*", "#x"));
    EXPECT_THAT(*split_words(""), IsEmpty());
}

TEST(Arguments, WithAnOpenQuoteAreRefused) {
    EXPECT_THAT(split_words("--a 'b").error().text(), HasSubstr("the quote ' is not closed"));
    EXPECT_THAT(split_words("\"b").error().text(), HasSubstr("the quote \" is not closed"));
}

TEST(Arguments, KnowOnePlaceholder) {
    EXPECT_EQ(placeholder_problem({"--resume={checkpoint}", "{checkpoint}"}, Start::kResumed), "");
    EXPECT_EQ(placeholder_problem({R"({"lr": 1})", "{}", "{1}", "{a-b}", "{"}, Start::kResumed),
              "");
    EXPECT_EQ(placeholder_problem({"{checkpoint}{chekpoint}"}, Start::kResumed),
              "expected {checkpoint} as the only placeholder, found '{chekpoint}'");
    EXPECT_EQ(placeholder_problem({"{x{rank}"}, Start::kFresh),
              "expected {checkpoint} as the only placeholder, found '{rank}'");
    EXPECT_EQ(placeholder_problem({"--from={checkpoint}"}, Start::kFresh),
              "expected no {checkpoint}, because on a fresh start there is none, found "
              "'--from={checkpoint}'");
}

TEST(Arguments, AreFilledInWhereverThePlaceholderStands) {
    EXPECT_THAT(filled_in({"--a", "{checkpoint}", "x={checkpoint}:{checkpoint}"}, "/{checkpoint}"),
                ElementsAre("--a", "/{checkpoint}", "x=/{checkpoint}:/{checkpoint}"));
}

}  // namespace
}  // namespace pawl::config
