"""Exact resume for Hugging Face's Trainer: one line added to a program.

    trainer = Trainer(..., callbacks=[pawl.hf.Callback()])
    trainer.train()

The Trainer can resume from a directory of its own making. Its way through epochs and batches is used: it is given a
directory that holds ``trainer_state.json`` and nothing else. Where it would load tensors from there, it gets those of
pawl's checkpoint; what it does not save (the loss since the last log, other callbacks' state, the random numbers of the
batch that was fetched ahead) is put in as well. Nothing of ``save_strategy`` is needed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import sys
import tempfile
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional, Union

from transformers import TrainerCallback

from pawl import _shards
from pawl._fetches import Fetches
from pawl._native import PawlError
from pawl._part import Part
from pawl._run import Run, Stopped, attach, exit_code
from pawl._state import problems_of_module, problems_of_optimizer, refuse, unwrapped


class Callback(TrainerCallback):  # type: ignore[misc]
    """Makes ``trainer.train()`` resumable, and resumes what there is to resume.

    Pass it to the Trainer's ``callbacks``. A checkpoint has ``model_state_dict``, ``optimizer_state_dict``,
    ``scheduler_state_dict``, ``scaler_state_dict`` where there is one, ``rng_state`` and ``trainer_state_dict``.

    Parameters
    ----------
    checkpoint_directory, every_steps, every_epochs, every_seconds, keep_last
        Without a daemon only, as in `pawl.attach`. The directory's default is ``output_dir/pawl``.
    strict
        False: model keys that are missing or unexpected are let go.
    exit_on_stop
        When the process is to leave, `train` stops after the step, and then: True ends the process (`pawl.Stopped`),
        so that what follows ``train()`` does not take a half trained model for a trained one; False returns, and
        ``callback.run.should_stop`` is True.

    Attributes
    ----------
    run
        The `pawl.Run`, while the Trainer trains and after it.
    """

    def __init__(
        self,
        *,
        checkpoint_directory: Optional[Union[str, os.PathLike[str]]] = None,
        every_steps: int = 0,
        every_epochs: int = 0,
        every_seconds: float = 0,
        keep_last: int = 0,
        strict: bool = True,
        exit_on_stop: bool = True,
    ) -> None:
        self.run: Optional[Run] = None
        self._directory = checkpoint_directory
        self._cadence: dict[str, Any] = {
            "every_steps": every_steps,
            "every_epochs": every_epochs,
            "every_seconds": every_seconds,
            "keep_last": keep_last,
        }
        self._strict = strict
        self._exit_on_stop = exit_on_stop
        self._training: Optional[_Training] = None
        self._is_known = False  # whether a Trainer has called

    # ---- the Trainer's events ----

    def on_init_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        # The events carry the trainer's parts, but not the trainer.
        trainer = _trainer_above(sys._getframe())
        if trainer is None:
            raise PawlError("pawl.hf.Callback found no Trainer that calls it: pass it as Trainer(callbacks=[...])")
        self._is_known = True
        own = trainer.__dict__.get("train")  # somebody else's override
        trainer.train = self._resumable(lambda: trainer, own)

    def _resumable(self, held: Callable[[], Any], own: Optional[Callable[..., Any]]) -> Callable[..., Any]:
        def train_resumably(*positional: Any, **named: Any) -> Any:
            trainer = held()
            train = own if own is not None else functools.partial(type(trainer).train, trainer)
            try:
                return self._train(trainer, train, *positional, **named)
            finally:
                # It owns this callback. In a cycle its loader's workers would be waited for in vain; before it has
                # trained there are none, and nobody else may hold it: Trainer(...).train().
                trainer.train = self._resumable(weakref.ref(trainer), own)

        return train_resumably

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if self._training is not None:
            self._training.begin()
        elif not self._is_known:
            raise PawlError(
                "pawl.hf.Callback was added after the Trainer was made, too late to resume: "
                "pass it as Trainer(callbacks=[pawl.hf.Callback()])"
            )

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if self._training is not None:
            self._training.begin_epoch()

    def on_substep_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if self._training is not None:
            self._training.batch_trained()

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if self._training is not None:
            self._training.step_ended()

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **others: Any) -> None:
        if self._training is not None:
            self._training.metrics = {k: float(v) for k, v in (metrics or {}).items() if isinstance(v, (int, float))}

    def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        if self._training is not None:
            self._training.epoch_ended()

    # ---- train ----

    def _train(
        self,
        trainer: Any,
        train: Callable[..., Any],
        resume_from_checkpoint: Any = None,
        trial: Any = None,
        *more: Any,
        **named: Any,
    ) -> Any:
        if trial is not None:
            warnings.warn(
                "pawl.hf.Callback leaves trials of a hyperparameter search alone", RuntimeWarning, stacklevel=3
            )
            return train(resume_from_checkpoint, trial, *more, **named)
        _refuse_what_can_not_resume(trainer)
        training = _Training(trainer, self._strict)
        directory = self._directory or Path(trainer.args.output_dir) / "pawl"
        run = attach(
            checkpoint_directory=directory,
            exit_on_stop=False,
            **self._cadence,
            **training.parts,
        )
        training.run = self.run = run
        self._training = training
        try:
            with training.hooked() as trainer_directory:
                result = train(trainer_directory or resume_from_checkpoint, trial, *more, **named)
            if not run.should_stop:
                run.finish()
        finally:
            self._training = None
            training.parts.clear()  # it is one of them
            run.detach()
        if run.should_stop and self._exit_on_stop:
            raise Stopped(exit_code(run))
        return result


def _trainer_above(frame: Any) -> Any:
    trainer_type = sys.modules["transformers.trainer"].Trainer if "transformers.trainer" in sys.modules else ()
    while frame is not None:
        candidate = frame.f_locals.get("self")
        if isinstance(candidate, trainer_type):
            return candidate
        frame = frame.f_back
    return None


def _refuse_what_can_not_resume(trainer: Any) -> None:
    if _shards.holds_parts(unwrapped(trainer.model), {}):
        raise PawlError(
            "pawl.hf.Callback resumes one device and DistributedDataParallel; this Trainer's model is cut among the "
            "ranks (tensor parallelism). Train without it, or write the loop with pawl.attach, which saves parts."
        )
    for name in ("is_deepspeed_enabled", "is_fsdp_enabled"):
        if getattr(trainer, name, False):
            kind = "DeepSpeed" if "deepspeed" in name else "FSDP"
            raise PawlError(
                f"pawl.hf.Callback resumes one device and DistributedDataParallel; this Trainer uses {kind}. "
                "Train without it, or take the callback out and let pawl supervise alone (pawl run --adopt)."
            )
    if trainer.args.auto_find_batch_size:
        raise PawlError(
            "pawl.hf.Callback can't resume exactly with auto_find_batch_size=True, which begins anew with another "
            "batch size when memory is short: set per_device_train_batch_size"
        )


class _Training:
    """One call of ``train()``: what of the Trainer is saved, when, and how it comes back."""

    def __init__(self, trainer: Any, strict: bool) -> None:
        self.run: Any = None
        self.metrics: dict[str, float] = {}
        self._trainer = trainer
        self._strict = strict
        self._fetches: Optional[Fetches] = None
        self._resumed: Optional[dict[str, Any]] = None
        self._directory: Optional[str] = None  # what the Trainer is told to resume from
        self._is_in_epoch = False
        self._owes_step = False  # an epoch's last step is reported when the epoch's own work is done
        self._loss_before: Any = 0.0
        self._step_loss: Any = None
        self.parts: dict[str, Any] = {
            "model": Part(lambda: unwrapped(trainer.model).state_dict()),
            "optimizer": Part(lambda: trainer.optimizer.state_dict()),
            "scheduler": Part(lambda: trainer.lr_scheduler.state_dict()),
            "trainer": self,
        }
        if getattr(trainer.accelerator, "scaler", None) is not None:
            self.parts["scaler"] = Part(lambda: trainer.accelerator.scaler.state_dict())

    # ---- state: each rank's own ----

    def state_dict(self) -> dict[str, Any]:
        trainer = self._trainer
        state = trainer.state
        by_name: dict[str, list[Any]] = {}
        for callback in self._stateful_callbacks():
            by_name.setdefault(type(callback).__name__, []).append(callback.state())
        state.stateful_callbacks = {name: all[0] if len(all) == 1 else all for name, all in by_name.items()}
        assert self._fetches is not None
        return {
            "state": json.dumps(dataclasses.asdict(state)),
            "callbacks": json.dumps(by_name),
            "stopped_early": bool(trainer.control.should_training_stop and state.global_step < state.max_steps),
            "loss_since_log": trainer._tr_loss.detach().clone(),
            "step_of_log": trainer._globalstep_last_logged,
            "flos": float(trainer.current_flos),
            "data": self._fetches.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._resumed = state

    def _stateful_callbacks(self) -> list[Any]:
        exportable = sys.modules["transformers.trainer_callback"].ExportableState
        return [callback for callback in self._trainer.callback_handler.callbacks if isinstance(callback, exportable)]

    # ---- the Trainer's methods ----

    @contextlib.contextmanager
    def hooked(self) -> Any:
        """While the Trainer trains, some of its methods are ours. Gives the directory to resume from, or None."""
        trainer = self._trainer
        hooks: dict[str, Callable[..., Any]] = {
            "get_train_dataloader": self._get_train_dataloader,
            "_maybe_log_save_evaluate": self._maybe_log_save_evaluate,
            "_load_from_checkpoint": self._load_from_checkpoint,
            "_load_optimizer_and_scheduler": self._load_optimizer_and_scheduler,
            "_load_scaler": self._load_scaler,
            "_load_rng_state": self._load_rng_state,
        }
        lacking = [name for name in hooks if not hasattr(trainer, name)]
        if lacking:
            raise PawlError(
                f"this version of transformers ({sys.modules['transformers'].__version__}) has no Trainer."
                f"{lacking[0]}, which pawl.hf.Callback needs; it was made for 5.24"
            )
        with tempfile.TemporaryDirectory(prefix="pawl-hf-") as directory:
            if self._resumed is not None:
                (Path(directory) / "trainer_state.json").write_text(self._resumed["state"])
                self._directory = directory
            try:
                for name, hook in hooks.items():
                    original = getattr(trainer, name)
                    # `original` may be someone else's override, of the class or of the instance.
                    trainer.__dict__[name] = _bound(hook, original)
                yield self._directory
            finally:
                for name in [*hooks, "get_batch_samples"]:
                    trainer.__dict__.pop(name, None)

    def _get_train_dataloader(self, original: Callable[..., Any]) -> Any:
        loader = original()
        self._fetches = Fetches(loader)
        return loader

    def _load_from_checkpoint(self, original: Callable[..., Any], directory: Any, model: Any = None) -> None:
        if directory != self._directory:
            original(directory, model)
            return
        saved = self.parts["model"].take()
        if saved is None:
            return
        module = unwrapped(self._trainer.model)
        refuse(self._what(), problems_of_module("model", module, saved, strict=self._strict))
        module.load_state_dict(saved, strict=self._strict)

    def _load_optimizer_and_scheduler(self, original: Callable[..., Any], directory: Any) -> None:
        if directory is None or directory != self._directory:
            original(directory)
            return
        saved = self.parts["optimizer"].take()
        if saved is not None:
            optimizer = self._trainer.optimizer
            refuse(self._what(), problems_of_optimizer("optimizer", getattr(optimizer, "optimizer", optimizer), saved))
            optimizer.load_state_dict(saved)
        saved = self.parts["scheduler"].take()
        if saved is not None:
            self._trainer.lr_scheduler.load_state_dict(saved)

    def _load_scaler(self, original: Callable[..., Any], directory: Any) -> None:
        if directory is None or directory != self._directory:
            original(directory)
            return
        saved = self.parts["scaler"].take() if "scaler" in self.parts else None
        if saved is not None:
            self._trainer.accelerator.scaler.load_state_dict(saved)

    def _load_rng_state(self, original: Callable[..., Any], directory: Any) -> None:
        if directory is None or directory != self._directory:
            original(directory)
        elif self._fetches is not None:
            self._fetches.restore_generators()

    def _what(self) -> str:
        return f"checkpoint of step {self.run.steps}"

    # ---- what happens ----

    def begin(self) -> None:
        trainer, resumed = self._trainer, self._resumed
        if not hasattr(trainer, "_tr_loss"):  # transformers 4 keeps it in a local variable
            raise PawlError(
                f"this version of transformers ({sys.modules['transformers'].__version__}) has no Trainer._tr_loss, "
                "which pawl.hf.Callback needs; it was made for 5.24"
            )
        assert self._fetches is not None
        # Where the user resumes from a checkpoint of the Trainer's own, it counts from there.
        self.run._count_from(trainer.state.global_step)
        if resumed is None:
            return
        self._resumed = None
        self._fetches.load_state_dict(resumed["data"])
        trainer._tr_loss.copy_(resumed["loss_since_log"])
        trainer._globalstep_last_logged = resumed["step_of_log"]
        # `train_loss` is the mean of this process's own steps: what was lost before it is taken off.
        trainer._total_loss_scalar = -trainer.accelerator.gather(trainer._tr_loss).mean().item()
        trainer.current_flos = resumed["flos"]
        self._loss_before = trainer._tr_loss.detach().clone()
        waiting = json.loads(resumed["callbacks"])
        for callback in self._stateful_callbacks():
            states = waiting.get(type(callback).__name__)
            if states:
                for name, value in states.pop(0).get("attributes", {}).items():
                    setattr(callback, name, value)
        if resumed["stopped_early"] or trainer.state.global_step >= trainer.state.max_steps:
            # The Trainer would train one more step before it notices.
            trainer.control.should_training_stop = True
            trainer.__dict__["get_batch_samples"] = lambda *_, **__: ([], None)

    def begin_epoch(self) -> None:
        assert self._fetches is not None
        self._is_in_epoch = True
        self._fetches.begin_pass(skips=not self._trainer.args.ignore_data_skip)

    def batch_trained(self) -> None:
        assert self._fetches is not None
        self._fetches.batch_trained()

    def step_ended(self) -> None:
        self.batch_trained()
        # Before it is logged, and set to zero by that. Of a device it is not waited for.
        self._step_loss = self._trainer._tr_loss.detach() - self._loss_before

    def epoch_ended(self) -> None:
        self._is_in_epoch = False
        if self.run.should_stop:
            # An epoch that is left in its middle is neither evaluated nor saved.
            control = self._trainer.control
            control.should_log = control.should_evaluate = control.should_save = False

    def _maybe_log_save_evaluate(self, original: Callable[..., Any], *positional: Any, **named: Any) -> None:
        """The end of a step, and then of an epoch: what is saved has been logged and evaluated, once."""
        original(*positional, **named)
        trainer = self._trainer
        self._loss_before = trainer._tr_loss.detach().clone()
        if self._is_in_epoch:
            is_last = float(trainer.state.epoch).is_integer()
            if is_last or trainer.control.should_training_stop or trainer.control.should_epoch_stop:
                self._owes_step = True
            else:
                self._report_step()
            return
        assert self._fetches is not None
        if self.run.should_stop or not self._owes_step:
            return
        self._owes_step = False
        if float(trainer.state.epoch).is_integer():
            self._fetches.end_pass()
            self._report_step()
            if not self.run.should_stop:
                self.run.end_epoch(self.metrics, epoch=int(trainer.state.epoch))
        else:
            self._report_step()

    def _report_step(self) -> None:
        self.run.step(self._step_loss, epoch=int(self._trainer.state.epoch))
        if self.run.should_stop:
            self._trainer.control.should_training_stop = True


def _bound(hook: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    def bound(*positional: Any, **named: Any) -> Any:
        return hook(original, *positional, **named)

    return bound
