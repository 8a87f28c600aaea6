"""Checkpoints that the trainer itself wants: run.snapshot() under pawld."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from conftest import Place
from test_python_client import python

__all__ = ["python"]  # the fixture

# Trains 12 steps without a planned checkpoint. Arguments: which ranks want one, after which steps, where it is killed.
SCRIPT = """
import os, signal, sys, torch, pawl
import torch.distributed as dist
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
run = pawl.attach(model=model, optimizer=optimizer)
print(f"rank {run.rank} begins at step {run.steps} with {run.values}", flush=True)
wanted_by, at, killed_at = map(eval, sys.argv[1:])
if run.world_size > 1:
    dist.init_process_group("gloo")
for step in range(run.steps + 1, 13):
    optimizer.zero_grad()
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    run.step()
    if run.rank in wanted_by and step in at:
        assert run.snapshot({"best": step})
    if step == killed_at and os.environ["PAWL_INCARNATION"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    if run.world_size > 1:
        dist.barrier()
run.finish()
if run.world_size > 1:
    dist.destroy_process_group()
"""
RARELY = ["--every-steps", "1000000"]


def script(python: str, wanted_by: str, at: str, killed_at: str = "0") -> list[str]:
    return [python, "-c", SCRIPT, wanted_by, at, killed_at]


def values_in(path: Path, python: str) -> str:
    code = "import sys, torch; print(torch.load(sys.argv[1], weights_only=True)['values'])"
    return subprocess.check_output([python, "-c", code, str(path)], text=True).strip()


def test_one_rank_saves_the_state_that_it_has_when_it_asks(place: Place, python: str) -> None:
    ended = place.run(script(python, "[0]", "[4, 7]"), [*RARELY, "--keep-last", "5"])

    assert ended.code == 0, ended.output
    assert [(one["step"], one["reason"]) for one in place.manifests()] == [
        (4, "request"),
        (7, "request"),
        (12, "final"),
    ]
    for name, best in zip(place.committed(), [4, 7, 7], strict=True):
        assert values_in(place.checkpoints / name / "rank-00000.pt", python) == f"{{'best': {best}}}"
    assert "Warning" not in ended.output


def test_a_run_that_is_killed_goes_on_from_the_checkpoint_that_it_wanted(place: Place, python: str) -> None:
    ended = place.run(script(python, "[0]", "[5]", "9"), RARELY)

    assert ended.code == 0, ended.output
    assert "begins at step 5 with {'best': 5}" in ended.output


@pytest.mark.parametrize("wanted_by", ["[0, 1]", "[1]"])
def test_ranks_save_at_one_step_whoever_asks(place: Place, python: str, wanted_by: str) -> None:
    ended = place.run(script(python, wanted_by, "[4]"), [*RARELY, "--ranks", "2", "--keep-last", "5"])

    assert ended.code == 0, ended.output
    wanted, final = place.manifests()
    assert wanted["reason"] == "request"
    assert isinstance(wanted["step"], int) and 4 < wanted["step"] < 12, "a step that no rank had completed"
    assert len(wanted["files"]) == 2
    assert (final["step"], final["reason"]) == (12, "final")


# Rank 1 attaches once rank 0 has asked; then both train on.
EARLY = """
import os, time, warnings, torch, pawl
if os.environ["RANK"] == "1":
    while not os.path.exists("asked"):
        time.sleep(0.01)
run = pawl.attach(model=torch.nn.Linear(1, 1))
run.step()
if run.rank == 0:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        print("saved:", run.snapshot(), "because:", caught[0].message, flush=True)
    open("asked", "w").close()
run.finish()
"""


def test_who_asks_before_the_others_are_there_is_told_that_there_will_be_none(place: Place, python: str) -> None:
    ended = place.run([python, "-c", EARLY], [*RARELY, "--ranks", "2"])

    assert ended.code == 0, ended.output
    assert (
        "saved: False because: no checkpoint will be made: pawl_request_checkpoint: not all ranks of the job are attached"
    ) in ended.output
    assert [one["reason"] for one in place.manifests()] == ["final"]
