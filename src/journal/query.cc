// See query.h.
#include "journal/query.h"

#include "journal/records.h"

namespace pawl::journal {
namespace {

bool is_within(const Query& query, WallTime begin, WallTime end) {
    return !(query.since && end < *query.since) && !(query.until && begin >= *query.until);
}

bool is_of_kind(const Query& query, std::string_view kind) {
    return query.kind.empty() || query.kind == kind;
}

}  // namespace

bool is_wanted(const Query& query, const ProgressRecord& record) {
    return is_within(query, record.time, record.time) &&
           is_of_kind(query, record.is_epoch_end ? "epoch_end" : "progress");
}

bool is_wanted(const Query& query, const IncarnationRecord& record) {
    return is_within(query, record.started, record.ended.value_or(WallTime::max())) &&
           is_of_kind(query, name_of(record.state));
}

bool is_wanted(const Query& query, const CheckpointRecord& record) {
    return is_within(query, record.time, record.time) && is_of_kind(query, name_of(record.state));
}

bool is_wanted(const Query& query, const EventRecord& record) {
    return is_within(query, record.time, record.time) && is_of_kind(query, record.kind) &&
           (!query.severity || record.severity >= *query.severity);
}

}  // namespace pawl::journal
