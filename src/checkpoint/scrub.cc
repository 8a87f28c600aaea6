// See scrub.h.
#include "checkpoint/scrub.h"

#include "checkpoint/store.h"

namespace pawl::checkpoint {

Scrubbed scrub(FileSystem& fs, const std::string& directory, const VerifyOptions& options) {
    Scrubbed result;
    const auto listed = list_checkpoints(fs, directory);
    if (!listed) {
        result.unread.push_back(listed.error().text());
        return result;
    }
    for (const Listed& one : *listed) {
        const auto verification = verify(fs, one.path, options);
        if (!verification && verification.error().kind() == ErrorKind::kCancelled) {
            result.was_stopped = true;
            return result;
        }
        if (!verification) {
            if (verification.error().kind() != ErrorKind::kNotFound)
                result.unread.push_back(verification.error().text());
            continue;
        }
        result.bytes += verification->bytes_read;
        if (verification->is_valid()) {
            result.valid.push_back(one.name);
            continue;
        }
        // Retention takes the name away first: what has none any more was not damaged but removed.
        const auto status = fs.status(one.path);
        if (status && status->has_value()) result.suspects.push_back(one.name);
    }
    return result;
}

}  // namespace pawl::checkpoint
