"""What a checkpoint of a run holds: the registered objects, taken apart, checked and put back. Used by `Run` alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Optional

import torch

from pawl import _replicas, _shards, _values
from pawl._archive import Image, ImageFile
from pawl._files import refused_global
from pawl._state import (
    ResumeError,
    problems_of_module,
    problems_of_optimizer,
    refuse,
    unsavable,
    unwrapped,
)
from pawl.data import ResumableLoader

_SHARED_POSITION = "sampler_state_dict"  # the C++ helper's name for the position in the data


class Contents:
    """The objects by name, loaders as `ResumableLoader`."""

    def __init__(
        self, objects: dict[str, Any], *, rank: int, world_size: int, strict: bool, weights_only: bool
    ) -> None:
        self.objects = objects
        self._rank = rank
        self._strict = strict
        self._weights_only = weights_only
        self._checked: Any = None  # the kinds of values and others that were last seen to be loadable
        self._loaders: dict[int, ResumableLoader] = {}
        for name, value in objects.items():
            if isinstance(value, torch.utils.data.DataLoader) or name == "loader":
                objects[name] = self._loaders[id(value)] = ResumableLoader(value)
        self._replicated = {name for name in objects if _replicas.is_replicated(objects, name) and world_size > 1}

    def loader_of(self, registered: Any) -> Optional[ResumableLoader]:
        return self._loaders.get(id(registered))

    def let_go(self) -> None:
        """Of the objects: a run that is over keeps no model in memory."""
        self.objects.clear()
        self._loaders.clear()

    # ---- out ----

    def image(self, where: Mapping[str, Any], rng_state: dict[str, Any], values: Mapping[str, Any]) -> Image:
        state, parts = self.state(where, rng_state, values)
        try:
            return Image(state, _shards.text_of(parts))
        except Exception as error:
            raise unsavable(f"the state of step {where['step']}", state, error) from error

    def state(
        self, where: Mapping[str, Any], rng_state: dict[str, Any], values: Mapping[str, Any]
    ) -> tuple[dict[str, Any], _shards.Parts]:
        """What this rank saves, `where` first, and of which tensors it is only a part."""
        state: dict[str, Any] = dict(where)
        parts: _shards.Parts = {}
        flat = _shards.flat_parts_by_parameter(self.objects)
        for name, value in self.objects.items():
            if name in self._replicated and self._rank != 0:
                continue
            key = f"{name}_state_dict"
            if _shards.is_fsdp1(value):
                state[key] = _shards.take_fsdp1_apart(key, value, parts)
            elif isinstance(value, torch.optim.Optimizer):
                state[key] = _shards.take_optimizer_apart(key, value, flat, parts)
            else:
                holder = unwrapped(value) if isinstance(value, torch.nn.Module) else value
                state[key] = _shards.take_apart(key, holder.state_dict(), parts)
        loader = self.objects.get("loader")
        position = loader.shared_position(where["epoch"]) if isinstance(loader, ResumableLoader) else None
        if position is not None:
            state[_SHARED_POSITION] = position
        state["rng_state"] = rng_state
        state["values"] = _values.plain(dict(values))
        if self._weights_only:
            self._check_loadable(state)
        return state, parts

    def _check_loadable(self, state: dict[str, Any]) -> None:
        """A value that can't be loaded is said by the first snapshot that has it, not by the run that can't resume."""
        plain = {f"values['{name}']": value for name, value in state["values"].items()}
        for name, value in self.objects.items():
            key = f"{name}_state_dict"
            if key in state and not isinstance(value, (torch.nn.Module, torch.optim.Optimizer, ResumableLoader)):
                plain[f"'{key}'"] = state[key]
        kinds = _values.kinds(plain)
        if kinds != self._checked:
            _values.check(plain)
            self._checked = kinds

    # ---- in ----

    def restore(self, image: memoryview, what: str, release: Callable[[], None]) -> dict[str, Any]:
        """Puts everything back, or nothing: raises `ResumeError` before anything was changed.

        `image` is let go by `release` as soon as it has been read. What is returned has the rest, which is the run's.
        """
        try:
            file = ImageFile(image)
            parts = _shards.read_record(file)
            state: dict[str, Any] = torch.load(file, map_location="cpu", **self._safely())
        except Exception as error:
            if "weights_only" in str(error) or type(error).__name__ == "UnpicklingError":
                raise ResumeError(
                    f"{what} holds more than tensors and plain values ({refused_global(error)}), and is not loaded "
                    f"with weights_only, since loading it may run code: {error}\n"
                    "If you trust its directory, pass weights_only=False to pawl.attach.",
                    [str(error)],
                ) from error
            raise
        finally:
            release()
        state = _replicas.share(state, self._replicated, self._rank)
        self._check(what, state, parts)
        self._say_what_is_left(what, state)
        for name, value in self.objects.items():
            saved = state.get(f"{name}_state_dict")
            if saved is None:  # C++ wrote it, as _check has seen
                value.load_shared(state[_SHARED_POSITION])
            elif _shards.is_fsdp1(value):
                _shards.put_fsdp1_together(value, saved)
            elif isinstance(value, torch.nn.Module):
                unwrapped(value).load_state_dict(saved, strict=self._strict)
            else:
                value.load_state_dict(saved)
        return state

    def _safely(self) -> dict[str, Any]:
        # 1.13's restricted unpickler knows no floats: it refuses every optimizer's state.
        if int(torch.__version__.split(".")[0]) < 2:
            return {}
        return {"weights_only": self._weights_only}

    def _say_what_is_left(self, what: str, state: dict[str, Any]) -> None:
        """What the checkpoint has and this program can't take, and the reverse: no error, but no secret either."""
        taken = {f"{name}_state_dict" for name in self.objects}
        if "loader" in self.objects:
            taken.add(_SHARED_POSITION)
        left = sorted(key for key in state if key.endswith("_state_dict") and key not in taken)
        if left:
            warnings.warn(
                f"{what} holds {', '.join(left)}, for which nothing was passed to pawl.attach: it is not restored, "
                "and later checkpoints are without it",
                RuntimeWarning,
                stacklevel=5,
            )
        if "python" not in state.get("rng_state", {"python": None}):
            warnings.warn(
                f"{what} was written in C++ and has no generators of Python and NumPy: those go on from their seeds",
                RuntimeWarning,
                stacklevel=5,
            )

    def _check(self, what: str, state: dict[str, Any], parts: _shards.Parts) -> None:
        """Whether it fits. In `state`, parts of tensors become what this program has in their place."""
        problems: list[str] = []
        flat = _shards.flat_parts_by_parameter(self.objects)
        for name, value in self.objects.items():
            key = f"{name}_state_dict"
            if key not in state and name == "loader" and _SHARED_POSITION in state:
                problems += value.problems_of_shared(state[_SHARED_POSITION])
            elif key not in state:
                problems.append(f"'{key}' is not in the checkpoint, which has {', '.join(sorted(state))}")
            elif isinstance(value, ResumableLoader):
                problems += value.problems_of(name, state[key], int(state.get("epoch", 0)))
            elif _shards.is_fsdp1(value):
                problems += _shards.problems_of_fsdp1(key, value, state[key], parts)
            elif isinstance(value, torch.nn.Module):
                here = unwrapped(value).state_dict()
                state[key] = _shards.put_together(key, state[key], here, parts, problems)
                problems += problems_of_module(name, unwrapped(value), state[key], strict=self._strict)
            elif isinstance(value, torch.optim.Optimizer):
                state[key] = _shards.put_optimizer_together(key, state[key], value, flat, parts, problems)
                problems += problems_of_optimizer(name, value, state[key])
            elif parts:
                state[key] = _shards.put_together(key, state[key], value.state_dict(), parts, problems)
        refuse(what, problems)
