"""What is said when a process ends with a run that was neither finished nor stopped: it looks complete, and is not."""

from __future__ import annotations

import atexit
import os
import sys
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from pawl._run import Run

_runs: WeakSet[Run] = WeakSet()
_process = 0


def watch(run: Run) -> None:
    global _process
    if _process != os.getpid():
        _process = os.getpid()
        atexit.register(_say)
    _runs.add(run)


def _say() -> None:
    # After an exception nobody takes it for complete.
    if _process != os.getpid() or getattr(sys, "last_value", None) is not None:
        return
    for run in list(_runs):
        if run.is_unfinished:
            print(
                f"pawl: this process ends at step {run.steps} without run.finish(): what was trained since the last "
                "checkpoint is not saved, and a new start goes on from that checkpoint. Leaving the loop early? Call "
                "run.finish() after it, or write 'with pawl.attach(...) as run:'",
                file=sys.stderr,
            )
