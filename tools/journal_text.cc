// See journal_text.h.
#include "tools/journal_text.h"

#include "base/clock.h"
#include "journal/records.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <utility>
#include <vector>

namespace pawl::tools {
namespace {

constexpr std::size_t kDayLength = 10;

std::string date_of(WallTime time) {
    return format_time(time).substr(0, kDayLength);
}
std::string clock_of(WallTime time) {
    return format_time(time).substr(kDayLength + 1, 8);
}
std::string date_and_clock_of(WallTime time) {
    return date_of(time) + " " + clock_of(time);
}

std::string loss_of(double loss) {
    return std::isnan(loss) ? std::string("-") : fmt::format("{:.6f}", loss);
}

std::string between(const std::optional<WallTime>& begin, const std::optional<WallTime>& end) {
    return begin && end ? format_duration(*end - *begin) : "-";
}

std::size_t characters_in(std::string_view text) {
    return static_cast<std::size_t>(std::ranges::count_if(
        text, [](char byte) { return (static_cast<unsigned char>(byte) & 0xc0U) != 0x80U; }));
}

// "0", "0, 2-5": of ranks in their order.
std::string list_of(const std::vector<std::uint64_t>& ranks) {
    std::string text;
    for (std::size_t i = 0; i < ranks.size();) {
        std::size_t last = i;
        while (last + 1 < ranks.size() && ranks[last + 1] == ranks[last] + 1)
            ++last;
        if (!text.empty()) text += ", ";
        text +=
            last == i ? fmt::format("{}", ranks[i]) : fmt::format("{}-{}", ranks[i], ranks[last]);
        i = last + 1;
    }
    return text;
}

std::string line(std::string_view label, std::string_view text) {
    constexpr std::size_t kIndent = 12;
    return fmt::format("  {:<10}{}\n", label, wrapped(text, kIndent, kColumns));
}

}  // namespace

std::string wrapped(std::string_view text, std::size_t indent, std::size_t columns) {
    std::string result;
    std::size_t column = indent;
    bool is_first = true;
    while (!text.empty()) {
        const std::size_t end = text.find_first_of(" \t\r\n");
        const std::string_view word = text.substr(0, end);
        text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
        if (word.empty()) continue;
        const std::size_t width = characters_in(word);
        if (!is_first && column + 1 + width > columns) {
            result += "\n" + std::string(indent, ' ');
            column = indent;
        } else if (!is_first) {
            result += ' ';
            ++column;
        }
        for (const char byte : word)
            result += static_cast<unsigned char>(byte) < 0x20 || byte == 0x7f ? '?' : byte;
        column += width;
        is_first = false;
    }
    return result;
}

std::string JournalText::day_of(WallTime time) {
    std::string day = date_of(time);
    if (day == day_) return {};
    day_ = std::move(day);
    return day_ + " (UTC)\n";
}

std::string JournalText::heading(std::string_view text) {
    return std::exchange(has_heading_, true) ? std::string() : std::string(text);
}

std::string JournalText::of(const journal::EventRecord& record) {
    constexpr std::size_t kIndent = 10;
    const bool is_plain = record.severity == journal::Severity::kInfo;
    const std::string text =
        is_plain ? record.text : fmt::format("{}: {}", name_of(record.severity), record.text);
    return day_of(record.time) +
           fmt::format("{}  {}\n", clock_of(record.time), wrapped(text, kIndent, kColumns));
}

std::string JournalText::of(const journal::ProgressRecord& record) {
    const std::string above = heading(fmt::format("{:<8}  {:>11}  {:>12}  {:>7}  {:>12}\n", "time",
                                                  "incarnation", "step", "epoch", "loss"));
    std::string text =
        fmt::format("{}  {:>11}  {:>12}  {:>7}  {:>12}{}\n", clock_of(record.time),
                    record.incarnation, record.step, record.epoch, loss_of(record.loss),
                    record.is_epoch_end ? "  epoch ended" : "");
    std::string metrics;
    for (const auto& [name, value] : record.metrics)
        metrics += fmt::format("{}{} {:.6g}", metrics.empty() ? "" : ", ", name, value);
    constexpr std::size_t kIndent = 10;
    if (!metrics.empty()) {
        text +=
            fmt::format("{}{}\n", std::string(kIndent, ' '), wrapped(metrics, kIndent, kColumns));
    }
    return above + day_of(record.time) + text;
}

std::string JournalText::of(const journal::IncarnationRecord& record) {
    const std::string above = std::exchange(has_heading_, true) ? "\n" : "";
    std::string text =
        fmt::format("{}incarnation {}: {}", above, record.incarnation, name_of(record.state));
    if (record.ended) text += " after " + between(record.started, record.ended);
    text += "\n" + line("started", date_and_clock_of(record.started));
    if (record.ended) text += line("ended", date_and_clock_of(*record.ended));
    text +=
        line("from", record.resumed_from ? fmt::format("checkpoint {}, step {}",
                                                       *record.resumed_from, record.resumed_step)
                                         : std::string("step 0"));
    if (record.last_step) {
        const std::uint64_t begin = record.resumed_step.value;
        const std::uint64_t done = std::max(record.last_step->value, begin) - begin;
        text += line("to", fmt::format("step {} ({} {} done)", *record.last_step, done,
                                       done == 1 ? "step" : "steps"));
    }
    if (!record.cause.empty()) text += line("cause", record.cause);
    // Ranks that ended alike stand on one line: there may be many.
    std::vector<std::pair<std::string, std::vector<std::uint64_t>>> by_end;
    for (const journal::RankProcess& rank : record.ranks) {
        const std::string end = rank.exit ? rank.exit->text : "has not ended";
        const auto found = std::ranges::find(by_end, end, &decltype(by_end)::value_type::first);
        if (found == by_end.end()) {
            by_end.push_back({end, {rank.rank.value}});
        } else {
            found->second.push_back(rank.rank.value);
        }
    }
    for (const auto& [end, ranks] : by_end) {
        text +=
            line(ranks.size() == 1 ? "rank" : "ranks", fmt::format("{}: {}", list_of(ranks), end));
    }
    return text;
}

std::string JournalText::of(const journal::CheckpointRecord& record) {
    const std::string above = heading(
        fmt::format("{:>8}  {:>10}  {:>5}  {:<11}  {:<9}  {:>9}  {:>6}  {:>6}\n", "sequence",
                    "step", "epoch", "state", "reason", "size", "copied", "stored"));
    std::string text = fmt::format(
        "{:>8}  {:>10}  {:>5}  {:<11}  {:<9}  {:>9}  {:>6}  {:>6}\n", record.sequence, record.step,
        record.epoch, name_of(record.state), record.reason, format_bytes(record.bytes),
        between(record.asked, record.snapshotted), between(record.snapshotted, record.durable));
    std::string life = date_and_clock_of(record.time);
    if (record.incarnation) life += fmt::format(", incarnation {}", *record.incarnation);
    struct Moment {
        const char* name;
        const std::optional<WallTime>& time;
    };
    for (const Moment& one :
         {Moment{"verified", record.verified}, Moment{"scrubbed", record.scrubbed},
          Moment{"pinned", record.pinned}, Moment{"quarantined", record.quarantined},
          Moment{"removed", record.removed}, Moment{"abandoned", record.abandoned}}) {
        if (!one.time) continue;
        const bool is_same_day = date_of(*one.time) == date_of(record.time);
        life += fmt::format(", {} {}", one.name,
                            is_same_day ? clock_of(*one.time) : date_and_clock_of(*one.time));
    }
    if (!record.detail.empty()) life += ": " + record.detail;
    constexpr std::size_t kIndent = 10;
    return above + text +
           fmt::format("{}{}\n", std::string(kIndent, ' '), wrapped(life, kIndent, kColumns));
}

}  // namespace pawl::tools
