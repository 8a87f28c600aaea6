// Records and the bytes that stand for them in RocksDB: big-endian keys, JSON values.
//
// Pure: no file, no clock, no RocksDB. Implements docs/formats.md, section "Journal".
//
//   progress      JOB 00 | incarnation u64 | step u64 | kind u8   (0 progress, 1 end of an epoch)
//   incarnations  JOB 00 | incarnation u64
//   checkpoints   JOB 00 | sequence u64
//   events        JOB 00 | number u64
#pragma once

#include "base/result.h"
#include "journal/journal.h"

#include <cstdint>
#include <string>
#include <string_view>

namespace pawl::journal {

inline constexpr std::uint64_t kFormatVersion = 1;

// A job's name stands before a zero byte in every key: not empty, and without a zero byte.
Result<void> check_job_name(const std::string& job);

// All keys of a job, and of no other, lie in [begin, end).
struct KeyRange {
    std::string begin;
    std::string end;
};
[[nodiscard]] KeyRange keys_of(const std::string& job);

[[nodiscard]] std::string key_of(const std::string& job, const ProgressRecord& record);
[[nodiscard]] std::string key_of(const std::string& job, const IncarnationRecord& record);
[[nodiscard]] std::string key_of(const std::string& job, const CheckpointRecord& record);
[[nodiscard]] std::string key_of(const std::string& job, const EventRecord& record);

// Of a key in `progress`.
[[nodiscard]] bool is_epoch_end(std::string_view progress_key);

// Texts that are no UTF-8 (a trainer's output may be anything) have U+FFFD where they are not.
[[nodiscard]] std::string encode(const ProgressRecord& record);
[[nodiscard]] std::string encode(const IncarnationRecord& record);
[[nodiscard]] std::string encode(const CheckpointRecord& record);
[[nodiscard]] std::string encode(const EventRecord& record);

// kCorrupt, with the field's name, for what is no such record; unknown fields are ignored.
template <class Record>
[[nodiscard]] Result<Record> decode(std::string_view value);
template <>
Result<ProgressRecord> decode<ProgressRecord>(std::string_view value);
template <>
Result<IncarnationRecord> decode<IncarnationRecord>(std::string_view value);
template <>
Result<CheckpointRecord> decode<CheckpointRecord>(std::string_view value);
template <>
Result<EventRecord> decode<EventRecord>(std::string_view value);

// The values of `jobs` and of meta's "format".
[[nodiscard]] std::string encode_job(WallTime first_seen);
[[nodiscard]] std::string encode_format(std::uint64_t version);
[[nodiscard]] Result<std::uint64_t> decode_format(std::string_view value);

}  // namespace pawl::journal
