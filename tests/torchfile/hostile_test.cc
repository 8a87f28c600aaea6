// Files made to do harm, and files damaged at random: refused with a message, or read as what they
// are, in bounded time and memory. tests/fuzz looks for more of them.
#include "torchfile/archive.h"
#include "torchfile/pickle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

namespace pawl::torchfile {
namespace {

using namespace std::string_literals;
using testing::AnyOf;
using testing::HasSubstr;

std::string little(std::uint64_t value, std::size_t bytes) {
    std::string text;
    for (std::size_t index = 0; index < bytes; ++index)
        text += index < sizeof value ? static_cast<char>((value >> (8 * index)) & 0xff) : '\0';
    return text;
}

// A zip by hand: every field can lie.
struct Entry {
    std::string name;
    std::string data;
    std::uint64_t header_offset = 0;  // where the local header really is; filled in
    std::string local_name = {};      // another one than the directory's
};

struct HandMade {
    std::string local;
    std::vector<Entry> entries;

    void add(Entry entry) {
        const std::string& name = entry.local_name.empty() ? entry.name : entry.local_name;
        entry.header_offset = local.size();
        local += "PK\3\4" + little(20, 2) + little(0, 2) + little(0, 2) + little(0, 8) +
                 little(entry.data.size(), 4) + little(entry.data.size(), 4) +
                 little(name.size(), 2) + little(0, 2) + name + entry.data;
        entries.push_back(std::move(entry));
    }

    [[nodiscard]] static std::string central(const Entry& entry, const std::string& extra = "",
                                             std::uint64_t bytes_field = ~0ULL) {
        const std::uint64_t bytes = bytes_field == ~0ULL ? entry.data.size() : bytes_field;
        return "PK\1\2" + little(20, 2) + little(20, 2) + little(0, 2) + little(0, 2) +
               little(0, 8) + little(bytes, 4) + little(bytes, 4) + little(entry.name.size(), 2) +
               little(extra.size(), 2) + little(0, 10) + little(entry.header_offset, 4) +
               entry.name + extra;
    }

    [[nodiscard]] std::string directory() const {
        std::string text;
        for (const Entry& entry : entries)
            text += central(entry);
        return text;
    }

    [[nodiscard]] std::string finish(const std::string& directory, std::uint64_t count) const {
        return local + directory + "PK\5\6" + little(0, 4) + little(count, 2) + little(count, 2) +
               little(directory.size(), 4) + little(local.size(), 4) + little(0, 2);
    }
    [[nodiscard]] std::string finish() const { return finish(directory(), entries.size()); }
};

HandMade sound() {
    HandMade zip;
    zip.add({.name = "a/data.pkl", .data = "\x80\x02N."s});
    zip.add({.name = "a/version", .data = "3\n"});
    return zip;
}

Result<Archive> read_text(const std::string& content) {
    return read_archive(MemorySource(std::as_bytes(std::span(content))));
}

TEST(HandMadeZip, IsReadWhenItIsSound) {
    const auto archive = read_text(sound().finish());

    ASSERT_TRUE(archive) << archive.error().text();
    EXPECT_EQ(archive->document.root, Value(None{}));
}

TEST(HandMadeZip, MayHaveAnyNameForItsFolder) {
    HandMade zip;
    zip.add({.name = "we'ird\n\x1b\"/data.pkl", .data = "\x80\x02N."s});

    const std::string content = zip.finish();
    const auto archive = read_text(content);
    const auto directory = read_directory(MemorySource(std::as_bytes(std::span(content))));

    ASSERT_TRUE(archive) << archive.error().text();
    ASSERT_TRUE(directory) << directory.error().text();
    EXPECT_EQ(directory->records[0].name, "we'ird\\n\\x1b\"/data.pkl");
}

TEST(HandMadeZip, IsRefusedWhenItsDirectoryLies) {
    struct Row {
        std::string what;
        std::string content;
        std::string message;
    };
    std::vector<Row> rows;
    const auto add = [&rows](std::string what, std::string content, std::string message) {
        rows.push_back({std::move(what), std::move(content), std::move(message)});
    };
    HandMade zip = sound();
    zip.entries.push_back(zip.entries[1]);
    add("one record twice", zip.finish(), "overlap");

    zip = sound();
    zip.add({.name = "a/version", .data = "4\n"});
    add("two records of one name", zip.finish(), "two records 'a/version'");

    zip = sound();
    zip.add({.name = "b/version", .data = "3\n"});
    add("two folders", zip.finish(), "not in the folder 'a/'");

    zip = sound();
    zip.entries[1].header_offset = zip.entries[0].header_offset + 1;
    add("a header within another record", zip.finish(), "overlap");

    zip = sound();
    zip.entries[1].header_offset = zip.local.size() + 4;
    add("a header within the directory", zip.finish(), "beyond the directory");

    // An entry whose header would be the entry itself.
    zip = sound();
    zip.entries[0].header_offset = zip.local.size();
    add("an entry that points at itself", zip.finish(), "beyond the directory");

    // A record that contains the next one whole: a zip bomb without compression.
    zip = HandMade();
    zip.add({.name = "a/data.pkl", .data = "\x80\x02N."s});
    zip.entries[0].data += std::string(40, 'x');
    zip.local += "PK\3\4" + std::string(40, 'x');
    zip.add({.name = "a/version", .data = "3\n"});
    add("a record around another", zip.finish(), "contradicts");

    zip = sound();
    zip.add({.name = "a/data/0", .data = "1234", .local_name = "a/data/1"});
    add("another name in the header", zip.finish(), "contradicts");

    zip = sound();
    const std::string directory = zip.directory();
    const std::string lie =
        little(1, 2) + little(16, 2) + little(1ULL << 60, 8) + little(1ULL << 60, 8);
    add("zip64 sizes beyond the file",
        zip.finish(
            HandMade::central(zip.entries[0], lie, 0xffffffff) + HandMade::central(zip.entries[1]),
            2),
        "contradicts");

    add("zip64 values that are missing",
        zip.finish(
            HandMade::central(zip.entries[0], "", 0xffffffff) + HandMade::central(zip.entries[1]),
            2),
        "lacks a value");

    add("65,534 entries", zip.finish(directory, 65534), "cannot have 65534 entries");
    add("no entries", zip.finish(directory, 0), "cannot have 0 entries");
    add("an entry too few", zip.finish(directory, 1), "follow the last directory entry");

    zip = sound();
    const std::string whole = zip.finish();
    const std::string locator =
        "PK\6\7" + little(0, 4) + little(whole.size() * 2, 8) + little(1, 4);
    std::string content = whole;
    content.insert(content.size() - 22, locator);
    add("a zip64 locator to beyond the end", content, "points to");

    for (const Row& row : rows) {
        const auto archive = read_text(row.content);

        ASSERT_FALSE(archive) << row.what;
        EXPECT_EQ(archive.error().kind(), ErrorKind::kCorrupt) << row.what;
        EXPECT_THAT(archive.error().text(), HasSubstr(row.message)) << row.what;
    }
}

// ---- pickles that would fill memory or time ----

Result<Document> read_pickle_text(const std::string& text) {
    return read_pickle(std::as_bytes(std::span(text)));
}

TEST(HostilePickle, IsRefusedInBoundedTimeAndMemory) {
    const std::string p = "\x80\x02"s;
    std::string doubling = p + "K\1\x85q\0"s;  // each level is a tuple of twice the level before
    for (char level = 0; level < 60; ++level)
        doubling += "h"s + level + "h"s + level + "\x86q"s + static_cast<char>(level + 1);
    std::string lists = p + "]q\0"s;
    for (char level = 0; level < 60; ++level)
        lists += "](h"s + level + "h"s + level + "eq"s + static_cast<char>(level + 1);
    // Of memo entries that a hash table would put into one place.
    std::string memo = p + "]";
    for (std::uint32_t index = 0; index < 50000; ++index)
        memo += "r"s + little(0x10000U + index * 62233U, 4);
    std::string sets = p;
    for (int level = 0; level < 300; ++level)
        sets += "(";
    sets += "N" + std::string(300, '\x91');
    std::string attributes = p + "ccollections\nOrderedDict\nq\0)Rq\1}X\1\0\0\0xh\1sb."s;
    const struct {
        std::string pickle;
        std::string message;
    } rows[] = {
        {doubling + "(" + std::string("h\x3c", 2) + "t.", "middle of a value"},
        {doubling + ".", "middle of a value"},
        {p + "(" + doubling.substr(2) + "t.", "fill the memory"},
        {p + "(" + lists.substr(2) + "t.", "fill the memory"},
        {memo + "N.", "middle of a value"},
        {sets + ".", "deeper than"},
        {attributes, "contain themselves"},
        {p + "]q\0](h\0h\0h\0h\0eh\0a."s, "middle of a value"},
        {p + "]q\0(h\0h\0h\0h\0e."s, "contain themselves"},
        {p + "}q\0X\1\0\0\0ah\0s."s, "contain themselves"},
        {p + std::string(1000000, '(') + ".", "middle of a value"},
        {p + std::string(1000000, ']') + ".", "middle of a value"},
        {p + "X\xff\xff\xff\xff", "4294967295 bytes are to follow"},
        {p + "\x8d\xff\xff\xff\xff\xff\xff\xff\xff"s, "bytes are to follow"},
        {p + "\x8b\xff\xff\xff\xff"s, "bytes are to follow"},
        {p + "\x96\0\0\0\0\0\0\0\x80"s, "bytes are to follow"},
        {"\x80\x04\x95\0\0\0\0\0\0\0\x01N."s, "a frame reaches beyond its end"},
        {p + "c" + std::string(100000, 'x'), "within a name"},
        {p + "c" + std::string(100000, 'x') + "\ny\n.", "a name has 100000 bytes"},
        {p + "r\xff\xff\xff\xff."s, "not there"},
        {p + "j\xff\xff\xff\xff."s, "memo entry 4294967295"},
        {p + "N\x93."s, "more than it has put"},
        {p + "NN\x93."s, "a global has no name"},
        {p + "N\x90."s, "a mark is missing"},
        {p + "N(\x90."s, "no set"},
        {p + "(\x91(N\x90."s, "no set"},
        {p + "\x8f(]\x90."s, "an item of type list"},
        {p + "\x8f(K\1\x88\x90."s, "the item '1' twice"},
        {p + "c_codecs\nencode\nX\2\0\0\0\xc4\x80X\6\0\0\0latin1\x86R."s, "other than Latin-1"},
        {p + "c_codecs\nencode\nX\1\0\0\0aX\5\0\0\0utf-8\x86R."s, "other than Latin-1"},
        {p + "cbuiltins\ncomplex\nK\1K\2\x86R."s, "no pair of floats"},
        {p + "cbuiltins\nset\nN\x85R."s, "no list"},
        {p + "cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."s, "no bytes"},
        {p + "ctorch\nSize\n(NNt\x85R."s, "no tuple of ints"},
        {p + "ctorch\ndevice\nK\1\x85R."s, "other types"},
        {p + "ctorch\nTensor\n)R."s, "no function"},
        {p + "cnumpy\ndtype\nX\2\0\0\0O8\x89\x88\x87R."s, "a NumPy type 'O8' is not read"},
        {p + "cnumpy\ndtype\nX\2\0\0\0f8\x89\x88\x87R(K\3X\1\0\0\0>tb."s, "byte order '>'"},
        {p + "cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\2\0\0\0f8\x89\x88\x87R(K\3X\1\0\0\0<tb"s +
             "C\1a\x86R."s,
         "another size than its type"},
    };
    for (const auto& row : rows) {
        const auto read = read_pickle_text(row.pickle);

        ASSERT_FALSE(read) << row.message;
        EXPECT_THAT(read.error().text(), HasSubstr(row.message)) << row.pickle.substr(0, 60);
        EXPECT_THAT(read.error().text(), HasSubstr("at offset"));
    }
}

// ---- damage by chance ----

// One of everything, small.
Document sample() {
    Document document;
    document.storages = {{.key = "0", .dtype = DType::kFloat32, .elements = 6},
                         {.key = "1", .dtype = DType::kUInt16, .elements = 4},
                         {.key = "2", .dtype = DType::kComplex64, .elements = 2}};
    const List shared{.items = {1, "x"}, .object = 5};
    Tensor noted{.storage = 0, .shape = {2, 3}, .stride = {3, 1}, .requires_grad = true};
    noted.attributes = {{"note", 1}};
    Tensor parameter = noted;
    parameter.is_parameter = true;
    Dict root;
    root.set("noted", noted);
    root.set("parameter", parameter);
    root.set("view", Tensor{.storage = 1, .offset = 1, .shape = {3}, .stride = {1}});
    root.set("conj", Tensor{.storage = 2, .shape = {2}, .stride = {1}, .is_conjugate = true});
    root.set("shared", List{{shared, shared}});
    root.set("numbers",
             Tuple{{1, 70000, -1, 0.5, true, None{}, Complex{1, 2}, BigInteger{"123456789"}}});
    root.set("bytes", List{{Bytes{.data = "\xff"}, Bytes{.data = "a", .is_bytearray = true}}});
    root.set("sets", List{{Set{.items = {1}}, Set{.items = {2}, .is_frozen = true}, Set{}}});
    root.set("torch", List{{Size{{1}}, Device{.type = "cuda", .index = 1}, DType::kInt8,
                            NumpyScalar{.type = "i1", .data = "a"}}});
    root.set(
        "ordered",
        Dict{.items = {{1, 2}}, .is_ordered_dict = true, .attributes = {{"_metadata", None{}}}});
    document.root = std::move(root);
    return document;
}

std::string image_of(const Document& document) {
    const ImagePlan plan = plan_image(document, "archive").value();
    std::vector<std::byte> image(plan.bytes);
    lay_out(plan, image);
    EXPECT_TRUE(fill_crcs(image));
    return {reinterpret_cast<const char*>(image.data()), image.size()};
}

std::string pickle_of(const Document& document) {
    const auto pickle = write_pickle(document).value();
    return {reinterpret_cast<const char*>(pickle.data()), pickle.size()};
}

TEST(DamagedFile, IsRefusedWhereverItIsCut) {
    const std::string whole = image_of(sample());
    for (std::size_t length = 0; length < whole.size(); ++length) {
        const auto archive = read_text(whole.substr(0, length));

        ASSERT_FALSE(archive) << length;
        EXPECT_THAT(archive.error().kind(), AnyOf(ErrorKind::kCorrupt, ErrorKind::kUnsupported));
    }
}

TEST(DamagedPickle, IsRefusedWhereverItIsCut) {
    const std::string whole = pickle_of(sample());
    for (std::size_t length = 0; length < whole.size(); ++length)
        ASSERT_FALSE(read_pickle_text(whole.substr(0, length))) << length;
}

TEST(DamagedPickle, ThatIsReadCanBeWrittenAndReadAgain) {
    const std::string whole = pickle_of(sample());
    for (std::size_t at = 0; at < whole.size(); ++at) {
        for (int byte = 0; byte < 256; byte += 5) {
            std::string changed = whole;
            changed[at] = static_cast<char>(byte);

            const auto read = read_pickle_text(changed);

            if (!read) continue;
            const auto written = write_pickle(*read);
            // Only a tensor of integers that requires gradients is taken and cannot be written.
            if (!written) {
                EXPECT_THAT(written.error().text(), HasSubstr("cannot require gradients"));
                continue;
            }
            EXPECT_TRUE(read_pickle(*written)) << at << " " << byte;
        }
    }
}

TEST(DamagedFile, OfThreeThousandSeedsIsRefusedOrRead) {
    const std::string whole = image_of(sample());
    int refused = 0;
    for (unsigned seed = 0; seed < 3000; ++seed) {
        SCOPED_TRACE(seed);
        std::mt19937 random(seed);
        const auto below = [&random](std::size_t limit) { return random() % limit; };
        std::string changed = whole;
        for (std::size_t change = 0; change <= below(4); ++change) {
            const std::size_t at = below(changed.size());
            const std::size_t bytes = std::min(changed.size() - at, below(16) + 1);
            switch (below(5)) {
                case 0:
                    changed[at] = static_cast<char>(random());
                    break;
                case 1:
                    changed[at] = static_cast<char>(changed[at] ^ (1 << below(8)));
                    break;
                case 2:
                    changed.erase(at, bytes);
                    break;
                case 3:
                    changed.insert(at, changed.substr(below(changed.size()), bytes));
                    break;
                default:
                    std::fill_n(changed.begin() + static_cast<std::ptrdiff_t>(at), bytes,
                                below(2) == 0 ? '\0' : '\xff');
                    break;
            }
        }

        const auto archive = read_text(changed);

        if (!archive) {
            ++refused;
            continue;
        }
        for (const Extent& extent : archive->storages)
            EXPECT_LE(extent.offset + extent.bytes, changed.size());
    }
    EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace pawl::torchfile
