"""What a trainer in Python pays: client.cc beside it does the same in C++, and says what is printed. Runs under pawld.

client.py LAYERS ROUNDS STEPS
"""

from __future__ import annotations

import ctypes
import os
import sys
import time

import torch

import pawl

WIDTH = 1024  # a layer is 4 MiB of weights and 4 KiB of biases
COLD_ROUNDS = 4  # until each of the two arenas has been new

memcpy = ctypes.CDLL(None).memcpy
memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
memcpy.restype = None


def newest() -> str:
    """The newest checkpoint's name; empty before the first."""
    try:
        return os.readlink(".pawl/checkpoints/latest")
    except FileNotFoundError:
        return ""


def main(layers: int, rounds: int, steps: int) -> None:
    model = torch.nn.Sequential(*[torch.nn.Linear(WIDTH, WIDTH) for _ in range(layers)])
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    states = [value for state in optimizer.state.values() for value in state.values() if value.dim() > 0]
    sources = [(t.data_ptr(), t.numel() * t.element_size()) for t in [*model.parameters(), *states]]
    size = sum(count for _, count in sources)
    warm = torch.ones(size, dtype=torch.uint8)

    run = pawl.attach(model=model, optimizer=optimizer)
    assert run.is_attached, "run it under pawld: bench/client.sh"
    for number in range(-COLD_ROUNDS if rounds else 0, rounds):
        begin = time.perf_counter()
        target = warm.data_ptr()
        for source, count in sources:
            memcpy(target, source, count)
            target += count
        copying = time.perf_counter() - begin
        before = newest()
        # A step without a snapshot takes microseconds, a copy milliseconds at least.
        while True:
            begin = time.perf_counter()
            run.step(loss=0.5)
            stall = time.perf_counter() - begin
            if stall >= copying / 4:
                break
            time.sleep(0.001)
        if number >= 0:
            print(f"ratio {stall / copying:.4f}", flush=True)
        while newest() == before:
            time.sleep(0.001)
    if steps:
        begin = time.perf_counter()
        for _ in range(steps):
            run.step(loss=0.5)
        print(f"step_ns {(time.perf_counter() - begin) / steps * 1e9:.1f}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
