// Learning rate schedulers in the layout of Python's state_dict. See state.h.
//
// The rates themselves travel in the optimizer's groups. What a scheduler has beside them are
// counters; what it was made with (step_size, gamma, patience, …) is saved for Python, which takes
// it from the file, and compared when it is loaded here, where it can't be changed.
#include "torch/state.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

namespace pawl::torch_state {
namespace {

using torch::optim::LRScheduler;
using torch::optim::StepLR;

// LibTorch's schedulers keep their state private and offer no other way to it. An explicit
// instantiation may name private members, [temp.spec.general]: `opened(Class_member{})` is then a
// pointer to the member.
template <class Tag, auto Member>
struct Opener {
    friend constexpr auto opened(Tag) { return Member; }
};
#define PAWL_OPEN(Class, member)                        \
    struct Class##_##member {                           \
        friend constexpr auto opened(Class##_##member); \
    };                                                  \
    template struct Opener<Class##_##member, &Class::member>

PAWL_OPEN(StepLR, step_size_);
PAWL_OPEN(StepLR, gamma_);

// Protected members are named from a derived class.
struct Access : LRScheduler {
    static unsigned& step_count(LRScheduler& scheduler) {
        return scheduler.*(&Access::step_count_);
    }
    static std::vector<double> rates(const LRScheduler& scheduler) {
        return (scheduler.*(&Access::get_current_lrs))();
    }
};

tf::Value numbers(const std::vector<double>& values, StateWriter& writer) {
    tf::List list;
    for (const double value : values)
        list.items.push_back(writer.number(value));
    return list;
}

// The state as a dict; otherwise a mismatch.
const tf::Dict* dict_of(const tf::Value& state, Restoration& restoration) {
    const auto* dict = state.get_if<tf::Dict>();
    if (dict == nullptr) {
        restoration.mismatch(fmt::format("{}: a {}, a dict was expected",
                                         restoration.options().scheduler_key, state.type_name()));
    }
    return dict;
}

// What the scheduler here was made with, against what the one that was saved was made with.
void compare(const tf::Dict& dict, const char* name, double here, const StateReader& reader,
             Restoration& restoration) {
    const auto saved = number_of(dict.find(name), reader);
    // A float here is compared as one.
    if (!saved || *saved == here || static_cast<float>(*saved) == static_cast<float>(here)) return;
    restoration.mismatch(fmt::format("{}: '{}' is {} in the checkpoint, {} in the scheduler",
                                     restoration.options().scheduler_key, name, *saved, here));
}

// The number of step()s, which LibTorch counts from 0 and Python, whose constructor takes one, from
// -1 on: at a multiple of step_size Python has lowered the rate already, and StepLR is about to.
// `offset` is what this makes for a scheduler: with it both lower it next at the same step().
std::function<void(const tf::Value&, const StateReader&, Restoration&)> restorer_of_count(
    LRScheduler& scheduler, std::int64_t offset) {
    return
        [&scheduler, offset](const tf::Value& state, const StateReader&, Restoration& restoration) {
            const tf::Dict* dict = dict_of(state, restoration);
            if (dict == nullptr) return;
            const auto last = integer_of(dict->find("last_epoch"));
            const std::int64_t steps = last.value_or(-1 - offset) + offset;
            if (steps < 0 || steps > std::numeric_limits<unsigned>::max()) {
                return restoration.mismatch(
                    fmt::format("{}: no 'last_epoch' in the checkpoint that makes sense",
                                restoration.options().scheduler_key));
            }
            restoration.later([&scheduler, steps] {
                Access::step_count(scheduler) = static_cast<unsigned>(steps);
            });
        };
}

Scheduler step_lr(StepLR& scheduler) {
    const auto save = [&scheduler](StateWriter& writer) -> tf::Value {
        const std::int64_t steps = Access::step_count(scheduler);
        tf::Dict dict;
        dict.set("step_size", static_cast<std::int64_t>(scheduler.*opened(StepLR_step_size_{})));
        dict.set("gamma", writer.number(scheduler.*opened(StepLR_gamma_{})));
        dict.set("last_epoch", steps - 1);
        dict.set("_step_count", steps);
        dict.set("_last_lr", numbers(Access::rates(scheduler), writer));
        return dict;
    };
    const auto restore_count = restorer_of_count(scheduler, 1);
    const auto restore = [&scheduler, restore_count](const tf::Value& state,
                                                     const StateReader& reader,
                                                     Restoration& restoration) {
        restore_count(state, reader, restoration);
        const auto* dict = state.get_if<tf::Dict>();
        if (dict == nullptr) return;
        compare(*dict, "step_size", scheduler.*opened(StepLR_step_size_{}), reader, restoration);
        compare(*dict, "gamma", scheduler.*opened(StepLR_gamma_{}), reader, restoration);
    };
    return {save, restore};
}

}  // namespace

Scheduler scheduler_of(LRScheduler& scheduler) {
    if (auto* known = dynamic_cast<StepLR*>(&scheduler)) return step_lr(*known);
    const auto save = [&scheduler](StateWriter& writer) -> tf::Value {
        const std::int64_t steps = Access::step_count(scheduler);
        tf::Dict dict;
        dict.set("last_epoch", steps);
        dict.set("_step_count", steps + 1);
        dict.set("_last_lr", numbers(Access::rates(scheduler), writer));
        return dict;
    };
    return {save, restorer_of_count(scheduler, 0)};
}

#if TORCH_VERSION_MAJOR >= 2
namespace {

using Plateau = torch::optim::ReduceLROnPlateauScheduler;

PAWL_OPEN(Plateau, mode);
PAWL_OPEN(Plateau, mode_worse);
PAWL_OPEN(Plateau, factor);
PAWL_OPEN(Plateau, patience);
PAWL_OPEN(Plateau, threshold);
PAWL_OPEN(Plateau, threshold_mode);
PAWL_OPEN(Plateau, cooldown);
PAWL_OPEN(Plateau, cooldown_counter);
PAWL_OPEN(Plateau, eps);
PAWL_OPEN(Plateau, best);
PAWL_OPEN(Plateau, last_epoch);
PAWL_OPEN(Plateau, num_bad_epochs);

const char* mode_of(const Plateau& scheduler) {
    return scheduler.*opened(Plateau_mode{}) == Plateau::min ? "min" : "max";
}

const char* threshold_mode_of(const Plateau& scheduler) {
    return scheduler.*opened(Plateau_threshold_mode{}) == Plateau::rel ? "rel" : "abs";
}

// 0.1F is 0.1 to Python, not 0.10000000149.
double shortest(float value) {
    return std::stod(fmt::format("{}", value));
}

tf::Value plateau_state(Plateau& scheduler, StateWriter& writer) {
    const double worst = scheduler.*opened(Plateau_mode{}) == Plateau::min ? HUGE_VAL : -HUGE_VAL;
    const float best = scheduler.*opened(Plateau_best{});
    tf::Dict dict;
    dict.set("mode", mode_of(scheduler));
    dict.set("factor", writer.number(shortest(scheduler.*opened(Plateau_factor{}))));
    dict.set("patience", scheduler.*opened(Plateau_patience{}));
    dict.set("threshold", writer.number(scheduler.*opened(Plateau_threshold{})));
    dict.set("threshold_mode", threshold_mode_of(scheduler));
    dict.set("cooldown", scheduler.*opened(Plateau_cooldown{}));
    dict.set("eps", writer.number(scheduler.*opened(Plateau_eps{})));
    dict.set("last_epoch", scheduler.*opened(Plateau_last_epoch{}));
    dict.set("num_bad_epochs", scheduler.*opened(Plateau_num_bad_epochs{}));
    dict.set("cooldown_counter", scheduler.*opened(Plateau_cooldown_counter{}));
    // LibTorch begins with a finite number, Python with an infinite one.
    const bool is_fresh = best == scheduler.*opened(Plateau_mode_worse{});
    dict.set("best", writer.number(is_fresh ? worst : static_cast<double>(best)));
    return dict;
}

void restore_plateau(Plateau& scheduler, const tf::Value& state, const StateReader& reader,
                     Restoration& restoration) {
    const tf::Dict* dict = dict_of(state, restoration);
    if (dict == nullptr) return;
    const std::string& part = restoration.options().scheduler_key;
    const auto compare_text = [&](const char* name, const std::string& here) {
        const tf::Value* value = dict->find(name);
        const auto* saved = value == nullptr ? nullptr : value->get_if<std::string>();
        if (saved == nullptr || *saved == here) return;
        restoration.mismatch(fmt::format(
            "{}: '{}' is '{}' in the checkpoint, '{}' in the scheduler", part, name, *saved, here));
    };
    compare_text("mode", mode_of(scheduler));
    compare_text("threshold_mode", threshold_mode_of(scheduler));
    compare(*dict, "factor", scheduler.*opened(Plateau_factor{}), reader, restoration);
    compare(*dict, "patience", scheduler.*opened(Plateau_patience{}), reader, restoration);
    compare(*dict, "threshold", scheduler.*opened(Plateau_threshold{}), reader, restoration);
    compare(*dict, "cooldown", scheduler.*opened(Plateau_cooldown{}), reader, restoration);
    compare(*dict, "eps", scheduler.*opened(Plateau_eps{}), reader, restoration);

    const auto counter = [&](const char* name, int Plateau::*member) {
        const auto saved = integer_of(dict->find(name));
        if (!saved || *saved < 0 || *saved > std::numeric_limits<int>::max()) {
            return restoration.mismatch(
                fmt::format("{}: no '{}' in the checkpoint that makes sense", part, name));
        }
        restoration.later(
            [&scheduler, member, saved] { scheduler.*member = static_cast<int>(*saved); });
    };
    counter("last_epoch", opened(Plateau_last_epoch{}));
    counter("num_bad_epochs", opened(Plateau_num_bad_epochs{}));
    counter("cooldown_counter", opened(Plateau_cooldown_counter{}));
    const auto best = number_of(dict->find("best"), reader);
    if (!best) return restoration.mismatch(fmt::format("{}: no 'best' in the checkpoint", part));
    restoration.later([&scheduler, best] {
        scheduler.*opened(Plateau_best{}) =
            std::isinf(*best) ? scheduler.*opened(Plateau_mode_worse{}) : static_cast<float>(*best);
    });
}

}  // namespace

Scheduler scheduler_of(Plateau& scheduler) {
    return {
        [&scheduler](StateWriter& writer) { return plateau_state(scheduler, writer); },
        [&scheduler](const tf::Value& state, const StateReader& reader, Restoration& restoration) {
            restore_plateau(scheduler, state, reader, restoration);
        }};
}
#endif

Scheduler scheduler_of(std::function<StateDict()> save,
                       std::function<void(const StateDict&)> load) {
    const auto restore = [save, load](const tf::Value& state, const StateReader& reader,
                                      Restoration& restoration) {
        const tf::Dict* dict = dict_of(state, restoration);
        if (dict == nullptr) return;
        StateDict found = read_plain_state(*dict, save(), restoration.options().scheduler_key,
                                           reader, restoration);
        restoration.first([load, found = std::move(found)] { load(found); });
    };
    return {[save](StateWriter& writer) { return plain_state(save(), writer); }, restore};
}

}  // namespace pawl::torch_state
