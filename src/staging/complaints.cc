// See complaints.h.
#include "staging/complaints.h"

namespace pawl::staging {

std::optional<std::string> Complaints::about(const std::string& text, MonotonicTime now) {
    std::string before;
    if (!since_ || now - *since_ >= kWindow) {
        since_ = now;
        said_ = 0;
        if (unsaid_ > 0) before = fmt::format(" ({} more like this were not reported)", unsaid_);
        unsaid_ = 0;
    }
    if (said_ == per_window_) {
        ++unsaid_;
        return std::nullopt;
    }
    ++said_;
    if (said_ == per_window_)
        return text + before + " (what follows within a minute is only counted)";
    return text + before;
}

}  // namespace pawl::staging
