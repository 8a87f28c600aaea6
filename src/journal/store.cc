// See store.h.
//
// A journal is opened in this order: is it held, is something missing that RocksDB would silently
// make anew, is its format known (read-only, so that a newer journal is left as it was), open,
// verify every block. It is small enough for that: tens of megabytes.
#include "journal/store.h"

#include "base/file_system.h"
#include "base/invariant.h"
#include "journal/damage.h"
#include "journal/rocks.h"

#include <rocksdb/db.h>
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <array>
#include <utility>

namespace pawl::journal {
namespace {

constexpr const char* kFormatKey = "format";
constexpr std::array kFamilyNames = {"meta",     "jobs",        "incarnations",
                                     "progress", "checkpoints", "events"};
static_assert(kFamilyNames.size() == static_cast<std::size_t>(Family::kEvents) + 1);

rocksdb::Slice slice(std::string_view text) {
    return {text.data(), text.size()};
}

std::string_view view(const rocksdb::Slice& text) {
    return {text.data(), text.size()};
}

std::vector<rocksdb::ColumnFamilyDescriptor> family_descriptors() {
    const rocksdb::ColumnFamilyOptions options = family_options();
    std::vector<rocksdb::ColumnFamilyDescriptor> families;
    for (const char* name : kFamilyNames)
        families.emplace_back(name, options);
    families.emplace_back(rocksdb::kDefaultColumnFamilyName, options);
    return families;
}

// Those of ours that the database does not have.
Result<std::vector<std::string>> missing_families(const std::string& path) {
    std::vector<std::string> names;
    const rocksdb::Status listed = rocksdb::DB::ListColumnFamilies(reader_options(), path, &names);
    if (!listed.ok()) return error_from(listed);
    std::vector<std::string> missing;
    for (const char* name : kFamilyNames) {
        if (std::find(names.begin(), names.end(), name) == names.end()) missing.emplace_back(name);
    }
    return missing;
}

}  // namespace

const char* name_of(Family family) {
    return kFamilyNames.at(static_cast<std::size_t>(family));
}

Result<std::unique_ptr<Store>> Store::open(const std::string& path) {
    const std::unique_ptr<FileSystem> fs = make_posix_file_system();
    // Asked first: beside a writer the looks that follow could see damage where there is none.
    RETURN_IF_ERROR(DirectoryLock::take(path));
    const Result<bool> exists = holds_database(*fs, path);
    if (!exists) return exists.error();
    std::vector<std::string> missing;
    if (*exists) {
        const auto probe = open_read_only(path);
        if (!probe && probe.error().kind() != ErrorKind::kNotFound) return probe.error();
        auto found = missing_families(path);
        if (!found) return found.error();
        missing = std::move(*found);
    }

    auto store = open_families(path, Access::kReadWrite);
    if (!store) return store;
    RETURN_IF_ERROR((*store)->verify_blocks());
    const Result<bool> has_format = (*store)->has_known_format(path);
    if (!has_format) return has_format.error();
    if (*has_format && !missing.empty()) {  // else its making was interrupted
        (*store)->repaired_ =
            fmt::format("it had lost all records of: {}", fmt::join(missing, ", "));
    }
    if (!*has_format) {
        RETURN_IF_ERROR((*store)->write_synced({{.family = Family::kMeta,
                                                 .key = kFormatKey,
                                                 .value = encode_format(kFormatVersion)}}));
    }
    return store;
}

Result<std::unique_ptr<Store>> Store::open_read_only(const std::string& path) {
    const auto missing = missing_families(path);
    if (!missing) return missing.error();
    if (!missing->empty()) {
        // Its writer stopped, or is, between the making of two families.
        return make_error(ErrorKind::kNotFound, "the journal in '{}' is not fully made", path);
    }
    auto store = open_families(path, Access::kReadOnly);
    if (!store) return store;
    (*store)->needs_reopening_ = true;
    const Result<bool> format = (*store)->has_known_format(path);
    if (!format) return format.error();
    return store;
}

Result<std::unique_ptr<Store>> Store::open_families(const std::string& path, Access access) {
    rocksdb::DB* database = nullptr;
    std::vector<rocksdb::ColumnFamilyHandle*> handles;
    const rocksdb::Status status =
        access == Access::kReadOnly
            ? rocksdb::DB::OpenForReadOnly(reader_options(), path, family_descriptors(), &handles,
                                           &database)
            : rocksdb::DB::Open(writer_options(), path, family_descriptors(), &handles, &database);
    if (!status.ok()) {
        if (kind_of(status) == ErrorKind::kBusy) return held_by_another(path);
        return error_from(status);
    }
    return std::unique_ptr<Store>(
        new Store(std::unique_ptr<rocksdb::DB>(database), std::move(handles)));
}

// False if none is written yet.
Result<bool> Store::has_known_format(const std::string& path) const {
    const auto value = get(Family::kMeta, kFormatKey);
    if (!value) return value.error();
    if (!*value) return false;
    const Result<std::uint64_t> version = decode_format(**value);
    if (!version) return Error(version.error()).while_doing("read the format of '{}'", path);
    if (*version <= kFormatVersion) return true;
    return make_error(ErrorKind::kUnsupported,
                      "the journal '{}' has format version {}, but this pawl knows version {} only",
                      path, *version, kFormatVersion)
        .consequence(
            "It was left as it is: install the newer pawl again, or name another journal.");
}

Result<void> Store::verify_blocks() const {
    const rocksdb::Status status = database_->VerifyChecksum();
    if (!status.ok()) return error_from(status);
    return {};
}

Store::Store(std::unique_ptr<rocksdb::DB> database,
             std::vector<rocksdb::ColumnFamilyHandle*> handles)
    : database_(std::move(database)), handles_(std::move(handles)) {
}

Store::~Store() {
    for (rocksdb::ColumnFamilyHandle* handle : handles_) {
        database_->DestroyColumnFamilyHandle(handle).PermitUncheckedError();
    }
    // Every acknowledged record is in the synced log already.
    database_->Close().PermitUncheckedError();
}

Result<void> Store::write_synced(const std::vector<Change>& changes) {
    rocksdb::WriteBatch batch;
    for (const Change& change : changes) {
        rocksdb::ColumnFamilyHandle* const family = handle(change.family);
        const rocksdb::Status added = change.value ? batch.Put(family, change.key, *change.value)
                                      : change.range_end.empty()
                                          ? batch.Delete(family, change.key)
                                          : batch.DeleteRange(family, change.key, change.range_end);
        invariant(added.ok(), "a batch without a size limit takes any change");
    }
    rocksdb::WriteOptions options;
    options.sync = true;
    // After a failure RocksDB refuses all later writes with the same error. It promises to look
    // again by itself when the disk was full; 7.8 did not in a minute with room.
    const rocksdb::Status status = database_->Write(options, &batch);
    if (status.ok()) return {};
    needs_reopening_ = true;
    return error_from(status);
}

Result<std::optional<std::string>> Store::get(Family family, const std::string& key) const {
    std::string value;
    const rocksdb::Status status =
        database_->Get(rocksdb::ReadOptions(), handle(family), key, &value);
    if (status.IsNotFound()) return std::optional<std::string>();
    if (!status.ok()) return error_from(status);
    return std::optional<std::string>(std::move(value));
}

Result<std::vector<std::string>> Store::keys(Family family) const {
    std::vector<std::string> keys;
    const std::unique_ptr<rocksdb::Iterator> at(
        database_->NewIterator(rocksdb::ReadOptions(), handle(family)));
    for (at->SeekToFirst(); at->Valid(); at->Next())
        keys.push_back(at->key().ToString());
    if (!at->status().ok()) return error_from(at->status());
    return keys;
}

Result<void> Store::visit_backwards(Family family, const KeyRange& range,
                                    const Visitor& visit) const {
    return walk(family, range, visit, &rocksdb::Iterator::SeekToLast, &rocksdb::Iterator::Prev);
}

Result<void> Store::visit(Family family, const KeyRange& range, const Visitor& visit) const {
    return walk(family, range, visit, &rocksdb::Iterator::SeekToFirst, &rocksdb::Iterator::Next);
}

Result<void> Store::walk(Family family, const KeyRange& range, const Visitor& visit, Move begin_at,
                         Move go_on) const {
    const rocksdb::Slice begin = slice(range.begin);
    const rocksdb::Slice end = slice(range.end);
    rocksdb::ReadOptions options;
    options.iterate_lower_bound = &begin;
    options.iterate_upper_bound = &end;
    const std::unique_ptr<rocksdb::Iterator> at(database_->NewIterator(options, handle(family)));
    for ((*at.*begin_at)(); at->Valid(); (*at.*go_on)()) {
        const Result<bool> goes_on = visit(view(at->key()), view(at->value()));
        if (!goes_on) return goes_on.error();
        if (!*goes_on) return {};
    }
    if (!at->status().ok()) return error_from(at->status());
    return {};
}

rocksdb::ColumnFamilyHandle* Store::handle(Family family) const {
    return handles_.at(static_cast<std::size_t>(family));
}

}  // namespace pawl::journal
