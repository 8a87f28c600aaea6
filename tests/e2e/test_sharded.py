"""Models of which each rank holds a part: killed at random, they end as if nobody had touched them; and what is said
where a part does not fit."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest
from conftest import Place, a_seed
from test_python_client import EXAMPLES, SAMPLES, kill_at_random, losses_of, python

__all__ = ["python"]  # the fixture

# Not the files' bytes: what pickle writes as a reference depends on which strings were one object.
SAME = """
import sys, torch
def same(one, other, where):
    assert type(one) is type(other), (where, type(one), type(other))
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), where
    elif isinstance(one, dict):
        assert list(one) == list(other), (where, list(one), list(other))
        for key in one: same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other)): same(*pair, f"{where}.{index}")
    else:
        assert one == other, (where, one, other)
states = [torch.load(path, weights_only=True) for path in sys.argv[1:]]
assert len(states[0]["optimizer_state_dict"]["state"]) > 0
for state in states:  # nobody has seeded Python's and NumPy's
    state["rng_state"] = state["rng_state"]["torch"]
    begun = state["loader_state_dict"]["begun"]
    begun["all"] = begun["all"]["torch"]
same(*states, "")
"""
FSDP = str(EXAMPLES / "fsdp.py")


@pytest.mark.parametrize("kind", ["fully_shard", "fsdp1", "fsdp1-orig"])
def test_two_ranks_with_half_a_model_each_killed_at_random(
    place: Place, tmp_path: Path, python: str, kind: str
) -> None:
    chance = random.Random(a_seed())
    script = [python, FSDP, *SAMPLES, "--kind", kind, "--workers", "0", "--losses", "losses"]
    alone = Place(tmp_path / "alone")
    alone.path.mkdir()
    assert alone.run(script, ["--ranks", "2", "--every-steps", "5"]).code == 0

    kill_at_random(place, script, ["--ranks", "2"], 3, chance)

    for rank in (0, 1):
        assert losses_of(place.path / f"losses-{rank}") == losses_of(alone.path / f"losses-{rank}")
        # Weights, moments, buffers, torch's generator, position in the data.
        files = [str(where.newest() / f"rank-{rank:05}.pt") for where in (place, alone)]
        subprocess.run([python, "-c", SAME, *files], check=True)


def test_the_manifest_says_which_rank_holds_what_of_each_tensor(place: Place, python: str) -> None:
    script = [python, FSDP, "--samples", "640", "--epochs", "1", "--workers", "0"]
    ended = place.run(script, ["--ranks", "2"])
    assert ended.code == 0, ended.output

    tensors = json.loads((place.newest() / "manifest.json").read_text())["tensors"]

    weight = tensors["model_state_dict.6.weight"]
    assert weight == {
        "dtype": "float32",
        "shape": [10, 392],
        "flat": False,
        "parts": {
            "rank-00000.pt": {"offsets": [0, 0], "sizes": [5, 392]},
            "rank-00001.pt": {"offsets": [5, 0], "sizes": [5, 392]},
        },
    }
    # Of each parameter the two moments, laid out as it is.
    for index, name in [(0, "0.weight"), (4, "6.weight")]:
        for moment in ("exp_avg", "exp_avg_sq"):
            moments = tensors[f"optimizer_state_dict.state.{index}.{moment}"]
            assert moments == tensors[f"model_state_dict.{name}"], "no moment is cut otherwise"
    # A rank's file is an ordinary one: its part, by the usual names.
    code = "import sys, torch; s = torch.load(sys.argv[1], weights_only=True); print(s['model_state_dict']['6.weight'].shape)"
    for rank in (0, 1):
        file = place.newest() / f"rank-{rank:05}.pt"
        assert "torch.Size([5, 392])" in subprocess.check_output([python, "-c", code, str(file)], text=True)
    assert place.pawl("checkpoints", "verify").code == 0


def test_another_way_to_cut_is_refused_with_both_sides(place: Place, python: str) -> None:
    script = [python, FSDP, "--samples", "640", "--epochs", "1", "--workers", "0"]
    assert place.run([*script, "--kind", "fsdp1-orig"], ["--ranks", "2"]).code == 0

    ended = place.run([*script, "--epochs", "2"], ["--ranks", "2", "--max-restarts", "0"])

    assert ended.code != 0
    said = "".join(path.read_text() for path in (place.state / "logs").rglob("rank-*.log"))
    assert "does not fit this program" in said
    assert "this rank holds [0:5, 0:392] of [10, 392]" in said, said[-3000:]
