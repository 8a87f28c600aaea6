// What LibTorch's optimizers consist of, once for writing and for reading: a visitor gets each
// option of a group and each part of a parameter's state, under the name that Python gives it.
//
// A Kind says: the classes; an option that only this optimizer has (`mark`); the options that
// Python expects and LibTorch lacks, with the values that mean the same as lacking them.
#pragma once

#include "torch/state.h"

#include <torch/optim/optimizer.h>

#include <string_view>

namespace pawl::torch_state {

namespace optim = torch::optim;

template <class Optimizer>
struct Kind;

// Python's optimizers of 2.x keep every step count in a tensor, RMSprop's of 1.x in an int.
enum class StepStyle { kTensor, kAsPython };

inline void put_lacking(tf::Dict& group, std::initializer_list<std::string_view> switched_off,
                        std::initializer_list<std::string_view> unset) {
    for (const std::string_view name : switched_off)
        group.set(name, false);
    for (const std::string_view name : unset)
        group.set(name, tf::None{});
}

template <>
struct Kind<optim::SGD> {
    using Options = optim::SGDOptions;
    using State = optim::SGDParamState;
    static constexpr const char* kName = "SGD";
    static constexpr const char* kMark = "momentum";
    static constexpr bool kHasStateFromTheStart = false;

    template <class Visitor>
    static void visit(Options& options, Visitor& visitor) {
        visitor.number("lr", options.lr());
        visitor.number("momentum", options.momentum());
        visitor.number("dampening", options.dampening());
        visitor.number("weight_decay", options.weight_decay());
        visitor.flag("nesterov", options.nesterov());
    }
    template <class Visitor>
    static void visit(State& state, const Options&, Visitor& visitor) {
        visitor.tensor_or_none("momentum_buffer", state.momentum_buffer());
    }
    static void put_lacking_options(tf::Dict& group) {
        put_lacking(group, {"maximize", "differentiable"}, {"foreach", "fused"});
    }
};

template <class Adam, class AdamOptions, class AdamState>
struct AdamKind {
    using Options = AdamOptions;
    using State = AdamState;
    static constexpr const char* kMark = "amsgrad";
    static constexpr bool kHasStateFromTheStart = false;

    template <class Visitor>
    static void visit(Options& options, Visitor& visitor) {
        visitor.number("lr", options.lr());
        visitor.pair("betas", options.betas());
        visitor.number("eps", options.eps());
        visitor.number("weight_decay", options.weight_decay());
        visitor.flag("amsgrad", options.amsgrad());
    }
    template <class Visitor>
    static void visit(State& state, const Options& options, Visitor& visitor) {
        visitor.step(state.step(), StepStyle::kTensor);
        visitor.tensor("exp_avg", state.exp_avg());
        visitor.tensor("exp_avg_sq", state.exp_avg_sq());
        visitor.tensor_if(options.amsgrad(), "max_exp_avg_sq", state.max_exp_avg_sq());
    }
    static void put_lacking_options(tf::Dict& group) {
        put_lacking(group, {"maximize", "capturable", "differentiable"}, {"foreach", "fused"});
        group.set("decoupled_weight_decay", std::is_same_v<Adam, optim::AdamW>);
    }
};

template <>
struct Kind<optim::Adam> : AdamKind<optim::Adam, optim::AdamOptions, optim::AdamParamState> {
    static constexpr const char* kName = "Adam";
};

template <>
struct Kind<optim::AdamW> : AdamKind<optim::AdamW, optim::AdamWOptions, optim::AdamWParamState> {
    static constexpr const char* kName = "AdamW";
};

template <>
struct Kind<optim::RMSprop> {
    using Options = optim::RMSpropOptions;
    using State = optim::RMSpropParamState;
    static constexpr const char* kName = "RMSprop";
    static constexpr const char* kMark = "alpha";
    static constexpr bool kHasStateFromTheStart = false;

    template <class Visitor>
    static void visit(Options& options, Visitor& visitor) {
        visitor.number("lr", options.lr());
        visitor.number("momentum", options.momentum());
        visitor.number("alpha", options.alpha());
        visitor.number("eps", options.eps());
        visitor.flag("centered", options.centered());
        visitor.number("weight_decay", options.weight_decay());
    }
    template <class Visitor>
    static void visit(State& state, const Options& options, Visitor& visitor) {
        visitor.step(state.step(), StepStyle::kAsPython);
        visitor.tensor("square_avg", state.square_avg());
        visitor.tensor_if(options.momentum() > 0, "momentum_buffer", state.momentum_buffer());
        visitor.tensor_if(options.centered(), "grad_avg", state.grad_avg());
    }
    static void put_lacking_options(tf::Dict& group) {
        put_lacking(group, {"maximize", "capturable", "differentiable"}, {"foreach"});
    }
};

template <>
struct Kind<optim::Adagrad> {
    using Options = optim::AdagradOptions;
    using State = optim::AdagradParamState;
    static constexpr const char* kName = "Adagrad";
    static constexpr const char* kMark = "lr_decay";
    static constexpr bool kHasStateFromTheStart = true;

    template <class Visitor>
    static void visit(Options& options, Visitor& visitor) {
        visitor.number("lr", options.lr());
        visitor.number("lr_decay", options.lr_decay());
        visitor.number("eps", options.eps());
        visitor.number("weight_decay", options.weight_decay());
        visitor.number("initial_accumulator_value", options.initial_accumulator_value());
    }
    template <class Visitor>
    static void visit(State& state, const Options&, Visitor& visitor) {
        visitor.step(state.step(), StepStyle::kTensor);
        visitor.tensor("sum", state.sum());
    }
    static void put_lacking_options(tf::Dict& group) {
        put_lacking(group, {"maximize", "differentiable"}, {"foreach", "fused"});
    }
};

// Its state is that of the whole optimizer, kept under the first parameter: in C++ as in Python.
template <>
struct Kind<optim::LBFGS> {
    using Options = optim::LBFGSOptions;
    using State = optim::LBFGSParamState;
    static constexpr const char* kName = "LBFGS";
    static constexpr const char* kMark = "history_size";
    static constexpr bool kHasStateFromTheStart = false;

    template <class Visitor>
    static void visit(Options& options, Visitor& visitor) {
        visitor.number("lr", options.lr());
        visitor.integer("max_iter", options.max_iter());
        visitor.optional_integer("max_eval", options.max_eval());
        visitor.number("tolerance_grad", options.tolerance_grad());
        visitor.number("tolerance_change", options.tolerance_change());
        visitor.integer("history_size", options.history_size());
        visitor.optional_text("line_search_fn", options.line_search_fn());
    }
    template <class Visitor>
    static void visit(State& state, const Options& options, Visitor& visitor) {
        visitor.integer("func_evals", state.func_evals());
        visitor.integer("n_iter", state.n_iter());
        // A first call that finds nothing to do leaves the rest unset: LibTorch 1 not even at zero.
        if (!visitor.has_direction(state.d())) return;
        visitor.flat_tensor("d", state.d());
        visitor.number("t", state.t());
        visitor.flat_tensors("old_dirs", state.old_dirs(), options.history_size());
        visitor.flat_tensors("old_stps", state.old_stps(), options.history_size());
        visitor.scalar_tensors("ro", state.ro(), state.old_dirs().size());
        visitor.scalar_tensor("H_diag", state.H_diag());
        visitor.flat_tensor("prev_flat_grad", state.prev_flat_grad());
        visitor.number("prev_loss", state.prev_loss());
        // Python's `al` is scratch space: written before it is read, in every step.
    }
    static void put_lacking_options(tf::Dict& group) { put_lacking(group, {"maximize"}, {}); }
};

}  // namespace pawl::torch_state
