// Which pawl_error stands for which kind of Error: one table for the C ABI and the Python module.
// Pure.
#pragma once

#include "base/result.h"
#include "pawl/pawl.h"

namespace pawl::client {

[[nodiscard]] inline int code_of(ErrorKind kind) {
    switch (kind) {
        case ErrorKind::kInvalidArgument:
        case ErrorKind::kAlreadyExists:
            return PAWL_E_INVALID;
        case ErrorKind::kNotFound:
            return PAWL_E_NOT_FOUND;
        case ErrorKind::kCorrupt:
            return PAWL_E_CORRUPT;
        case ErrorKind::kUnsupported:
            return PAWL_E_UNSUPPORTED;
        case ErrorKind::kNoSpace:
            return PAWL_E_NO_SPACE;
        case ErrorKind::kIo:
        case ErrorKind::kUnavailable:
            return PAWL_E_IO;
        case ErrorKind::kBusy:
        case ErrorKind::kTimeout:
            return PAWL_E_BUSY;
        case ErrorKind::kCancelled:
            return PAWL_E_DISCONNECTED;
        case ErrorKind::kInternal:
            return PAWL_E_INTERNAL;
    }
    return PAWL_E_INTERNAL;
}

}  // namespace pawl::client
