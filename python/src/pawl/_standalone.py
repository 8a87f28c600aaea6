"""What a run without a daemon takes of its process: SIGTERM, and the lock of its checkpoint directory.

In a notebook a cell is run again: the run that an earlier one began is let go. The last to leave gives SIGTERM back.
"""

from __future__ import annotations

import os
import signal
import threading
import warnings
from types import FrameType
from typing import TYPE_CHECKING, Optional
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from pawl._run import Run

# By directory. Weak: a run that nobody holds any more has left. Of this process: a forked child's copies are told
# apart by their process id.
_open: WeakValueDictionary[tuple[int, str], Run] = WeakValueDictionary()


def make_room(directory: str) -> None:
    """Let go of a run of this process that holds `directory`."""
    if "PAWL_SOCKET" in os.environ:
        return
    earlier = _open.pop(_key(directory), None)
    if earlier is None:
        return
    warnings.warn(
        f"an earlier run of this process has '{directory}': it is let go, and can't be stepped any more. "
        "The new one resumes from its newest checkpoint",
        RuntimeWarning,
        stacklevel=3,
    )
    earlier.detach()


def entered(run: Run, directory: str) -> None:
    """SIGTERM asks for a last checkpoint, if the program has no handler of its own."""
    _open[_key(directory)] = run
    # Only the main thread may, and only there would it be called.
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _drain)


def leave(run: Run) -> None:
    for key in [key for key, other in list(_open.items()) if other is run]:
        del _open[key]
    is_last = not any(process == os.getpid() for process, _ in list(_open))
    if is_last and threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is _drain:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _drain(number: int, frame: Optional[FrameType]) -> None:
    runs = [run for (process, _), run in list(_open.items()) if process == os.getpid()]
    for run in runs:
        run.request_stop()
    if not runs:
        # Nobody will step any more: as if there had been no handler.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)


def _key(directory: str) -> tuple[int, str]:
    # The environment's wins, as in libpawl.
    return os.getpid(), os.path.realpath(os.environ.get("PAWL_CHECKPOINT_DIRECTORY") or directory)
