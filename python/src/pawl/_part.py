"""A part of a framework's trainer, as `pawl.attach` takes it: what it is to be waits here until the trainer asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Optional


class Part:
    """What is saved under one name.

    Parameters
    ----------
    get
        Its state, when it is saved; what it is of may be made after the checkpoint was read.
    is_replicated
        In DistributedDataParallel rank 0 saves it for all.
    """

    def __init__(self, get: Callable[[], dict[str, Any]], *, is_replicated: bool = True) -> None:
        self._get = get
        self.is_replicated = is_replicated
        self._saved: Optional[dict[str, Any]] = None

    def state_dict(self) -> dict[str, Any]:
        return self._get()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._saved = state

    def take(self) -> Optional[dict[str, Any]]:
        """What was saved. Once: nobody else holds a copy of the model for the rest of the training."""
        saved, self._saved = self._saved, None
        return saved
