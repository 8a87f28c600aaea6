"""The loss as the status shows it. One on a device is not waited for: it is shown when it has come."""

from __future__ import annotations

import math
from typing import Any, Optional

import torch


class _OnItsWay:
    """A copy from a device that is under way."""

    def __init__(self, loss: torch.Tensor) -> None:
        self._host = torch.empty((), dtype=torch.float64, pin_memory=True)
        self._host.copy_(loss.detach().reshape(()), non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record(torch.cuda.current_stream(loss.device))

    def value(self) -> Optional[float]:
        return float(self._host) if self._event.query() else None


class Loss:
    """The last loss that was reported, and the last one that is known without waiting."""

    def __init__(self) -> None:
        self.shown = math.nan  # never waited for; of a device, some steps old
        self._newest: Any = None  # not yet known
        self._on_its_way: Any = None

    def set(self, loss: Any) -> None:
        """A number, or a tensor of one element."""
        if isinstance(loss, float):
            self.shown, self._newest, self._on_its_way = loss, None, None
        elif isinstance(loss, torch.Tensor) and loss.is_cuda:
            self._newest = loss.detach()
            if self._on_its_way is not None:
                value = self._on_its_way.value()
                if value is None:
                    return
                self.shown = value
            self._on_its_way = _OnItsWay(loss)
        else:
            self.set(float(loss.detach() if isinstance(loss, torch.Tensor) else loss))

    def get(self) -> float:
        """The last one; waits for the device."""
        if self._newest is not None:
            self.set(float(self._newest))
        return self.shown
