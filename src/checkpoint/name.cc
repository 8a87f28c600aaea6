// See name.h.
#include "checkpoint/name.h"

#include <charconv>

namespace pawl::checkpoint {
namespace {

std::optional<std::uint64_t> parse_number(std::string_view text) {
    std::uint64_t number = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (code != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return number;
}

}  // namespace

std::string to_string(const CheckpointName& name) {
    return fmt::format("{:06}-step-{}", name.sequence.value, name.step.value);
}

std::optional<CheckpointName> parse_checkpoint_name(std::string_view text) {
    constexpr std::string_view kMiddle = "-step-";
    const auto middle = text.find(kMiddle);
    if (middle == std::string_view::npos) return std::nullopt;
    const auto sequence = parse_number(text.substr(0, middle));
    const auto step = parse_number(text.substr(middle + kMiddle.size()));
    if (!sequence || !step) return std::nullopt;
    const CheckpointName name{.sequence = Sequence{*sequence}, .step = Step{*step}};
    if (to_string(name) != text) return std::nullopt;
    return name;
}

std::optional<Sequence> sequence_in(std::string_view name) {
    if (name.starts_with(kTemporaryPrefix)) name.remove_prefix(kTemporaryPrefix.size());
    if (const auto dot = name.find('.'); dot != std::string_view::npos) name = name.substr(0, dot);
    const auto parsed = parse_checkpoint_name(name);
    if (!parsed) return std::nullopt;
    return parsed->sequence;
}

std::string rank_file_name(Rank rank) {
    return fmt::format("rank-{:05}.pt", rank.value);
}

}  // namespace pawl::checkpoint
