"""Position in the data: batches that are handed out once each, however often the run is killed.

A DataLoader's order is drawn from torch's generator when an epoch begins. So the position is the generators' states at
that moment and the number of batches that the training loop has been given; batches that workers had fetched ahead
were not given, and come again. To resume, the same draws are made and the sampler (not the dataset) is wound forward.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Optional

import torch

from pawl import _rng

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _signed(number: int) -> int:
    """The low 64 bits, as C++ has them in an int64."""
    bits = number & _MASK
    return bits - (1 << 64) if bits >= 1 << 63 else bits


class ShuffledSampler(torch.utils.data.Sampler):  # type: ignore[misc]
    """Indices in an order that depends on the seed and the epoch alone; the same as C++'s ``pawl::ShuffledSampler``.

    Parameters
    ----------
    size
        How many samples there are.
    seed
        Of all epochs' orders.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator()
        # torch takes a signed number for the same 64 bits.
        generator.manual_seed(_signed(self.seed * _GOLDEN + self.epoch))
        return iter(torch.randperm(self.size, generator=generator).tolist())


class _Rewound:
    """An iterator over a sampler that begins `skip` items in. The sampler's draws happen at the first use, as ever.

    A loader with persistent workers owns it, so it must not own the loader: workers that are let go by the collector of
    cycles, and not when their loader goes, are waited for in vain, 5 s each.
    """

    def __init__(self, sampler: Any, skip: int, before: Optional[Callable[[], None]]) -> None:
        self._sampler = sampler
        self._skip = skip
        self._before = before
        self._items: Optional[Iterator[Any]] = None

    def prime(self) -> None:
        if self._items is not None:
            return
        if self._before is not None:
            self._before()
            self._before = None  # it knows the loader
        self._items = iter(self._sampler)
        for _ in range(self._skip):
            next(self._items, None)

    def __iter__(self) -> _Rewound:
        return self

    def __next__(self) -> Any:
        self.prime()
        assert self._items is not None
        return next(self._items)


class _SkippingSampler:
    """Stands in for a loader's sampler, and can begin its passes in the middle."""

    def __init__(self, sampler: Any) -> None:
        self.inner = sampler
        self.skip = 0
        self.before: Optional[Callable[[], None]] = None  # is called just before the sampler draws
        self.newest: Optional[_Rewound] = None

    def __iter__(self) -> Iterator[Any]:
        # A loader with workers begins two passes and uses the second: whoever set skip takes it back.
        self.newest = _Rewound(self.inner, self.skip, self.before)
        return self.newest

    def __len__(self) -> int:
        return len(self.inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def _batch_size_of(loader: Any) -> Optional[int]:
    """Of all batches but the last; None where a batch sampler of the user's makes them as it likes."""
    sampler = loader.batch_sampler
    while isinstance(sampler, _SkippingSampler):
        sampler = sampler.inner
    if sampler is None:
        return 1
    # accelerate's hands each rank its share of the batches of a common one.
    is_known = type(sampler) is torch.utils.data.BatchSampler or type(sampler).__name__ == "BatchSamplerShard"
    return int(sampler.batch_size) if is_known and sampler.batch_size else None


class ResumableLoader:
    """A DataLoader's batches with a position that can be saved.

    Parameters
    ----------
    loader
        A ``torch.utils.data.DataLoader``, or any iterable that has ``state_dict`` and ``load_state_dict``
        (``torchdata``'s StatefulDataLoader): then its own state is saved.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        # accelerate's loaders hold the real one, and have the methods whether they can be called or not.
        inner = getattr(loader, "base_dataloader", loader)
        self.is_stateful = hasattr(inner, "state_dict") and hasattr(inner, "load_state_dict")
        self._epoch = 0
        self._given = 0
        self._is_complete = False  # all batches of the epoch were handed out
        self._begun: Optional[dict[str, Any]] = None  # all generators when this epoch's pass began
        self._resumed: Optional[dict[str, Any]] = None
        self._skipping: Optional[_SkippingSampler] = None
        self._batch_size: Optional[int] = None  # where it is the same for all batches of the pass
        self._samples: Optional[int] = None
        if not self.is_stateful and isinstance(inner, torch.utils.data.DataLoader):
            is_iterable = isinstance(inner.dataset, torch.utils.data.IterableDataset)
            if not is_iterable:
                # The class refuses to have its sampler replaced; the instance does not mind.
                name = "batch_sampler" if inner.batch_sampler is not None else "sampler"
                self._batch_size = _batch_size_of(inner)
                self._samples = len(inner.dataset) if hasattr(inner.dataset, "__len__") else None
                self._skipping = _SkippingSampler(getattr(inner, name))
                inner.__dict__[name] = self._skipping

    def _generators(self) -> list[torch.Generator]:
        """Those of the loader's own, each once: they are drawn from when a pass begins, and by nobody else."""
        sampler = getattr(self.loader, "sampler", None)
        found: list[torch.Generator] = []
        for holder in (self.loader, sampler, getattr(self.loader, "batch_sampler", None)):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator) and all(generator is not other for other in found):
                found.append(generator)
        return found

    def _own(self) -> list[torch.Tensor]:
        return [generator.get_state() for generator in self._generators()]

    def _set_own(self, states: list[torch.Tensor]) -> None:
        for generator, state in zip(self._generators(), states):
            generator.set_state(state.cpu())

    def _has_workers(self) -> bool:
        """Persistent workers have drawn their seed in the first pass of their process."""
        return getattr(self.loader, "_iterator", None) is not None

    def _capture(self) -> dict[str, Any]:
        return {"all": _rng.capture(), "own": self._own(), "has_workers": self._has_workers()}

    def state_dict(self) -> dict[str, Any]:
        """The position: as of the last batch that was handed out."""
        state: dict[str, Any] = {
            "epoch": self._epoch,
            "batches": self._given,
            "begun": self._begun,
            "own": self._own(),
            "has_workers": self._has_workers(),
            "is_complete": self._is_complete,
        }
        if self._skipping is not None:
            state["batch_size"], state["samples"] = self._batch_size, self._samples
            state["is_last"] = self._given > 0 and self._given == self._length()
        if self.is_stateful:
            state["loader"] = self.loader.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin the next pass where `state` was taken. Draws nothing yet."""
        self._resumed = {**state, "batches": self._batches_here(state)}
        self._set_own(state["own"])

    def _length(self) -> Optional[int]:
        try:
            return len(self.loader)
        except (TypeError, NotImplementedError):  # a sampler without a length
            return None

    def _batches_here(self, state: dict[str, Any]) -> int:
        """How many batches of this loader's are the samples that were given out when `state` was taken."""
        given, was, here = int(state["batches"]), state.get("batch_size"), self._batch_size
        if not was or not here or (was, state["samples"]) == (here, self._samples):
            return given
        if state["is_last"] or state["is_complete"]:
            length = self._length()
            return given if length is None else length
        return given * was // here if given * was % here == 0 else given

    def problems_of(self, name: str, state: dict[str, Any], epoch: int) -> list[str]:
        """Why this loader can't go on in the middle of an epoch where `state` was taken."""
        given = int(state["batches"])
        if state["epoch"] != epoch or given == 0 or state.get("is_last", False) or state.get("is_complete", False):
            return []
        samples, was, here = state.get("samples"), state.get("batch_size"), self._batch_size
        if samples is not None and self._samples is not None and samples != self._samples:
            return [
                f"{name}: {samples} samples in the checkpoint, but {self._samples} in the data, and {given} batches of "
                f"epoch {epoch} are trained: other data can begin with an epoch, not in the middle of one"
            ]
        if was and here and given * was % here != 0:
            return [
                f"{name}: it stopped after {given} batches of {was}, which are {given * was} samples of the epoch, "
                f"no multiple of the batch size {here}: {was} fits, and any other that divides {given * was}"
            ]
        return []

    def trained(self, epoch: int) -> int:
        """How many batches of an epoch have been handed out: where `batches` goes on."""
        if self._resumed is not None:
            return int(self._resumed["batches"]) if self._resumed["epoch"] == epoch else 0
        return self._given if self._epoch == epoch and not self._is_complete else 0

    # ---- the position that C++ knows too: of a ShuffledSampler, in samples ----

    def shared_position(self, epochs: int) -> Optional[dict[str, int]]:
        """As ``pawl::ShuffledSampler`` saves it; None where the order is not that of a `ShuffledSampler`.

        `epochs` are completed: with its pass complete and its epoch too, the next pass is the one that is due.
        """
        sampler = getattr(self.loader, "sampler", None)
        if not isinstance(sampler, ShuffledSampler) or self.loader.batch_size is None:
            return None
        if self._is_complete and epochs > self._epoch:
            return {"seed": _signed(sampler.seed), "epoch": self._epoch + 1, "position": 0, "size": sampler.size}
        position = min(self._given * self.loader.batch_size, sampler.size)
        return {"seed": _signed(sampler.seed), "epoch": self._epoch, "position": position, "size": sampler.size}

    def problems_of_shared(self, position: dict[str, int]) -> list[str]:
        """Why this loader can't begin at a position that C++ saved."""
        sampler = getattr(self.loader, "sampler", None)
        batch = getattr(self.loader, "batch_size", None)
        size, samples = position["size"], position["position"]
        if not isinstance(sampler, ShuffledSampler) or batch is None:
            return [
                f"loader: the checkpoint has the position of a ShuffledSampler (C++), but this loader's order is that "
                f"of {type(sampler).__name__}: DataLoader(..., sampler=pawl.data.ShuffledSampler({size}, seed))"
            ]
        if size != sampler.size:
            return [f"loader: {size} samples in the checkpoint, but {sampler.size} in the data"]
        if samples % batch != 0 and samples != size:
            return [f"loader: it stopped after {samples} samples of the epoch, no multiple of the batch size {batch}"]
        return []

    def load_shared(self, position: dict[str, int]) -> None:
        """Begin the next pass at a position that C++ saved and `problems_of_shared` has nothing against."""
        self.loader.sampler.seed = position["seed"]
        batches = -(-position["position"] // self.loader.batch_size)
        self.load_state_dict({"epoch": position["epoch"], "batches": batches, "begun": None, "own": []})

    def batches(self, epoch: int) -> Iterator[Any]:
        """The rest of an epoch's batches: all, unless it was resumed in its middle, or left there by an exception."""
        resumed, self._resumed = self._resumed, None
        had_workers = resumed is not None and resumed.get("has_workers", False)
        if resumed is None and self._epoch == epoch and self._given > 0 and not self._is_complete:
            resumed = self.state_dict()
        if resumed is not None and (resumed["epoch"] != epoch or resumed["batches"] == 0):
            resumed = None
        self._epoch = epoch
        sampler = getattr(self.loader, "sampler", None)
        if sampler is not None and hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)  # DistributedSampler's order changes with it; nobody has to remember that
        if hasattr(self.loader, "base_dataloader") and hasattr(self.loader, "set_epoch"):
            self.loader.set_epoch(epoch)  # accelerate's count their passes, of this process only
        if resumed is None:
            self._given = 0
            self._begun = self._capture()
            self._begun["has_workers"] |= had_workers
            source = self._begin(self._begun, 0)
        else:
            source = self._rewind(resumed)
        self._is_complete = False
        for batch in source:
            self._given += 1
            yield batch
        # The position stays at the end: a checkpoint of an evaluation, before the epoch is ended, is of this pass.
        self._is_complete = True

    def _rewind(self, resumed: dict[str, Any]) -> Iterator[Any]:
        self._given = int(resumed["batches"])
        # C++ has no generators of a pass: its order is of the seed and the epoch alone.
        begun: dict[str, Any] = resumed["begun"] or self._capture()
        self._begun = begun
        if self.is_stateful and resumed.get("is_complete", False):
            return iter(())  # its own state is that of the next pass
        if self.is_stateful:
            # It starts workers and draws their seed, as the pass that was left did when it began.
            now = _rng.capture()
            self.loader.load_state_dict(resumed["loader"])
            source: Iterator[Any] = iter(self.loader)
            _rng.restore(now)
            return source
        now, own = _rng.capture(), self._own()
        _rng.restore(begun["all"])
        self._set_own(begun["own"])
        if self._skipping is None:
            # Nothing but its own iteration tells what such a dataset gives: read and drop.
            source = iter(self.loader)
            for _ in range(self._given):
                next(source, None)
        else:
            source = self._begin(begun, self._given)
        _rng.restore(now)
        self._set_own(own)
        return source

    def _begin(self, begun: dict[str, Any], skip: int) -> Iterator[Any]:
        """A pass that begins `skip` batches in, with the draws that it had where it `begun`."""
        if self._skipping is None:
            return iter(self.loader)

        def as_it_began() -> None:
            _rng.restore(begun["all"])
            self._set_own(begun["own"])

        # The workers that we start draw a seed; where the pass began with workers at hand, nobody had drawn one.
        self._skipping.before = as_it_began if begun["has_workers"] and not self._has_workers() else None
        self._skipping.skip = skip
        source: Iterator[Any] = iter(self.loader)
        if skip > 0 and hasattr(self.loader, "base_dataloader"):
            # accelerate's begin at the first batch.
            source = itertools.chain(list(itertools.islice(source, 1)), source)
        if self._skipping.newest is not None and (skip > 0 or self._skipping.before is not None):
            self._skipping.newest.prime()
        self._skipping.skip, self._skipping.before = 0, None
        return source
