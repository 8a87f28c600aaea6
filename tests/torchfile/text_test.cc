// UTF-8 as Python reads it, and text that may be shown.
#include "torchfile/text.h"

#include <gtest/gtest.h>

#include <string>

namespace pawl::torchfile {
namespace {

using namespace std::string_literals;

TEST(Text, IsJudgedAsPythonsCodecsJudgeIt) {
    const struct {
        std::string text;
        bool is_utf8;
        bool is_str;
    } rows[] = {
        {"", true, true},
        {"\0"s, true, true},
        {"gr\xc3\xbc\xc3\x9f", true, true},
        {"\xf0\x9f\x94\xa5", true, true},
        {"\xf4\x8f\xbf\xbf", true, true},    // U+10FFFF
        {"\xf4\x90\x80\x80", false, false},  // beyond it
        {"\xed\x9f\xbf", true, true},        // U+D7FF
        {"\xed\xa0\x80", false, true},       // U+D800, a surrogate
        {"\xed\xbf\xbf", false, true},       // U+DFFF
        {"\xee\x80\x80", true, true},        // U+E000
        {"\xc0\x80", false, false},          // overlong
        {"\xe0\x80\x80", false, false},
        {"\xf0\x80\x80\x80", false, false},
        {"\x80", false, false},
        {"\xff", false, false},
        {"a\xc3", false, false},  // cut
        {"\xc3\x28", false, false},
    };
    for (const auto& row : rows) {
        EXPECT_EQ(is_valid_utf8(row.text), row.is_utf8) << escaped(row.text);
        EXPECT_EQ(is_valid_str(row.text), row.is_str) << escaped(row.text);
    }
}

TEST(Text, IsEscapedIntoOneLineOfUtf8) {
    EXPECT_EQ(escaped("gr\xc3\xbc\xc3\x9f 'q' \"d\" \\"), "gr\xc3\xbc\xc3\x9f 'q' \"d\" \\");
    EXPECT_EQ(escaped("a\nb\0\x1b[31m\x7f"s), "a\\nb\\x00\\x1b[31m\\x7f");
    EXPECT_EQ(escaped("\xc2\x9b"), "\\x9b");  // a control character of C1
    EXPECT_EQ(escaped("\xed\xb3\xbf.pt"), "\\udcff.pt");
    EXPECT_EQ(escaped("\xff\xc3"), "\\xff\\xc3");
    EXPECT_TRUE(is_valid_utf8(escaped("\xed\xb3\xbf\xff\xf0\x80")));
}

TEST(Text, IsShownShortAndInAscii) {
    EXPECT_EQ(printable("a\nb\xc3\xbc"), "a?b??");
    EXPECT_EQ(printable(std::string(200, 'x')), std::string(120, 'x') + "...");
}

}  // namespace
}  // namespace pawl::torchfile
