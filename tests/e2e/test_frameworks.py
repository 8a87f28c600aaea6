"""Hugging Face's Trainer and Lightning with one line added: killed at random, they end as if nobody had touched them.

PAWL_PYTHON names the interpreter that has them and pawl; without it, that of tools/setup_python.sh.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT, Place, a_seed, wait_for

EXAMPLES = ROOT / "examples" / "python"
KILLS = 2
# Importing such a framework takes seconds, on a machine that has other things to do tens of them.
DEADLINE_S = 240.0


@dataclass(frozen=True)
class Framework:
    script: str
    steps: int
    two_ranks: list[str]


# Some hundred steps of some milliseconds: enough to be killed in.
FRAMEWORKS = {
    "transformers": Framework("hf.py", 180, ["--samples", "2880"]),
    "lightning": Framework("lightning_run.py", 240, ["--samples", "1920", "--devices", "2"]),
}
MORE = {"transformers": ["--samples", "1440"], "lightning": []}


@pytest.fixture(scope="session", params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def undisturbed(framework: str, python: str, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A run of one rank that nobody disturbs."""
    alone = Place(tmp_path_factory.mktemp("undisturbed"))
    run_alone(alone, command_of(framework, python, *MORE[framework]), [])
    return alone


@pytest.fixture(scope="session")
def python(framework: str) -> str:
    given = os.environ.get("PAWL_PYTHON")
    found = given or subprocess.check_output([ROOT / "tools" / "setup_torch2.sh"], text=True).strip() + "/bin/python"
    done = subprocess.run([found, "-c", f"import pawl, {framework}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{found} has not both pawl and {framework} (tools/setup_python.sh): {done.stderr}"
    return found


def command_of(framework: str, python: str, *more: str) -> list[str]:
    return [python, str(EXAMPLES / FRAMEWORKS[framework].script), "--losses", "losses", *more]


def losses_of(path: Path) -> dict[str, str]:
    """Of each step. One that was computed again must have given the same bits."""
    losses: dict[str, str] = {}
    for line in path.read_text().splitlines():
        step, bits = line.split()
        assert losses.setdefault(step, bits) == bits, f"step {step} was computed twice, differently"
    return losses


def run_alone(place: Place, command: list[str], options: list[str]) -> None:
    place.path.mkdir(exist_ok=True)
    ended = place.end(place.start(command, options), DEADLINE_S)
    assert ended.code == 0, ended.output


def kill_one_when(place: Place, process: subprocess.Popen[str], step: int, chance: random.Random) -> None:
    """Kills a rank at a step, and waits until the next incarnation has taken its place."""

    def ranks() -> list[int]:
        assert process.poll() is None, f"it had ended before it could be killed:\n{place.output()}"
        job = place.job()
        pids = [rank["pid"] for rank in job["ranks"]] if job else []
        return pids if job and pids and all(pids) and job["step"] >= step else []

    victims = wait_for(ranks, f"step {step}", DEADLINE_S)
    victim = chance.choice(victims)
    os.kill(victim, signal.SIGKILL)

    def is_replaced() -> bool:
        job = place.job()
        pids = [rank["pid"] for rank in job["ranks"]] if job else []
        return bool(pids) and all(pids) and not set(pids) & set(victims)

    wait_for(is_replaced, "the next incarnation", DEADLINE_S)


def kill_at_random(place: Place, command: list[str], options: list[str], steps: int, chance: random.Random) -> None:
    process = place.start(command, ["--max-restarts", "100", *options])
    for turn in range(KILLS):
        # Each in a part of the run of its own; the last leaves time to be seen.
        part = steps * 3 // 4 // KILLS
        kill_one_when(place, process, turn * part + chance.randrange(1, part), chance)
    ended = place.end(process, DEADLINE_S)
    assert ended.code == 0, ended.output


def test_killed_at_random(place: Place, undisturbed: Place, framework: str, python: str) -> None:
    chance = random.Random(a_seed())
    command = command_of(framework, python, *MORE[framework])

    kill_at_random(place, command, ["--every-steps", "5"], FRAMEWORKS[framework].steps, chance)

    assert losses_of(place.path / "losses-0") == losses_of(undisturbed.path / "losses-0")
    assert (place.path / "weights.pth").read_bytes() == (undisturbed.path / "weights.pth").read_bytes()


def test_two_ranks_killed_at_random(place: Place, tmp_path: Path, framework: str, python: str) -> None:
    chance = random.Random(a_seed())
    command = command_of(framework, python, *FRAMEWORKS[framework].two_ranks)
    options = ["--ranks", "2", "--every-steps", "5"]
    alone = Place(tmp_path / "alone")
    run_alone(alone, command, options)

    kill_at_random(place, command, options, FRAMEWORKS[framework].steps, chance)

    for rank in (0, 1):
        assert losses_of(place.path / f"losses-{rank}") == losses_of(alone.path / f"losses-{rank}")
    assert (place.path / "weights.pth").read_bytes() == (alone.path / "weights.pth").read_bytes()


def test_a_drain_saves_and_the_next_start_goes_on(
    place: Place, undisturbed: Place, framework: str, python: str
) -> None:
    command = command_of(framework, python, *MORE[framework])
    process = place.start(command, ["--every-steps", "1000000"])

    wait_for(lambda: (place.job() or {"step": 0})["step"] >= 10, "step 10", DEADLINE_S)
    process.send_signal(signal.SIGTERM)
    ended = place.end(process, DEADLINE_S)
    assert ended.code == 75, ended.output
    assert not (place.path / "weights.pth").exists(), "a half trained model was taken for a trained one"
    ended = place.end(place.start(command, ["--every-steps", "1000000"]), DEADLINE_S)

    assert ended.code == 0, ended.output
    assert losses_of(place.path / "losses-0") == losses_of(undisturbed.path / "losses-0")
    assert (place.path / "weights.pth").read_bytes() == (undisturbed.path / "weights.pth").read_bytes()
