"""When checkpoints are made, and what the programs carry with them."""

from __future__ import annotations

import subprocess

import pytest
from conftest import BIN, PAWL, PAWLD, Place, wait_for


def steps_of(place: Place) -> list[int]:
    return sorted(entry["step"] for entry in place.json("journal", "checkpoints"))


def test_by_steps_every_multiple_is_kept(place: Place) -> None:
    ended = place.run(options=["--every-steps", "25", "--keep-last", "100"])

    assert ended.code == 0, ended.output
    # The last step is saved once as the 100th, and once as the end of its epoch.
    assert steps_of(place) == [25, 50, 75, 100, 100]


def test_by_epochs_the_ends_of_epochs_are_kept(place: Place) -> None:
    ended = place.run(program=[PAWL, "run", "--every-epochs", "1", "--keep-last", "100", "--", *place.trainer()])

    assert ended.code == 0, ended.output
    known = place.json("journal", "checkpoints")
    assert [(entry["step"], entry["epoch"], entry["reason"]) for entry in known] == [
        (50, 1, "cadence"),
        (100, 2, "cadence"),
    ]
    assert place.json("checkpoints", "show")["metrics"]["accuracy"] > 0.5


def test_by_time_a_checkpoint_is_made_when_it_is_due(place: Place) -> None:
    command = place.trainer("--epochs", "100")
    daemon = place.start(program=[PAWL, "run", "--every", "1s", "--keep-last", "100", "--", *command])

    wait_for(lambda: place.checkpoints.exists() and len(place.committed()) >= 3, "three checkpoints")
    times = [entry["time"] for entry in place.json("checkpoints", "list")]
    assert place.pawl("stop").code == 0
    stopped = place.end(daemon)

    assert stopped.code == 75, stopped.output
    assert len(set(times)) == len(times)


@pytest.mark.parametrize("program", [PAWL, PAWLD, str(BIN.parent / "lib" / "libpawl.so")])
def test_a_daemon_that_outlives_trainers_carries_no_training_framework(program: str) -> None:
    libraries = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout

    # The names alone: the addresses behind them are random, and "c10" is also hexadecimal.
    names = [line.split()[0] for line in libraries.splitlines()]
    assert any(name.startswith("libc.so") for name in names), libraries
    assert not [name for name in names if any(word in name for word in ("torch", "c10", "cuda"))]


def test_libpawl_shows_nothing_but_its_own_names() -> None:
    listed = subprocess.run(
        ["nm", "--dynamic", "--defined-only", "--extern-only", str(BIN.parent / "lib" / "libpawl.so")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    # "pawl_attach@@PAWL_0": a name, and the version it came with.
    names = [line.split()[-1].split("@")[0] for line in listed.splitlines() if " A " not in line]
    assert "pawl_attach" in names
    # The C++ runtime's inline names are weak in every library; they are no interface of ours.
    ours = [name for name in names if not name.startswith(("pawl_", "_ZNS", "_ZNK", "_ZSt", "_ZTI", "_ZTS", "_ZTV"))]
    assert not [name for name in ours if "pawl" in name], ours
