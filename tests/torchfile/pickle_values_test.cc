// Values that were added to plain dicts and tensors: what the writer writes of them the reader
// reads, and the reader reads Python's opcodes of all protocols. Against PyTorch itself:
// interop_table_test.py.
#include "torchfile/pickle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <string>

namespace pawl::torchfile {
namespace {

using namespace std::string_literals;
using testing::HasSubstr;

Dict dict_of(Items items) {
    Dict dict;
    dict.items = std::move(items);
    return dict;
}

Document document_of(Value root, std::vector<Storage> storages = {}) {
    return {.root = std::move(root), .storages = std::move(storages)};
}

Result<Document> read_text(std::string_view text) {
    return read_pickle(std::as_bytes(std::span(text.data(), text.size())));
}

Result<Document> round_trip(const Document& document) {
    auto pickle = write_pickle(document);
    if (!pickle) return std::move(pickle).error();
    return read_pickle(*pickle);
}

std::size_t occurrences(const Document& document, std::string_view text) {
    const auto pickle = write_pickle(document).value();
    const std::string_view written(reinterpret_cast<const char*>(pickle.data()), pickle.size());
    std::size_t count = 0;
    for (std::size_t at = written.find(text); at != written.npos; at = written.find(text, at + 1))
        ++count;
    return count;
}

TEST(PickleValues, AreReadBackAsTheyWereWritten) {
    const Value rows[] = {
        BigInteger{"\0\0\0\0\0\0\0\x80\0"s},
        BigInteger{"\xff\xff\xff\xff\xff\xff\xff\x7f\xff"},
        BigInteger{std::string(255, 'x')},
        BigInteger{std::string(256, 'x')},
        BigInteger{std::string(70000, 'x')},
        Complex{.real = 1.5, .imaginary = -0.0},
        Bytes{},
        Bytes{.data = "ab\0\x7f\x80\xff"s},
        Bytes{.data = "", .is_bytearray = true},
        Bytes{.data = "\xc3\x28"s, .is_bytearray = true},
        Set{},
        Set{.items = {1, "a", Tuple{{1, "a"}}, None{}, Bytes{.data = "b"}}},
        Set{.items = {}, .is_frozen = true},
        Set{.items = {Set{.items = {1, 2}, .is_frozen = true}, 3}, .is_frozen = true},
        Size{},
        Size{{2, 3, 4, 5}},
        Device{.type = "cpu", .index = std::nullopt},
        Device{.type = "cuda", .index = 7},
        DType::kBFloat16,
        DType::kFloat8E4M3FN,
        NumpyScalar{.type = "f8", .data = "\1\2\3\4\5\6\7\x80"s},
        NumpyScalar{.type = "b1", .data = "\1"},
        Dict{.items = {{"w", 1}},
             .is_ordered_dict = true,
             .attributes = {{"_metadata", Dict{.items = {{"", dict_of({{"version", 1}})}},
                                               .is_ordered_dict = true}}}},
        dict_of({{None{}, 1}, {Tuple{{"beta", 1}}, 2}, {Bytes{.data = "k"}, 3}, {DType::kInt8, 4}}),
        "\xed\xa0\x80",     // U+D800
        "\xed\xb3\xbf.pt",  // U+DCFF: what os.fsdecode makes of the byte 0xff
        "a\nb'\"\\\0\x1b"s,
        std::string(70000, 'x'),
    };
    for (const Value& row : rows) {
        const Document document = document_of(List{{row, row}});

        const auto read = round_trip(document);

        ASSERT_TRUE(read) << row.type_name() << ": " << read.error().text();
        EXPECT_EQ(*read, document) << row.type_name();
    }
}

TEST(PickleValues, KeepEveryBitOfAFloat) {
    const std::uint64_t rows[] = {0x0000000000000000, 0x8000000000000000, 0x7ff0000000000000,
                                  0xfff0000000000000, 0x7ff8000000000000, 0xfff8000000000123,
                                  0x7ff0000000000001, 0x0000000000000001};
    for (const std::uint64_t bits : rows) {
        const auto number = std::bit_cast<double>(bits);

        const auto read = round_trip(document_of(List{{number, Complex{number, number}}}));

        ASSERT_TRUE(read) << read.error().text();
        const List& list = *read->root.get_if<List>();
        EXPECT_EQ(std::bit_cast<std::uint64_t>(*list.items[0].get_if<double>()), bits);
        EXPECT_EQ(std::bit_cast<std::uint64_t>(list.items[1].get_if<Complex>()->real), bits);
        EXPECT_EQ(std::bit_cast<std::uint64_t>(list.items[1].get_if<Complex>()->imaginary), bits);
    }
}

TEST(PickleValues, HoldTensorsOfEveryTypeWithAllThatIsSaidOfThem) {
    for (int index = 0; index <= static_cast<int>(kDTypeLast); ++index) {
        const auto dtype = static_cast<DType>(index);
        Tensor tensor{.storage = 0, .offset = 2, .shape = {2, 3}, .stride = {1, 2}};
        tensor.requires_grad = can_require_grad(dtype);
        tensor.is_conjugate = is_complex(dtype);
        tensor.is_negative = true;
        Tensor parameter = tensor;
        parameter.is_parameter = true;
        Tensor noted = tensor;
        noted.attributes = {{"note", "x"}, {"other", Tensor{.storage = 0}}};
        Tensor noted_parameter = noted;
        noted_parameter.is_parameter = true;
        const Document document =
            document_of(List{{tensor, parameter, noted, noted_parameter}},
                        {{.key = "0", .dtype = dtype, .elements = 9, .location = "cuda:1"}});

        const auto read = round_trip(document);

        ASSERT_TRUE(read) << name_of(dtype) << ": " << read.error().text();
        EXPECT_EQ(*read, document) << name_of(dtype);
    }
}

TEST(PickleValues, OfTwoTypesShareTheBytesThatPyTorchWouldSave) {
    const Document document = document_of(
        List{
            {Tensor{.storage = 0, .shape = {6}, .stride = {1}},
             Tensor{.storage = 0, .offset = 4, .shape = {8}, .stride = {1}, .dtype = DType::kUInt8},
             Tensor{.storage = 0, .offset = 11, .dtype = DType::kFloat8E5M2}}},
        {{.key = "0", .dtype = DType::kUInt16, .elements = 6}});

    const auto read = round_trip(document);

    ASSERT_TRUE(read) << read.error().text();
    EXPECT_EQ(*read, document);
}

TEST(PickleValues, OfTwoTypesMayShareAStorageWithoutBytes) {
    const Tensor empty{.storage = 0, .shape = {0}, .stride = {1}};
    Tensor other = empty;
    other.dtype = DType::kInt32;
    const Document document = document_of(List{{empty, other}}, {{.key = "0", .elements = 0}});

    const auto read = round_trip(document);

    ASSERT_TRUE(read) << read.error().text();
    EXPECT_EQ(*read, document);
}

TEST(PickleValues, OfUntypedBytesThatAreNoWholeElementsKeepTheirBytes) {
    const Document document =
        document_of(Tensor{.storage = 0, .shape = {1}, .stride = {1}, .dtype = DType::kUInt16},
                    {{.key = "0", .dtype = DType::kUInt8, .elements = 3}});

    const auto read = round_trip(document);

    ASSERT_TRUE(read) << read.error().text();
    EXPECT_EQ(*read, document);
}

// ---- one object in several places ----

TEST(PickleObjects, AreWrittenOnceAndSharedAgain) {
    const List inner{.items = {"inner"}, .object = 7};
    const Tensor weight{.storage = 0, .object = 8};
    const Document document =
        document_of(List{{inner, weight, dict_of({{"again", inner}, {"w", weight}})}},
                    {{.key = "0", .elements = 1}});

    const auto read = round_trip(document);

    ASSERT_TRUE(read) << read.error().text();
    EXPECT_EQ(*read, document);
    const List& root = *read->root.get_if<List>();
    const Dict& dict = *root.items[2].get_if<Dict>();
    EXPECT_NE(root.items[0].get_if<List>()->object, 0U);
    EXPECT_EQ(root.items[0].get_if<List>()->object, dict.find("again")->get_if<List>()->object);
    EXPECT_EQ(root.items[1].get_if<Tensor>()->object, dict.find("w")->get_if<Tensor>()->object);
    EXPECT_EQ(occurrences(document, ")R"), 1U);  // the empty OrderedDict of one tensor's hooks
}

TEST(PickleObjects, AreComparedToTheLastBit) {
    const Document document = document_of(List{
        {List{.items = {std::nan("")}, .object = 7}, List{.items = {std::nan("")}, .object = 7},
         List{.items = {0.0}, .object = 8}, List{.items = {-0.0}, .object = 8}}});

    const auto read = round_trip(document);

    ASSERT_TRUE(read) << read.error().text();
    const auto& items = read->root.get_if<List>()->items;
    EXPECT_NE(items[0].get_if<List>()->object, 0U);
    EXPECT_EQ(items[0].get_if<List>()->object, items[1].get_if<List>()->object);
    EXPECT_TRUE(std::signbit(*items[3].get_if<List>()->items[0].get_if<double>()));
}

TEST(PickleObjects, ThatNoLongerAreEqualAreWrittenApart) {
    const Document document =
        document_of(List{{List{.items = {1}, .object = 7}, List{.items = {2}, .object = 7}}});

    const auto read = round_trip(document);

    ASSERT_TRUE(read) << read.error().text();
    EXPECT_EQ(*read, document);
}

TEST(PickleObjects, WithoutANumberAreObjectsOfTheirOwn) {
    const Document document = document_of(List{{List{}, List{}}});

    const auto read = round_trip(document);

    ASSERT_TRUE(read) << read.error().text();
    EXPECT_EQ(read->root.get_if<List>()->items[0].get_if<List>()->object, 0U);
}

// ---- Python's opcodes ----

struct Opcodes {
    std::string pickle;
    Value value;
};

TEST(PickleReader, TakesTheOpcodesOfAllProtocols) {
    const std::string p3 = "\x80\x03"s;
    const std::string p4 = "\x80\x04\x95"s + "\x0b\0\0\0\0\0\0\0"s;
    const std::string p5 = "\x80\x05"s;
    const Opcodes rows[] = {
        {p3 + "C\x02\xff\0."s, Bytes{.data = "\xff\0"s}},
        {p3 + "B\x02\0\0\0ab."s, Bytes{.data = "ab"}},
        {p3 + "\x8e\x02\0\0\0\0\0\0\0ab."s, Bytes{.data = "ab"}},
        {p5 + "\x96\x02\0\0\0\0\0\0\0ab."s, Bytes{.data = "ab", .is_bytearray = true}},
        {p3 + "cbuiltins\nbytearray\nC\x01"s + "a\x85R."s,
         Bytes{.data = "a", .is_bytearray = true}},
        {p4 + "]\x94(\x8c\x01"s + "a\x94h\x01"s + "e.", List{{"a", "a"}}},
        {p3 + "\x8d\x01\0\0\0\0\0\0\0a."s, "a"},
        {p3 + "\x8f\x94(K\1K\2\x90."s, Set{.items = {1, 2}}},
        {p3 + "(K\1K\2\x91."s, Set{.items = {1, 2}, .is_frozen = true}},
        {p3 + "\x8c\x05torch\x8c\x04Size\x93)\x85R."s, Size{}},
        {p3 + "\x8c\x05torch\x8c\x05int32\x93."s, DType::kInt32},
        {p3 + "\x8a\0."s, 0},
        {p3 + "\x8a\1\xff."s, -1},
        {p3 + "\x8a\x09\0\0\0\0\0\0\0\x80\0."s, BigInteger{"\0\0\0\0\0\0\0\x80\0"s}},
        {p3 + "\x8a\x0a\0\0\0\0\0\0\0\x80\0\0."s, BigInteger{"\0\0\0\0\0\0\0\x80\0"s}},
        {p3 + "\x8a\x09\xfe\xff\xff\xff\xff\xff\xff\xff\xff."s, -2},
        {p3 + "\x8b\x02\0\0\0\xff\x7f."s, 32767},
        {p3 + "U\x02hi."s, "hi"},
        {"\x80\x02"
         "c__builtin__\nbytes\n)R."s,
         Bytes{}},
        {"\x80\x02"
         "c__builtin__\nset\n](K\1e\x85R."s,
         Set{.items = {1}}},
        {"\x80\x02"
         "ctorch\ndevice\nX\x04\0\0\0cudaK\1\x86R."s,
         Device{.type = "cuda", .index = 1}},
        {"\x80\x02"
         "ccollections\nOrderedDict\n)R}X\x09\0\0\0_metadataK\x01sb."s,
         Dict{.is_ordered_dict = true, .attributes = {{"_metadata", 1}}}},
    };
    for (const Opcodes& row : rows) {
        const auto read = read_text(row.pickle);

        ASSERT_TRUE(read) << row.value.type_name() << ": " << read.error().text();
        EXPECT_EQ(read->root, row.value) << row.value.type_name();
    }
}

TEST(PickleReader, NamesTheGlobalThePlaceAndWhatToDo) {
    const std::string p = "\x80\x02"s;
    const std::string sparse = "ctorch._utils\n_rebuild_sparse_tensor\n"s;
    const auto text = [](std::string_view word) {
        return "X"s + static_cast<char>(word.size()) + "\0\0\0"s + std::string(word);
    };
    const struct {
        std::string pickle;
        std::string place;
    } rows[] = {
        {p + "}" + text("model") + "}(" + text("a") + "N" + text("w") + sparse, "'model.w' holds"},
        {p + "}(" + text("a") + "K\1" + text("opt") + "](K\1K\2}" + text("s") + sparse,
         "'opt[2].s' holds"},
        {p + "]q\0(K\1K\2"s + sparse, "'[2]' holds"},
        {p + "}(K\7" + sparse, "'[7]' holds"},
        {p + "}(" + text("a\x1b\n") + sparse, "'a\\x1b\\n' holds"},
        {p + sparse, "it holds"},
    };
    for (const auto& row : rows) {
        const auto read = read_text(row.pickle);

        ASSERT_FALSE(read);
        EXPECT_EQ(read.error().kind(), ErrorKind::kUnsupported);
        EXPECT_THAT(read.error().text(), HasSubstr(row.place));
        EXPECT_THAT(read.error().text(), HasSubstr("torch._utils._rebuild_sparse_tensor"));
        EXPECT_THAT(read.error().text(), HasSubstr("x.to_dense()"));
    }
}

TEST(PickleReader, AdvisesHowToSaveATensorSubclass) {
    const auto read = read_text(
        "\x80\x02"
        "ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\nc__main__\nMine\n"s);

    ASSERT_FALSE(read);
    EXPECT_THAT(read.error().text(), HasSubstr("'__main__.Mine'"));
    EXPECT_THAT(read.error().text(), HasSubstr("x.as_subclass(torch.Tensor)"));
}

}  // namespace
}  // namespace pawl::torchfile
