"""Position in the data of a loop that fetches ahead: Hugging Face's Trainer.

The loop skips trained batches by itself, on the sampler's level. What it does not know is which random numbers were
drawn when: by the sampler as the pass began, by a dataset or collator in this process for the batch that accelerate
has fetched ahead (masked language modelling draws there), by workers that live from one epoch to the next. This keeps
the states of those moments, and brings each back at the same moment of the resumed pass.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, Optional

import torch

from pawl import _rng


class Fetches:
    """Follows one loader through its passes."""

    def __init__(self, loader: Any) -> None:
        self._loader = getattr(loader, "base_dataloader", loader)
        self._is_followed = False  # whether each fetch is seen, and draws in this process
        self._keeps_workers = self._loader.num_workers > 0 and self._loader.persistent_workers
        self._passes = 0  # begun, of the whole run
        self._trained = 0  # batches of this pass
        self._fetched = 0  # of this pass, with those that were skipped
        self._begun: Optional[dict[str, Any]] = None  # all generators as this pass began
        self._before_fetch: Optional[dict[str, Any]] = None  # as the newest batch was about to be fetched
        self._resumed: Optional[dict[str, Any]] = None
        self._skips = False
        sampler = self._loader.batch_sampler
        # Of an iterable dataset there is nothing to skip but what it gives: accelerate makes a loader of its own.
        if sampler is not None and not isinstance(self._loader.dataset, torch.utils.data.IterableDataset):
            # The class refuses to have it replaced; the instance does not mind.
            self._loader.__dict__["batch_sampler"] = _Followed(sampler, self)
            self._is_followed = self._loader.num_workers == 0

    def state_dict(self) -> dict[str, Any]:
        """As of the last batch that was trained. Plain values and tensors."""
        state: dict[str, Any] = {
            "passes": self._passes,
            "trained": self._trained,
            "begun": None,
            "ahead": None,
            "now": _rng.capture(),
            "own": [generator.get_state() for generator in self._generators()],
        }
        if self._trained > 0 and self._begun is not None:
            state["begun"] = {"all": _plain(self._begun["all"]), "own": self._begun["own"]}
            if self._is_followed and self._fetched == self._trained + 1:
                assert self._before_fetch is not None
                state["ahead"] = _rng.plain(self._before_fetch)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._resumed = state
        self._passes = int(state["passes"])

    def begin_pass(self, *, skips: bool) -> None:
        """Before an epoch's iterator is made. `skips`: the loop skips what was trained before, if it was resumed."""
        resumed, self._skips = self._resumed, False
        if resumed is not None:
            self._skips = skips and resumed["begun"] is not None
            if not self._skips:
                self._resumed = None
                _rng.restore(resumed["now"])
                self._set_own(resumed["own"])
        self._fetched = 0
        if self._skips:
            assert resumed is not None
            self._trained = int(resumed["trained"])
            self._begun = resumed["begun"]
            _rng.restore(resumed["begun"]["all"])
            self._set_own(resumed["begun"]["own"])
        else:
            self._passes += 1
            self._trained = 0
            self._begun = {"all": _rng.raw(), "own": [generator.get_state() for generator in self._generators()]}

    def batch_trained(self) -> None:
        self._trained += 1

    def end_pass(self) -> None:
        self._trained = 0
        self._begun = None

    def restore_generators(self) -> None:
        """Where the loop restores its generators: the skipped pass was begun, and its first batch is at hand."""
        if self._resumed is None:
            return
        # Where fetches are followed it has happened, between two of them; since then the next one may have drawn.
        if not self._is_followed:
            _rng.restore(self._resumed["now"])
        self._resumed = None

    def _generators(self) -> list[torch.Generator]:
        """The loader's and its samplers' own, each once."""
        found: list[torch.Generator] = []
        for holder in _chain(self._loader):
            generator = getattr(holder, "generator", None)
            if isinstance(generator, torch.Generator) and all(generator is not other for other in found):
                found.append(generator)
        return found

    def _set_own(self, states: list[torch.Tensor]) -> None:
        for generator, state in zip(self._generators(), states):
            generator.set_state(state.cpu())

    def _about_to_draw_order(self) -> None:
        # Workers of an undisturbed run have drawn their seed in its first pass; those of a resumed one draw it now.
        if self._keeps_workers and self._passes > 1 and self._begun is not None:
            _rng.restore(_plain(self._begun["all"]))

    def _about_to_fetch(self, index: int, *, is_end: bool) -> None:
        if not self._is_followed:
            return
        resumed = self._resumed if self._skips else None
        if resumed is not None and index >= int(resumed["trained"]):
            is_ahead = index == int(resumed["trained"]) and resumed["ahead"] is not None and not is_end
            _rng.restore(resumed["ahead"] if is_ahead else resumed["now"])
            if not is_ahead:
                self._skips = False
        if not is_end:
            self._fetched = index + 1
            if resumed is None or index >= int(resumed["trained"]):
                self._before_fetch = _rng.raw()


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    return state if isinstance(state["python"], dict) else _rng.plain(state)


def _chain(loader: Any) -> Iterator[Any]:
    """A loader and the samplers inside: batch sampler, accelerate's shard of it, sampler."""
    yield loader
    for name in ("sampler", "batch_sampler"):
        holder = getattr(loader, name, None)
        if holder is not None:
            yield from _chain(holder.inner if isinstance(holder, _Followed) else holder)


class _Followed:
    """Stands in for a batch sampler, and says when a batch is about to be fetched."""

    def __init__(self, inner: Any, fetches: Fetches) -> None:
        self.inner = inner
        # The loader owns this, and `fetches` the loader: in a cycle, persistent workers would be waited for in vain.
        self._fetches = weakref.ref(fetches)

    def __iter__(self) -> Iterator[Any]:
        # A generator: of the two that a loader with workers makes, the one that is used begins.
        fetches = self._fetches()
        if fetches is not None:
            fetches._about_to_draw_order()
        del fetches
        index = 0
        for batch in self.inner:
            self._tell(index, is_end=False)
            yield batch
            index += 1
        self._tell(index, is_end=True)

    def _tell(self, index: int, *, is_end: bool) -> None:
        fetches = self._fetches()
        if fetches is not None:
            fetches._about_to_fetch(index, is_end=is_end)

    def set_epoch(self, epoch: int) -> None:
        # Also from behind accelerate's SkipBatchSampler, which hides a shard's sampler.
        for holder in _chain(self.inner):
            if hasattr(holder, "set_epoch"):
                holder.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.inner)

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)
