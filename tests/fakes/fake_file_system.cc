// See fake_file_system.h.
#include "tests/fakes/fake_file_system.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <errno.h>

#include <algorithm>
#include <cstring>
#include <random>

namespace pawl::fakes {

struct FakeFileSystem::Node {
    FileType type = FileType::kRegular;
    // Of a file: what a reader sees now, and what was durable at its last sync.
    std::vector<std::byte> bytes;
    std::vector<std::byte> durable_bytes;
    struct Write {
        std::uint64_t offset = 0;
        std::vector<std::byte> bytes;
    };
    std::vector<Write> unsynced;
    bool has_lost_writes = false;  // a sync has failed: no later one makes these bytes durable
    std::string target;            // of a symlink
    // Of a directory: the names now, and the changes since its last sync on top of the durable
    // ones.
    using Names = std::map<std::string, std::shared_ptr<Node>>;
    Names names;
    Names durable_names;
    struct Change {
        std::vector<std::string> removed;
        std::map<std::string, std::shared_ptr<Node>> added;
    };
    std::vector<Change> changes;
};

using Node = FakeFileSystem::Node;

struct FakeFileSystem::Disk {
    std::shared_ptr<Node> root = make_directory();
    int operations = 0;
    std::optional<int> power_cut;
    std::map<int, int> failures;
    std::map<std::string, int> refused;  // to be opened, by path
    std::vector<std::string> history;

    static std::shared_ptr<Node> make_directory() {
        auto node = std::make_shared<Node>();
        node->type = FileType::kDirectory;
        return node;
    }

    static std::pair<std::string, std::string> split(const std::string& path) {
        const auto slash = path.find_last_of('/');
        if (slash == std::string::npos) return {"", path};
        return {path.substr(0, slash), path.substr(slash + 1)};
    }

    [[nodiscard]] std::shared_ptr<Node> find(const std::string& path) const {
        std::shared_ptr<Node> node = root;
        std::size_t begin = 0;
        while (begin < path.size() && node) {
            const std::size_t end = std::min(path.find('/', begin), path.size());
            const std::string name = path.substr(begin, end - begin);
            if (!name.empty()) {
                const auto found = node->names.find(name);
                node = found == node->names.end() ? nullptr : found->second;
            }
            begin = end + 1;
        }
        return node;
    }

    // Counts an operation; an error if it is one that is to fail.
    Result<void> begin(const std::string& what) {
        const int number = operations++;
        history.push_back(fmt::format("{}: {}", number, what));
        if (power_cut && number >= *power_cut)
            return error_from_code(EIO, what + " (the power is cut)");
        if (const auto failure = failures.find(number); failure != failures.end()) {
            return error_from_code(failure->second, what);
        }
        return {};
    }

    [[nodiscard]] Result<void> check_open(const std::string& path) const {
        const auto found = refused.find(path);
        if (found == refused.end()) return {};
        return error_from_code(found->second, fmt::format("open '{}'", path));
    }

    Result<void> add(const std::string& path, std::shared_ptr<Node> node) const {
        const auto [directory, name] = split(path);
        const auto parent = find(directory);
        if (!parent || parent->type != FileType::kDirectory)
            return error_from_code(ENOENT, "create " + path);
        if (parent->names.contains(name)) return error_from_code(EEXIST, "create " + path);
        parent->names[name] = node;
        parent->changes.push_back({.added = {{name, std::move(node)}}});
        return {};
    }
};

namespace {

class FakeWritableFile final : public WritableFile {
public:
    FakeWritableFile(FakeFileSystem::Disk& disk, std::shared_ptr<Node> node, std::string path)
        : disk_(disk), node_(std::move(node)), path_(std::move(path)) {}

    Result<void> write_at(std::uint64_t offset, std::span<const std::byte> bytes) override {
        RETURN_IF_ERROR(
            disk_.begin(fmt::format("write {} bytes at {} of {}", bytes.size(), offset, path_)));
        if (node_->bytes.size() < offset + bytes.size()) node_->bytes.resize(offset + bytes.size());
        std::ranges::copy(bytes, node_->bytes.begin() + static_cast<std::ptrdiff_t>(offset));
        node_->unsynced.push_back({offset, {bytes.begin(), bytes.end()}});
        return {};
    }

    Result<void> sync_data() override {
        if (const auto begun = disk_.begin("sync " + path_); !begun) {
            node_->has_lost_writes = true;
            return begun.error();
        }
        if (node_->has_lost_writes) return {};  // as Linux does: the error was told once
        node_->durable_bytes = node_->bytes;
        node_->unsynced.clear();
        return {};
    }

private:
    FakeFileSystem::Disk& disk_;
    std::shared_ptr<Node> node_;
    std::string path_;
};

class FakeByteSource final : public ByteSource {
public:
    explicit FakeByteSource(std::shared_ptr<Node> node) : node_(std::move(node)) {}
    [[nodiscard]] std::uint64_t size() const override { return node_->bytes.size(); }
    Result<void> read_at(std::uint64_t offset, std::span<std::byte> target) const override {
        return MemorySource(node_->bytes).read_at(offset, target);
    }

private:
    std::shared_ptr<Node> node_;
};

// One choice for each thing that a power cut may decide, in a fixed order of the tree.
class Choices {
public:
    // Choices 0 .. options-1 of thing after thing, taken from `digits`; counts the combinations.
    explicit Choices(std::vector<std::size_t> digits) : digits_(std::move(digits)) {}
    std::size_t next(std::size_t options) {
        options_.push_back(options);
        const std::size_t i = options_.size() - 1;
        return i < digits_.size() ? digits_[i] % options : 0;
    }
    [[nodiscard]] const std::vector<std::size_t>& options() const { return options_; }

private:
    std::vector<std::size_t> digits_;
    std::vector<std::size_t> options_;
};

std::vector<std::byte> bytes_after_cut(const Node& node, Choices& choices) {
    constexpr std::size_t kOptions = 3;  // lost, torn, there
    constexpr std::uint64_t kSectorBytes = 512;
    std::vector<std::byte> bytes = node.durable_bytes;
    bytes.resize(node.bytes.size());
    for (const Node::Write& write : node.unsynced) {
        const std::size_t choice = choices.next(kOptions);
        std::uint64_t kept = choice == 2 ? write.bytes.size() : 0;
        if (choice == 1) kept = write.bytes.size() / 2 / kSectorBytes * kSectorBytes;
        std::copy_n(write.bytes.begin(), kept,
                    bytes.begin() + static_cast<std::ptrdiff_t>(write.offset));
    }
    return bytes;
}

std::shared_ptr<Node> node_after_cut(const Node& node, Choices& choices,
                                     std::map<const Node*, std::shared_ptr<Node>>& known) {
    if (const auto found = known.find(&node); found != known.end()) return found->second;
    auto after = std::make_shared<Node>();
    known[&node] = after;
    after->type = node.type;
    after->target = node.target;
    if (node.type == FileType::kRegular) {
        after->bytes = bytes_after_cut(node, choices);
        after->durable_bytes = after->bytes;
    }
    Node::Names names = node.durable_names;
    for (const Node::Change& change : node.changes) {
        if (choices.next(2) == 0) continue;
        for (const std::string& name : change.removed)
            names.erase(name);
        for (const auto& [name, added] : change.added)
            names[name] = added;
    }
    for (const auto& [name, child] : names)
        after->names[name] = node_after_cut(*child, choices, known);
    after->durable_names = after->names;
    return after;
}

void sync_node(Node& node, std::set<const Node*>& seen) {
    if (!seen.insert(&node).second) return;
    node.durable_bytes = node.bytes;
    node.unsynced.clear();
    node.durable_names = node.names;
    node.changes.clear();
    for (const auto& [name, child] : node.names)
        sync_node(*child, seen);
}

}  // namespace

FakeFileSystem::FakeFileSystem() : disk_(std::make_unique<Disk>()) {
}
FakeFileSystem::FakeFileSystem(std::unique_ptr<Disk> disk) : disk_(std::move(disk)) {
}
FakeFileSystem::~FakeFileSystem() = default;
FakeFileSystem::FakeFileSystem(FakeFileSystem&&) noexcept = default;
FakeFileSystem& FakeFileSystem::operator=(FakeFileSystem&&) noexcept = default;

Result<void> FakeFileSystem::create_directory(const std::string& path) {
    RETURN_IF_ERROR(disk_->begin("create directory " + path));
    return disk_->add(path, Disk::make_directory());
}

Result<std::vector<DirectoryEntry>> FakeFileSystem::list_directory(const std::string& path) {
    RETURN_IF_ERROR(disk_->check_open(path));
    const auto node = disk_->find(path);
    if (!node || node->type != FileType::kDirectory)
        return error_from_code(ENOENT, "list directory " + path);
    std::vector<DirectoryEntry> entries;
    for (const auto& [name, child] : node->names)
        entries.push_back({.name = name, .type = child->type});
    return entries;
}

Result<std::optional<FileStatus>> FakeFileSystem::status(const std::string& path) {
    const auto node = disk_->find(path);
    if (!node) return std::optional<FileStatus>{};
    return std::optional{FileStatus{.type = node->type, .bytes = node->bytes.size()}};
}

Result<std::unique_ptr<WritableFile>> FakeFileSystem::create_file(const std::string& path,
                                                                  std::uint64_t bytes) {
    RETURN_IF_ERROR(disk_->begin(fmt::format("create {} of {} bytes", path, bytes)));
    auto node = std::make_shared<Node>();
    node->bytes.resize(bytes);
    RETURN_IF_ERROR(disk_->add(path, node));
    return std::unique_ptr<WritableFile>(
        std::make_unique<FakeWritableFile>(*disk_, std::move(node), path));
}

Result<std::unique_ptr<ByteSource>> FakeFileSystem::open_file(const std::string& path) {
    RETURN_IF_ERROR(disk_->check_open(path));
    auto node = disk_->find(path);
    if (!node) return error_from_code(ENOENT, fmt::format("open '{}'", path));
    if (node->type != FileType::kRegular) {
        return make_error(ErrorKind::kInvalidArgument, "'{}' is no regular file", path);
    }
    return std::unique_ptr<ByteSource>(std::make_unique<FakeByteSource>(std::move(node)));
}

Result<void> FakeFileSystem::rename(const std::string& from, const std::string& to) {
    RETURN_IF_ERROR(disk_->begin(fmt::format("rename {} to {}", from, to)));
    const auto [from_directory, from_name] = Disk::split(from);
    const auto [to_directory, to_name] = Disk::split(to);
    const auto source = disk_->find(from_directory);
    const auto target = disk_->find(to_directory);
    if (!source || !target || !source->names.contains(from_name))
        return error_from_code(ENOENT, "rename " + from);
    if (target->names.contains(to_name))
        return error_from_code(EEXIST, fmt::format("rename {} to {}", from, to));
    auto node = source->names[from_name];
    source->names.erase(from_name);
    target->names[to_name] = node;
    if (source == target) {
        source->changes.push_back({.removed = {from_name}, .added = {{to_name, node}}});
    } else {
        source->changes.push_back({.removed = {from_name}});
        target->changes.push_back({.added = {{to_name, node}}});
    }
    return {};
}

Result<void> FakeFileSystem::replace_link(const std::string& target, const std::string& path) {
    RETURN_IF_ERROR(disk_->begin(fmt::format("link {} to {}", path, target)));
    const auto [directory, name] = Disk::split(path);
    const auto parent = disk_->find(directory);
    if (!parent) return error_from_code(ENOENT, "link " + path);
    auto node = std::make_shared<Node>();
    node->type = FileType::kSymlink;
    node->target = target;
    parent->names[name] = node;
    parent->changes.push_back({.added = {{name, node}}});
    return {};
}

Result<void> FakeFileSystem::sync_directory(const std::string& path) {
    RETURN_IF_ERROR(disk_->begin("sync directory " + path));
    const auto node = disk_->find(path);
    if (!node || node->type != FileType::kDirectory)
        return error_from_code(ENOENT, "sync directory " + path);
    node->durable_names = node->names;
    node->changes.clear();
    return {};
}

Result<void> FakeFileSystem::remove(const std::string& path) {
    RETURN_IF_ERROR(disk_->begin("remove " + path));
    const auto [directory, name] = Disk::split(path);
    const auto parent = disk_->find(directory);
    if (!parent || !parent->names.contains(name)) return {};
    if (!parent->names[name]->names.empty()) return error_from_code(ENOTEMPTY, "remove " + path);
    parent->names.erase(name);
    parent->changes.push_back({.removed = {name}});
    return {};
}

void FakeFileSystem::cut_power_before(int operation) {
    disk_->power_cut = operation;
}
void FakeFileSystem::fail_at(int operation, int code) {
    disk_->failures[operation] = code;
}
void FakeFileSystem::refuse_to_open(const std::string& path, int code) {
    disk_->refused[path] = code;
}
void FakeFileSystem::allow_to_open(const std::string& path) {
    disk_->refused.erase(path);
}
int FakeFileSystem::operations_done() const {
    return disk_->operations;
}

std::vector<FakeFileSystem> FakeFileSystem::possible_disks(std::size_t disks_max,
                                                           std::uint64_t seed) const {
    const auto disk_of = [this](const std::vector<std::size_t>& digits,
                                std::vector<std::size_t>* options) {
        Choices choices(digits);
        std::map<const Node*, std::shared_ptr<Node>> known;
        auto disk = std::make_unique<Disk>();
        disk->root = node_after_cut(*disk_->root, choices, known);
        disk->history = disk_->history;
        disk->history.push_back(fmt::format("power cut, choices {}", fmt::join(digits, " ")));
        if (options != nullptr) *options = choices.options();
        return FakeFileSystem(std::move(disk));
    };
    std::vector<FakeFileSystem> disks;
    // The tree that is reached depends on the choices made: counted with everything kept, which is
    // most.
    std::vector<std::size_t> all(4096, 5);
    std::vector<std::size_t> options;
    disks.push_back(disk_of(all, &options));
    std::size_t combinations = 1;
    for (const std::size_t count : options)
        combinations = std::min(combinations * count, disks_max + 1);
    if (combinations <= disks_max) {
        for (std::size_t number = 0; number < combinations; ++number) {
            std::vector<std::size_t> digits;
            std::size_t rest = number;
            for (const std::size_t count : options) {
                digits.push_back(rest % count);
                rest /= count;
            }
            disks.push_back(disk_of(digits, nullptr));
        }
        return disks;
    }
    std::mt19937_64 random(seed);
    disks.push_back(disk_of(std::vector<std::size_t>(options.size(), 0), nullptr));
    while (disks.size() < disks_max) {
        std::vector<std::size_t> digits;
        for (std::size_t i = 0; i < options.size(); ++i)
            digits.push_back(random() % 6);
        disks.push_back(disk_of(digits, nullptr));
    }
    return disks;
}

void FakeFileSystem::sync_everything() {
    std::set<const Node*> seen;
    sync_node(*disk_->root, seen);
}

void FakeFileSystem::flip_bit(const std::string& path, std::uint64_t offset) {
    disk_->find(path)->bytes.at(offset) ^= std::byte{1};
}

void FakeFileSystem::truncate(const std::string& path, std::uint64_t bytes) {
    disk_->find(path)->bytes.resize(bytes);
}

std::vector<std::byte> FakeFileSystem::content(const std::string& path) const {
    return disk_->find(path)->bytes;
}

std::string FakeFileSystem::link_target(const std::string& path) const {
    return disk_->find(path)->target;
}

std::string FakeFileSystem::history() const {
    return fmt::format("{}", fmt::join(disk_->history, "\n"));
}

}  // namespace pawl::fakes
