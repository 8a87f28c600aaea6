"""A run in a notebook: cells that are run again, interrupted, in another thread than the main one."""

import signal
import threading
import warnings

import pytest
import torch

import pawl

# What a cell holds. `run` stays in the notebook's namespace.
ATTACH = """
torch.manual_seed(0)
model = torch.nn.Linear(1, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
loader = torch.utils.data.DataLoader(torch.arange(20.0).reshape(20, 1), batch_size=2, shuffle=True)
run = pawl.attach(model=model, optimizer=optimizer, loader=loader, checkpoint_directory=directory, every_steps=5)
"""
TRAIN = """
for epoch in run.epochs(2):
    for batch in run.batches(loader):
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        if run.steps == interrupt_at:
            interrupt_at = None
            raise KeyboardInterrupt
        optimizer.step()
        seen.append((epoch, batch.flatten().tolist(), loss.item()))
        run.step(loss=loss)
"""


def notebook(directory, interrupt_at=None):
    return {"torch": torch, "pawl": pawl, "directory": str(directory), "interrupt_at": interrupt_at, "seen": []}


@pytest.fixture(autouse=True)
def sigterm_is_given_back():
    yield
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_cell_that_attaches_is_run_again(tmp_path):
    cells = notebook(tmp_path, interrupt_at=7)
    exec(ATTACH, cells)
    with pytest.raises(KeyboardInterrupt):
        exec(TRAIN, cells)
    first = cells["run"]

    with pytest.warns(RuntimeWarning, match="an earlier run of this process has .* it is let go"):
        exec(ATTACH, cells)

    assert cells["run"].steps == 5
    with pytest.raises(pawl.PawlError, match="detached"):
        first.step()


def test_a_cell_that_trains_is_interrupted_and_run_again(tmp_path):
    cells = notebook(tmp_path / "a")
    exec(ATTACH, cells)
    exec(TRAIN, cells)
    undisturbed = cells["seen"]

    cells = notebook(tmp_path / "b", interrupt_at=13)
    exec(ATTACH, cells)
    with pytest.raises(KeyboardInterrupt):
        exec(TRAIN, cells)
    exec(TRAIN, cells)

    # The batch of the step that was interrupted had been given, and was not trained.
    assert [entry[:2] for entry in cells["seen"]] == [e[:2] for i, e in enumerate(undisturbed) if i != 13]
    assert cells["seen"][:13] == undisturbed[:13]
    assert cells["run"].epoch == 2


def test_an_interrupt_within_a_snapshot_costs_that_snapshot(tmp_path, monkeypatch):
    cells = notebook(tmp_path)
    exec(ATTACH, cells)
    run = cells["run"]
    real = pawl._archive.Image.write_to

    def interrupted(*_):
        monkeypatch.setattr(pawl._archive.Image, "write_to", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(pawl._archive.Image, "write_to", interrupted)
    with pytest.raises(KeyboardInterrupt):
        exec(TRAIN, cells)
    exec(TRAIN, cells)

    assert run.steps == 20
    assert [path.name for path in tmp_path.iterdir() if path.name[0].isdigit()][-1].endswith("step-20")


def test_sigterm_is_taken_in_the_main_thread_and_given_back(tmp_path):
    cells = notebook(tmp_path)
    exec(ATTACH, cells)
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL

    cells["run"].detach()

    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_another_thread_may_attach(tmp_path):
    cells = notebook(tmp_path)
    failed = []

    def work():
        try:
            exec(ATTACH + TRAIN, cells)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        thread.start()
        thread.join()

    assert not failed
    assert cells["run"].steps == 20
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_did_not_fit_leaves_the_directory_free(tmp_path):
    cells = notebook(tmp_path, interrupt_at=7)
    exec(ATTACH, cells)
    with pytest.raises(KeyboardInterrupt):
        exec(TRAIN, cells)
    cells["run"].detach()
    with pytest.raises(pawl.ResumeError):
        exec(ATTACH.replace("Linear(1, 1)", "Linear(1, 2)"), cells)

    exec(ATTACH, cells)

    assert cells["run"].steps == 5
