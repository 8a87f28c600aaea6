"""State of which each rank holds a part: DTensors (``fully_shard``, tensor parallelism) and FSDP1's flat parameters.

A rank saves its own part and no collective is called: ranks may reach a snapshot at different moments, and one that
has passed the step would keep the others waiting for ever. A part is saved as an ordinary tensor; what it is a part of
goes into the file's record ``shards.json`` and from there into the manifest.

A *part* is ``{"dtype": str, "shape": [int], "offsets": [int], "sizes": [int]}`` in elements, with ``"flat": True``
where the tensor was flattened before it was cut.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any, Optional

import torch

from pawl._native import PawlError
from pawl._state import UnsavableError

Part = dict[str, Any]
Parts = dict[str, Part]

_RECORD = "shards.json"
_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")


def _dtensor() -> Any:
    """The class, if anything can be one: who has not imported it holds none."""
    module = sys.modules.get("torch.distributed.tensor")
    return getattr(module, "DTensor", None)


def is_dtensor(value: Any) -> bool:
    kind = _dtensor()
    return kind is not None and isinstance(value, kind)


def _fsdp1() -> Any:
    module = sys.modules.get("torch.distributed.fsdp")
    return getattr(module, "FullyShardedDataParallel", None)


def is_fsdp1(value: Any) -> bool:
    kind = _fsdp1()
    return (
        kind is not None
        and isinstance(value, torch.nn.Module)
        and any(isinstance(module, kind) for module in value.modules())
    )


def holds_parts(value: Any, objects: dict[str, Any]) -> bool:
    """Whether this rank holds parts of it: a model that is cut, or the optimizer of one."""
    if isinstance(value, torch.nn.Module):
        return is_fsdp1(value) or any(is_dtensor(parameter) for parameter in value.parameters())
    if isinstance(value, torch.optim.Optimizer):
        flat = flat_parts_by_parameter(objects)
        return any(is_dtensor(one) or id(one) in flat for one in _parameters_of(value))
    return False


def _dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).replace("torch.", "")


def _part_of_dtensor(value: Any) -> Part:
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    if any(placement.is_partial() for placement in value.placements):
        raise PawlError("a DTensor of pending sums (Partial) can't be saved: redistribute it first")
    _, offsets = compute_local_shape_and_global_offset(value.shape, value.device_mesh, value.placements)
    sizes = list(value.to_local().shape)
    # Of nothing, the offset is where it would begin; past the end, if there is nothing there.
    offsets = [min(int(offset), size) for offset, size in zip(offsets, value.shape)]
    return {"dtype": _dtype_name(value), "shape": list(value.shape), "offsets": offsets, "sizes": sizes}


def take_apart(path: str, tree: Any, parts: Parts) -> Any:
    """The tree with this rank's part in place of each DTensor; `parts` learns what they are parts of."""
    if _dtensor() is None:
        return tree
    if is_dtensor(tree):
        parts[path] = _part_of_dtensor(tree)
        return tree.to_local().detach()
    if isinstance(tree, dict):
        taken = {key: take_apart(f"{path}.{key}", child, parts) for key, child in tree.items()}
        # What holds no part stays as it is, with whatever else hangs on it (a module's `_metadata`).
        return taken if any(taken[key] is not tree[key] for key in taken) else tree
    if type(tree) in (list, tuple):
        children = [take_apart(f"{path}.{index}", child, parts) for index, child in enumerate(tree)]
        return type(tree)(children) if any(one is not other for one, other in zip(children, tree)) else tree
    if type(tree).__name__ == "ShardedTensor":
        raise PawlError(
            f"'{path}' is a ShardedTensor, which is no longer made by PyTorch: use torch.distributed.tensor, or let "
            "pawl.attach save the FSDP model itself"
        )
    return tree


def _put_together(path: str, local: Any, like: Any, parts: Parts, problems: list[str]) -> Any:
    """A DTensor like `like` around a saved part; adds to `problems` what does not fit."""
    mine = _part_of_dtensor(like)
    saved = parts.get(path)
    if saved is None:
        problems.append(f"{path}: whole in the checkpoint, but this rank holds {_text(mine)}")
        return local
    if (saved["shape"], saved["offsets"], saved["sizes"]) != (mine["shape"], mine["offsets"], mine["sizes"]):
        problems.append(f"{path}: {_text(saved)} in the checkpoint, but this rank holds {_text(mine)}")
        return local
    return type(like).from_local(
        local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def _text(part: Part) -> str:
    bounds = ", ".join(f"{begin}:{begin + size}" for begin, size in zip(part["offsets"], part["sizes"]))
    flat = "flattened " if part.get("flat") else ""
    return f"[{bounds}] of {flat}{part['shape']}"


def put_together(path: str, tree: Any, like: Any, parts: Parts, problems: list[str]) -> Any:
    """The reverse of `take_apart`, for an object whose state is laid out as `like` is now."""
    if is_dtensor(like) and isinstance(tree, torch.Tensor):
        return _put_together(path, tree, like, parts, problems)
    if isinstance(tree, dict) and isinstance(like, dict):
        return {
            key: put_together(f"{path}.{key}", child, like[key], parts, problems) if key in like else child
            for key, child in tree.items()
        }
    if type(tree) in (list, tuple) and type(like) is type(tree) and len(like) == len(tree):
        return type(tree)(
            put_together(f"{path}.{index}", child, its, parts, problems)
            for index, (child, its) in enumerate(zip(tree, like))
        )
    return tree


# ---- optimizers: a fresh one has no state to lay out by, but it has the parameters ----


def _parameters_of(optimizer: Any) -> list[Any]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _entries(path: str, saved: dict[str, Any], optimizer: Any) -> Iterator[tuple[str, dict[str, Any], str, Any]]:
    """(path, the dict that holds it, key, parameter) of each tensor of a parameter's state."""
    parameters = _parameters_of(optimizer)
    for index, entries in saved.get("state", {}).items():
        if not isinstance(index, int) or index >= len(parameters) or not isinstance(entries, dict):
            continue
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                yield f"{path}.state.{index}.{key}", entries, key, parameters[index]


def take_optimizer_apart(path: str, optimizer: Any, flat: dict[int, Part], parts: Parts) -> Any:
    """`flat` has the parts of FSDP1's parameters by id."""
    taken = take_apart(path, optimizer.state_dict(), parts)
    for where, entries, key, parameter in _entries(path, taken, optimizer):
        if where in parts:
            mine = _part_of_dtensor(parameter.detach()) if is_dtensor(parameter) else None
            if mine is None or not _is_same(mine, parts[where]):
                raise UnsavableError(
                    f"'{where}' is {_text(parts[where])}, but its parameter is "
                    f"{_text(mine) if mine else 'whole'}: how it is cut can't be restored. Nothing was written; use an "
                    "optimizer whose state is laid out as its parameters are"
                )
        part = flat.get(id(parameter))
        if part is not None and entries[key].shape == parameter.shape:
            parts[where] = {**part, "dtype": _dtype_name(entries[key])}
    return taken


def put_optimizer_together(
    path: str, saved: dict[str, Any], optimizer: Any, flat: dict[int, Part], parts: Parts, problems: list[str]
) -> dict[str, Any]:
    is_whole = not parts and not flat and not any(is_dtensor(one) for one in _parameters_of(optimizer))
    if is_whole or not isinstance(saved.get("state"), dict):
        return saved
    state = {
        index: dict(entries) if isinstance(entries, dict) else entries for index, entries in saved["state"].items()
    }
    together = {**saved, "state": state}
    for where, entries, key, parameter in _entries(path, together, optimizer):
        mine = flat.get(id(parameter))
        theirs = parts.get(where)
        if is_dtensor(parameter) and theirs is not None:
            entries[key] = _put_together(where, entries[key], parameter.detach(), parts, problems)
        elif mine is not None and theirs is not None and not _is_same(mine, theirs):
            problems.append(f"{where}: {_text(theirs)} in the checkpoint, but this rank holds {_text(mine)}")
    return together


def _is_same(one: Part, other: Part) -> bool:
    return all(one[key] == other[key] for key in ("shape", "offsets", "sizes"))


# ---- FSDP1: flat parameters, cut without regard to what they are made of ----


def _plain(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _handles(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    kind = _fsdp1()
    for name, child in module.named_modules():
        handle = child._handle if isinstance(child, kind) else None
        if handle is None:
            continue
        if not handle.uses_sharded_strategy:
            raise PawlError(
                "an FSDP model with ShardingStrategy.NO_SHARD is the same on every rank: use DistributedDataParallel"
            )
        prefix = _plain(name + ".") if name else ""
        yield prefix, handle


def _local_shard(flat: Any) -> torch.Tensor:
    """Before the first forward pass the parameter has nothing but its part."""
    local = getattr(flat, "_local_shard", None)
    return flat.detach() if local is None else local


def _flat_parts(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor, Part, Any]]:
    """(name, this rank's elements, what they are of, the parameter) of each original parameter."""
    for prefix, handle in _handles(module):
        flat = handle.flat_param
        local = _local_shard(flat)
        for name, shape, info, parameter in zip(
            flat._fqns, flat._shapes, flat._shard_param_infos, flat._params or [None] * len(flat._fqns)
        ):
            begin, count = (info.offset_in_shard, info.numel_in_shard) if info.in_shard else (0, 0)
            start = info.intra_param_start_idx if info.in_shard else 0
            part = {
                "dtype": _dtype_name(flat),
                "shape": list(shape),
                "offsets": [start],
                "sizes": [count],
                "flat": True,
            }
            yield prefix + name, local[begin : begin + count], part, parameter


def flat_parts_by_parameter(objects: dict[str, Any]) -> dict[int, Part]:
    """What FSDP1's parameters, as optimizers know them, are parts of; by id."""
    found: dict[int, Part] = {}
    for value in objects.values():
        if not is_fsdp1(value):
            continue
        for _, _, part, parameter in _flat_parts(value):
            if parameter is not None:
                found[id(parameter)] = part
        for _, handle in _handles(value):
            flat = handle.flat_param
            count = _local_shard(flat).numel()
            found[id(flat)] = {
                "dtype": _dtype_name(flat),
                "shape": [count * handle.world_size],
                "offsets": [count * handle.rank],
                "sizes": [count],
            }
    return found


def _others_of_fsdp1(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Buffers, and parameters that FSDP was told to leave alone."""
    managed = {id(handle.flat_param) for _, handle in _handles(module)}
    managed |= {id(parameter) for _, _, _, parameter in _flat_parts(module) if parameter is not None}
    for name, parameter in module.named_parameters():
        if id(parameter) not in managed:
            yield _plain(name), parameter.detach()
    for prefix, child in module.named_modules():
        for name, buffer in child._buffers.items():
            if buffer is not None and name not in child._non_persistent_buffers_set:
                yield _plain(f"{prefix}.{name}" if prefix else name), buffer


def take_fsdp1_apart(path: str, module: torch.nn.Module, parts: Parts) -> dict[str, torch.Tensor]:
    state = dict(_others_of_fsdp1(module))
    for name, local, part, _ in _flat_parts(module):
        state[name] = local.detach()
        parts[f"{path}.{name}"] = part
    return state


def problems_of_fsdp1(path: str, module: torch.nn.Module, saved: dict[str, Any], parts: Parts) -> list[str]:
    problems = []
    mine = {name: part for name, _, part, _ in _flat_parts(module)}
    others = {name: list(tensor.shape) for name, tensor in _others_of_fsdp1(module)}
    for name in sorted({*mine, *others} - set(saved)):
        problems.append(f"{path}: '{name}' is missing in the checkpoint")
    for name in sorted(set(saved) - {*mine, *others}):
        problems.append(f"{path}: '{name}' of the checkpoint is unexpected: the model has no such entry")
    for name, part in mine.items():
        theirs = parts.get(f"{path}.{name}")
        if name in saved and (theirs is None or not _is_same(part, theirs)):
            what = "whole" if theirs is None else _text(theirs)
            problems.append(f"{path}.{name}: {what} in the checkpoint, but this rank holds {_text(part)}")
    for name, shape in others.items():
        if name in saved and list(saved[name].shape) != shape:
            problems.append(f"{path}.{name}: {list(saved[name].shape)} in the checkpoint, but {shape} in the model")
    return problems


def put_fsdp1_together(module: torch.nn.Module, saved: dict[str, Any]) -> None:
    with torch.no_grad():
        for name, local, _, _ in _flat_parts(module):
            local.copy_(saved[name])
        for name, tensor in _others_of_fsdp1(module):
            tensor.copy_(saved[name])


# ---- the record ----


def text_of(parts: Parts) -> bytes:
    """The record `shards.json`; empty without parts."""
    return json.dumps({"version": 1, "tensors": parts}).encode() if parts else b""


def read_record(file: Any) -> Parts:
    """What a rank's file says of the parts it holds. `file` is seekable and is left at its beginning."""
    reader: Optional[Any] = getattr(torch._C, "PyTorchFileReader", None)
    if reader is None or not hasattr(reader, "has_record"):
        return {}
    archive = reader(file)
    text = archive.get_record(_RECORD) if archive.has_record(_RECORD) else None
    file.seek(0)
    return dict(json.loads(text)["tensors"]) if text is not None else {}
