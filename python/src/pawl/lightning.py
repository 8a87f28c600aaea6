"""Exact resume for Lightning: one line added to a program.

    trainer = Trainer(..., callbacks=[pawl.lightning.Callback()])
    trainer.fit(model)

What is saved is what Lightning's own checkpoint holds, with the position in the data and the random generators. It is
given to Lightning where it would have loaded a file. Works with ``lightning.pytorch`` and ``pytorch_lightning``.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional, Union

import torch

from pawl import _rng
from pawl._native import PawlError
from pawl._part import Part
from pawl._run import Run, Stopped, attach, exit_code
from pawl._state import problems_of_module, refuse
from pawl.data import ResumableLoader

_is_the_older_name = "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules
_Base: Any = importlib.import_module("pytorch_lightning" if _is_the_older_name else "lightning.pytorch").Callback

_SUMMED = ("value", "cumulated_batch_size")
_MANY = "optimizers"  # more than one: their states under this key


class Callback(_Base):  # type: ignore[misc]
    """Makes ``trainer.fit()`` resumable, and resumes what there is to resume.

    A checkpoint has ``model_state_dict``, ``optimizer_state_dict``, ``rng_state``, and under ``lightning_state_dict``
    the rest of a Lightning checkpoint: loops, schedulers, callbacks, precision, datamodule; no hyperparameters.

    Parameters
    ----------
    checkpoint_directory, every_steps, every_epochs, every_seconds, keep_last
        Without a daemon only, as in `pawl.attach`. The directory's default is ``default_root_dir/pawl``.
    weights_only
        False: what ``on_save_checkpoint`` hooks add may be any picklable value.
    exit_on_stop
        When the process is to leave: True ends it after the step (`pawl.Stopped`); False sets ``trainer.should_stop``.

    Attributes
    ----------
    run
        The `pawl.Run`, while the Trainer fits and after it.
    """

    def __init__(
        self,
        *,
        checkpoint_directory: Optional[Union[str, os.PathLike[str]]] = None,
        every_steps: int = 0,
        every_epochs: int = 0,
        every_seconds: float = 0,
        keep_last: int = 0,
        weights_only: bool = True,
        exit_on_stop: bool = True,
    ) -> None:
        self.run: Optional[Run] = None
        self._directory = checkpoint_directory
        self._options: dict[str, Any] = {
            "every_steps": every_steps,
            "every_epochs": every_epochs,
            "every_seconds": every_seconds,
            "keep_last": keep_last,
            "weights_only": weights_only,
        }
        self._exit_on_stop = exit_on_stop
        self._fit: Optional[_Fit] = None

    # ---- Lightning's hooks ----

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage != "fit" or trainer.fast_dev_run:
            return
        kind = type(trainer.strategy).__name__
        if "FSDP" in kind or "DeepSpeed" in kind or "ModelParallel" in kind:
            raise PawlError(
                f"pawl.lightning.Callback resumes one device and DistributedDataParallel; this Trainer has {kind}. "
                "Take another strategy, or take the callback out and let pawl supervise alone (pawl run --adopt)."
            )
        fit = _Fit(trainer, pl_module, self._exit_on_stop)
        directory = self._directory or Path(trainer.default_root_dir) / "pawl"
        fit.run = self.run = attach(checkpoint_directory=directory, exit_on_stop=False, **self._options, **fit.parts)
        self._fit = fit
        try:
            fit.give_to_lightning()
        except BaseException:
            self._leave()
            raise

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._fit is not None:
            self._fit.loss = outputs.get("loss") if isinstance(outputs, dict) else outputs

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._finish()

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._finish()  # where there was nothing left to train, it did not begin

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._leave()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._leave()

    def _finish(self) -> None:
        if self._fit is not None and not self._fit.run.should_stop:
            self._fit.run.finish()
            if self._fit.run.should_stop and self._exit_on_stop:
                raise Stopped(exit_code(self._fit.run))

    def _leave(self) -> None:
        fit, self._fit = self._fit, None
        if fit is not None:
            fit.unhook()
            fit.run.detach()


class _Fit:
    """One call of ``fit()``: what is saved, when, and how it comes back."""

    def __init__(self, trainer: Any, module: Any, exit_on_stop: bool) -> None:
        self.run: Any = None
        self.loss: Any = None
        self._trainer = trainer
        self._module = module
        self._exit_on_stop = exit_on_stop
        self._dumped: dict[str, Any] = {}
        self._loaders: list[ResumableLoader] = []
        self._resumed: Optional[dict[str, Any]] = None
        self._waiting_sums: dict[str, list[torch.Tensor]] = {}  # by metric, until it is logged again
        self._is_first_epoch = True
        self._is_first_batch = True
        self._owes_step = False  # an epoch's last step is reported when the epoch's own work is done
        self._is_between_epochs = False
        self._hooks: list[tuple[Any, str]] = []
        # In this order: the first asks Lightning for all of it.
        self.parts: dict[str, Any] = {
            "model": Part(self._dump),
            "optimizer": Part(self._optimizers),
            "lightning": Part(self._rest, is_replicated=False),
        }

    # ---- state ----

    def _dump(self) -> dict[str, Any]:
        self._dumped = self._trainer._checkpoint_connector.dump_checkpoint(False)
        # They may hold anything, and the program has them anyway.
        for key in [key for key in self._dumped if "hparams" in key or "hyper_parameters" in key]:
            del self._dumped[key]
        model: dict[str, Any] = self._dumped.pop("state_dict")
        return model

    def _optimizers(self) -> dict[str, Any]:
        if "optimizer_states" not in self._dumped:
            self._dump()
        states = self._dumped.pop("optimizer_states")
        return states[0] if len(states) == 1 else {_MANY: states}

    def _rest(self) -> dict[str, Any]:
        # Of a rank other than 0 the others were not asked for.
        if not self._dumped:
            self._dump()
            del self._dumped["optimizer_states"]
        rest, self._dumped = self._dumped, {}
        rest["pawl"] = {
            "between_epochs": self._is_between_epochs,
            "stopped": bool(self._trainer.should_stop) and not self.run.should_stop,
            "loaders": [self._position(loader) for loader in self._loaders],
            "rng": _rng.capture(),
            "metrics": dict(self._trainer._logger_connector._callback_metrics),
            "sums": self._sums(),
        }
        return rest

    def _sums(self) -> dict[str, list[torch.Tensor]]:
        """What ``self.log(on_epoch=True)`` has summed in this epoch; Lightning's own checkpoints leave it out."""
        return {
            name: [getattr(result, part).clone() for part in _SUMMED if hasattr(result, part)]
            for name, result in self._trainer.fit_loop.epoch_loop._results.items()
            if _is_summed(result) and not self._is_between_epochs
        }

    def _add_sums(self) -> None:
        results = self._trainer.fit_loop.epoch_loop._results
        for name in [name for name in self._waiting_sums if name in results]:
            for part, value in zip(_SUMMED, self._waiting_sums.pop(name)):
                setattr(results[name], part, value.to(results[name].value.device) + getattr(results[name], part))

    def _position(self, loader: ResumableLoader) -> dict[str, Any]:
        state = loader.state_dict()
        # Without a length Lightning fetches ahead, to know the last batch for one.
        ahead = len(getattr(self._trainer.fit_loop._data_fetcher, "batches", ()))
        state["batches"] = max(0, state["batches"] - ahead)
        return state

    # ---- Lightning's methods ----

    def give_to_lightning(self) -> None:
        trainer = self._trainer
        loop = trainer.fit_loop
        self._hook(loop, "_load_combined_loader_states", self._take_loaders)
        self._hook(loop, "on_advance_start", self._begin_epoch)
        self._hook(loop, "on_advance_end", self._end_epoch)
        self._hook(loop.epoch_loop, "advance", self._begin_batch)
        self._hook(loop.epoch_loop, "on_advance_end", self._end_batch)
        rest = self.parts["lightning"].take()
        if rest is None:
            return
        model, optimizer = self.parts["model"].take(), self.parts["optimizer"].take()
        assert model is not None
        assert optimizer is not None
        # Where the module is made later (configure_model), Lightning is the one to say it.
        if self._module.strict_loading and not _overrides(self._module, "configure_model"):
            refuse(f"checkpoint of step {self.run.steps}", problems_of_module("model", self._module, model))
        self._resumed = rest.pop("pawl")
        connector = trainer._checkpoint_connector
        connector._loaded_checkpoint = {
            **rest,
            "state_dict": model,
            "optimizer_states": optimizer.get(_MANY, [optimizer]),
        }
        # A ckpt_path of the program's is where it began; this is where it came to.
        self._hook(connector, "resume_start", lambda original, *_, **__: None)
        trainer.should_stop = self._resumed["stopped"]
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable")

    def _hook(self, holder: Any, name: str, hook: Callable[..., Any]) -> None:
        original = getattr(holder, name, None)
        if original is None:
            raise PawlError(
                f"this version of Lightning has no {type(holder).__name__}.{name}, which pawl.lightning.Callback "
                "needs; it was made for 2.6"
            )
        holder.__dict__[name] = lambda *positional, **named: hook(original, *positional, **named)
        self._hooks.append((holder, name))

    def unhook(self) -> None:
        for holder, name in self._hooks:
            holder.__dict__.pop(name, None)
        self._hooks = []

    def _take_loaders(self, original: Callable[..., Any]) -> None:
        original()
        combined = self._trainer.fit_loop._combined_loader
        self._loaders = [ResumableLoader(loader) for loader in combined.flattened]
        combined.flattened = [_Loader(loader, self._trainer) for loader in self._loaders]
        if self._resumed is not None:
            for loader, state in zip(self._loaders, self._resumed["loaders"]):
                loader.load_state_dict(state)

    def _begin_epoch(self, original: Callable[..., Any]) -> None:
        if self._is_first_epoch and self._resumed is not None:
            if self._resumed["between_epochs"]:
                self._not_restarting()
            self._waiting_sums = self._resumed["sums"]
            self._trainer._logger_connector._callback_metrics.update(self._resumed["metrics"])
            _rng.restore(self._resumed["rng"])
        self._is_first_epoch = False
        self._is_between_epochs = False
        original()

    def _begin_batch(self, original: Callable[..., Any], fetcher: Any) -> None:
        # Lightning restarts from files that were written in the middle of a batch's work. Ours is done.
        if self._is_first_batch and self._resumed is not None:
            self._not_restarting()
            self._resumed = None
        self._is_first_batch = False
        original(fetcher)
        if self._waiting_sums:
            self._add_sums()

    def _not_restarting(self) -> None:
        type(self._trainer.fit_loop.epoch_loop).restarting.fset(self._trainer.fit_loop.epoch_loop, False)
        self._trainer.fit_loop._restarting = False

    # ---- what happens ----

    def _end_batch(self, original: Callable[..., Any], fetcher: Any) -> None:
        """The end of a batch, with its validation."""
        original(fetcher)
        loop = self._trainer.fit_loop.epoch_loop
        if loop._should_accumulate() or self._trainer.global_step == self.run.steps:
            return
        if loop.done:
            self._owes_step = True
        else:
            self._report_step()

    def _end_epoch(self, original: Callable[..., Any]) -> None:
        original()
        if not self._owes_step or self.run.should_stop:
            return
        self._owes_step = False
        self._is_between_epochs = self._trainer.fit_loop.epoch_loop._num_ready_batches_reached()
        self._report_step()
        if self._is_between_epochs and not self.run.should_stop:
            self.run.end_epoch(self._metrics(), epoch=self._trainer.current_epoch)
            self._obey()

    def _metrics(self) -> dict[str, float]:
        return {
            name: float(value)
            for name, value in self._trainer.callback_metrics.items()
            if not isinstance(value, torch.Tensor) or value.numel() == 1
        }

    def _report_step(self) -> None:
        # Several optimizers are several steps of Lightning's.
        self.run._count_from(self._trainer.global_step - 1)
        self.run.step(self.loss, epoch=self._trainer.current_epoch)
        self._obey()

    def _obey(self) -> None:
        if not self.run.should_stop:
            return
        if self._exit_on_stop:
            raise Stopped(exit_code(self.run))
        self._trainer.should_stop = True


def _is_summed(result: Any) -> bool:
    """Whether it is a mean or a sum over the epoch's batches; a maximum, or a metric object, is not."""
    meta = result.meta
    return bool(result.is_tensor and meta.on_epoch and (meta.is_mean_reduction or meta.is_sum_reduction))


def _overrides(module: Any, name: str) -> bool:
    owner = next(kind for kind in type(module).__mro__ if name in vars(kind))
    return not owner.__module__.startswith(("lightning.", "pytorch_lightning."))


class _Loader:
    """Stands in for a loader: its passes are those of the ResumableLoader, and begin when their first batch is due."""

    def __init__(self, loader: ResumableLoader, trainer: Any) -> None:
        self._loader = loader
        self._trainer = trainer

    def __iter__(self) -> Iterator[Any]:
        yield from self._loader.batches(self._trainer.current_epoch)

    def __len__(self) -> int:
        return len(self._loader.loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._loader.loader, name)
