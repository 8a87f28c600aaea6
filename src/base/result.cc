// Texts and errno mapping of Error (see result.h).
#include "base/result.h"

#include <string.h>

#include <errno.h>

#include <array>

namespace pawl {

std::string_view to_string(ErrorKind kind) {
    switch (kind) {
        case ErrorKind::kInvalidArgument:
            return "invalid_argument";
        case ErrorKind::kNotFound:
            return "not_found";
        case ErrorKind::kAlreadyExists:
            return "already_exists";
        case ErrorKind::kCorrupt:
            return "corrupt";
        case ErrorKind::kUnsupported:
            return "unsupported";
        case ErrorKind::kNoSpace:
            return "no_space";
        case ErrorKind::kIo:
            return "io";
        case ErrorKind::kUnavailable:
            return "unavailable";
        case ErrorKind::kBusy:
            return "busy";
        case ErrorKind::kTimeout:
            return "timeout";
        case ErrorKind::kCancelled:
            return "cancelled";
        case ErrorKind::kInternal:
            return "internal";
    }
    return "unknown";
}

std::string Error::text() const {
    std::string text;
    if (!doing_.empty()) {
        text = "cannot ";
        // NOLINTNEXTLINE(modernize-loop-convert): what reverses a range is a view
        for (auto doing = doing_.rbegin(); doing != doing_.rend(); ++doing)
            text += *doing + ": ";
    }
    text += message_;
    if (!consequence_.empty()) text += ". " + consequence_;
    return text;
}

namespace {

ErrorKind kind_of(int code) {
    switch (code) {
        case ENOENT:
        case ENOTDIR:
            return ErrorKind::kNotFound;
        case EEXIST:
        case ENOTEMPTY:
            return ErrorKind::kAlreadyExists;
        case ENOSPC:
        case EDQUOT:
            return ErrorKind::kNoSpace;
        case EAGAIN:
        case EBUSY:
            return ErrorKind::kBusy;
        case EINVAL:
        case ENAMETOOLONG:
            return ErrorKind::kInvalidArgument;
        case EACCES:
        case EPERM:
        case EMFILE:
        case ENFILE:
        case ENOMEM:
            return ErrorKind::kUnavailable;
        case ETIMEDOUT:
            return ErrorKind::kTimeout;
        case ENOSYS:
        case EOPNOTSUPP:
            return ErrorKind::kUnsupported;
        default:
            return ErrorKind::kIo;
    }
}

}  // namespace

Error error_from_code(int code, std::string_view what) {
    std::array<char, 256> buffer = {};
    // The GNU strerror_r may return a static text instead of filling the buffer.
    const char* reason = ::strerror_r(code, buffer.data(), buffer.size());
    return {kind_of(code), fmt::format("{}: {}", what, reason)};
}

}  // namespace pawl
