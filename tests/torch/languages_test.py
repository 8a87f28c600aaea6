"""A training that changes its language on the way: the same as one that never did.

20 steps in Python, torch.save, 20 in C++ from that file; and the reverse. Against 40 in one language: to the bit for
SGD, to 1e-6 for the others. The C++ half is continue_training.cc, built against the LibTorch of this Python's version.
"""

from __future__ import annotations

import copy
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
MAJOR = int(torch.__version__.split(".")[0])
BIN = Path(os.environ.get("PAWL_TORCH_BIN", ROOT / ("build" if MAJOR == 1 else "build-torch2") / "bin"))
HALF = 20

OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda groups: torch.optim.SGD(groups(0.05), lr=0.05),
    "momentum": lambda groups: torch.optim.SGD(
        groups(0.05), lr=0.05, momentum=0.9, weight_decay=1e-3, nesterov=True
    ),
    "adam": lambda groups: torch.optim.Adam(groups(3e-3), lr=3e-3),
    "amsgrad": lambda groups: torch.optim.Adam(
        groups(3e-3), lr=3e-3, betas=(0.8, 0.95), weight_decay=0.01, amsgrad=True
    ),
    "adamw": lambda groups: torch.optim.AdamW(groups(3e-3), lr=3e-3, weight_decay=0.1),
    "rmsprop": lambda groups: torch.optim.RMSprop(
        groups(1e-3), lr=1e-3, alpha=0.95, momentum=0.5, centered=True, weight_decay=1e-3
    ),
    "adagrad": lambda groups: torch.optim.Adagrad(groups(0.02), lr=0.02, lr_decay=0.1),
    "lbfgs": lambda groups: torch.optim.LBFGS(
        [p for group in groups(0.1) for p in group["params"]], lr=0.1, max_iter=4, history_size=5
    ),
}
TO_THE_BIT = {"sgd", "momentum"}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        # A bias before BatchNorm has gradients of rounding noise alone, which Adam makes whole steps of.
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * 6 * 6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.norm(self.conv(x))).flatten(1))


class Training:
    """What continue_training.cc does."""

    def __init__(self, name: str) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(7)
        self.model = Net()

        def groups(rate: float) -> list[dict[str, Any]]:
            features = [*self.model.conv.parameters(), *self.model.norm.parameters()]
            return [{"params": features}, {"params": list(self.model.fc.parameters()), "lr": rate / 2}]

        self.optimizer = OPTIMIZERS[name](groups)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=6, gamma=0.5)
        self.step = 0
        self.losses: list[float] = []

    def load(self, path: Path) -> None:
        checkpoint = torch.load(path, weights_only=False)
        self.model.load_state_dict(checkpoint["model_state_dict"])
        self.optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
        self.scheduler.load_state_dict(checkpoint["scheduler_state_dict"])
        self.step = checkpoint["step"]

    def save(self, path: Path) -> Path:
        state = {
            "epoch": 0,
            "step": self.step,
            "model_state_dict": self.model.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "scheduler_state_dict": self.scheduler.state_dict(),
        }
        torch.save(state, path)
        return path

    def train(self, steps: int) -> None:
        self.model.train()
        for _ in range(steps):
            index = torch.arange(8 * 36, dtype=torch.float64)
            x = (index * 0.37 + float(self.step)).sin().float().view(8, 1, 6, 6)
            y = (torch.arange(8) * 7 + self.step).remainder(3)

            def closure(x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
                self.optimizer.zero_grad()
                loss = nn.functional.cross_entropy(self.model(x), y)
                loss.backward()
                return loss

            self.losses.append(self.optimizer.step(closure).item())
            self.scheduler.step()
            self.step += 1

    def state(self) -> dict[str, Any]:
        return copy.deepcopy(
            {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "loss": self.losses[-HALF:]}
        )


def in_cpp(name: str, source: Path, steps: int, directory: Path, *more: str) -> tuple[Path, list[float]]:
    """Goes on in C++; the file it leaves, and its losses."""
    done = subprocess.run(
        [str(BIN / "continue_training"), name, str(source), str(steps), str(directory), *more],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return directory / "latest" / "rank-00000.pt", [float.fromhex(line) for line in done.stdout.split()]


def state_of(name: str, path: Path, losses: list[float]) -> dict[str, Any]:
    """As Python holds what C++ has left."""
    training = Training(name)
    training.load(path)
    training.losses = losses
    return training.state()


def numbers(state: Any, path: str = "") -> dict[str, torch.Tensor]:
    """Every tensor and number in it, by path; scratch space aside."""
    if isinstance(state, dict):
        items = [(f"{path}.{key}", value) for key, value in state.items() if key != "al"]
    elif isinstance(state, (list, tuple)):
        items = [(f"{path}[{i}]", value) for i, value in enumerate(state)]
    elif isinstance(state, torch.Tensor):
        return {path: state.detach().double()}
    elif isinstance(state, (int, float)) and not isinstance(state, bool):
        return {path: torch.tensor(float(state), dtype=torch.float64)}
    else:
        return {}
    return {key: value for name, item in items for key, value in numbers(item, name).items()}


def assert_same(name: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    left, right = numbers(one), numbers(other)
    assert set(left) == set(right)
    limit = 0.0 if name in TO_THE_BIT else 1e-6
    far = {}
    for path, expected in right.items():
        scale = max(float(expected.abs().max()), 1e-30)
        distance = float((left[path] - expected).abs().max()) / scale
        if distance > limit:
            far[path] = distance
    assert not far


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_python_then_cpp_is_python_alone(name: str, tmp_path: Path) -> None:
    training = Training(name)
    training.train(HALF)
    file = training.save(tmp_path / "python.pt")
    training.train(HALF)

    mixed = state_of(name, *in_cpp(name, file, HALF, tmp_path / "cpp"))

    assert_same(name, mixed, training.state())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_cpp_then_python_is_cpp_alone(name: str, tmp_path: Path) -> None:
    begin = Training(name).save(tmp_path / "begin.pt")
    alone = state_of(name, *in_cpp(name, begin, 2 * HALF, tmp_path / "alone"))
    alone["loss"] = alone["loss"][-HALF:]
    file, _ = in_cpp(name, begin, HALF, tmp_path / "half")

    training = Training(name)
    training.load(file)
    training.train(HALF)

    assert_same(name, training.state(), alone)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_language_alone_does_the_same(name: str, tmp_path: Path) -> None:
    """So the two tests above compare one training, StepLR's schedule included."""
    # The two LBFGSs round the first step's length differently, and without a line search it forgives nothing.
    steps = 3 if name == "lbfgs" else HALF
    training = Training(name)
    begin = training.save(tmp_path / "begin.pt")
    training.train(steps)

    file, losses = in_cpp(name, begin, steps, tmp_path / "cpp")

    tensors = torch.load(file, weights_only=False)["model_state_dict"]
    for key, value in training.model.state_dict().items():
        torch.testing.assert_close(tensors[key], value, rtol=1e-3, atol=1e-4)
    assert losses == pytest.approx(training.losses, rel=1e-3)
    rates = [group["lr"] for group in training.optimizer.param_groups]
    saved = torch.load(file, weights_only=False)["optimizer_state_dict"]["param_groups"]
    assert [float(group["lr"]) for group in saved] == pytest.approx(rates, rel=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_python_knows_beyond_cpp_survives_the_stay(name: str, tmp_path: Path) -> None:
    training = Training(name)
    training.optimizer.param_groups[0]["owner"] = "me"
    training.train(3)
    file = training.save(tmp_path / "python.pt")
    written = torch.load(file, weights_only=False)["optimizer_state_dict"]["param_groups"]

    back, _ = in_cpp(name, file, 2, tmp_path / "cpp")

    read = torch.load(back, weights_only=False)["optimizer_state_dict"]["param_groups"]
    for before, after in zip(written, read):
        assert set(after) >= set(before)
        assert float(after["initial_lr"]) == before["initial_lr"]
        assert after["params"] == before["params"]
    assert read[0]["owner"] == "me"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_cpp_wrote_loads_with_weights_only(name: str, tmp_path: Path) -> None:
    begin = Training(name).save(tmp_path / "begin.pt")
    file, _ = in_cpp(name, begin, 3, tmp_path / "cpp")

    checkpoint = torch.load(file, weights_only=True)

    assert checkpoint["step"] == 3


def test_the_three_keys_of_the_tutorial_are_enough(tmp_path: Path) -> None:
    """{'epoch', 'model_state_dict', 'optimizer_state_dict'}, and the scheduler begins anew."""
    training = Training("adam")
    training.train(2)
    state = {
        "epoch": 4,
        "model_state_dict": training.model.state_dict(),
        "optimizer_state_dict": training.optimizer.state_dict(),
    }
    torch.save(state, tmp_path / "tutorial.pt")

    file, losses = in_cpp("adam", tmp_path / "tutorial.pt", 1, tmp_path / "cpp", "tolerant")

    assert len(losses) == 1
    checkpoint = torch.load(file, weights_only=False)
    assert checkpoint["epoch"] == 4
    assert float(checkpoint["optimizer_state_dict"]["state"][0]["step"]) == 3


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("adam", {"maximize": True}, "param_groups[0]: 'maximize' is True in the checkpoint; LibTorch's Adam has no"),
        ("adam", {"decoupled_weight_decay": True, "weight_decay": 0.1}, "it is of AdamW, not of Adam"),
        ("sgd", {"differentiable": True}, "'differentiable' is True in the checkpoint; LibTorch's SGD has no"),
        ("rmsprop", {"lr": "fast"}, "param_groups[0]: 'lr' is str in the checkpoint, a number was expected"),
    ],
)
def test_an_option_that_libtorch_lacks_is_named(
    name: str, change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    training = Training(name)
    training.train(1)
    file = training.save(tmp_path / "python.pt")
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["optimizer_state_dict"]["param_groups"][0].update(change)
    torch.save(checkpoint, file)

    done = subprocess.run(
        [str(BIN / "continue_training"), name, str(file), "1", str(tmp_path / "cpp")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == 2
    assert said in done.stderr
    assert "nothing was changed" in done.stderr


def test_another_optimizers_state_is_refused(tmp_path: Path) -> None:
    training = Training("sgd")
    training.train(1)
    file = training.save(tmp_path / "python.pt")

    done = subprocess.run(
        [str(BIN / "continue_training"), "adam", str(file), "1", str(tmp_path / "cpp")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert done.returncode == 2
    assert "param_groups[0] has no 'amsgrad': it is not of the optimizer Adam" in done.stderr
    assert "param_groups[1] has no 'amsgrad'" in done.stderr
