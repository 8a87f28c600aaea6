"""libpawl under a real daemon and without one: trainers that fork workers, which must not stand in their way."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BIN, DEADLINE_S, Place, wait_for

torch = pytest.importorskip("torch")

LIBRARY = BIN.parent / "lib" / "libpawl.so"
SCRIPT = Path(__file__).with_name("client_trainer.py")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    memory = io.BytesIO()
    torch.save({"weight": torch.arange(1000.0)}, memory)
    path = tmp_path / "image.pt"
    path.write_bytes(memory.getvalue())
    return path


def trainer(image: Path, steps: int, *more: str) -> list[str]:
    return [sys.executable, str(SCRIPT), str(LIBRARY), str(image), str(steps), *more]


def is_alive(pid: int) -> bool:
    """Not a zombie either."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_workers_that_call_and_end_in_every_way_do_not_disturb_their_trainer(place: Place, image: Path) -> None:
    ended = place.run(trainer(image, 40))

    assert ended.code == 0, ended.output
    assert "restarting" not in ended.output, ended.output
    assert "no longer attached" not in ended.output, ended.output
    names = place.committed()
    assert [name.split("-step-")[1] for name in names][-1] == "40", names
    loaded = torch.load(place.newest() / "rank-00000.pt", map_location="cpu")
    assert torch.equal(loaded["weight"], torch.arange(1000.0))


def test_a_killed_trainer_is_no_longer_attached_though_its_worker_and_its_shell_live_on(
    place: Place, image: Path
) -> None:
    # The daemon knows the shell's pid, not the trainer's: only the connection tells it.
    script = '"$@" & wait $!; echo "the trainer has ended"; exec sleep 1000'
    daemon = place.start(["sh", "-c", script, "sh", *trainer(image, 40, "wait-at", "12")])
    pids = wait_for(lambda: (place.path / "pids").exists(), "the trainer's pids") and (place.path / "pids").read_text()
    trainer_pid, worker_pid = (int(pid) for pid in pids.split())
    before = place.job()
    assert before is not None and before["ranks"][0]["attached"], before

    os.kill(trainer_pid, signal.SIGKILL)
    wait_for(lambda: not is_alive(trainer_pid), "the trainer's end")

    job = wait_for(
        lambda: next((job for job in [place.job()] if job and not job["ranks"][0]["attached"]), None),
        "the daemon to see that the rank has gone",
    )
    assert is_alive(job["ranks"][0]["pid"]), "the shell is there"
    assert is_alive(worker_pid), "the worker is there"
    for _ in range(3):  # drain, stop, kill: nobody answers
        daemon.terminate()
    place.end(daemon)
    assert not is_alive(worker_pid)


def test_a_killed_standalone_trainer_frees_its_directory_though_its_worker_lives_on(
    tmp_path: Path, image: Path
) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PAWL_")} | {"PAWL_EVERY_STEPS": "10"}
    first = subprocess.Popen(trainer(image, 40, "wait-at", "12"), cwd=tmp_path, env=environment)
    worker_pid = 0
    try:
        wait_for(lambda: (tmp_path / "pids").exists(), "the trainer's pids")
        worker_pid = int((tmp_path / "pids").read_text().split()[1])
        first.kill()
        first.wait()

        second = subprocess.run(
            trainer(image, 20),
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )

        assert second.returncode == 0, second.stderr
        assert is_alive(worker_pid)
        names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if path.name[0].isdigit())
        assert names == ["000001-step-10", "000002-step-20"], names
    finally:
        first.kill()
        if worker_pid:
            os.kill(worker_pid, signal.SIGKILL)


def test_a_run_that_begins_anew_beside_standalone_checkpoints_says_so_and_can_go_on_from_them(
    place: Place, image: Path
) -> None:
    alone = {k: v for k, v in os.environ.items() if not k.startswith("PAWL_")} | {"PAWL_EVERY_STEPS": "10"}
    subprocess.run(trainer(image, 20), cwd=place.path, env=alone, check=True, capture_output=True, timeout=DEADLINE_S)

    anew = place.run(trainer(image, 10))
    again = place.run(trainer(image, 10))
    going_on = place.run(trainer(image, 30), ["--checkpoint-dir", "checkpoints", "--state-dir", "other"])

    for ended in (anew, again, going_on):
        assert ended.code == 0, ended.output
    words = "'checkpoints' holds checkpoints that were made without 'pawl run', the newest of step 20"
    assert words in anew.output
    assert words not in again.output, "it has checkpoints of its own by now"
    assert words not in going_on.output
    assert "resumes from checkpoint 2 (step 20)" in going_on.output
