"""Scripts that save a file of their own, for the tests of what pawl makes of it: small ones, which write torch's format
without torch."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from conftest import DEADLINE_S, Ended, Place

PYTHON = os.environ.get("PAWL_PYTHON", "/usr/bin/python3")
ADOPT = ["--adopt", "checkpoint.pth"]

SAVER = """
import os, pickle, shutil, sys, time, zipfile

def save(path, pad=1000, **values):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(values, 2))
        archive.writestr("archive/data/0", bytes(range(250)) * (pad // 250))
        archive.writestr("archive/version", "3\\n")

def load(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return pickle.loads(archive.read("archive/data.pkl"))

def say(text):
    with open("said", "a") as file:
        file.write(f"{text}\\n")

def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.005)
"""
# Counts epochs and goes on where its file says.
COUNTER = """
start = 0
if os.path.exists("checkpoint.pth"):
    start = load("checkpoint.pth")["epoch"] + 1
say(f"begins at {start}")
for epoch in range(start, 6):
    save("checkpoint.pth", epoch=epoch)
say("ends")
"""


@pytest.fixture(scope="session", autouse=True)
def has_torch() -> None:
    if subprocess.run([PYTHON, "-c", "import torch"], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"{PYTHON} has no torch")


def script(place: Place, body: str) -> list[str]:
    (place.path / "script.py").write_text(SAVER + body)
    return [PYTHON, "script.py"]


def said(place: Place) -> list[str]:
    return (place.path / "said").read_text().splitlines()


def epoch_in(place: Place, name: str = "checkpoint.pth") -> int:
    done = alone([PYTHON, "-c", f"{SAVER}\nprint(load({name!r})['epoch'])"], place.path)
    assert done.code == 0, done.output
    return int(done.output)


def tear(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def flip_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def aside(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.name.startswith(".") and path.name != ".pawl")


def alone(command: list[str], where: Path, **environment: str) -> Ended:
    done = subprocess.run(
        command,
        cwd=where,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=3 * DEADLINE_S,
    )
    return Ended(done.returncode, done.stdout + done.stderr)
