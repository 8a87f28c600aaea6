"""What the C++ trainer wrote, in PyTorch: loaded, and trained on from there."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from conftest import Place

torch = pytest.importorskip("torch")

SCRIPT = """
    import gzip, sys
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
            self.norm = nn.BatchNorm2d(16)
            self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
            self.dropout = nn.Dropout(0.1)
            self.fc = nn.Linear(32 * 7 * 7, 10)

        def forward(self, x):
            x = torch.max_pool2d(torch.relu(self.norm(self.conv1(x))), 2)
            x = torch.max_pool2d(torch.relu(self.conv2(x)), 2)
            return self.fc(self.dropout(x.flatten(1)))

    def load(name, offset):
        with gzip.open(f"/usr/share/datasets/fashion-mnist/{name}.gz") as file:
            return torch.frombuffer(bytearray(file.read()[offset:]), dtype=torch.uint8)

    images = ((load("t10k-images-idx3-ubyte", 16).view(-1, 1, 28, 28).float() / 255) - 0.2860) / 0.3530
    labels = load("t10k-labels-idx1-ubyte", 8).long()

    def accuracy(model):
        model.eval()
        with torch.no_grad():
            return (model(images[:1000]).argmax(1) == labels[:1000]).float().mean().item()

    torch.manual_seed(0)
    model = Net()
    optimizer = {optimizer}
    fresh = accuracy(model)
    checkpoint = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
    model.load_state_dict(checkpoint["model_state_dict"])
    optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    start_epoch = checkpoint["epoch"]
    assert start_epoch == 2, start_epoch
    resumed = accuracy(model)
    assert resumed > 0.75 > fresh, (fresh, resumed)

    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.7)
    losses = []
    for epoch in range(start_epoch, 4):
        model.train()
        for begin in range(0, 6400, 64):
            optimizer.zero_grad()
            batch = slice(begin, begin + 64)
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        scheduler.step()
    first, last = sum(losses[:20]) / 20, sum(losses[-20:]) / 20
    assert last < first < 1.0, (first, last)
    assert accuracy(model) > resumed
    print("goes on", first, last)
"""

OPTIMIZERS = {
    "adam": "torch.optim.Adam(model.parameters(), lr=2e-3)",
    "sgd": "torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)",
}


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_a_python_script_continues_training_from_what_the_cpp_trainer_wrote(place: Place, optimizer: str) -> None:
    ended = place.run(place.trainer("--optimizer", optimizer))
    assert ended.code == 0, ended.output
    script = place.path / "continue.py"
    script.write_text(textwrap.dedent(SCRIPT.replace("{optimizer}", OPTIMIZERS[optimizer])))

    done = subprocess.run(
        [sys.executable, str(script), str(place.newest() / "rank-00000.pt")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("goes on")


@pytest.mark.parametrize("weights_only", [False, True])
def test_torch_load_reads_what_the_cpp_trainer_wrote(place: Place, weights_only: bool) -> None:
    ended = place.run()
    assert ended.code == 0, ended.output

    checkpoint = torch.load(place.newest() / "rank-00000.pt", weights_only=weights_only)

    assert checkpoint["epoch"] == 2
    assert checkpoint["step"] == 100
    assert set(checkpoint) >= {"model_state_dict", "optimizer_state_dict", "scheduler_state_dict", "rng_state"}
    assert list(checkpoint["model_state_dict"])[:4] == ["conv1.weight", "conv1.bias", "norm.weight", "norm.bias"]
    state = checkpoint["optimizer_state_dict"]["state"]
    assert state[0]["exp_avg"].shape == checkpoint["model_state_dict"]["conv1.weight"].shape
    assert torch.get_rng_state().shape == checkpoint["rng_state"]["torch"].shape
