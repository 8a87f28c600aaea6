"""Python programs that attach: killed at random, they end as if nobody had touched them.

PAWL_PYTHON names the interpreter that has torch and pawl; without it, that of tools/setup_python.sh.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Place, a_seed, wait_for

EXAMPLES = ROOT / "examples" / "python"
SAMPLES = ["--samples", "3200"]


@pytest.fixture(scope="session")
def python() -> str:
    given = os.environ.get("PAWL_PYTHON")
    found = given or subprocess.check_output([ROOT / "tools" / "setup_torch2.sh"], text=True).strip() + "/bin/python"
    done = subprocess.run([found, "-c", "import pawl, torch"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{found} has not both torch and pawl (tools/setup_python.sh): {done.stderr}"
    return found


@pytest.fixture
def alone(place: Place) -> Iterator[Place]:
    """For the run that nobody disturbs, at the same time."""
    here = Place(place.path / "alone")
    here.path.mkdir()
    yield here
    here.kill_what_runs()


def losses_of(path: Path) -> dict[int, str]:
    """As the C++ trainer's, but with two words a line."""
    lines = [line.split() for line in path.read_text().splitlines()]
    losses: dict[int, str] = {}
    for step, bits in lines:
        assert losses.setdefault(int(step), bits) == bits, f"step {step} was computed twice, differently"
    return losses


def assert_all_load_with_weights_only(place: Place, python: str) -> None:
    """Every file of every checkpoint that is left, by torch.load's restricted unpickler."""
    files = [str(path) for path in sorted(place.checkpoints.glob("[0-9]*/rank-*.pt"))]
    assert files, "there is no checkpoint"
    code = "import sys, torch; [print(sorted(torch.load(path, weights_only=True))) for path in sys.argv[1:]]"
    done = subprocess.run([python, "-c", code, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("'rng_state', ") == len(files)
    assert "'model_state_dict', 'optimizer_state_dict', " in done.stdout


def is_fresh(rank: dict[str, Any]) -> bool:
    return True


def has_torch(rank: dict[str, Any]) -> bool:
    try:
        return "libtorch_cpu" in Path(f"/proc/{rank['pid']}/maps").read_text()
    except OSError:
        return False


def is_attached(rank: dict[str, Any]) -> bool:
    return bool(rank["attached"])


def kill_at_random(place: Place, command: list[str], options: list[str], times: int, chance: random.Random) -> str:
    """Kills a random rank `times` times and returns what the daemon said.

    Every other time at a random step past the one that was reached before; else in a random moment of its start: when
    it has just been launched, while it imports, when it has attached and restores its state.
    """
    process = place.start(command, ["--every-steps", "5", "--max-restarts", "1000", *options])
    killed: set[int] = set()
    for number in range(times):
        job = place.job()
        at = (job["step"] if job else 0) + chance.randrange(1, 4) if number % 2 == 1 else 0
        stage = is_attached if at else chance.choice([is_fresh, has_torch, is_attached])

        def a_rank(at: int = at, stage: Callable[[dict[str, Any]], bool] = stage) -> int:
            assert process.poll() is None, f"it ended before it had been killed {times} times:\n{place.output()}"
            job = place.job()
            if not job or job["step"] < at:
                return 0
            fresh = [rank for rank in job["ranks"] if rank["pid"] and rank["pid"] not in killed and stage(rank)]
            return int(chance.choice(fresh)["pid"]) if fresh and len(fresh) == len(job["ranks"]) else 0

        pid = wait_for(a_rank, f"step {at} or {stage.__name__}")
        ranks = pids_of(place)
        os.kill(pid, signal.SIGKILL)
        # The whole incarnation goes: its other ranks are not to be counted as fresh.
        killed.update(ranks, {pid})
    ended = place.end(process, 240)
    assert ended.code == 0, ended.output
    assert ended.output.count("was killed by SIGKILL") >= times, ended.output
    return ended.output


def pids_of(place: Place) -> list[int]:
    job = place.job()
    return [rank["pid"] for rank in job["ranks"] if rank["pid"]] if job else []


def test_four_lines_in_ddp_with_two_ranks_and_two_workers_each_killed_twenty_times(
    place: Place, alone: Place, python: str
) -> None:
    chance = random.Random(a_seed())
    script = [python, str(EXAMPLES / "ddp.py"), *SAMPLES, "--workers", "2", "--losses", "losses"]
    undisturbed = alone.start(script, ["--ranks", "2", "--every-steps", "5"])

    kill_at_random(place, script, ["--ranks", "2"], 20, chance)
    assert alone.end(undisturbed).code == 0

    for rank in (0, 1):
        assert losses_of(place.path / f"losses-{rank}") == losses_of(alone.path / f"losses-{rank}")
    assert (place.path / "weights.pth").read_bytes() == (alone.path / "weights.pth").read_bytes()
    assert_all_load_with_weights_only(place, python)


def test_four_lines_alone_killed_with_two_data_loader_workers(place: Place, alone: Place, python: str) -> None:
    """The other example: Adam with a scheduler, and an order that torch's own generator draws."""
    chance = random.Random(a_seed())
    script = [python, str(EXAMPLES / "four_lines.py"), *SAMPLES, "--workers", "2", "--losses", "losses"]
    undisturbed = alone.start(script, ["--every-steps", "5"])

    kill_at_random(place, script, [], 4, chance)
    assert alone.end(undisturbed).code == 0

    assert losses_of(place.path / "losses") == losses_of(alone.path / "losses")
    assert (place.path / "weights.pth").read_bytes() == (alone.path / "weights.pth").read_bytes()
    assert_all_load_with_weights_only(place, python)


def test_sigterm_makes_a_last_checkpoint_and_the_next_start_goes_on(place: Place, python: str) -> None:
    script = [python, str(EXAMPLES / "four_lines.py"), *SAMPLES, "--workers", "0", "--losses", "losses"]
    process = place.start(script, ["--every-steps", "1000000"])
    place.wait_for_step(3, process)
    process.send_signal(signal.SIGTERM)
    ended = place.end(process)
    assert ended.code == 75, ended.output
    reached = max(losses_of(place.path / "losses"))

    ended = place.run(script, ["--every-steps", "1000000"])

    assert ended.code == 0, ended.output
    # Steps between the snapshot and the word to leave are computed again, to the same bits.
    assert sorted(losses_of(place.path / "losses")) == list(range(100))
    assert reached < 99


def test_a_standalone_script_is_resumed_too(place: Place, python: str) -> None:
    """Without a daemon: the same script, killed and started by hand."""
    environment = {**os.environ, "PAWL_EVERY_STEPS": "5"}
    script = [python, str(EXAMPLES / "four_lines.py"), *SAMPLES, "--workers", "0", "--losses", "losses"]
    process = subprocess.Popen(script, cwd=place.path, env=environment)
    losses = place.path / "losses"
    wait_for(lambda: losses.exists() and len(losses.read_text().splitlines()) >= 12, "step 12")
    process.kill()
    process.wait()

    subprocess.run(script, cwd=place.path, env=environment, check=True)

    assert sorted(losses_of(losses)) == list(range(100))
    first_again = int(losses.read_text().splitlines()[-1].split()[0])
    assert first_again == 99

