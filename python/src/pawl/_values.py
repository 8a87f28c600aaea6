"""Plain values that a checkpoint holds: what ``torch.load(weights_only=True)`` will take, known before it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from pawl._archive import Image, ImageFile
from pawl._state import UnsavableError, unsavable


def plain(value: Any) -> Any:
    """The value with NumPy's scalars as numbers of Python: ``weights_only`` knows no other."""
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    if type(value) is dict:
        return {plain(key): plain(child) for key, child in value.items()}
    if type(value) in (list, tuple):
        return type(value)(plain(child) for child in value)
    return value


def kinds(value: Any) -> Any:
    """What decides whether it can be loaded: the types in it, not the values."""
    if type(value) is dict:
        return tuple((key, kinds(child)) for key, child in value.items())
    if type(value) in (list, tuple):
        return tuple(kinds(child) for child in value)
    return type(value)


def _light(value: Any) -> Any:
    """The value with empty tensors: whatever they hold, they can be loaded."""
    if type(value) in (torch.Tensor, torch.nn.Parameter):
        return torch.empty(0, dtype=value.dtype)
    if type(value) is dict:
        return {key: _light(child) for key, child in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_light(child) for child in value)
    return value


def check(named: Mapping[str, Any]) -> None:
    """Raise an UnsavableError for the first that can't be pickled, or not be loaded with ``weights_only``.

    Said now, not by the run that can't resume.
    """
    if int(torch.__version__.split(".")[0]) < 2:
        return
    for name, value in named.items():
        try:
            image = Image(_light(value))
        except Exception as error:
            raise unsavable(name, value, error) from error
        memory = torch.empty(image.bytes, dtype=torch.uint8)
        image.write_to(memory)
        try:
            torch.load(ImageFile(memoryview(memory.numpy())), weights_only=True)
        except Exception as error:
            raise UnsavableError(
                f"{name} of type {type(value).__name__} can't be loaded with weights_only: {error}\n"
                "Register plain values and tensors, or pass weights_only=False to pawl.attach."
            ) from error
