"""A Python trainer whose daemon is killed: it says so once, trains on, and ends well."""

from __future__ import annotations

import os
import signal
import subprocess

from conftest import ROOT, Place, processes_of, wait_for

FOUR_LINES = ROOT / "examples" / "python" / "four_lines.py"


def interpreter() -> str:
    given = os.environ.get("PAWL_PYTHON")
    return given or subprocess.check_output([ROOT / "tools" / "setup_torch2.sh"], text=True).strip() + "/bin/python"


def test_a_killed_daemon_is_said_once_and_costs_no_training(place: Place) -> None:
    options = ["--samples", "9600", "--epochs", "1", "--workers", "0"]
    process = place.start([interpreter(), str(FOUR_LINES), *options], ["--every-steps", "5"])
    place.wait_for_step(10, process)

    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not processes_of(place.path), "the trainer's end", 120)

    said = (place.state / "logs" / "rank-00000.log").read_text()
    assert said.count("Training goes on without pawld") == 1, said
    assert said.count("whether the final checkpoint is durable is not known") == 1, said
    assert "Traceback" not in said
    assert (place.path / "weights.pth").exists()
