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
#include "journal/record.h"

#include <cstdint>
#include <optional>
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

// The first number of a key: of its incarnation, checkpoint or event. Nullopt: it is no such key.
[[nodiscard]] std::optional<std::uint64_t> number_in(std::string_view key);

// A place in a family, as text for people and URLs: the key's numbers, "42" or "3.1200.1". The
// cursor "start" is the place before all records.
inline constexpr std::string_view kStartCursor = "start";
enum class KeyShape { kNumber, kProgress };
[[nodiscard]] std::string cursor_of(std::string_view key);
// The least key behind that place. kInvalidArgument for what is no cursor of such keys.
[[nodiscard]] Result<std::string> key_after(const std::string& job, std::string_view cursor,
                                            KeyShape shape);

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

// The words that stand for them in records, in answers and on the command line.
[[nodiscard]] std::string_view name_of(IncarnationState state);
[[nodiscard]] std::string_view name_of(CheckpointState state);
[[nodiscard]] std::string_view name_of(Severity severity);
[[nodiscard]] std::optional<Severity> severity_named(std::string_view name);

// The values of `jobs` and of meta's "format".
[[nodiscard]] std::string encode_job(WallTime first_seen);
[[nodiscard]] std::string encode_format(std::uint64_t version);
[[nodiscard]] Result<std::uint64_t> decode_format(std::string_view value);

}  // namespace pawl::journal
