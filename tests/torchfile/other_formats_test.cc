// What people call a checkpoint and is none of torch.save's archives: recognised, with advice.
#include "torchfile/archive.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace pawl::torchfile {
namespace {

using namespace std::string_literals;
using testing::HasSubstr;

Result<Archive> read_text(const std::string& content) {
    return read_archive(MemorySource(std::as_bytes(std::span(content))));
}

std::string little(std::uint64_t value, std::size_t bytes) {
    std::string text;
    for (std::size_t index = 0; index < bytes; ++index)
        text += index < sizeof value ? static_cast<char>((value >> (8 * index)) & 0xff) : '\0';
    return text;
}

// A stored or compressed zip of empty records with these names.
std::string zip_of(const std::vector<std::string>& names, int method) {
    std::string local;
    std::string central;
    for (const std::string& name : names) {
        const std::string common = little(20, 2) + little(0, 2) +
                                   little(static_cast<std::uint64_t>(method), 2) + little(0, 16) +
                                   little(name.size(), 2) + little(0, 2);
        central +=
            "PK\1\2" + little(20, 2) + common + little(0, 10) + little(local.size(), 4) + name;
        local += "PK\3\4" + common + name;
    }
    return local + central + "PK\5\6" + little(0, 4) + little(names.size(), 2) +
           little(names.size(), 2) + little(central.size(), 4) + little(local.size(), 4) +
           little(0, 2);
}

TEST(OtherFormats, AreRecognisedAndRefusedWithAdvice) {
    const std::string magic_number = "\x8a\x0al\xfc\x9c\x46\xf9\x20j\xa8P\x19."s;
    const std::string header = R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
    const struct {
        std::string content;
        std::string_view format;
        std::string_view what_to_do;
    } rows[] = {
        {"\x80\x02" + magic_number, "before 1.6", "torch.save"},
        {"\x80\x04\x95\x0d\0\0\0\0\0\0\0"s + magic_number, "before 1.6", "torch.save"},
        {std::string(257, 'x') + "ustar" + std::string(300, '\0'), "tar archive", "torch.save"},
        {"\x80\x02}q\0."s, "plain pickle", "pickle.load"},
        {"\x80\x05\x95\1\0\0\0\0\0\0\0N."s, "plain pickle", "pickle.load"},
        {little(header.size(), 8) + header + "abcd", "safetensors", "load_file"},
        {"\x89HDF\r\n\x1a\n\0\0\0"s, "HDF5", "h5py"},
        {"\x1f\x8b\x08\0\0\0"s, "gzip", "Unpack"},
        {"\x28\xb5\x2f\xfd\0\0"s, "zstd", "Unpack"},
        {"BZh91AY&SY", "bzip2", "Unpack"},
        {"\x93NUMPY\1\0v\0"s, ".npy", "from_numpy"},
        {"GGUF\3\0\0\0"s, "GGUF", "converted"},
        {"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS", "git lfs pull"},
        {"<!DOCTYPE html>\n<html>404</html>", "text", "error page"},
        {zip_of({"m/data.pkl", "m/code/__torch__.py", "m/constants.pkl"}, 8), "TorchScript",
         "torch.jit.load"},
        {zip_of({"m/data.pkl", "m/constants.pkl"}, 0), "TorchScript", "torch.jit.load"},
        {zip_of({"arr_0.npy"}, 8), ".npz", "numpy.load"},
        {zip_of({}, 0), "empty zip", "nothing"},
    };
    for (const auto& row : rows) {
        const auto archive = read_text(row.content);

        ASSERT_FALSE(archive) << row.format;
        EXPECT_EQ(archive.error().kind(), ErrorKind::kUnsupported) << archive.error().text();
        EXPECT_THAT(archive.error().text(), HasSubstr(std::string(row.format)));
        EXPECT_THAT(archive.error().text(), HasSubstr(std::string(row.what_to_do)));
    }
}

TEST(OtherFormats, AreNotWhatIsSimplyDamaged) {
    const struct {
        std::string content;
        std::string_view message;
    } rows[] = {
        {"", "is empty"},
        {std::string(4096, '\0'), "begins with zeros"},
        {"\xde\xad\xbe\xef\xde\xad\xbe\xef\xde\xad\xbe\xef", "does not begin as a zip"},
        {"PK\3\4" + std::string(100, 'x'), "no zip end record"},
        {"PK\3\4", "4 bytes"},
    };
    for (const auto& row : rows) {
        const auto archive = read_text(row.content);

        ASSERT_FALSE(archive);
        EXPECT_EQ(archive.error().kind(), ErrorKind::kCorrupt) << archive.error().text();
        EXPECT_THAT(archive.error().text(), HasSubstr(std::string(row.message)));
    }
}

}  // namespace
}  // namespace pawl::torchfile
