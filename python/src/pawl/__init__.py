"""Training that survives its machine.

Three steps, each useful by itself:

0. ``pawl run --adopt checkpoint.pth -- python train.py``: nothing changes in the script.
1. ``pawl.save`` and ``pawl.load``: torch's arguments and files, but atomic, durable and verified.
2. ``pawl.attach``: exact resume, of model, optimizer, scheduler, RNGs and the position in the data.

``import pawl`` imports neither torch nor anything else that is slow; what needs torch imports it when it is called.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pawl._native import PawlError, version

if TYPE_CHECKING:
    from pawl._files import load, save
    from pawl._run import Run, Stopped, attach
    from pawl._state import ResumeError

__version__ = version()
__all__ = ["PawlError", "ResumeError", "Run", "Stopped", "__version__", "attach", "load", "save"]

_HOMES = {
    "load": "pawl._files",
    "save": "pawl._files",
    "Run": "pawl._run",
    "Stopped": "pawl._run",
    "attach": "pawl._run",
    "ResumeError": "pawl._state",
}
_MODULES = {"data", "hf", "lightning", "logging"}  # `pawl.hf` needs no import of its own


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"pawl.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'pawl' has no attribute '{name}'")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_MODULES})
