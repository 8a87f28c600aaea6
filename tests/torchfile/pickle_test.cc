// The pickle writer and reader against each other, and the reader against hostile pickles.
// Against PyTorch: torch_interop_test.py.
#include "torchfile/pickle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

namespace pawl::torchfile {
namespace {

using namespace std::string_literals;
using testing::HasSubstr;

Dict dict_of(std::vector<std::pair<Value, Value>> items) {
    Dict dict;
    dict.items = std::move(items);
    return dict;
}

// A document of one storage of 24 float32.
Document document_of(Value root) {
    return {.root = std::move(root), .storages = {{.key = "0", .elements = 24}}};
}

std::vector<std::byte> pickle_of(std::string_view text) {
    const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
    return {bytes.begin(), bytes.end()};
}

Result<Document> read_text(std::string_view text) {
    return read_pickle(pickle_of(text));
}

std::string text_of(const Document& document) {
    const auto pickle = write_pickle(document).value();
    std::string text;
    for (const std::byte byte : pickle)
        text += static_cast<char>(byte);
    return text;
}

// The opcodes of a tensor of shape (2,) on a storage of `elements` float32.
std::string tensor_opcodes(char elements, const std::string& hooks_and_more = "}") {
    return "ctorch._utils\n_rebuild_tensor_v2\n(("s + "X\x07\0\0\0storagectorch\nFloatStorage\n"s +
           "X\x01\0\0\0"s + "0X\x03\0\0\0"s + "cpuK"s + elements + "tQK\0K\x02\x85K\x01\x85\x89"s +
           hooks_and_more + "tR"s;
}

TEST(Pickle, ReadsBackEveryKindOfValueThatItWrites) {
    const Value rows[] = {
        None{},
        true,
        false,
        0,
        255,
        256,
        65535,
        65536,
        -1,
        std::numeric_limits<std::int32_t>::min(),
        std::int64_t{1} << 31,
        std::numeric_limits<std::int64_t>::min(),
        std::numeric_limits<std::int64_t>::max(),
        0.1,
        -0.0,
        std::numeric_limits<double>::infinity(),
        "",
        "gr\xc3\xbc\xc3\x9f dich",
        List{},
        List{{1, List{{"x"}}}},
        Tuple{},
        Tuple{{1}},
        Tuple{{1, 2}},
        Tuple{{1, 2, 3}},
        Tuple{{1, 2, 3, 4}},
        Dict{},
        dict_of({{"a", 1}, {7, "seven"}, {2.5, None{}}, {false, true}}),
        Dict{.items = {{"weight", 1}}, .is_ordered_dict = true},
        Tensor{.storage = 0},
        Tensor{.storage = 0, .offset = 2, .shape = {2, 3}, .stride = {4, 1}, .requires_grad = true},
        Tensor{.storage = 0, .offset = 0, .shape = {4, 0}, .stride = {1, 1}},
        Tensor{.storage = 0, .offset = 5, .shape = {1000}, .stride = {0}},
    };
    for (const Value& row : rows) {
        const Document document = document_of(List{{row, Tensor{.storage = 0}}});

        const auto pickle = write_pickle(document);
        ASSERT_TRUE(pickle) << row.type_name() << pickle.error().text();
        const auto read = read_pickle(*pickle);

        ASSERT_TRUE(read) << row.type_name() << ": " << read.error().text();
        EXPECT_EQ(*read, document) << row.type_name();
    }
}

TEST(Pickle, KeepsNotANumber) {
    const auto read = read_pickle(write_pickle(document_of(std::nan(""))).value());

    ASSERT_TRUE(read) << read.error().text();
    EXPECT_TRUE(std::isnan(*read->root.get_if<double>()));
}

TEST(Pickle, KeepsTwoViewsOfOneStorageOnOneStorage) {
    Document document =
        document_of(List{{Tensor{.storage = 0, .offset = 0, .shape = {4}, .stride = {1}},
                          Tensor{.storage = 0, .offset = 4, .shape = {4}, .stride = {1}}}});

    const auto read = read_pickle(write_pickle(document).value());

    ASSERT_TRUE(read) << read.error().text();
    EXPECT_EQ(*read, document);
}

TEST(Pickle, FetchesMoreThan256StringsFromTheMemo) {
    List list;
    for (int round = 0; round < 2; ++round) {
        for (int index = 0; index < 400; ++index)
            list.items.emplace_back(fmt::format("key {}", index));
    }
    const Document document{.root = std::move(list), .storages = {}};

    const auto pickle = write_pickle(document).value();
    const auto read = read_pickle(pickle);

    ASSERT_TRUE(read) << read.error().text();
    EXPECT_EQ(*read, document);
    EXPECT_LT(pickle.size(), 400U * (5 + 7 + 5) + 400U * 5);
}

TEST(PickleWriter, RefusesWhatPythonCouldNotHold) {
    Value deep = 1;
    for (int level = 0; level < 300; ++level)
        deep = List{{std::move(deep)}};
    const std::pair<Value, std::string_view> rows[] = {
        {Tensor{.storage = 1}, "names storage 1"},
        {Tensor{.storage = 0, .shape = {25}, .stride = {1}}, "beyond its storage"},
        {Tensor{.storage = 0, .offset = 24}, "beyond its storage"},
        {Tensor{.storage = 0, .offset = -1}, "offset -1"},
        {Tensor{.storage = 0, .shape = {2}}, "1 dimensions but 0 strides"},
        {Tensor{.storage = 0, .shape = {-1}, .stride = {1}}, "size -1"},
        {Tensor{.storage = 0, .shape = {std::int64_t{1} << 40}, .stride = {std::int64_t{1} << 40}},
         "beyond its storage"},
        {Tensor{.storage = 0, .dtype = DType::kInt32},
         "a tensor of int32 lies in a storage of float32"},
        {Tensor{.storage = 0, .is_conjugate = true}, "a tensor of float32 is conjugated"},
        {dict_of({{List{}, 1}}), "a list cannot be a key"},
        {dict_of({{Tuple{{Dict{}}}, 1}}), "a tuple cannot be a key"},
        {dict_of({{Set{}, 1}}), "a set cannot be a key"},
        {dict_of({{std::nan(""), 1}}), "a float cannot be a key"},
        {Set{.items = {List{}}}, "a list cannot be an item of a set"},
        {Set{.items = {1, 1.0}}, "'1' is an item of a set twice"},
        {dict_of({{"a", 1}, {"a", 2}}), "'a' is a key of a dict twice"},
        {dict_of({{1, 1}, {true, 2}}), "'1' is a key of a dict twice"},
        {dict_of({{1, 1}, {1.0, 2}}), "'1' is a key of a dict twice"},
        {Dict{.attributes = {{"a", 1}}}, "only an OrderedDict"},
        {Dict{.is_ordered_dict = true, .attributes = {{1, 1}}},
         "cannot be the name of an attribute"},
        {BigInteger{"\x01"}, "not in its shortest form"},
        {NumpyScalar{.type = "f8", .data = "1"}, "a NumPy 'f8' has 1 bytes"},
        {NumpyScalar{.type = "O", .data = "1"}, "a NumPy 'O' has 1 bytes"},
        {"\xff", "is not UTF-8"},
        {std::move(deep), "deeper than"},
    };
    for (const auto& [value, expected] : rows) {
        const auto pickle = write_pickle(document_of(value));

        ASSERT_FALSE(pickle) << expected;
        EXPECT_EQ(pickle.error().kind(), ErrorKind::kInvalidArgument);
        EXPECT_THAT(pickle.error().text(), HasSubstr(std::string(expected)));
    }
}

TEST(PickleWriter, RefusesAnIntegerTensorThatRequiresGradients) {
    Document document = document_of(Tensor{.storage = 0, .requires_grad = true});
    document.storages[0].dtype = DType::kInt64;

    const auto pickle = write_pickle(document);

    ASSERT_FALSE(pickle);
    EXPECT_THAT(pickle.error().text(), HasSubstr("int64 cannot require gradients"));
}

TEST(PickleReader, FillsAContainerThatWasMemoisedBefore) {
    // {'a': [1], 'b': the same list}
    const auto read =
        read_text("\x80\x02}q\0(X\x01\0\0\0aq\x01]q\x02K\x01\x61X\x01\0\0\0bh\x02u."s);

    ASSERT_TRUE(read) << read.error().text();
    EXPECT_EQ(read->root, Value(dict_of({{"a", List{{1}}}, {"b", List{{1}}}})));
}

struct Refused {
    std::string pickle;
    ErrorKind kind;
    std::string message;
};

TEST(PickleReader, RefusesWhatIsNoPlainData) {
    const std::string p = "\x80\x02"s;
    const Refused rows[] = {
        {"", ErrorKind::kCorrupt, "ends too early"},
        {"\x80\x06."s, ErrorKind::kUnsupported, "protocol 6"},
        {"\x80\x01."s, ErrorKind::kUnsupported, "protocol 1"},
        {p + "cos\nsystem\nX\x02\0\0\0ls\x85R."s, ErrorKind::kUnsupported,
         "offset 2: it holds a 'os.system'"},
        {p + "cnumpy\x1b\ncore\n."s, ErrorKind::kUnsupported, "'numpy?.core'"},
        {p + "\x81."s, ErrorKind::kUnsupported, "opcode 0x81"},
        {p + "."s, ErrorKind::kCorrupt, "middle of a value"},
        {p + "NN."s, ErrorKind::kCorrupt, "middle of a value"},
        {p + "N(."s, ErrorKind::kCorrupt, "middle of a value"},
        {p + "N.N"s, ErrorKind::kCorrupt, "before its end"},
        {p + "h\0."s, ErrorKind::kCorrupt, "memo entry 0"},
        {p + "(q\0."s, ErrorKind::kCorrupt, "not there"},
        {p + "N(\x85."s, ErrorKind::kCorrupt, "more than it has put"},
        {p + "Nt."s, ErrorKind::kCorrupt, "mark is missing"},
        {p + "}(Nu."s, ErrorKind::kCorrupt, "no value"},
        {p + "}NNe."s, ErrorKind::kCorrupt, "mark is missing"},
        {p + "}Na."s, ErrorKind::kCorrupt, "no list"},
        {p + "]NNs."s, ErrorKind::kCorrupt, "no dict"},
        {p + "}]Ns."s, ErrorKind::kUnsupported, "key of type list"},
        {p + "}(K\1NK\1Nu."s, ErrorKind::kCorrupt, "key '1' twice"},
        {p + "X\xff\xff\xff\xff"s, ErrorKind::kCorrupt, "ends too early"},
        {p + "X\x01\0\0\0\xff."s, ErrorKind::kCorrupt, "not valid UTF-8"},
        {p + "N)R."s, ErrorKind::kCorrupt, "no function"},
        {p + "}}b."s, ErrorKind::kUnsupported, "no OrderedDict"},
        {p + "ctorch\nFloatStorage\n."s, ErrorKind::kUnsupported, "where a value should"},
        {p + "NQ."s, ErrorKind::kCorrupt, "no storage"},
        {p + tensor_opcodes(1) + "."s, ErrorKind::kCorrupt, "beyond its storage"},
        {p + "("s + tensor_opcodes(4) + tensor_opcodes(5) + "t."s, ErrorKind::kCorrupt,
         "described in two ways"},
        {p + tensor_opcodes(4, "}}X\4\0\0\0conj\x88s"s) + "."s, ErrorKind::kCorrupt, "conjugated"},
        {p + tensor_opcodes(4, "}}X\4\0\0\0zero\x88s"s) + "."s, ErrorKind::kUnsupported,
         "metadata 'zero'"},
        {p + tensor_opcodes(4, "}K\1K\1s"s) + "."s, ErrorKind::kUnsupported, "backward hooks"},
    };
    for (const Refused& row : rows) {
        const auto read = read_text(row.pickle);

        ASSERT_FALSE(read) << row.message;
        EXPECT_EQ(read.error().kind(), row.kind) << read.error().text();
        EXPECT_THAT(read.error().text(), HasSubstr(row.message));
        EXPECT_THAT(read.error().text(), HasSubstr("offset"));
    }
}

TEST(PickleReader, RefusesAListThatContainsItself) {
    const auto read = read_text("\x80\x02]q\0h\0a."s);

    ASSERT_FALSE(read);
    EXPECT_THAT(read.error().text(), HasSubstr("contain themselves"));
}

TEST(PickleReader, RefusesSharingThatWouldFillTheMemory) {
    std::string pickle = "\x80\x02]q\0"s;  // each level is a tuple of twice the level before
    for (char level = 0; level < 100; ++level) {
        pickle += "h"s + level + "h"s + level + "\x86q"s + static_cast<char>(level + 1);
    }
    pickle = pickle.insert(2, "(") + "t.";

    const auto read = read_text(pickle);

    ASSERT_FALSE(read);
    EXPECT_THAT(read.error().text(), HasSubstr("fill the memory"));
}

TEST(PickleReader, RefusesALongStringSharedAThousandTimes) {
    std::string pickle = "\x80\x02(X\0\0\x01\0"s + std::string(65536, 'x') + "q\0"s;
    for (int index = 0; index < 50000; ++index)
        pickle += "h\0"s;
    pickle += "t.";

    const auto read = read_text(pickle);

    ASSERT_FALSE(read);
    EXPECT_THAT(read.error().text(), HasSubstr("fill the memory"));
}

TEST(PickleReader, RefusesDeepNesting) {
    const auto read = read_text("\x80\x02"s + std::string(100000, ')').substr(0, 1) +
                                std::string(100000, '\x85') + "."s);

    ASSERT_FALSE(read);
    EXPECT_THAT(read.error().text(), HasSubstr("deeper than 200"));
}

Document sample() {
    return document_of(dict_of(
        {{"step", 70000},
         {"lr", 0.1},
         {"model", Dict{.items = {{"w", Tensor{.storage = 0, .shape = {2, 3}, .stride = {3, 1}}}},
                        .is_ordered_dict = true}},
         {"betas", Tuple{{0.9, 0.999}}},
         {"big", std::int64_t{1} << 40},
         {"ids", List{{1, 2, None{}, true}}}}));
}

TEST(PickleReader, RefusesAPickleThatIsCutAnywhere) {
    const std::string whole = text_of(sample());
    for (std::size_t length = 0; length < whole.size(); ++length) {
        EXPECT_FALSE(read_text(whole.substr(0, length))) << length;
    }
}

TEST(PickleReader, SurvivesEveryChangeOfASingleByte) {
    const std::string whole = text_of(sample());
    for (std::size_t at = 0; at < whole.size(); ++at) {
        for (int byte = 0; byte < 256; ++byte) {
            std::string changed = whole;
            changed[at] = static_cast<char>(byte);

            const auto read = read_text(changed);

            // What is accepted can be written again: its views lie within their storages.
            if (read && !read->root.get_if<double>()) {
                EXPECT_TRUE(write_pickle(*read)) << at << " " << byte;
            }
        }
    }
}

}  // namespace
}  // namespace pawl::torchfile
