"""Python programs that attach: killed at random, they end as if nobody had touched them.

PAWL_PYTHON names the interpreter that has torch and pawl; without it, that of tools/setup_python.sh.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

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


def losses_of(path: Path) -> dict[int, str]:
    """As the C++ trainer's, but with two words a line."""
    lines = [line.split() for line in path.read_text().splitlines()]
    losses: dict[int, str] = {}
    for step, bits in lines:
        assert losses.setdefault(int(step), bits) == bits, f"step {step} was computed twice, differently"
    return losses


def kill_at_random(place: Place, command: list[str], options: list[str], times: int, chance: random.Random) -> str:
    """Kills a random rank `times` times, each at a random step past the one before; returns what the daemon said."""
    process = place.start(command, ["--every-steps", "5", "--max-restarts", "1000", *options])
    killed: set[int] = set()
    for _ in range(times):
        job = place.job()
        at = (job["step"] if job else 0) + chance.randrange(0, 5)

        def a_rank(at: int = at) -> int:
            job = place.job()
            pids = [rank["pid"] for rank in job["ranks"]] if job else []
            if process.poll() is not None:
                return -1
            fresh = [pid for pid in pids if pid and pid not in killed]
            return chance.choice(fresh) if job and len(fresh) == len(pids) > 0 and job["step"] >= at else 0

        pid = wait_for(a_rank, f"step {at}")
        if pid == -1:
            break
        killed.add(pid)
        os.kill(pid, signal.SIGKILL)
        # The whole incarnation goes: its other ranks are not to be counted as fresh.
        wait_for(lambda pid=pid: pid not in pids_of(place), "the next incarnation")
    ended = place.end(process, 240)
    assert ended.code == 0, ended.output
    assert len(killed) >= times // 2, "it had ended before it could be killed"
    return ended.output


def pids_of(place: Place) -> list[int]:
    job = place.job()
    return [rank["pid"] for rank in job["ranks"]] if job else []


def test_four_lines_killed_at_random_with_two_data_loader_workers(place: Place, tmp_path: Path, python: str) -> None:
    chance = random.Random(a_seed())
    script = [python, str(EXAMPLES / "four_lines.py"), *SAMPLES, "--workers", "2", "--losses", "losses"]
    alone = Place(tmp_path / "alone")
    alone.path.mkdir()
    assert alone.run(script, ["--every-steps", "5"]).code == 0

    kill_at_random(place, script, [], 6, chance)

    assert losses_of(place.path / "losses") == losses_of(alone.path / "losses")
    assert (place.path / "weights.pth").read_bytes() == (alone.path / "weights.pth").read_bytes()


def test_two_ranks_in_ddp_killed_at_random(place: Place, tmp_path: Path, python: str) -> None:
    chance = random.Random(a_seed())
    script = [python, str(EXAMPLES / "ddp.py"), *SAMPLES, "--workers", "2", "--losses", "losses"]
    alone = Place(tmp_path / "alone")
    alone.path.mkdir()
    assert alone.run(script, ["--ranks", "2", "--every-steps", "5"]).code == 0

    kill_at_random(place, script, ["--ranks", "2"], 6, chance)

    for rank in (0, 1):
        assert losses_of(place.path / f"losses-{rank}") == losses_of(alone.path / f"losses-{rank}")
    assert (place.path / "weights.pth").read_bytes() == (alone.path / "weights.pth").read_bytes()


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


def test_what_python_saved_loads_with_weights_only(place: Place, python: str) -> None:
    script = [python, str(EXAMPLES / "four_lines.py"), "--samples", "640", "--epochs", "1", "--workers", "0"]
    assert place.run(script).code == 0

    code = "import sys, torch; print(sorted(torch.load(sys.argv[1], weights_only=True)))"
    done = subprocess.check_output([python, "-c", code, str(place.newest() / "rank-00000.pt")], text=True)

    assert "'model_state_dict', 'optimizer_state_dict', 'rng_state', 'scheduler_state_dict', 'step'" in done


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

