"""A trainer on the C ABI by ctypes, with workers forked as PyTorch's DataLoader forks them.

client_trainer.py LIBRARY IMAGE STEPS [wait-at STEP]: every 5 steps a worker for each way to end. With `wait-at` it
leaves one worker alive at that step, writes both pids to `pids`, and waits to be killed.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
from pathlib import Path

OK, SKIPPED = 0, 1
TAKE_SNAPSHOT, STOP = 1, 2


class Progress(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("step", ctypes.c_uint64),
        ("epoch", ctypes.c_uint64),
        ("loss", ctypes.c_double),
    ]


class Resume(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("image", ctypes.c_void_p),
        ("image_bytes", ctypes.c_uint64),
        ("sequence", ctypes.c_uint64),
        ("step", ctypes.c_uint64),
        ("epoch", ctypes.c_uint64),
    ]


lib = ctypes.CDLL(sys.argv[1])
lib.pawl_last_error.restype = ctypes.c_char_p
lib.pawl_snapshot_begin.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_void_p]
lib.pawl_detach.argtypes = [ctypes.c_void_p]
image = Path(sys.argv[2]).read_bytes()
steps = int(sys.argv[3])
wait_at = int(sys.argv[5]) if len(sys.argv) > 5 else 0
run = ctypes.c_void_p()


def check(code: int, *allowed: int) -> None:
    if code not in allowed:
        sys.exit(f"trainer {os.getpid()}: code {code}: {lib.pawl_last_error().decode()}")


def step(number: int, allowed: int = OK) -> int:
    progress = Progress(ctypes.sizeof(Progress), number, 0, 1.0 / number)
    actions = ctypes.c_uint32()
    check(lib.pawl_step(run, ctypes.byref(progress), ctypes.byref(actions)), allowed)
    return actions.value


def snapshot() -> None:
    memory = ctypes.c_void_p()
    code = lib.pawl_snapshot_begin(run, len(image), ctypes.byref(memory))
    check(code, OK, SKIPPED)
    if code == OK:
        ctypes.memmove(memory, image, len(image))
        check(lib.pawl_snapshot_seal(run, None, ctypes.c_size_t(0)), OK)


def work() -> None:
    """What no worker should do: report, save, ask for a stop, finish."""
    actions, memory = ctypes.c_uint32(), ctypes.c_void_p()
    assert step(10**9, SKIPPED) == 0
    check(lib.pawl_snapshot_begin(run, 100, ctypes.byref(memory)), SKIPPED)
    check(lib.pawl_finish(run, ctypes.byref(actions)), SKIPPED)
    check(lib.pawl_finish_wait(run), SKIPPED)
    lib.pawl_request_stop(run)


def fork_worker(ending: str) -> int:
    worker = os.fork()
    if worker != 0:
        return worker
    work()
    if ending == "exit":
        sys.exit(0)  # with atexit's pawl_detach
    if ending == "_exit":
        os._exit(0)
    if ending == "kill -9":
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        signal.pause()


check(lib.pawl_attach(None, ctypes.byref(run)), OK)
atexit.register(lambda: lib.pawl_detach(run))
point = Resume(struct_size=ctypes.sizeof(Resume))
check(lib.pawl_get_resume(run, ctypes.byref(point)), OK)
endings = {"exit": 0, "_exit": 0, "kill -9": -signal.SIGKILL, "outlives it": -signal.SIGKILL}

for number in range(point.step + 1, steps + 1):
    actions = step(number)
    if number % 5 == 0:
        for ending, expected in endings.items():
            worker = fork_worker(ending)
            if ending == "outlives it":
                os.kill(worker, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
            if status != expected:
                sys.exit(f"the worker that ends by {ending} ended with {status}")
    if actions & TAKE_SNAPSHOT:
        snapshot()
    if actions & STOP:
        sys.exit(0)
    if number == wait_at:
        ready, tell = os.pipe()
        worker = os.fork()
        if worker == 0:
            os.write(tell, b"!")
            while True:
                signal.pause()
        os.read(ready, 1)
        Path("pids.new").write_text(f"{os.getpid()} {worker}")
        Path("pids.new").rename("pids")
        while True:
            signal.pause()

final = ctypes.c_uint32()
check(lib.pawl_finish(run, ctypes.byref(final)), OK)
if final.value & TAKE_SNAPSHOT:
    snapshot()
check(lib.pawl_finish_wait(run), OK)
print(f"finished at step {steps}")
