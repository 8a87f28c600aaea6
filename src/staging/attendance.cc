// See attendance.h.
#include "staging/attendance.h"

#include "base/clock.h"

namespace pawl::staging {

void Attendance::attached(Rank rank, MonotonicTime now) {
    if (attached_.empty()) since_ = now;
    attached_.insert(rank);
}

void Attendance::left(Rank rank) {
    attached_.erase(rank);
    if (attached_.empty()) since_.reset();
}

std::optional<MonotonicTime> Attendance::limit() const {
    if (!since_ || is_over_ || attached_.size() >= world_size_) return std::nullopt;
    return *since_ + timeout_;
}

std::optional<std::string> Attendance::overdue(MonotonicTime now) {
    const auto until = limit();
    if (!until || now < *until) return std::nullopt;
    is_over_ = true;
    constexpr std::uint64_t kNamed = 8;
    const std::uint64_t missing = world_size_ - attached_.size();
    std::string names;
    std::uint64_t named = 0;
    for (std::uint64_t i = 0; i < world_size_ && named < kNamed; ++i) {
        if (attached_.contains(Rank{i})) continue;
        names += fmt::format("{}{}", named++ == 0 ? "" : ", ", i);
    }
    if (missing > named) names += fmt::format(" and {} more", missing - named);
    return fmt::format(
        "rank{} {} did not attach within {} of the first that did ({} of {} are "
        "attached)",
        missing == 1 ? "" : "s", names, format_duration(timeout_), attached_.size(), world_size_);
}

}  // namespace pawl::staging
