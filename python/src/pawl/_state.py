"""Whether a checkpoint fits the objects that are to be restored: checked as a whole, before anything is changed."""

from __future__ import annotations

from typing import Any

import torch

from pawl._archive import Image
from pawl._native import PawlError

_E_INVALID = -1


class UnsavableError(PawlError):
    """Part of the state can't be pickled: no checkpoint of this program will ever be made."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = _E_INVALID


class ResumeError(PawlError):
    """A checkpoint does not fit the objects that are to be restored. Nothing was changed.

    `problems` has one line for each thing that does not fit, with both sides.
    """

    def __init__(self, text: str, problems: list[str]) -> None:
        super().__init__(text)
        self.code = _E_INVALID
        self.problems = problems


def unwrapped(module: Any) -> Any:
    """The user's module: without DistributedDataParallel, DataParallel and torch.compile around it."""
    while True:
        if isinstance(module, (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)):
            module = module.module
        elif hasattr(module, "_orig_mod"):
            module = module._orig_mod
        else:
            return module


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, torch.Tensor) else type(value).__name__


def problems_of_module(name: str, module: Any, saved: dict[str, Any], *, strict: bool = True) -> list[str]:
    """What of `saved` does not fit the module: missing, unexpected (if `strict`), another shape."""
    problems = []
    here = module.state_dict()
    for key in here:
        if key not in saved and strict:
            problems.append(f"{name}: '{key}' {_shape(here[key])} is in the model, but not in the checkpoint")
    for key in saved:
        if key not in here:
            if strict:
                problems.append(f"{name}: '{key}' {_shape(saved[key])} is in the checkpoint, but not in the model")
        elif _shape(here[key]) != _shape(saved[key]):
            problems.append(
                f"{name}: '{key}' is {_shape(saved[key])} in the checkpoint, but {_shape(here[key])} in the model"
            )
    return problems


def problems_of_optimizer(name: str, optimizer: Any, saved: dict[str, Any]) -> list[str]:
    """Whether the parameter groups, and the state of each parameter, fit those of the optimizer."""
    problems = []
    groups = saved.get("param_groups")
    if not isinstance(groups, list):
        return [f"{name}: the checkpoint's has no 'param_groups'"]
    here = optimizer.param_groups
    if len(groups) != len(here):
        problems.append(f"{name}: {len(groups)} parameter groups in the checkpoint, but {len(here)} in the optimizer")
        return problems
    parameters = []
    for index, (theirs, mine) in enumerate(zip(groups, here)):
        if len(theirs["params"]) != len(mine["params"]):
            problems.append(
                f"{name}: group {index} has {len(theirs['params'])} parameters in the checkpoint, "
                f"but {len(mine['params'])} in the optimizer"
            )
        parameters += list(zip(theirs["params"], mine["params"]))
    for key, parameter in parameters:
        for entry, value in saved.get("state", {}).get(key, {}).items():
            # Of the parameter's shape, or a number of its own (`step`).
            is_like_it = isinstance(value, torch.Tensor) and value.dim() > 0 and value.dim() == parameter.dim()
            if is_like_it and value.shape != parameter.shape:
                problems.append(
                    f"{name}: '{entry}' of parameter {key} is {_shape(value)} in the checkpoint, "
                    f"but the parameter is {_shape(parameter)}"
                )
    return problems


def unsavable(what: str, state: Any, error: Exception) -> UnsavableError:
    """The error that names which part of `state` the pickler refused with `error`."""
    where, part = "", state
    while isinstance(part, (dict, list, tuple)):
        items = part.items() if isinstance(part, dict) else enumerate(part)
        refused = next(((key, value) for key, value in items if not _is_savable(value)), None)
        if refused is None:
            break
        where, part = f"{where}[{refused[0]!r}]", refused[1]
    return UnsavableError(
        f"{what} can't be saved: {where or 'it'} is of type {type(part).__name__}, which pickle refuses ({error}). "
        "Nothing was written; leave it out, or keep what it is made from: plain values, tensors, a state_dict"
    )


def _is_savable(value: Any) -> bool:
    try:
        Image(value)
    except Exception:
        return False
    return True


def refuse(what: str, problems: list[str]) -> None:
    """Raise a ResumeError that lists all of `problems`, if there are any."""
    if not problems:
        return
    differences = "difference" if len(problems) == 1 else "differences"
    lines = "\n".join(f"  {line}" for line in problems)
    raise ResumeError(
        f"{what} does not fit this program ({len(problems)} {differences}); nothing was changed:\n{lines}\n"
        "Build the same model and optimizer as the run that saved it, name another checkpoint directory to begin "
        "anew, or pass strict=False to take what fits of the model.",
        problems,
    )
