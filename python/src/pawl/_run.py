"""The run: what a training loop talks to. See ``attach``.

One thread uses a run. The state that is saved is that after the last reported step.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Optional, Union

import torch

from pawl import _ending, _native, _rng, _standalone, _values
from pawl._archive import Image
from pawl._contents import Contents
from pawl._loss import Loss
from pawl._native import PawlError
from pawl._progress import Batches, Epochs
from pawl._state import (
    UnsavableError,
)

_TAKE_SNAPSHOT = 1
_STOP = 2
_EVALUATION = 2
_DISCONNECTED = -8
_SHARED_POSITION = "sampler_state_dict"  # the C++ helper's name for the position in the data
_RESUMABLE = 75  # EX_TEMPFAIL: stopped, to be started again


class Stopped(SystemExit):
    """The run is to leave: its newest state is durable. Ends the process with code 0 under pawld, else 75."""


class Run:
    """A training run. Made by `attach`.

    Attributes
    ----------
    values
        Plain values of the user's that are saved and restored with the rest: ``run.values["best"] = 0.93``.
    should_stop
        True once the process is to leave and its state is durable.
    """

    def __init__(
        self,
        native: _native.Run,
        objects: dict[str, Any],
        values: Optional[Mapping[str, Any]],
        *,
        strict: bool,
        weights_only: bool,
        exit_on_stop: bool,
    ) -> None:
        self._native = native
        self._contents = Contents(
            objects,
            rank=native.rank,
            world_size=native.world_size,
            strict=strict,
            weights_only=weights_only,
        )
        self.values: dict[str, Any] = dict(values or {})
        self.should_stop = False
        self._exit_on_stop = exit_on_stop
        self._where = ""  # " in 'directory'", where this process knows it
        self._step = 0
        self._epoch = 0
        self._loss = Loss()
        self._rng_at_end: Optional[dict[str, Any]] = None  # of an epoch's batches, until the epoch is ended
        self._metrics: dict[str, float] = {}
        self._epoch_ended: Optional[int] = None
        self._is_finished = False
        self._is_detached = False
        self._began_at = 0

    # ---- where it is ----

    @property
    def rank(self) -> int:
        return self._native.rank

    @property
    def world_size(self) -> int:
        return self._native.world_size

    @property
    def is_attached(self) -> bool:
        """Whether pawld supervises this process; False: standalone."""
        return self._native.is_attached

    @property
    def steps(self) -> int:
        """Optimizer steps that are completed, of the whole run."""
        return self._step

    @property
    def epoch(self) -> int:
        """Epochs that are completed: the number of the one to train next."""
        return self._epoch

    @property
    def is_unfinished(self) -> bool:
        """Whether it has trained, and was neither finished nor stopped nor detached."""
        return self._step > self._began_at and not (self._is_finished or self.should_stop or self._is_detached)

    @property
    def loss(self) -> float:
        """As last reported, also by the run that was resumed; NaN before."""
        return self._loss.get()

    # ---- loops ----

    def epochs(self, count: int) -> Epochs:
        """The epochs that are still to be trained, of `count` in all. At its end the run is finished.

        Ends an epoch by itself after the loop's body, unless the body called `end_epoch`. ``len`` is what is left;
        ``.total`` and ``.initial`` are what a progress bar wants to know.
        """
        return Epochs(self, count)

    def batches(self, loader: Any) -> Batches:
        """The batches of this epoch that were not trained yet. The loader is one that was registered.

        ``len`` is what is left, so ``tqdm(run.batches(loader))`` counts that; with ``total=len(loader)`` and
        ``initial=`` its ``.initial`` the bar begins where the run was.
        """
        if self._is_detached:
            raise PawlError("this run is detached")
        resumable = self._contents.loader_of(loader)
        if resumable is None:
            raise PawlError("this loader was not registered: pass it to pawl.attach(loader=...)")
        return Batches(self, resumable)

    def step(self, loss: Any = None, *, epoch: Optional[int] = None) -> None:
        """Report a completed optimizer step. May take a snapshot; raises `Stopped` when the process is to leave.

        Parameters
        ----------
        loss
            A number or a tensor of one element; one on a device is not waited for.
        epoch
            Epochs completed, where the loop counts them itself.
        """
        self._step += 1
        if epoch is not None:
            self._epoch = epoch
        if loss is not None:
            self._loss.set(loss)
        self._rng_at_end = None
        actions = self._native.step(self._step, self._epoch, self._loss.shown)
        if actions:
            self._obey(actions)

    def end_epoch(self, metrics: Optional[Mapping[str, float]] = None, *, epoch: Optional[int] = None) -> None:
        """Report that the epoch is complete, with its scheduler's step and evaluation. `epoch` as in `step`."""
        self._epoch = self._epoch + 1 if epoch is None else epoch
        self._rng_at_end = None
        self._metrics = {name: float(value) for name, value in (metrics or {}).items()}
        self._obey(self._native.epoch_end(self._step, self._epoch, self.loss, self._metrics))

    def poll(self) -> None:
        """From time to time in an evaluation: a stop need not wait for its end.

        Between the last batch of an epoch and its end the state is that after the batch: a run that is resumed from it
        begins with the evaluation, with the random numbers that it had.
        """
        self._obey(self._native.poll(_EVALUATION))

    def snapshot(self, values: Optional[Mapping[str, Any]] = None) -> bool:
        """Save now, without waiting for the planned moment.

        Of one rank: the state as it is. Several ranks save at one step, the next that none of them has completed, each
        in its `step`: it is enough that one asks, and all may.

        Parameters
        ----------
        values
            Plain values to be put into `Run.values` first.

        Returns
        -------
        bool
            False: there will be no checkpoint, a warning says why, and training goes on.
        """
        if values:
            self.values.update(values)
        actions, why_not = self._native.request_checkpoint()
        is_saved = why_not is None
        if why_not is not None:
            warnings.warn(f"no checkpoint will be made: {why_not}", RuntimeWarning, stacklevel=2)
        if actions & _TAKE_SNAPSHOT:
            is_saved = self._take()
        if actions & _STOP:
            self._leave()
        return is_saved

    def _take(self) -> bool:
        """The snapshot that was asked for."""
        try:
            image = self._image()
            memory = self._native.snapshot_begin(image.bytes)
            if memory is None:
                return False
            _, view = memory
            image.write_to(torch.frombuffer(view, dtype=torch.uint8))
        except BaseException as error:
            self._native.snapshot_abort(f"{type(error).__name__}: {error}"[:500])
            raise
        self._native.snapshot_seal(self._metrics)
        return True

    def finish(self) -> None:
        """Training is complete: waits for all ranks and for the final checkpoint."""
        if self._is_finished:
            return
        self._is_finished = True
        actions = self._native.finish()
        if actions & _TAKE_SNAPSHOT:
            self._take()
        if actions & _STOP and not actions & _TAKE_SNAPSHOT:
            self._leave()
            return
        try:
            self._native.finish_wait()
        except PawlError as error:
            if error.code != _DISCONNECTED:
                raise
            if self._native.poll(_EVALUATION) & _STOP:
                self._leave()
                return
            # Training is complete: what follows it, a last torch.save say, is not lost for a daemon's sake.
            warnings.warn(str(error), RuntimeWarning, stacklevel=2)
        finally:
            _standalone.leave(self)

    def request_stop(self) -> None:
        """Without a daemon: take a snapshot at the next step and leave, as SIGTERM asks for."""
        self._native.request_stop()

    def detach(self) -> None:
        """Leave, finished or not: the run takes no more calls, and its checkpoint directory is free for another."""
        self._is_detached = True
        _standalone.leave(self)
        self._native.detach()
        self._contents.let_go()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        if kind is None and not self.should_stop:
            self.finish()
        self.detach()

    # ---- what steps bring ----

    def _obey(self, actions: int) -> None:
        if actions & _TAKE_SNAPSHOT:
            try:
                self._take()
            except PawlError as error:
                # A full disk costs a checkpoint, not the training; a stop that saved nothing is another matter, and
                # so is a state that will never be saved.
                if actions & _STOP or isinstance(error, UnsavableError):
                    raise
                warnings.warn(f"no checkpoint was made, training goes on: {error}", RuntimeWarning, stacklevel=3)
        # Standalone a stop is asked for together with its snapshot; under pawld it comes when that is durable.
        if actions & _STOP:
            self._leave()

    def _leave(self) -> None:
        self.should_stop = True
        if self._exit_on_stop:
            raise Stopped(exit_code(self))

    # ---- state ----

    def _image(self) -> Image:
        where = {"epoch": self._epoch, "step": self._step, "loss": self.loss}
        return self._contents.image(where, self._rng_at_end or _rng.capture(), self.values)

    def _resume(self) -> None:
        image, sequence, step, epoch = self._native.resume()
        if image is None:
            return
        what = f"checkpoint {sequence} of step {step}{self._where}"
        state = self._contents.restore(image, what, self._native.release_resume)
        self.values.update(state.get("values", {}))
        self._step = int(state.get("step", step))
        self._began_at = self._step
        self._epoch = int(state.get("epoch", epoch))
        self._loss.set(float(state.get("loss", math.nan)))
        # Last: what was restored above may have drawn random numbers.
        if "rng_state" in state:
            _rng.restore(state["rng_state"])

    def _count_from(self, steps: int) -> None:
        self._step = steps

    def _batches_ended(self) -> None:
        """What an evaluation draws is drawn again by a run that is resumed from its middle."""
        self._rng_at_end = _rng.capture()


def exit_code(run: Run) -> int:
    """Of a process that was asked to leave: to be started again, says 75; the daemon knows without."""
    return 0 if run.is_attached else _RESUMABLE


def attach(
    model: Any = None,
    optimizer: Any = None,
    scheduler: Any = None,
    loader: Any = None,
    scaler: Any = None,
    *,
    values: Optional[Mapping[str, Any]] = None,
    checkpoint_directory: Union[str, os.PathLike[str]] = "checkpoints",
    every_steps: int = 0,
    every_epochs: int = 0,
    every_seconds: float = 0,
    keep_last: int = 0,
    strict: bool = True,
    weights_only: bool = True,
    exit_on_stop: bool = True,
    **others: Any,
) -> Run:
    """Make a training run resumable, and resume what there is to resume.

    Under ``pawl run`` or pawld the job's configuration says when checkpoints are made and where; without a daemon the
    same checkpoints are written by this process, as the options here say.

    Parameters
    ----------
    model, optimizer, scheduler, scaler
        Saved as ``model_state_dict`` and so on: the names that scripts use with ``torch.save``. A model in
        DistributedDataParallel is saved by rank 0 alone, without the wrapper's prefix.
    loader
        A DataLoader whose position is kept; iterate it by `Run.batches`.
    values
        Plain values to begin with; kept in `Run.values`.
    others
        More objects with ``state_dict`` and ``load_state_dict``, by name: ``ema=ema`` is saved as ``ema_state_dict``.
    checkpoint_directory, every_steps, every_epochs, every_seconds, keep_last
        Standalone mode only. Default: every 10 minutes, the newest 3.
    strict
        False: model keys that are missing or unexpected are let go.
    weights_only
        False: the checkpoint may hold any picklable value of yours. Only for directories that you trust.
    exit_on_stop
        False: instead of raising `Stopped`, loops end and `Run.should_stop` is True.

    Returns
    -------
    Run

    Raises
    ------
    ResumeError
        The newest valid checkpoint does not fit. Lists everything that differs; nothing was changed.
    PawlError
        The daemon refused, or the directory can't be used.
    """
    given = {
        "model": model,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "loader": loader,
        "scaler": scaler,
        **others,
    }
    objects = {name: value for name, value in given.items() if value is not None}
    for name, value in objects.items():
        is_data = name == "loader" or isinstance(value, torch.utils.data.DataLoader)
        if not is_data and not (hasattr(value, "state_dict") and hasattr(value, "load_state_dict")):
            raise PawlError(
                f"'{name}' of type {type(value).__name__} has no state_dict and load_state_dict: "
                f"pass plain values as values={{'{name}': ...}}"
            )
    if weights_only and values:
        _values.check({f"values['{name}']": value for name, value in _values.plain(dict(values)).items()})
    directory = str(Path(checkpoint_directory))
    _standalone.make_room(directory)
    native = _native.attach(
        framework=f"PyTorch {torch.__version__}",
        checkpoint_directory=directory,
        every_steps=every_steps,
        every_epochs=every_epochs,
        every_ms=int(every_seconds * 1000),
        keep_last=keep_last,
    )
    run = Run(native, objects, values, strict=strict, weights_only=weights_only, exit_on_stop=exit_on_stop)
    if not native.is_attached:
        run._where = f" in '{os.environ.get('PAWL_CHECKPOINT_DIRECTORY') or checkpoint_directory}'"
    try:
        run._resume()
    except BaseException:
        # A notebook keeps the traceback, and with it the run; the directory is to be free for the next try.
        native.detach()
        raise
    if not native.is_attached:
        _standalone.entered(run, directory)
    _ending.watch(run)
    return run
