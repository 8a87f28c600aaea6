"""Every random generator that a training run draws from: torch (CPU and CUDA), Python, NumPy.

The state is plain values and tensors, so that ``torch.load(weights_only=True)`` takes it.
"""

from __future__ import annotations

import random
import sys
from typing import Any

import torch


def capture() -> dict[str, Any]:
    """The state of all generators, under the names that the C++ helper uses too (``torch``, ``cuda``)."""
    return plain(raw())


def raw() -> dict[str, Any]:
    """The state of all generators as they give it: a few microseconds."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else [],
        "python": random.getstate(),
        # Whoever has not imported it draws nothing from it.
        "numpy": sys.modules["numpy"].random.get_state() if "numpy" in sys.modules else None,
    }


def plain(state: dict[str, Any]) -> dict[str, Any]:
    """What `raw` gave, as plain values and tensors."""
    version, words, gauss = state["python"]
    python = {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss}
    made: dict[str, Any] = {"torch": state["torch"], "cuda": state["cuda"], "python": python}
    if state["numpy"] is not None:
        kind, keys, position, has_gauss, cached = state["numpy"]
        made["numpy"] = {
            "kind": kind,
            "keys": torch.tensor(keys.tolist(), dtype=torch.int64),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        }
    return made


def restore(state: dict[str, Any]) -> None:
    """Set all generators that `state` knows; others stay as they are."""
    torch.set_rng_state(state["torch"].cpu())
    cuda = state.get("cuda") or []
    if cuda and torch.cuda.is_available():
        # Of a machine with more devices than this one the rest has no use.
        for device, one in enumerate(cuda[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(one.cpu(), device)
    python = state.get("python")
    if python is not None:
        random.setstate((int(python["version"]), tuple(python["words"].tolist()), python["gauss"]))
    numpy = state.get("numpy")
    if numpy is not None:
        import numpy as np

        np.random.set_state(
            (
                numpy["kind"],
                np.array(numpy["keys"].tolist(), dtype=np.uint32),
                numpy["position"],
                numpy["has_gauss"],
                numpy["cached"],
            )
        )
