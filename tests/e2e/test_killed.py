"""Trainers and daemons that are killed: nothing durable is lost, and the results do not change."""

from __future__ import annotations

import os
import random
import re
import signal

import pytest
from conftest import (
    LAST_STEP,
    ROOT,
    Place,
    Reference,
    a_seed,
    crash_in_first_incarnation,
    processes_of,
    read_losses,
    wait_for,
)
from test_adopt import ADOPT_POINTS, PUT_BACK_POINTS
from test_checkpoints import EXPORT_POINTS, PIN_POINTS, ROLLBACK_POINTS

COMMIT_POINTS = [
    "commit: temporary directory made",
    "commit: files allocated",
    "commit: data written",
    "commit: data synced",
    "commit: manifest written",
    "commit: manifest synced",
    "commit: directory synced",
    "commit: renamed",
    "commit: parent synced",
    "commit: journalled",
    "commit: latest moved",
    "retention: renamed",
    "commit: retention done",
]
START_POINTS = ["start: incarnation journalled", "start: rank spawned"]
SNAPSHOT_POINTS = ["snapshot: begun", "snapshot: half copied", "snapshot: copied", "snapshot: sealed"]
QUARANTINE_POINTS = ["set aside: renamed"]  # test_damaged.py, and test_checkpoints.py
BY_HAND_POINTS = [*ROLLBACK_POINTS, *PIN_POINTS, *EXPORT_POINTS]  # test_checkpoints.py


def test_every_crash_point_of_the_source_is_died_at_in_a_test() -> None:
    sources = [path for room in ("src", "daemon", "tools") for path in (ROOT / room).rglob("*.cc")]

    named = {name for path in sources for name in re.findall(r'crash_point\("([^"]+)"\)', path.read_text())}

    of_adoption = {*ADOPT_POINTS, *PUT_BACK_POINTS}  # test_adopt.py
    of_the_rest = {*COMMIT_POINTS, *START_POINTS, *SNAPSHOT_POINTS, *QUARANTINE_POINTS, *BY_HAND_POINTS}
    assert named == of_the_rest | of_adoption


def another_rank(place: Place, killed: set[int], step: int) -> int | None:
    """The pid of a running rank that is none of `killed` and has reached `step`."""
    job = place.job()
    if not job or not job["ranks"] or job["step"] < step:
        return None
    pid = int(job["ranks"][0]["pid"])
    return pid if pid and pid not in killed else None


def test_a_trainer_killed_ten_times_at_random_points_gives_the_same_result(place: Place, reference: Reference) -> None:
    steps = sorted(random.Random(a_seed()).sample(range(LAST_STEP - 5), 10))
    daemon = place.start(place.alone(place.trainer()), ["--max-restarts", "20"])

    killed: set[int] = set()
    for step in steps:
        pid = wait_for(lambda: another_rank(place, killed, step), f"step {step} of a new rank")  # noqa: B023
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    ended = place.end(daemon)

    assert ended.code == 0, ended.output
    assert len(killed) == 10
    place.assert_never_two_at_once()
    place.assert_equal_to(reference)


@pytest.mark.parametrize("point", SNAPSHOT_POINTS)
def test_a_trainer_killed_inside_a_snapshot_costs_only_that_snapshot(
    place: Place, reference: Reference, point: str
) -> None:
    ended = place.run(crash_in_first_incarnation(f"{point}#3", place.trainer()))

    assert ended.code == 0, ended.output
    assert "was killed by SIGKILL" in ended.output
    assert "resumes from checkpoint" in ended.output
    place.assert_equal_to(reference)
    place.assert_ended_with_the_file_of(reference)


@pytest.mark.parametrize("point", COMMIT_POINTS + START_POINTS)
def test_a_daemon_killed_between_two_steps_loses_no_committed_checkpoint(
    place: Place, reference: Reference, point: str
) -> None:
    occurrence = 1 if point in START_POINTS else 2
    command = place.alone(place.trainer())
    crashed = place.run(command, ["--keep-last", "1"], environment={"PAWL_CRASH_POINT": f"{point}#{occurrence}"})
    assert crashed.code == -signal.SIGKILL, crashed.output
    verified = place.pawl("checkpoints", "verify")
    assert verified.code == 0, verified.output
    before = place.committed()

    ended = place.run(command, ["--keep-last", "1"])

    assert ended.code == 0, ended.output
    if before:
        assert f"resumes from checkpoint {int(before[-1].split('-')[0])} " in ended.output
    assert not [p.name for p in place.checkpoints.iterdir() if p.name.startswith(".tmp-")]
    place.assert_never_two_at_once()
    place.assert_equal_to(reference)
    place.assert_ended_with_the_file_of(reference)


def test_ranks_of_a_killed_daemon_are_stopped_before_they_are_started_again(place: Place, reference: Reference) -> None:
    command = place.alone(place.trainer())
    daemon = place.start(command)
    job = place.wait_for_step(25, daemon)
    orphan = job["ranks"][0]["pid"]
    daemon.kill()
    place.end(daemon)
    assert orphan in processes_of(place.path), "the rank outlives its daemon"

    second = place.start(command)
    job = place.wait_for_step(1, second)
    running = processes_of(place.path)
    ended = place.end(second)

    assert orphan not in running
    assert job["ranks"][0]["pid"] in running
    assert "a daemon died and left a process of this job running" in ended.output
    assert ended.code == 0, ended.output
    place.assert_never_two_at_once()
    place.assert_equal_to(reference)


def test_two_ranks_are_checkpointed_at_one_step_and_restarted_together(place: Place, reference: Reference) -> None:
    each = 'exec "$0" "$@" --losses "losses-$RANK" --weights "weights-$RANK"'
    command = ["sh", "-c", each, *place.trainer()[:7]]
    daemon = place.start(command, ["--ranks", "2", "--keep-last", "100"])
    job = place.wait_for_step(30, daemon)
    os.kill(job["ranks"][1]["pid"], signal.SIGKILL)
    ended = place.end(daemon)

    assert ended.code == 0, ended.output
    assert "rank 1 was killed by SIGKILL" in ended.output
    for name in place.committed():
        files = sorted(p.name for p in (place.checkpoints / name).iterdir())
        assert files == ["manifest.json", "rank-00000.pt", "rank-00001.pt"]
    # Both have the same seed and data, so each gives what one alone would have given.
    assert read_losses(place.path / "losses-0") == reference.losses
    assert read_losses(place.path / "losses-1") == reference.losses
    assert (place.path / "weights-0").read_bytes() == reference.weights
    assert place.pawl("checkpoints", "verify").code == 0


def test_the_files_of_two_ranks_in_one_checkpoint_are_of_one_step(place: Place) -> None:
    torch = pytest.importorskip("torch")
    daemon = place.start(place.trainer(), ["--ranks", "2"])
    place.wait_for_step(30, daemon)
    daemon.send_signal(signal.SIGTERM)
    stopped = place.end(daemon)

    assert stopped.code == 75, stopped.output
    for name in place.committed():
        files = [torch.load(place.checkpoints / name / f"rank-{rank:05}.pt") for rank in (0, 1)]
        assert [file["step"] for file in files] == [int(name.split("-")[-1])] * 2


def test_a_grandchild_in_a_session_of_its_own_is_gone_after_the_stop(place: Place) -> None:
    command = ["sh", "-c", 'setsid sleep 1000 & setsid sh -c "setsid sleep 1000 &" & exec "$0" "$@"', *place.trainer()]
    daemon = place.start(command)
    place.wait_for_step(5, daemon)
    assert len(processes_of(place.path)) >= 3

    daemon.send_signal(signal.SIGTERM)
    ended = place.end(daemon)

    assert ended.code == 75, ended.output
    assert processes_of(place.path) == []
