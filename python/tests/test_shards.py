"""Parts of tensors, in one process: a mesh of one rank has all that can be wrong but the other ranks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pawl import PawlError, _replicas, _shards

pytestmark = pytest.mark.skipif(torch.__version__.startswith("1."), reason="1.13 has no DTensor")


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Any]:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def scalar_and_matrix(mesh: Any) -> list[torch.nn.Parameter]:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    torch.manual_seed(0)
    return [
        torch.nn.Parameter(distribute_tensor(torch.tensor(2.0), mesh, [Replicate()])),
        torch.nn.Parameter(distribute_tensor(torch.randn(5, 3), mesh, [Shard(0)])),
    ]


def step(optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter]) -> None:
    optimizer.zero_grad()
    for parameter in parameters:
        parameter.pow(2).sum().backward()
    optimizer.step()


def test_an_optimizers_state_is_cut_again_as_its_parameters_are_scalars_too(mesh: Any) -> None:
    parameters = scalar_and_matrix(mesh)
    optimizer = torch.optim.Adam(parameters, lr=0.1)
    step(optimizer, parameters)
    parts: dict[str, Any] = {}
    saved = copy.deepcopy(_shards.take_optimizer_apart("o", optimizer, {}, parts))
    assert not any(_shards.is_dtensor(entry) for state in saved["state"].values() for entry in state.values())
    assert parts["o.state.0.exp_avg"] == {"dtype": "float32", "shape": [], "offsets": [], "sizes": []}
    assert parts["o.state.1.exp_avg"]["sizes"] == [5, 3]
    # What it would have come to.
    values = [parameter.detach().to_local().clone() for parameter in parameters]
    step(optimizer, parameters)
    expected = [parameter.detach().to_local().clone() for parameter in parameters]

    again = scalar_and_matrix(mesh)
    with torch.no_grad():
        for parameter, value in zip(again, values):
            parameter.to_local().copy_(value)
    fresh = torch.optim.Adam(again, lr=0.1)
    problems: list[str] = []
    fresh.load_state_dict(_shards.put_optimizer_together("o", saved, fresh, {}, parts, problems))
    step(fresh, again)

    assert problems == []
    assert all(torch.equal(one.detach().to_local(), other) for one, other in zip(again, expected))


def test_a_state_that_is_cut_otherwise_than_its_parameter_is_refused_when_it_is_saved(mesh: Any) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    parameters = scalar_and_matrix(mesh)
    optimizer = torch.optim.Adam(parameters, lr=0.1)
    step(optimizer, parameters)
    optimizer.state[parameters[1]]["row"] = distribute_tensor(torch.randn(5), mesh, [Shard(0)])

    with pytest.raises(PawlError, match=r"'o.state.1.row' is \[0:5\] of \[5\], but its parameter is \[0:5, 0:3\]"):
        _shards.take_optimizer_apart("o", optimizer, {}, {})


def test_beside_a_model_in_ddp_one_that_is_cut_is_each_ranks_own(mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    whole = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
    cut = torch.nn.Linear(4, 6)
    fully_shard(cut, mesh=mesh)
    objects = {
        "model": whole,
        "optimizer": torch.optim.SGD(whole.parameters(), lr=0.1),
        "critic": cut,
        "critic_optimizer": torch.optim.SGD(cut.parameters(), lr=0.1),
    }

    replicated = {name for name in objects if _replicas.is_replicated(objects, name)}

    assert replicated == {"model", "optimizer"}


def test_what_holds_no_part_stays_the_very_object(mesh: Any) -> None:
    state = torch.nn.BatchNorm1d(3).state_dict()
    parts: dict[str, Any] = {}

    assert _shards.take_apart("m", state, parts) is state
    assert hasattr(state, "_metadata")
    assert parts == {}
    assert _shards.text_of(parts) == b""
