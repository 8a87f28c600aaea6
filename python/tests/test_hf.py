"""pawl.hf.Callback: a Trainer that is left anywhere goes on as if nothing had happened."""

import gc
import json
import random
import weakref

import pytest
import torch

transformers = pytest.importorskip("transformers", minversion="5")

import pawl  # noqa: E402

SAMPLES = 44  # 11 batches of 4: the last of an epoch's steps has fewer
EPOCHS = 3


class Samples(torch.utils.data.Dataset):
    """Draws from the generators of the process that fetches, as a collator of masked language modelling does."""

    def __init__(self, is_random):
        self.is_random = is_random

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        noise = torch.rand(3) + random.random() if self.is_random else torch.zeros(3)
        return {"x": torch.full((3,), index / SAMPLES) + noise, "labels": torch.tensor([index / 10.0])}


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))

    def forward(self, x, labels):
        output = self.layers(x)
        return {"loss": torch.nn.functional.mse_loss(output, labels), "logits": output}


class Leave(transformers.TrainerCallback):
    """The process is gone, just as a step begins."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **others):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def trainer_of(directory, leave_at=None, is_random=False, callbacks=(), **arguments):
    transformers.set_seed(3)
    given = {
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.05,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        **arguments,
    }
    return transformers.Trainer(
        model=Model(),
        args=transformers.TrainingArguments(output_dir=str(directory), **given),
        train_dataset=Samples(is_random),
        eval_dataset=Samples(False),
        # One checkpoint, of the last step.
        callbacks=[*callbacks, pawl.hf.Callback(every_steps=leave_at or 1000), Leave(leave_at)],
    )


def history(trainer):
    """All that was logged, without the clock and the summary of the process's own steps."""
    kept = [
        {k: v for k, v in entry.items() if not k.endswith(("_runtime", "_per_second"))}
        for entry in trainer.state.log_history
        if "train_loss" not in entry
    ]
    return json.dumps(kept)


def ended(trainer):
    trainer.train()
    return history(trainer), [value.tolist() for value in trainer.model.state_dict().values()], torch.rand(1).item()


CASES = {
    "as it comes": {},
    "random samples, evaluated each epoch": {"is_random": True, "eval_strategy": "epoch"},
    "random samples, one batch a step": {"is_random": True, "gradient_accumulation_steps": 1},
    "logged each fifth step": {"logging_steps": 5, "eval_strategy": "steps", "eval_steps": 4},
    "grouped by length": {"train_sampling_strategy": "group_by_length"},
    "max_steps within an epoch": {"max_steps": 15, "eval_strategy": "steps", "eval_steps": 3},
    "workers": {"dataloader_num_workers": 2},
    "persistent workers": {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
}


@pytest.mark.parametrize("case", CASES)
def test_it_goes_on_where_it_was(tmp_path, case, monkeypatch):
    if "grouped" in case:
        monkeypatch.setattr(
            transformers.Trainer,
            "_get_train_sampler",
            lambda self, *_: torch.utils.data.RandomSampler(self.train_dataset, generator=None),
        )
    undisturbed = ended(trainer_of(tmp_path / "alone", **CASES[case]))

    for leave_at in (7,) if "workers" in case else (1, 5, 6, 7, 13):
        directory = tmp_path / str(leave_at)
        with pytest.raises(KeyboardInterrupt):
            trainer_of(directory, leave_at, **CASES[case]).train()
        torch.manual_seed(1234)
        again = trainer_of(directory, **CASES[case])

        assert ended(again) == undisturbed, f"left at {leave_at}"


def test_a_run_that_has_ended_trains_nothing_more(tmp_path):
    case = {"max_steps": 15}
    history_before, weights, _ = ended(trainer_of(tmp_path, **case))

    again = trainer_of(tmp_path, **case)
    again.train()

    assert again.state.global_step == 15
    assert [value.tolist() for value in again.model.state_dict().values()] == weights
    assert history(again) == history_before


def test_early_stopping_remembers_its_patience(tmp_path):
    def early():
        return {
            "callbacks": [transformers.EarlyStoppingCallback(early_stopping_patience=3, early_stopping_threshold=9.0)],
            "eval_strategy": "steps",
            "eval_steps": 2,
            "metric_for_best_model": "loss",
            "greater_is_better": False,
        }

    undisturbed = trainer_of(tmp_path / "alone", **early())
    undisturbed.train()
    with pytest.raises(KeyboardInterrupt):
        trainer_of(tmp_path / "left", 7, **early()).train()

    again = trainer_of(tmp_path / "left", **early())
    again.train()

    assert again.state.global_step == undisturbed.state.global_step == 8
    once_more = trainer_of(tmp_path / "left", **early())
    once_more.train()
    assert once_more.state.global_step == 8


def test_a_stop_ends_the_process_and_not_only_the_training(tmp_path):
    class Stop(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **others):
            if state.global_step == 3:
                callback.run.request_stop()

    trainer = trainer_of(tmp_path, eval_strategy="epoch", callbacks=[Stop()])
    callback = next(c for c in trainer.callback_handler.callbacks if isinstance(c, pawl.hf.Callback))

    with pytest.raises(pawl.Stopped) as caught:
        trainer.train()

    assert caught.value.code == 75
    assert trainer.state.global_step == 4
    assert not [entry for entry in trainer.state.log_history if "eval_loss" in entry], "it was to hurry"
    again = trainer_of(tmp_path, eval_strategy="epoch")
    undisturbed = trainer_of(tmp_path / "alone", eval_strategy="epoch")
    undisturbed.train()
    again.train()
    assert json.loads(history(again))[-5:] == json.loads(history(undisturbed))[-5:]


def test_another_model_is_refused_and_both_sides_are_named(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trainer_of(tmp_path, 3).train()
    again = trainer_of(tmp_path)
    again.model.layers[2] = torch.nn.Linear(8, 2)

    with pytest.raises(pawl.ResumeError) as caught:
        again.train()

    assert "model: 'layers.2.weight' is (1, 8) in the checkpoint, but (2, 8) in the model" in str(caught.value)


def test_a_checkpoint_has_the_names_that_people_know(tmp_path):
    trainer_of(tmp_path, num_train_epochs=1).train()

    newest = sorted((tmp_path / "pawl").glob("0*"))[-1] / "rank-00000.pt"
    state = torch.load(newest, weights_only=True)

    assert {"model_state_dict", "optimizer_state_dict", "scheduler_state_dict", "rng_state"} <= set(state)
    assert state["step"] == 6
    assert state["epoch"] == 1
    logged = json.loads(state["trainer_state_dict"]["state"])["log_history"]
    assert state["loss"] == pytest.approx(next(entry["loss"] for entry in reversed(logged) if "loss" in entry))


def test_added_too_late_it_says_how_to_add_it(tmp_path):
    trainer = trainer_of(tmp_path)
    trainer.pop_callback(pawl.hf.Callback)
    trainer.train = type(trainer).train.__get__(trainer)
    trainer.add_callback(pawl.hf.Callback())

    with pytest.raises(pawl.PawlError, match=r"Trainer\(callbacks=\[pawl\.hf\.Callback\(\)\]\)"):
        trainer.train()


def test_a_trainer_that_is_dropped_goes_at_once(tmp_path):
    """With its workers, which the collector of cycles would wait for in vain."""
    trainer = trainer_of(tmp_path, num_train_epochs=1, dataloader_num_workers=2, dataloader_persistent_workers=True)
    trainer.train()
    left = weakref.ref(trainer)
    gc.disable()
    try:
        del trainer
        assert left() is None
    finally:
        gc.enable()


def test_what_can_not_resume_is_refused(tmp_path):
    with pytest.raises(pawl.PawlError, match="set per_device_train_batch_size"):
        trainer_of(tmp_path, auto_find_batch_size=True).train()
