"""torchdata's StatefulDataLoader with workers: killed in the middle, no batch comes twice and none is lost."""

import os
import random
import signal
import subprocess
import sys

import pytest

pytest.importorskip("torchdata.stateful_dataloader")

SCRIPT = """
import sys, torch, pawl
from torchdata.stateful_dataloader import StatefulDataLoader

class Stream(torch.utils.data.IterableDataset):
    # Each worker its own part; says where it is, as torchdata asks for.
    def __init__(self):
        self.at = 0
    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        while self.at < 20:
            self.at += 1
            yield worker.id * 100 + self.at
        self.at = 0
    def state_dict(self):
        return {"at": self.at}
    def load_state_dict(self, state):
        self.at = state["at"]

torch.manual_seed(0)
kind, directory = sys.argv[1:]
data = {"shuffled": dict(dataset=list(range(40)), shuffle=True), "stream": dict(dataset=Stream())}[kind]
loader = StatefulDataLoader(batch_size=2, num_workers=2, **data)
model = torch.nn.Linear(1, 1)
run = pawl.attach(model=model, loader=loader, checkpoint_directory=directory, every_steps=3)
for epoch in run.epochs(2):
    for batch in run.batches(loader):
        print(run.steps, epoch, batch.tolist(), torch.rand(1).item(), flush=True)
        run.step()
"""


def start(kind, directory):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, kind, str(directory)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def steps_of(lines):
    """By step; one that came again must have been the same."""
    steps = {}
    for line in lines:
        step, rest = line.split(" ", 1)
        assert steps.setdefault(int(step), rest) == rest, f"step {step} was another one before"
    return steps


@pytest.mark.parametrize("kind", ["shuffled", "stream"])
def test_killed_in_the_middle(tmp_path, kind):
    process = start(kind, tmp_path / "alone")
    undisturbed = steps_of(process.communicate()[0].splitlines())
    assert process.returncode == 0
    assert len(undisturbed) == 40
    chance = random.Random(7)

    lines = []
    for part in range(3):
        process = start(kind, tmp_path / "killed")
        # Seen so far and no further: a kill within each third of the run.
        until = part * 12 + chance.randrange(4, 12)
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if int(line.split(" ", 1)[0]) >= until:
                break
        os.killpg(process.pid, signal.SIGKILL)  # workers hold its output open for seconds
        lines += process.stdout.read().splitlines()
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
    process = start(kind, tmp_path / "killed")
    lines += process.communicate()[0].splitlines()

    assert process.returncode == 0
    assert steps_of(lines) == undisturbed
