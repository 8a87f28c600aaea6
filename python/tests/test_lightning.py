"""pawl.lightning.Callback: a fit that is left anywhere goes on as if nothing had happened."""

import gc
import random

import pytest
import torch

lightning = pytest.importorskip("lightning.pytorch")

import pawl  # noqa: E402

SAMPLES = 44  # 11 batches of 4: the last of an epoch's steps has fewer
EPOCHS = 3


class Samples(torch.utils.data.Dataset):
    """Draws from the generators of the process that fetches."""

    def __init__(self, is_random):
        self.is_random = is_random

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        noise = torch.rand(3) + random.random() if self.is_random else torch.zeros(3)
        return torch.full((3,), index / SAMPLES) + noise, torch.tensor([index / 10.0])


class Gone(Exception):
    """The process is, as a batch begins."""


class Model(lightning.LightningModule):
    def __init__(self, seen, leave_at=None):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
        self.seen = seen
        self.leave_at = leave_at

    def loss(self, batch):
        samples, labels = batch
        return torch.nn.functional.mse_loss(self.layers(samples), labels)

    def training_step(self, batch, index):
        if self.global_step == self.leave_at:
            raise Gone
        loss = self.loss(batch)
        self.seen.append((self.current_epoch, index, self.global_step, loss.item()))
        self.log("loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch, index):
        loss = self.loss(batch)
        self.seen.append(("validation", self.current_epoch, index, self.global_step, loss.item()))
        self.log("val_loss", loss)

    def on_train_epoch_start(self):
        self.seen.append(("epoch", self.current_epoch, torch.rand(1).item()))

    def on_train_epoch_end(self):
        # The mean over the epoch is not made yet: this is what it is made of.
        self.seen.append(("sum", [result.value.item() for result in self.trainer.fit_loop._results.values()]))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}


def fit(directory, leave_at=None, is_random=False, workers=0, model=None, callback=None, loader=None, **arguments):
    """(what was seen, the Trainer). The only checkpoint is of the last step."""
    lightning.seed_everything(3, verbose=False)
    seen = []
    model = model or Model(seen, leave_at)
    model.seen = seen
    callbacks = [callback or pawl.lightning.Callback(every_steps=leave_at or 1000), *arguments.pop("callbacks", [])]
    given = {
        "max_epochs": EPOCHS,
        "accumulate_grad_batches": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        **arguments,
    }
    trainer = lightning.Trainer(default_root_dir=directory, callbacks=callbacks, **given)
    if loader is None:
        loader = torch.utils.data.DataLoader(Samples(is_random), 4, shuffle=True, num_workers=workers)
    validation = torch.utils.data.DataLoader(Samples(False), 22)
    try:
        trainer.fit(model, loader, validation)
    except Gone:
        assert leave_at is not None
    seen.append([value.tolist() for value in model.state_dict().values()])
    seen.append(torch.rand(1).item())
    return seen, trainer


def batches(seen):
    return [entry for entry in seen if isinstance(entry, tuple) and len(entry) == 4]


CASES = {
    "as it comes": {},
    "random samples, one batch a step": {"is_random": True, "accumulate_grad_batches": 1},
    "validated within the epoch": {"val_check_interval": 2},
    "max_steps within an epoch": {"max_steps": 15, "max_epochs": -1},
    "workers": {"workers": 2},
}


@pytest.fixture(scope="module", autouse=True)
def workers_are_not_waited_for():
    """A Lightning Trainer is let go by the collector of cycles, which finds its workers deaf: torch waits for each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
        yield
        gc.collect()


@pytest.mark.parametrize("case", CASES)
def test_it_goes_on_where_it_was(tmp_path, case):
    undisturbed, _ = fit(tmp_path / "alone", **CASES[case])
    for leave_at in (7,) if case == "workers" else (1, 5, 6, 7, 12, 13):
        directory = tmp_path / str(leave_at)
        left, _ = fit(directory, leave_at, **CASES[case])
        torch.manual_seed(1234)
        again, _ = fit(directory, **CASES[case])

        assert len(again) < len(undisturbed)
        assert again == undisturbed[-len(again) :], f"left at {leave_at}"
        assert batches(left) + batches(again) == batches(undisturbed), f"left at {leave_at}"


def test_a_fit_that_has_ended_trains_nothing_more(tmp_path):
    undisturbed, _ = fit(tmp_path)

    again, trainer = fit(tmp_path)

    assert again[0] == undisturbed[-2]
    assert trainer.global_step == 18


def test_early_stopping_is_remembered(tmp_path):
    def early():
        return [lightning.callbacks.EarlyStopping("val_loss", patience=1, min_delta=100.0)]

    _, undisturbed = fit(tmp_path / "alone", callbacks=early(), max_epochs=5)
    fit(tmp_path / "left", 9, callbacks=early(), max_epochs=5)

    _, again = fit(tmp_path / "left", callbacks=early(), max_epochs=5)
    _, once_more = fit(tmp_path / "left", callbacks=early(), max_epochs=5)

    assert undisturbed.global_step == again.global_step == once_more.global_step == 12


class StopAt(lightning.Callback):
    def __init__(self, ours, step):
        self.ours = ours
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            self.ours.run.request_stop()


def test_a_stop_ends_the_process_and_the_next_goes_on(tmp_path):
    undisturbed, _ = fit(tmp_path / "alone")
    ours = pawl.lightning.Callback()

    with pytest.raises(pawl.Stopped) as caught:
        fit(tmp_path / "stopped", callback=ours, callbacks=[StopAt(ours, 3)])

    assert caught.value.code == 75
    again, _ = fit(tmp_path / "stopped")
    assert again == undisturbed[-len(again) :]
    assert again[0][2] == 4


def test_a_stop_may_end_the_fit_alone(tmp_path):
    undisturbed, _ = fit(tmp_path / "alone")
    ours = pawl.lightning.Callback(exit_on_stop=False)

    _, trainer = fit(tmp_path / "stopped", callback=ours, callbacks=[StopAt(ours, 3)])

    assert ours.run.should_stop
    assert trainer.global_step == 4
    again, _ = fit(tmp_path / "stopped")
    assert again == undisturbed[-len(again) :]


def test_a_stateful_data_loader_is_asked_for_its_own_state(tmp_path):
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")

    def loader():
        lightning.seed_everything(3, verbose=False)
        return torchdata.StatefulDataLoader(Samples(False), 4, shuffle=True, num_workers=2)

    undisturbed, _ = fit(tmp_path / "alone", loader=loader())
    left, _ = fit(tmp_path / "left", 8, loader=loader())

    again, _ = fit(tmp_path / "left", loader=loader())

    assert batches(left) + batches(again) == batches(undisturbed)


def test_another_model_is_refused_and_both_sides_are_named(tmp_path):
    fit(tmp_path, 3)
    model = Model([])
    model.layers[2] = torch.nn.Linear(8, 2)

    with pytest.raises(pawl.ResumeError) as caught:
        fit(tmp_path, model=model)

    assert "model: 'layers.2.weight' is (1, 8) in the checkpoint, but (2, 8) in the model" in str(caught.value)


def test_a_checkpoint_has_the_names_that_people_know(tmp_path):
    fit(tmp_path, max_epochs=1)

    newest = sorted((tmp_path / "pawl").glob("0*"))[-1] / "rank-00000.pt"
    state = torch.load(newest, weights_only=True)

    assert {"model_state_dict", "optimizer_state_dict", "lightning_state_dict", "rng_state"} <= set(state)
    assert "layers.0.weight" in state["model_state_dict"]
    assert (state["step"], state["epoch"]) == (6, 1)
