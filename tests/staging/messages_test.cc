// The border of the trainer protocol: every field of every message, left out or of a wrong type.
// What a rank sends is hostile input; a decoder that guesses hands the daemon a number nobody sent.
#include "staging/messages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace pawl::staging {
namespace {

using nlohmann::json;
using testing::HasSubstr;

// One of each, with no field at its default.
std::vector<std::string> rank_messages() {
    return {
        encode(RankMessage{Hello{.rank = Rank{3}, .incarnation = Incarnation{7}, .world_size = 8}}),
        encode(RankMessage{ArenaRequest{.slot = 1, .bytes = 10}}),
        encode(RankMessage{SnapshotSealed{.request = 5,
                                          .slot = 1,
                                          .bytes = 10,
                                          .step = Step{9},
                                          .epoch = Epoch{2},
                                          .metrics = {{"accuracy", 0.5}}}}),
        encode(RankMessage{SnapshotPassed{.request = 5, .step = Step{9}}}),
        encode(RankMessage{SnapshotSkipped{.request = 5, .why = "no slot"}}),
        encode(RankMessage{EpochEnded{
            .step = Step{9}, .epoch = Epoch{2}, .loss = 0.25, .metrics = {{"accuracy", 0.5}}}}),
        encode(RankMessage{Finishing{.step = Step{9}, .epoch = Epoch{2}}}),
        encode(RankMessage{CheckpointWanted{}})};
}

std::vector<std::string> daemon_messages() {
    return {encode(DaemonMessage{Welcome{.job = "lm"}}),
            encode(DaemonMessage{Refused{.why = "no"}}),
            encode(DaemonMessage{Resume{.sequence = Sequence{4}, .step = Step{9}, .path = "/a"}}),
            encode(DaemonMessage{ArenaGranted{.slot = 1, .bytes = 10}}),
            encode(DaemonMessage{ArenaRefused{.slot = 1, .why = "no memory"}}),
            encode(DaemonMessage{SlotReleased{.slot = 1}}),
            encode(DaemonMessage{TakeSnapshot{.request = 5}}),
            encode(DaemonMessage{SnapshotDurable{.sequence = Sequence{4}, .step = Step{9}}}),
            encode(DaemonMessage{SnapshotFailed{.request = 5, .why = "disk full"}}),
            encode(DaemonMessage{CheckpointAnswer{.why_not = "a rank is gone"}})};
}

// The messages that a side's decoder took, though they are not of the protocol.
template <class Decode>
std::vector<std::string> wrongly_taken(const std::vector<std::string>& texts,
                                       const Decode& decode) {
    std::vector<std::string> taken;
    for (const std::string& text : texts) {
        if (decode(text).has_value()) taken.push_back(text);
    }
    return taken;
}

// Each message once for each of its fields, with that field changed by `change`.
template <class Change>
std::vector<std::string> with_each_field(const std::vector<std::string>& texts,
                                         const Change& change) {
    std::vector<std::string> changed;
    for (const std::string& text : texts) {
        const json original = json::parse(text);
        for (const auto& [name, value] : original.items()) {
            json copy = original;
            if (change(copy, name, value)) changed.push_back(copy.dump());
        }
    }
    return changed;
}

TEST(MessageBorder, AMessageWithoutOneOfItsFieldsIsRefused) {
    const auto remove = [](json& message, const std::string& name, const json&) {
        message.erase(name);
        return true;
    };

    EXPECT_THAT(wrongly_taken(with_each_field(rank_messages(), remove), decode_rank_message),
                testing::IsEmpty());
    EXPECT_THAT(wrongly_taken(with_each_field(daemon_messages(), remove), decode_daemon_message),
                testing::IsEmpty());
}

TEST(MessageBorder, AFieldThatIsTextInPlaceOfANumberOrTheOtherWayRoundIsRefused) {
    const auto swap = [](json& message, const std::string& name, const json& value) {
        message[name] = value.is_string() ? json(7) : json("seven");
        return true;
    };

    EXPECT_THAT(wrongly_taken(with_each_field(rank_messages(), swap), decode_rank_message),
                testing::IsEmpty());
    EXPECT_THAT(wrongly_taken(with_each_field(daemon_messages(), swap), decode_daemon_message),
                testing::IsEmpty());
}

TEST(MessageBorder, ACountThatIsNoWholePositiveNumberIsRefused) {
    std::vector<std::string> texts;
    for (const json& wrong : {json(-1), json(1.5), json(1e300), json(true)}) {
        const auto put = [&](json& message, const std::string& name, const json& value) {
            message[name] = wrong;
            return value.is_number_unsigned();
        };
        const auto changed = with_each_field(rank_messages(), put);
        texts.insert(texts.end(), changed.begin(), changed.end());
    }

    EXPECT_THAT(wrongly_taken(texts, decode_rank_message), testing::IsEmpty());
}

TEST(MessageBorder, ASlotThatDoesNotFitIsRefusedAndNotCutToAnotherSlot) {
    const std::string beyond = R"({"type":"ArenaRequest","slot":4294967297,"bytes":10})";

    const auto decoded = decode_rank_message(beyond);

    EXPECT_FALSE(decoded.has_value()) << "taken as slot " << std::get<ArenaRequest>(*decoded).slot;
}

TEST(MessageBorder, MetricsThatAreNoObjectOfNumbersAreRefused) {
    std::vector<std::string> texts;
    for (const json& wrong : {json({1, 2}), json(5), json({{"accuracy", "good"}}),
                              json({{"accuracy", json::array()}})}) {
        texts.push_back(
            json{{"type", "EpochEnded"}, {"step", 9}, {"epoch", 2}, {"loss", 1}, {"metrics", wrong}}
                .dump());
    }

    EXPECT_THAT(wrongly_taken(texts, decode_rank_message), testing::IsEmpty());
}

TEST(MessageBorder, AFieldOfALaterVersionIsIgnoredInEveryMessage) {
    const auto decodes = [](const std::string& text, const auto& decode) {
        json message = json::parse(text);
        message["mood"] = {{"good", true}};
        const auto plain = decode(text);
        const auto extended = decode(message.dump());
        ASSERT_TRUE(plain.has_value() && extended.has_value()) << text;
        EXPECT_EQ(*extended, *plain);
    };

    for (const std::string& text : rank_messages())
        decodes(text, decode_rank_message);
    for (const std::string& text : daemon_messages())
        decodes(text, decode_daemon_message);
}

TEST(MessageBorder, EachSideRefusesTheOthersMessagesByName) {
    for (const std::string& text : daemon_messages()) {
        const auto decoded = decode_rank_message(text);

        ASSERT_FALSE(decoded.has_value()) << text;
        EXPECT_THAT(decoded.error().text(), HasSubstr("unknown message type")) << text;
    }
    EXPECT_EQ(wrongly_taken(rank_messages(), decode_daemon_message), std::vector<std::string>{});
}

TEST(MessageBorder, MetricsAndLossesThatAreNoNumbersComeOutAsNoNumbers) {
    const EpochEnded ended{.loss = std::numeric_limits<double>::infinity(),
                           .metrics = {{"good", 0.5}, {"bad", std::nan("")}}};

    const auto decoded = decode_rank_message(encode(RankMessage{ended}));

    ASSERT_TRUE(decoded.has_value()) << decoded.error().text();
    const auto& back = std::get<EpochEnded>(*decoded);
    EXPECT_TRUE(std::isnan(back.loss));
    EXPECT_EQ(back.metrics.at("good"), 0.5);
    EXPECT_TRUE(std::isnan(back.metrics.at("bad")));
}

TEST(MessageBorder, TextThatIsNoUtf8IsSentWithItsBytesReplaced) {
    const std::string text = encode(RankMessage{SnapshotSkipped{.request = 1, .why = "a\xff z"}});

    const auto decoded = decode_rank_message(text);

    ASSERT_TRUE(decoded.has_value()) << decoded.error().text();
    EXPECT_EQ(std::get<SnapshotSkipped>(*decoded).why, "a\xef\xbf\xbd z");
}

TEST(MessageBorder, AMessageThatIsOnlyBracketsIsRefusedWithoutHarm) {
    const auto decoded = decode_rank_message(std::string(kMessageBytesMax, '['));

    ASSERT_FALSE(decoded.has_value());
    EXPECT_EQ(decoded.error().kind(), ErrorKind::kInvalidArgument);
}

TEST(MessageBorder, AStepOrEpochThatNobodyCountsToIsRefused) {
    const auto ended = [](std::uint64_t step) {
        return encode(RankMessage{EpochEnded{.step = Step{step}}});
    };

    EXPECT_TRUE(decode_rank_message(ended(kCountMax)).has_value());
    for (const std::uint64_t step : {kCountMax + 1, std::uint64_t{1} << 63, ~std::uint64_t{0}}) {
        const auto decoded = decode_rank_message(ended(step));
        ASSERT_FALSE(decoded.has_value()) << step;
        EXPECT_EQ(decoded.error().kind(), ErrorKind::kInvalidArgument);
    }
}

TEST(MessageBorder, TextComesOutOnOneLineAndShort) {
    std::string why = "no\nslot\x1b[2J";
    for (int i = 0; i < 2'000; ++i)
        why += "\u00e4";

    const auto decoded =
        decode_rank_message(encode(RankMessage{SnapshotSkipped{.request = 1, .why = why}}));

    ASSERT_TRUE(decoded.has_value());
    const std::string& text = std::get<SnapshotSkipped>(*decoded).why;
    EXPECT_THAT(text, testing::StartsWith("no slot [2J\u00e4"));
    EXPECT_LE(text.size(), kTextBytesMax);
    EXPECT_THAT(text, testing::EndsWith("\u00e4")) << "not in the middle of a character";
}

TEST(MessageBorder, WhatIsSaidOfRubbishIsShortAndNoRubbishItself) {
    for (const std::string& rubbish :
         {std::string("\xff\xfe\x1b[2J"), "{\"type\": \"\x1b[2J" + std::string(60'000, 'x') + "\"}",
          std::string(R"({"type": "\u001b[2J\u00e4"})"), std::string(60'000, 'y')}) {
        const auto decoded = decode_rank_message(rubbish);

        ASSERT_FALSE(decoded.has_value());
        const std::string text = decoded.error().text();
        EXPECT_LE(text.size(), 300u);
        EXPECT_TRUE(std::ranges::all_of(text, [](char c) { return c >= 0x20 && c < 0x7f; }))
            << text;
    }
}

}  // namespace
}  // namespace pawl::staging
