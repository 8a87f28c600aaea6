"""Faults at a chosen system call, and the small programs that meet them (tests/faults)."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from conftest import BIN, DEADLINE_S

TRAINER = str(BIN / "tiny_trainer")
DRIVER = str(BIN / "store_driver")
FAULTS = str(BIN.parent / "lib" / "libpawl_faults.so")
CLOCK = str(BIN.parent / "lib" / "libpawl_clock.so")

KILLED = -signal.SIGKILL
# A bound on every enumeration: one that does not end has lost its object.
CALLS_MAX = 2000


@dataclass(frozen=True)
class Call:
    """One call that the library has counted."""

    number: int
    kind: str
    path: str
    result: str

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Fault:
    """What happens to a process's calls below a directory; without `at` they are only counted."""

    below: Path
    at: int = 0
    do: str = "kill-before"
    times: int = 1  # 0: from there on, always
    kinds: str = ""  # "": those that change something, sync or lock
    besides: Path | None = None

    def environment(self, log: Path) -> dict[str, str]:
        variables = {
            "LD_PRELOAD": FAULTS,
            "PAWL_FAULTS_BELOW": str(self.below),
            "PAWL_FAULTS_LOG": str(log),
            "PAWL_FAULTS_TIMES": str(self.times),
        }
        if self.at:
            variables |= {"PAWL_FAULTS_AT": str(self.at), "PAWL_FAULTS_DO": self.do}
        if self.kinds:
            variables["PAWL_FAULTS_KINDS"] = self.kinds
        if self.besides:
            variables["PAWL_FAULTS_EXCEPT"] = str(self.besides)
        return variables


def calls_in(log: Path) -> list[Call]:
    if not log.exists():
        return []
    calls = []
    for line in log.read_text().splitlines():
        number, kind, path, result = line.split(" ")
        calls.append(Call(int(number), kind, path, result))
    return calls


@dataclass(frozen=True)
class Driven:
    """What store_driver has said."""

    code: int
    lines: list[str]
    calls: list[Call]

    def all(self, beginning: str) -> list[str]:
        return [line.removeprefix(beginning).strip() for line in self.lines if line.startswith(beginning)]

    def one(self, beginning: str) -> str:
        found = self.all(beginning)
        assert len(found) == 1, f"{beginning!r} in {self.lines}"
        return found[0]

    @property
    def durable(self) -> list[int]:
        """Sequences whose commit was reported."""
        return [int(words.split()[0]) for words in self.all("ok commit ")]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def drive(directory: Path, commands: str, fault: Fault | None = None) -> Driven:
    log = directory.parent / "calls"
    log.unlink(missing_ok=True)
    done = subprocess.run(
        [DRIVER, str(directory), *commands.split()],
        env={**os.environ, **(fault.environment(log) if fault else {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert done.returncode in (0, KILLED), done.stderr
    return Driven(done.returncode, done.stdout.splitlines(), calls_in(log))


def at_each_call(check: Callable[[int], bool], at_once: int = 2) -> int:
    """Calls `check` with 1, 2, 3 … until it says that there is no such call; says how many there were.

    The last ones that are tried may be beyond the end; that is no harm.
    """
    found: set[int] = set()
    with ThreadPoolExecutor(at_once) as pool:
        for begin in range(1, CALLS_MAX, 8):
            numbers = range(begin, begin + 8)
            found |= {number for number, is_there in zip(numbers, pool.map(check, numbers)) if is_there}
            if found.isdisjoint(numbers):
                # Not after the first that is missing: a busy machine may cost one run a checkpoint.
                print(f"{len(found)} calls", file=sys.stderr)
                return len(found)
    raise AssertionError(f"more than {CALLS_MAX} calls")


def copies_of(template: Path, below: Path) -> Callable[[int], Path]:
    """Gives each number a checkpoint directory of its own: a copy of the template, or none if there is none."""

    def copy(number: int) -> Path:
        place = below / str(number)
        place.mkdir()
        if template.exists():
            shutil.copytree(template, place / "checkpoints", symlinks=True)
        return place / "checkpoints"

    return copy


def sequences_in(directory: Path) -> list[int]:
    """Of every name that uses one up: committed, begun, quarantined."""
    names = [path.name for path in directory.rglob("*-step-*")] if directory.exists() else []
    return [int(re.sub(r"^\.tmp-", "", name).split("-")[0]) for name in names]


def names_in(directory: Path) -> Iterator[str]:
    return (path.name for path in directory.iterdir())
