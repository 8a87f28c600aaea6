// What pickle_writer.cc and pickle_reader.cc agree on: opcodes and limits. Private to torchfile.
// Opcodes and their meaning: Python's Lib/pickletools.py.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pawl::torchfile {

enum class Opcode : std::uint8_t {
    kProto = 0x80,
    kFrame = 0x95,
    kMark = '(',
    kStop = '.',
    kNone = 'N',
    kNewTrue = 0x88,
    kNewFalse = 0x89,
    kBinInt = 'J',
    kBinInt1 = 'K',
    kBinInt2 = 'M',
    kLong1 = 0x8a,
    kLong4 = 0x8b,
    kBinFloat = 'G',
    kShortBinUnicode = 0x8c,
    kBinUnicode = 'X',
    kBinUnicode8 = 0x8d,
    kShortBinString = 'U',
    kShortBinBytes = 'C',
    kBinBytes = 'B',
    kBinBytes8 = 0x8e,
    kByteArray8 = 0x96,
    kEmptyList = ']',
    kEmptyTuple = ')',
    kEmptyDict = '}',
    kEmptySet = 0x8f,
    kTuple = 't',
    kTuple1 = 0x85,
    kTuple2 = 0x86,
    kTuple3 = 0x87,
    kAppend = 'a',
    kAppends = 'e',
    kSetItem = 's',
    kSetItems = 'u',
    kAddItems = 0x90,
    kFrozenSet = 0x91,
    kBinPut = 'q',
    kLongBinPut = 'r',
    kMemoize = 0x94,
    kBinGet = 'h',
    kLongBinGet = 'j',
    kGlobal = 'c',
    kStackGlobal = 0x93,
    kReduce = 'R',
    kBuild = 'b',
    kBinPersId = 'Q',
};

inline constexpr std::uint8_t kPickleProtocol = 2;  // written
inline constexpr std::uint8_t kPickleProtocolMax = 5;
// Of lists, tuples, sets and dicts within one another. Real files need about ten.
inline constexpr std::size_t kNestingMax = 200;

}  // namespace pawl::torchfile
