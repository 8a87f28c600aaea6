"""What `Run.epochs` and `Run.batches` give: iterables that know how much is left, for progress bars."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pawl._run import Run
    from pawl.data import ResumableLoader


class Epochs:
    """The epochs that are left.

    Attributes
    ----------
    initial, total
        Epochs trained before, and of the whole run: ``tqdm(epochs, initial=epochs.initial, total=epochs.total)``.
    """

    def __init__(self, run: Run, count: int) -> None:
        self._run = run
        self.total = count

    @property
    def initial(self) -> int:
        return min(self._run.epoch, self.total)

    def __len__(self) -> int:
        return self.total - self.initial

    def __iter__(self) -> Iterator[int]:
        run = self._run
        for epoch in range(run.epoch, self.total):
            yield epoch
            if run.should_stop:
                return
            if run.epoch == epoch:
                run.end_epoch()
            if run.should_stop:
                return
        run.finish()


class Batches:
    """The batches that are left of the run's epoch.

    Attributes
    ----------
    initial, total
        Batches of this epoch that were trained before, and all of it.
    """

    def __init__(self, run: Run, loader: ResumableLoader) -> None:
        self._run = run
        self._loader = loader

    @property
    def initial(self) -> int:
        return self._loader.trained(self._run.epoch)

    @property
    def total(self) -> int:
        return len(self._loader.loader)

    def __len__(self) -> int:
        return max(0, self.total - self.initial)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader.batches(self._run.epoch):
            yield batch
            if self._run.should_stop:
                return
        self._run._batches_ended()
