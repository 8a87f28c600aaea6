// Values: types, dicts, equality, and the paths that messages name tensors by.
#include "torchfile/value.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace pawl::torchfile {
namespace {

using testing::ElementsAre;

Dict dict_of(std::vector<std::pair<Value, Value>> items) {
    Dict dict;
    dict.items = std::move(items);
    return dict;
}

TEST(DType, IsFoundAgainByTheNameOfItsStorageClass) {
    for (int index = 0; index <= static_cast<int>(DType::kComplex128); ++index) {
        const auto dtype = static_cast<DType>(index);

        const auto found = dtype_of_storage_class(storage_class_of(dtype));

        EXPECT_EQ(found, dtype) << name_of(dtype);
    }
}

TEST(DType, HasTheSizeThatPyTorchGivesIt) {
    EXPECT_EQ(item_bytes_of(DType::kBool), 1U);
    EXPECT_EQ(item_bytes_of(DType::kBFloat16), 2U);
    EXPECT_EQ(item_bytes_of(DType::kFloat32), 4U);
    EXPECT_EQ(item_bytes_of(DType::kComplex128), 16U);
}

TEST(DType, HasNoStorageClassThatPyTorchLacks) {
    EXPECT_EQ(dtype_of_storage_class("UntypedStorage"), std::nullopt);
}

TEST(Dict, ReplacesTheValueOfAKeyItHas) {
    Dict dict;
    dict.set("step", 1);
    dict.set("epoch", 7);

    dict.set("step", 2);

    EXPECT_EQ(dict, dict_of({{"step", 2}, {"epoch", 7}}));
}

TEST(Dict, FindsStringKeysOnly) {
    const Dict dict = dict_of({{1, "one"}, {"1", "text"}});

    ASSERT_NE(dict.find("1"), nullptr);
    EXPECT_EQ(*dict.find("1"), Value("text"));
    EXPECT_EQ(dict.find("2"), nullptr);
}

TEST(Value, SaysItsTypeAsPythonDoes) {
    const std::pair<Value, std::string_view> rows[] = {
        {None{}, "None"}, {true, "bool"},     {1, "int"},       {1.0, "float"},       {"a", "str"},
        {List{}, "list"}, {Tuple{}, "tuple"}, {Dict{}, "dict"}, {Tensor{}, "tensor"},
    };
    for (const auto& [value, name] : rows)
        EXPECT_EQ(value.type_name(), name);
}

TEST(Value, DiffersFromOneOfAnotherType) {
    EXPECT_NE(Value(1), Value(true));
    EXPECT_NE(Value(1), Value(1.0));
    EXPECT_NE(Value(List{}), Value(Tuple{}));
}

TEST(StoragePaths, NameTheFirstTensorOfEachStorage) {
    Document document;
    document.storages.resize(4);
    const Value model =
        dict_of({{"conv1.weight", Tensor{.storage = 1}}, {"tied.weight", Tensor{.storage = 1}}});
    const Value state = dict_of({{0, dict_of({{"exp_avg", Tensor{.storage = 0}}})}});
    document.root = dict_of({{"model_state_dict", model},
                             {"optimizer_state_dict", dict_of({{"state", state}})},
                             {"rng", Tuple{{None{}, Tensor{.storage = 3}}}}});

    const auto paths = storage_paths(document);

    EXPECT_THAT(paths, ElementsAre("optimizer_state_dict.state[0].exp_avg",
                                   "model_state_dict.conv1.weight", "", "rng[1]"));
}

TEST(StoragePaths, IgnoreTensorsThatNameNoStorage) {
    Document document;
    document.root = Tensor{.storage = 5};

    EXPECT_TRUE(storage_paths(document).empty());
}

}  // namespace
}  // namespace pawl::torchfile
