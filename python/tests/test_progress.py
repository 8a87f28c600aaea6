"""Progress bars and log lines: right numbers after a resume, and no control characters in a file."""

import io
import logging

import pytest
import torch

import pawl


def parts():
    torch.manual_seed(0)
    model = torch.nn.Linear(1, 1)
    loader = torch.utils.data.DataLoader(torch.arange(20.0).reshape(20, 1), batch_size=2, shuffle=True)
    return model, loader


def attached(directory, **more):
    model, loader = parts()
    return pawl.attach(model=model, loader=loader, checkpoint_directory=directory, every_steps=13, **more), loader


def leave_at_step_13(directory):
    run, loader = attached(directory)
    for _ in run.epochs(3):
        for _ in run.batches(loader):
            run.step()
            if run.steps == 13:
                run.detach()
                return


def test_what_is_left_is_counted(tmp_path):
    run, loader = attached(tmp_path)
    assert len(run.epochs(3)) == 3
    assert len(run.batches(loader)) == 10
    run.detach()
    leave_at_step_13(tmp_path)

    run, loader = attached(tmp_path)

    epochs, batches = run.epochs(3), run.batches(loader)
    assert (len(epochs), epochs.initial, epochs.total) == (2, 1, 3)
    assert (len(batches), batches.initial, batches.total) == (7, 3, 10)
    assert len(list(batches)) == 7


def test_a_bar_ends_at_its_total(tmp_path):
    tqdm = pytest.importorskip("tqdm").tqdm
    leave_at_step_13(tmp_path)
    run, loader = attached(tmp_path)
    seen = []

    batches = run.batches(loader)
    with tqdm(batches, initial=batches.initial, total=batches.total, file=io.StringIO()) as bar:
        for _ in bar:
            seen.append(bar.n)
    plain = tqdm(run.batches(loader), file=io.StringIO())

    assert bar.n == bar.total == 10
    assert plain.total == 10, "the epoch that is not ended yet begins anew"


def test_a_line_says_where_the_run_is(tmp_path):
    run, _ = attached(tmp_path)
    run.step()
    run.step(epoch=1)
    stream = io.StringIO()
    log = logging.getLogger("test_progress")
    log.propagate = False
    log.addHandler(pawl.logging.Handler(run, stream))

    log.warning("the rate is %s", "high")

    assert stream.getvalue() == "[rank 0 epoch 1 step 2] WARNING the rate is high\n"


def test_a_line_is_written_around_a_bar(tmp_path):
    tqdm = pytest.importorskip("tqdm").tqdm
    run, _ = attached(tmp_path)
    stream = io.StringIO()
    log = logging.getLogger("test_progress.bar")
    log.propagate = False
    log.addHandler(pawl.logging.Handler(run, stream))

    with tqdm(total=3, file=stream) as bar:
        bar.update(1)
        log.error("one")

    assert "\r[rank 0 epoch 0 step 0] ERROR one\n" in stream.getvalue()
