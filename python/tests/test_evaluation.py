"""Snapshots between an epoch's last batch and its end, and what else is easily lost there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import pawl


class Killed(Exception):
    """Instead of a kill: whatever would come later does not."""


def train(directory: Path, *, workers: int = 0, leave_in: int | None = None) -> list[float]:
    """Three epochs of eight batches, each with an evaluation that draws; every loss that was computed."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.2), torch.nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(1)
    data = torch.utils.data.TensorDataset(torch.randn(32, 4, generator=generator))
    loader = torch.utils.data.DataLoader(data, batch_size=4, shuffle=True, num_workers=workers)
    validation = torch.utils.data.DataLoader(data, batch_size=16)
    losses = []
    run = pawl.attach(
        model=model, optimizer=optimizer, loader=loader, checkpoint_directory=directory, every_steps=1000000
    )
    try:
        for epoch in run.epochs(3):
            for (batch,) in run.batches(loader):
                optimizer.zero_grad()
                loss = model(batch).pow(2).mean()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
                run.step(loss=loss)
            for _ in validation:  # draws a seed
                pass
            if epoch == leave_in:
                assert run.snapshot()
                raise Killed
    finally:
        run.detach()
    return losses


@pytest.mark.parametrize("workers", [0, 2])
def test_a_snapshot_in_an_evaluation_trains_no_epoch_twice_and_changes_no_result(tmp_path: Path, workers: int) -> None:
    whole = train(tmp_path / "whole", workers=workers)
    assert len(whole) == 24

    with pytest.raises(Killed):
        train(tmp_path / "left", workers=workers, leave_in=1)
    rest = train(tmp_path / "left", workers=workers)

    assert rest == whole[16:]


def test_scalars_of_numpy_are_saved_as_numbers(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    run = pawl.attach(model=torch.nn.Linear(1, 1), checkpoint_directory=tmp_path)
    run.values["best"] = numpy.float64(0.5)
    run.values["list"] = [numpy.int64(3), {"x": numpy.float32(1.5)}]
    run.step()
    assert run.snapshot()
    run.detach()

    again = pawl.attach(model=torch.nn.Linear(1, 1), checkpoint_directory=tmp_path)

    assert again.values == {"best": 0.5, "list": [3, {"x": 1.5}]}
    assert type(again.values["best"]) is float
    again.detach()


@pytest.mark.skipif(torch.__version__.startswith("1."), reason="1.13 loads without weights_only")
def test_a_value_that_could_not_be_loaded_is_said_by_the_first_snapshot_that_has_it(tmp_path: Path) -> None:
    run = pawl.attach(model=torch.nn.Linear(1, 1), checkpoint_directory=tmp_path)
    run.step()
    assert run.snapshot()
    run.values["when"] = Path("x")
    with pytest.raises(pawl.PawlError, match=r"values\['when'\].*weights_only"):
        run.snapshot()
    run.detach()


def test_another_shape_changes_nothing_without_strict_either(tmp_path: Path) -> None:
    first = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    run = pawl.attach(model=first, checkpoint_directory=tmp_path)
    run.step()
    run.snapshot()
    run.detach()
    other = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    before = {name: value.clone() for name, value in other.state_dict().items()}

    with pytest.raises(pawl.ResumeError) as caught:
        pawl.attach(model=other, checkpoint_directory=tmp_path, strict=False)

    assert "'1.weight' is (1, 3) in the checkpoint, but (2, 3) in the model" in str(caught.value)
    assert "2.weight" not in str(caught.value), "what is missing is let go"
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


SCRIPT = """
import os, signal, sys, torch, pawl
run = pawl.attach(model=torch.nn.Linear(1, 1), checkpoint_directory=sys.argv[1])
run.step()
{then}
print("end", flush=True)
"""


def ended(directory: Path, then: str) -> subprocess.CompletedProcess[str]:
    code = SCRIPT.format(then=textwrap.dedent(then))
    return subprocess.run([sys.executable, "-c", code, str(directory)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("then", ["run.finish()", "del run"])
def test_sigterm_ends_a_process_that_steps_no_more(tmp_path: Path, then: str) -> None:
    done = ended(tmp_path, then + "\nos.kill(os.getpid(), signal.SIGTERM)")

    assert done.returncode == -signal.SIGTERM, done.stderr
    assert "end" not in done.stdout


@pytest.mark.parametrize(
    ("then", "is_said"),
    [("", True), ("run.finish()", False), ("run.detach()", False), ("raise ValueError", False)],
)
def test_a_process_that_ends_without_finish_is_told(tmp_path: Path, then: str, is_said: bool) -> None:
    done = ended(tmp_path, then)

    assert ("ends at step 1 without run.finish()" in done.stderr) == is_said, done.stderr


def test_a_forked_process_says_nothing_of_its_parents_run(tmp_path: Path) -> None:
    done = ended(tmp_path, "pid = os.fork()\nif pid == 0: sys.exit(0)\nos.waitpid(pid, 0)\nrun.finish()")

    assert "without run.finish()" not in done.stderr, done.stderr
    assert os.listdir(tmp_path)
