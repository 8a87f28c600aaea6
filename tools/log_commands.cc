// See log_commands.h.
#include "tools/log_commands.h"

#include "base/fd.h"
#include "base/file_system.h"
#include "control/server.h"
#include "control/status.h"

#include <nlohmann/json.hpp>

#include <errno.h>
#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <map>
#include <span>
#include <string>

namespace pawl::tools {
namespace {

using nlohmann::json;

constexpr std::uint64_t kTailBytes = std::uint64_t{4} << 20;
constexpr std::uint64_t kNoEnd = ~std::uint64_t{0};

// A part of a file: what one rank printed.
struct Output {
    std::uint64_t rank = 0;
    std::string path;
    std::uint64_t begin = 0;
    std::uint64_t end = kNoEnd;
};

void print(std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
}

// The rank of "rank-00003.log".
std::optional<std::uint64_t> rank_in(std::string_view name) {
    if (!name.starts_with("rank-") || !name.ends_with(".log")) return std::nullopt;
    name.remove_prefix(5);
    name.remove_suffix(4);
    std::uint64_t rank = 0;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), rank);
    if (parsed.ec != std::errc() || parsed.ptr != name.data() + name.size()) return std::nullopt;
    return rank;
}

// Where output is, by rank: the daemon knows, if one runs; else where `pawl run` and pawld put it.
Result<std::map<std::uint64_t, std::string>> outputs_of(const Place& place) {
    std::map<std::uint64_t, std::string> outputs;
    const auto response = control::call(socket_of(place), control::Method::kGet, "/v1/status");
    const auto status = response ? control::status_from_json(response->body)
                                 : Result<control::DaemonStatus>(response.error());
    if (status) {
        for (const control::JobStatus& job : status->jobs) {
            if (!place.job.empty() && job.name != place.job) continue;
            for (const control::RankStatus& rank : job.ranks)
                outputs.emplace(rank.rank.value, rank.output);
            if (!outputs.empty()) return outputs;
        }
    }
    const auto fs = make_posix_file_system();
    const std::string logs = join_path(state_directory_of(place), "logs");
    std::string directory = logs;
    if (!place.job.empty()) {
        const auto of_job = fs->status(join_path(logs, place.job));
        if (of_job && of_job->has_value()) directory = join_path(logs, place.job);
    }
    const auto entries = fs->list_directory(directory);
    if (!entries) {
        return Error(entries.error())
            .while_doing("look for the ranks' output")
            .consequence("Name the state directory with --state-dir, or the job with --job");
    }
    for (const DirectoryEntry& entry : *entries) {
        if (const auto rank = rank_in(entry.name))
            outputs.emplace(*rank, join_path(directory, entry.name));
    }
    return outputs;
}

// The part of the file that an incarnation wrote. A file that had grown too large was renamed at a
// launch, and the next one began at 0: what is older lies in ".1", or is gone.
Result<Output> part_of(Output whole, std::uint64_t wanted,
                       const std::vector<journal::IncarnationRecord>& incarnations) {
    std::uint64_t end = kNoEnd;
    int files_back = 0;
    for (auto record = incarnations.rbegin(); record != incarnations.rend(); ++record) {
        const auto rank =
            std::ranges::find(record->ranks, Rank{whole.rank}, &journal::RankProcess::rank);
        if (rank == record->ranks.end() || !rank->output_begin) continue;
        if (end != kNoEnd && *rank->output_begin > end) {
            ++files_back;
            end = kNoEnd;
        }
        if (record->incarnation.value == wanted) {
            if (files_back > 1) break;
            if (files_back == 1) whole.path += ".1";
            whole.begin = *rank->output_begin;
            whole.end = end;
            return whole;
        }
        end = *rank->output_begin;
    }
    return make_error(ErrorKind::kNotFound,
                      "what rank {} printed in incarnation {} is not known (any more)", whole.rank,
                      wanted);
}

Result<std::vector<Output>> wanted_outputs(const Place& place, const LogOptions& options) {
    const auto outputs = outputs_of(place);
    if (!outputs) return outputs.error();
    std::vector<std::uint64_t> ranks = options.ranks;
    if (options.is_of_all_ranks) {
        ranks.clear();
        for (const auto& output : *outputs)
            ranks.push_back(output.first);
    } else if (ranks.empty()) {
        ranks.push_back(0);
    }
    std::vector<journal::IncarnationRecord> incarnations;
    if (options.incarnation) {
        auto known = incarnations_of(place);
        if (!known) return known.error();
        incarnations = std::move(*known);
    }
    std::vector<Output> wanted;
    for (const std::uint64_t rank : ranks) {
        const auto found = outputs->find(rank);
        if (found == outputs->end()) {
            return make_error(ErrorKind::kNotFound,
                              "there is no output of rank {}, only that of {}", rank,
                              outputs->size() == 1 ? std::string("one rank")
                                                   : fmt::format("{} ranks", outputs->size()));
        }
        Output output{.rank = rank, .path = found->second};
        if (options.incarnation) {
            auto part = part_of(std::move(output), *options.incarnation, incarnations);
            if (!part) return part.error();
            output = std::move(*part);
        }
        wanted.push_back(std::move(output));
    }
    if (wanted.empty()) return make_error(ErrorKind::kNotFound, "no rank has printed anything yet");
    return wanted;
}

// Where the last `lines` lines of a text begin.
std::size_t begin_of_last_lines(const std::string& text, std::uint64_t lines) {
    std::size_t position = text.size();
    if (position > 0 && text.back() == '\n') --position;
    for (; position > 0; --position) {
        if (text[position - 1] == '\n' && --lines == 0) return position;
    }
    return 0;
}

struct Tail {
    std::string text;
    std::uint64_t end = 0;  // where one would read on
};

Result<Tail> tail_of(const Output& output, std::uint64_t lines) {
    const auto fs = make_posix_file_system();
    const auto file = fs->open_file(output.path);
    if (!file) return Error(file.error()).while_doing("show the output of rank {}", output.rank);
    const std::uint64_t end = std::min(output.end, (*file)->size());
    const std::uint64_t begin = std::min(output.begin, end);
    Tail tail{.text = std::string(std::min(end - begin, kTailBytes), '\0'), .end = end};
    RETURN_IF_ERROR(
        (*file)->read_at(end - tail.text.size(), std::as_writable_bytes(std::span(tail.text))));
    tail.text.erase(0, begin_of_last_lines(tail.text, lines));
    return tail;
}

// Each line behind its rank. What is not a whole line yet waits in `rest`.
std::string with_rank(std::uint64_t rank, std::string_view text, std::string& rest) {
    std::string lines;
    for (const char byte : text) {
        rest += byte;
        if (byte != '\n') continue;
        lines += fmt::format("[{}] {}", rank, rest);
        rest.clear();
    }
    return lines;
}

class Following {
public:
    explicit Following(bool names_ranks) : names_ranks_(names_ranks) {}

    Result<void> add(const Output& output, const Tail& tail) {
        if (!watch_.is_open()) watch_ = UniqueFd(::inotify_init1(IN_CLOEXEC));
        if (!watch_.is_open() ||
            ::inotify_add_watch(watch_.get(), output.path.c_str(), IN_MODIFY) < 0) {
            return error_from_errno("watch '{}'", output.path);
        }
        UniqueFd file(::open(output.path.c_str(), O_RDONLY | O_CLOEXEC));
        if (!file.is_open()) return error_from_errno("open '{}'", output.path);
        files_.push_back({.file = std::move(file), .rank = output.rank, .offset = tail.end});
        show(files_.back(), tail.text);
        return {};
    }

    Result<int> run() {
        std::array<char, 8192> buffer{};
        while (true) {
            for (File& file : files_) {
                ssize_t got = 0;
                while ((got = ::pread(file.file.get(), buffer.data(), buffer.size(),
                                      static_cast<off_t>(file.offset))) > 0) {
                    show(file, std::string_view(buffer.data(), static_cast<std::size_t>(got)));
                    file.offset += static_cast<std::uint64_t>(got);
                }
            }
            if (std::fflush(stdout) != 0) return 0;  // nobody reads it any more
            if (::read(watch_.get(), buffer.data(), buffer.size()) <= 0 && errno != EINTR) return 0;
        }
    }

private:
    struct File {
        UniqueFd file;
        std::uint64_t rank = 0;
        std::uint64_t offset = 0;
        std::string rest;
    };
    void show(File& file, std::string_view text) const {
        print(names_ranks_ ? with_rank(file.rank, text, file.rest) : std::string(text));
    }

    bool names_ranks_;
    UniqueFd watch_;
    std::vector<File> files_;
};

}  // namespace

Result<int> show_logs(const Place& place, const LogOptions& options, Format format) {
    const auto outputs = wanted_outputs(place, options);
    if (!outputs) return outputs.error();
    const bool has_several = outputs->size() > 1;
    json array = json::array();
    Following following(has_several);
    for (const Output& output : *outputs) {
        auto tail = tail_of(output, options.lines);
        if (!tail) return tail.error();
        if (format == Format::kJson) {
            array.push_back(
                {{"rank", output.rank}, {"path", output.path}, {"text", std::move(tail->text)}});
        } else if (options.follows == Follows::kYes) {
            RETURN_IF_ERROR(following.add(output, *tail));
        } else if (has_several) {
            if (!tail->text.empty() && tail->text.back() != '\n') tail->text += '\n';
            std::string rest;
            print(with_rank(output.rank, tail->text, rest));
        } else {
            print(tail->text);
        }
    }
    if (format == Format::kJson) {
        const json shown = has_several || options.is_of_all_ranks ? array : array.front();
        print(shown.dump(2, ' ', false, json::error_handler_t::replace) + "\n");
        return 0;
    }
    return options.follows == Follows::kYes ? following.run() : Result<int>(0);
}

}  // namespace pawl::tools
