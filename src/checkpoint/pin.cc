// See pin.h.
#include "checkpoint/pin.h"

#include "base/crash_point.h"
#include "checkpoint/name.h"

namespace pawl::checkpoint {

Result<bool> is_pinned(FileSystem& fs, const std::string& path) {
    const auto status = fs.status(join_path(path, kPinName));
    if (!status) return status.error();
    return status->has_value();
}

Result<void> pin(FileSystem& fs, const std::string& path) {
    const auto pin_in_order = [&]() -> Result<void> {
        const auto file = fs.create_file(join_path(path, kPinName), 0);
        if (!file) {
            // One that a kill left may not be durable yet.
            if (file.error().kind() == ErrorKind::kAlreadyExists) return fs.sync_directory(path);
            return file.error();
        }
        RETURN_IF_ERROR((*file)->sync_data());
        crash_point("pin: file made");
        RETURN_IF_ERROR(fs.sync_directory(path));
        const auto there = is_pinned(fs, path);
        if (!there) return there.error();
        if (*there) return {};
        return make_error(ErrorKind::kNotFound,
                          "it has just lost its name '{}': retention is at work on it", path);
    };
    auto pinned = pin_in_order();
    if (!pinned) return Error(pinned.error()).while_doing("pin checkpoint '{}'", path);
    return {};
}

Result<void> unpin(FileSystem& fs, const std::string& path) {
    const auto unpin_in_order = [&]() -> Result<void> {
        RETURN_IF_ERROR(fs.remove(join_path(path, kPinName)));
        crash_point("unpin: file removed");
        return fs.sync_directory(path);
    };
    auto unpinned = unpin_in_order();
    if (!unpinned) return Error(unpinned.error()).while_doing("unpin checkpoint '{}'", path);
    return {};
}

}  // namespace pawl::checkpoint
