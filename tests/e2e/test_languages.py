"""Both languages, one file: a job whose first incarnation is in one language and whose next is in the other.

The first is killed (kill -9) at some step; the other resumes from the same checkpoint directory: model, optimizer,
scheduler, generators, the user's values and the position in the shuffled data. The losses are those of the run that
never changed language: up to the kill to the bit, and the next 20 to the bit for SGD with momentum, whose kernels
are the same library's, and to 1e-6 for Adam, AdamW and RMSprop, whose steps LibTorch orders otherwise than Python.

Once with PyTorch 2.15 for both (build-torch2 links the LibTorch inside Python's package), once with Debian's 1.13.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import BIN, ROOT, Place

PROGRAM = ROOT / "tests" / "torch" / "supervised_training.py"
NEXT = 20
LIMIT = {"momentum": 0.0, "adam": 1e-6, "adamw": 1e-6, "rmsprop": 1e-6}
OTHER = {"cpp": "python", "python": "cpp"}


def torch2_python() -> str:
    given = os.environ.get("PAWL_PYTHON")
    return given or subprocess.check_output([ROOT / "tools" / "setup_torch2.sh"], text=True).strip() + "/bin/python"


def torch1_python() -> str:
    of_setup = ROOT / "build" / "python" / "torch1" / "bin" / "python"
    return str(of_setup) if of_setup.exists() else "/usr/bin/python3"


@dataclass(frozen=True)
class Pair:
    """A Python and a C++ program with the same PyTorch."""

    python: str
    cpp: Path

    def command(self, language: str, *words: str) -> list[str]:
        begin = [str(self.cpp)] if language == "cpp" else [self.python, str(PROGRAM)]
        return [*begin, *words]


@pytest.fixture(scope="session", params=["2.15", "1.13"])
def pair(request: pytest.FixtureRequest) -> Pair:
    if request.param == "2.15":
        torch2_bin = Path(os.environ.get("PAWL_TORCH2_BIN", ROOT / "build-torch2" / "bin"))
        found = Pair(torch2_python(), torch2_bin / "supervised_training")
    else:
        found = Pair(torch1_python(), BIN / "supervised_training")
    assert found.cpp.exists(), f"{found.cpp} is not built (tools/build.sh torch2, tools/build.sh default)"
    said = subprocess.run(
        [found.python, "-c", "import pawl, torch; print(torch.__version__)"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.stdout.startswith(request.param), f"{found.python}: {said.stdout}{said.stderr}"
    return found


def losses_of(path: Path) -> dict[int, dict[str, float]]:
    """Of each step, by language. A step that one language computed twice must have given the same."""
    losses: dict[int, dict[str, float]] = {}
    for line in path.read_text().splitlines():
        step, bits, language = line.split()
        loss = float.fromhex(bits)
        at = losses.setdefault(int(step), {})
        assert at.setdefault(language, loss) == loss, f"step {step} was computed twice in {language}, differently"
    return losses


def changing(first: list[str], then: list[str]) -> list[str]:
    """Runs `first` in the job's first incarnation, `then` in the later ones."""
    script = 'count=$1; shift; if [ "$PAWL_INCARNATION" = 0 ]; then exec "${@:1:count}"; fi; shift "$count"; exec "$@"'
    return ["bash", "-c", script, "changing", str(len(first)), *first, *then]


@pytest.mark.parametrize("language", ["cpp", "python"])
@pytest.mark.parametrize("optimizer", LIMIT)
def test_killed_in_one_language_it_goes_on_in_the_other(
    place: Place, tmp_path: Path, pair: Pair, optimizer: str, language: str
) -> None:
    first = pair.command(language, optimizer, "1000000", "losses", "die")
    then = pair.command(OTHER[language], optimizer, f"+{NEXT}", "losses")
    ended = place.run(changing(first, then), ["--every-steps", "1"])
    assert ended.code == 0, ended.output
    assert "was killed by SIGKILL" in ended.output
    mixed = losses_of(place.path / "losses")
    resumed = min(step for step, at in mixed.items() if OTHER[language] in at)
    assert resumed > 0, "it began anew"

    alone = Place(tmp_path / "alone")
    alone.path.mkdir()
    ended = alone.run(pair.command(language, optimizer, str(resumed + NEXT), "losses"), ["--every-steps", "1"])
    assert ended.code == 0, ended.output
    never_changed = {step: at[language] for step, at in losses_of(alone.path / "losses").items()}

    before = {step: at[language] for step, at in mixed.items() if language in at and step < resumed}
    assert before == {step: never_changed[step] for step in range(resumed)}
    after = {step: at[OTHER[language]] for step, at in mixed.items() if OTHER[language] in at}
    assert sorted(after) == list(range(resumed, resumed + NEXT))
    far = {
        step: (loss, never_changed[step])
        for step, loss in after.items()
        if abs(loss - never_changed[step]) > LIMIT[optimizer] * abs(never_changed[step])
    }
    assert not far


def test_an_order_that_the_other_language_can_not_know_is_said(tmp_path: Path, pair: Pair) -> None:
    """A DataLoader that shuffles by itself: no daemon is needed to see that."""
    example = ROOT / "examples" / "python" / "four_lines.py"
    small = ["--samples", "640", "--epochs", "1", "--workers", "0"]
    subprocess.run([pair.python, str(example), *small], cwd=tmp_path, check=True, capture_output=True)

    refused = subprocess.run(
        pair.command("cpp", "adam", "+1", "losses"), cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert refused.returncode == 2
    assert "does not fit this program; nothing was changed" in refused.stderr
    assert "'sampler_state_dict' is missing; 'loader_state_dict' is the position of a Python" in refused.stderr
    assert "sampler=pawl.data.ShuffledSampler(size, seed)" in refused.stderr
