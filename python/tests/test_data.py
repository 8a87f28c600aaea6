"""Position in the data: each batch once, in the order of an undisturbed run."""

import gc
import itertools
import weakref

import pytest
import torch

from pawl import _rng
from pawl.data import ResumableLoader, ShuffledSampler


def loader_of(workers, **more):
    dataset = torch.utils.data.TensorDataset(torch.arange(20))
    if not more:
        more = {"shuffle": True}
    return torch.utils.data.DataLoader(dataset, batch_size=2, num_workers=workers, **more)


LOADERS = {
    "shuffled": lambda: loader_of(0),
    "shuffled, 2 workers": lambda: loader_of(2),
    "persistent workers": lambda: loader_of(2, shuffle=True, persistent_workers=True),
    "with replacement": lambda: loader_of(
        0, sampler=torch.utils.data.RandomSampler(range(20), replacement=True, num_samples=20)
    ),
    "own generator": lambda: loader_of(2, shuffle=True, generator=torch.Generator().manual_seed(5)),
    "own generator of the sampler": lambda: loader_of(
        0, sampler=torch.utils.data.RandomSampler(range(20), generator=torch.Generator().manual_seed(5))
    ),
    "own order": lambda: loader_of(2, sampler=ShuffledSampler(20, seed=3)),
    "no batches": lambda: torch.utils.data.DataLoader(torch.arange(20), batch_size=None, shuffle=True),
}


def train(resumable, epochs, first, seen, stop_at=None):
    """Draws as a training step with dropout does. Returns the state when `stop_at` batches were seen."""
    for epoch in range(first, epochs):
        for batch in resumable.batches(epoch):
            seen.append(
                (epoch, batch[0].tolist() if isinstance(batch, list) else batch.tolist(), torch.rand(2).tolist())
            )
            if len(seen) == stop_at:
                return epoch, resumable.state_dict(), _rng.capture()
    return None


@pytest.mark.parametrize("kind", LOADERS)
def test_it_goes_on_where_it_was(kind):
    torch.manual_seed(0)
    undisturbed = []
    train(ResumableLoader(LOADERS[kind]()), 3, 0, undisturbed)
    per_epoch = len(undisturbed) // 3

    for stop_at in (1, per_epoch - 1, per_epoch, per_epoch + 1, 2 * per_epoch + 3):
        torch.manual_seed(0)
        seen = []
        epoch, position, generators = train(ResumableLoader(LOADERS[kind]()), 3, 0, seen, stop_at)
        torch.manual_seed(1234)
        again = ResumableLoader(LOADERS[kind]())
        again.load_state_dict(position)
        _rng.restore(generators)
        train(again, 3, epoch, seen)

        assert seen == undisturbed, f"stopped after {stop_at} batches"


class Counting(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(range(10))


def test_an_iterable_dataset_is_wound_forward_by_reading():
    resumable = ResumableLoader(torch.utils.data.DataLoader(Counting(), batch_size=2))
    batches = resumable.batches(0)
    next(batches)
    next(batches)
    again = ResumableLoader(torch.utils.data.DataLoader(Counting(), batch_size=2))
    again.load_state_dict(resumable.state_dict())

    assert [batch.tolist() for batch in again.batches(0)] == [[4, 5], [6, 7], [8, 9]]


class Stateful:
    """As torchdata's StatefulDataLoader looks from outside."""

    def __init__(self):
        self.position = 0

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]

    def __iter__(self):
        while self.position < 5:
            self.position += 1
            yield self.position
        self.position = 0


def test_a_loader_with_a_state_of_its_own_is_asked_for_it():
    resumable = ResumableLoader(Stateful())
    batches = resumable.batches(0)
    assert [next(batches), next(batches)] == [1, 2]
    again = ResumableLoader(Stateful())
    again.load_state_dict(resumable.state_dict())

    assert list(again.batches(0)) == [3, 4, 5]


def test_all_generators_come_back():
    import random

    import numpy as np

    state = _rng.capture()
    first = (torch.rand(3).tolist(), random.random(), np.random.rand(), np.random.randn())
    _rng.restore(state)

    assert (torch.rand(3).tolist(), random.random(), np.random.rand(), np.random.randn()) == first


@pytest.mark.parametrize("seed", [3, (1 << 64) - 5])
def test_the_position_that_cpp_knows_is_enough(seed):
    """Saved in one loader, loaded in another that has nothing else: the same samples follow."""
    undisturbed = []
    train(ResumableLoader(loader_of(0, sampler=ShuffledSampler(20, seed=seed))), 2, 0, undisturbed)
    for stop_at in (1, 9, 10, 11):
        first = ResumableLoader(loader_of(0, sampler=ShuffledSampler(20, seed=seed)))
        seen = []
        epoch, _, _ = train(first, 2, 0, seen, stop_at)
        position = first.shared_position(epoch)
        assert position["size"] == 20 and -(1 << 63) <= position["seed"] < 1 << 63

        again = ResumableLoader(loader_of(2, sampler=ShuffledSampler(20, seed=1)))
        assert again.problems_of_shared(position) == []
        again.load_shared(position)
        train(again, 2, epoch, seen)

        assert [indices for _, indices, _ in seen] == [indices for _, indices, _ in undisturbed]


def test_a_loader_in_another_order_has_no_position_that_cpp_knows():
    assert ResumableLoader(loader_of(0)).shared_position(0) is None


def test_workers_that_live_on_draw_no_seed_at_a_new_epoch():
    """Left between two epochs: the workers of the process that goes on have a seed to draw, the others had none."""

    def between_epochs(resumable, first):
        seen = []
        for epoch in range(first, 3):
            train(resumable, epoch + 1, epoch, seen)
            if epoch == 0:
                state, generators = resumable.state_dict(), _rng.capture()
        return seen, (state, generators) if first == 0 else None

    torch.manual_seed(0)
    undisturbed, (position, generators) = between_epochs(ResumableLoader(LOADERS["persistent workers"]()), 0)
    torch.manual_seed(1234)
    again = ResumableLoader(LOADERS["persistent workers"]())
    again.load_state_dict(position)
    _rng.restore(generators)

    assert between_epochs(again, 1)[0] == undisturbed[-20:]


def test_persistent_workers_go_when_their_loader_goes():
    """Those that the collector of cycles lets go are waited for in vain, 5 s each."""
    first = ResumableLoader(LOADERS["persistent workers"]())
    assert len(list(first.batches(0))) > 0
    assert len(list(itertools.islice(first.batches(1), 2))) == 2
    position, generators = first.state_dict(), _rng.capture()
    again = ResumableLoader(LOADERS["persistent workers"]())
    again.load_state_dict(position)
    _rng.restore(generators)
    assert len(list(again.batches(1))) > 0

    left = [weakref.ref(one.loader._iterator) for one in (first, again)]
    gc.disable()
    try:
        del first, again
        assert [one() for one in left] == [None, None]
    finally:
        gc.enable()


# ---- another batch size, other data ----


def of_size(size, batch, **more):
    torch.manual_seed(size)  # another process: its generators come from the checkpoint
    return torch.utils.data.DataLoader(torch.arange(size), batch_size=batch, shuffle=True, **more)


def left_after(batches, size, batch, **more):
    resumable = ResumableLoader(of_size(size, batch, **more))
    return [b.tolist() for b in itertools.islice(resumable.batches(0), batches)], resumable.state_dict()


@pytest.mark.parametrize("batch", [2, 4, 8, 16, 3, 6])
@pytest.mark.parametrize("workers", [0, 2])
def test_another_batch_size_goes_on_with_the_next_sample(batch, workers):
    whole, _ = left_after(8, 64, 8)
    seen, state = left_after(6, 64, 8)
    again = ResumableLoader(of_size(64, batch, num_workers=workers))
    assert again.problems_of("loader", state, 0) == []

    again.load_state_dict(state)
    assert again.trained(0) == 48 // batch
    rest = [b.tolist() for b in again.batches(0)]

    assert len(rest[0]) == batch
    assert [*itertools.chain(*seen, *rest)] == [*itertools.chain(*whole)]


def test_a_batch_size_that_does_not_fit_is_refused_with_both():
    _, state = left_after(3, 64, 8)

    (problem,) = ResumableLoader(of_size(64, 16)).problems_of("loader", state, 0)

    assert "3 batches of 8" in problem
    assert "24 samples" in problem
    assert "batch size 16" in problem
    assert ResumableLoader(of_size(64, 16)).problems_of("loader", state, 1) == [], "that epoch was left by a break"


def test_other_data_is_refused_in_the_middle_of_an_epoch_with_both_numbers():
    _, state = left_after(3, 64, 8)

    (problem,) = ResumableLoader(of_size(65, 8)).problems_of("loader", state, 0)

    assert "64 samples in the checkpoint, but 65 in the data" in problem


@pytest.mark.parametrize(("size", "batch", "drop_last"), [(64, 8, False), (20, 8, False), (20, 8, True)])
@pytest.mark.parametrize("then", [(64, 16), (20, 5), (21, 8)])
def test_at_the_boundary_of_an_epoch_anything_goes(size, batch, drop_last, then):
    """After its last batch nothing of the epoch is left, whatever the next one is made of."""
    for batches, rest in ((0, True), (size // batch if drop_last else -(-size // batch), False)):
        _, state = left_after(batches, size, batch, drop_last=drop_last)
        again = ResumableLoader(of_size(*then))
        assert again.problems_of("loader", state, 0) == []
        again.load_state_dict(state)
        assert bool(list(again.batches(0))) == rest
        assert len(list(again.batches(1))) == -(-then[0] // then[1])


def test_a_position_without_sizes_resumes_as_before():
    _, state = left_after(3, 64, 8)
    for name in ("batch_size", "samples", "is_last"):
        del state[name]
    again = ResumableLoader(of_size(64, 16))

    assert again.problems_of("loader", state, 0) == []
    again.load_state_dict(state)
    assert len(list(again.batches(0))) == 1


def test_a_loader_that_is_registered_again_still_knows_its_batch_size():
    loader = of_size(64, 8)
    ResumableLoader(loader)

    assert ResumableLoader(loader).state_dict()["batch_size"] == 8
