"""Several ranks with the same state (DistributedDataParallel): rank 0 saves it, all have it after a resume."""

from __future__ import annotations

from typing import Any

import torch

from pawl import _shards


def _is_ddp(value: Any) -> bool:
    return isinstance(value, torch.nn.parallel.DistributedDataParallel)


def is_replicated(objects: dict[str, Any], name: str) -> bool:
    """Whether all ranks hold the same of it: everything but data, where any model is in DistributedDataParallel.

    What is cut among the ranks beside it is not, nor is its optimizer. Objects may say it of themselves
    (`is_replicated`), as the callbacks' parts do.
    """
    from pawl.data import ResumableLoader

    if _shards.holds_parts(objects[name], objects):
        return False

    said = getattr(objects[name], "is_replicated", None)
    if isinstance(said, bool):
        return said
    return any(_is_ddp(value) for value in objects.values()) and not isinstance(objects[name], ResumableLoader)


def _broadcast(value: Any, rank: int) -> Any:
    """Rank 0's nested value, on every rank. Tensors travel one by one, so that no rank holds a pickle of them all."""
    import torch.distributed as dist

    tensors: list[torch.Tensor] = []

    def take_out(node: Any) -> Any:
        if isinstance(node, torch.Tensor):
            tensors.append(node.contiguous())
            return _Place(len(tensors) - 1, tuple(node.shape), node.dtype)
        if isinstance(node, dict):
            return {key: take_out(child) for key, child in node.items()}
        if isinstance(node, (list, tuple)):
            return type(node)(take_out(child) for child in node)
        return node

    skeleton = [take_out(value) if rank == 0 else None]
    dist.broadcast_object_list(skeleton, src=0)
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")

    def put_in(node: Any) -> Any:
        if isinstance(node, _Place):
            tensor = (
                tensors[node.index].to(device)
                if rank == 0
                else torch.empty(node.shape, dtype=node.dtype, device=device)
            )
            if tensor.numel() > 0:
                # As bytes: no backend knows every dtype.
                dist.broadcast(tensor.reshape(-1).view(torch.uint8) if tensor.dim() > 0 else tensor, src=0)
            return tensor.cpu()
        if isinstance(node, dict):
            return {key: put_in(child) for key, child in node.items()}
        if isinstance(node, (list, tuple)):
            return type(node)(put_in(child) for child in node)
        return node

    return put_in(skeleton[0])


class _Place:
    """Where a tensor was taken out."""

    def __init__(self, index: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.index = index
        self.shape = shape
        self.dtype = dtype


def share(state: dict[str, Any], replicated: set[str], rank: int) -> dict[str, Any]:
    """A rank's state, with what rank 0 saved for all."""
    if not replicated:
        return state
    keys = [f"{name}_state_dict" for name in sorted(replicated)]
    shared = _broadcast({key: state[key] for key in keys if key in state}, rank)
    return {**state, **shared}
