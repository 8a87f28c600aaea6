"""pawl.attach without a daemon: resume, and clear words where it can't."""

import os
import signal
import subprocess
import sys

import pytest
import torch

import pawl

IS_TORCH_2 = int(torch.__version__.split(".")[0]) >= 2


@pytest.fixture(autouse=True)
def no_handler_is_left():
    yield
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def parts(width=4, groups=1):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Dropout(0.5), torch.nn.Linear(width, 1))
    parameters = list(model.parameters())
    if groups == 2:
        parameters = [{"params": parameters[:2]}, {"params": parameters[2:], "lr": 0.5}]
    optimizer = torch.optim.Adam(parameters, lr=0.1)
    return model, optimizer


def attach(directory, model, optimizer, **more):
    return pawl.attach(model=model, optimizer=optimizer, checkpoint_directory=directory, every_steps=5, **more)


def train(run, model, optimizer, until):
    losses = []
    while run.steps < until:
        optimizer.zero_grad()
        loss = model(torch.randn(8, 3)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        run.step(loss=loss)
    return losses


def saved_at_step_5(directory, **more):
    model, optimizer = parts()
    run = attach(directory, model, optimizer, **more)
    train(run, model, optimizer, 7)
    run._native.detach()


def test_it_resumes_the_very_same_losses(tmp_path):
    model, optimizer = parts()
    run = attach(tmp_path / "a", model, optimizer)
    undisturbed = train(run, model, optimizer, 20)
    saved_at_step_5(tmp_path / "b")

    model, optimizer = parts()
    torch.manual_seed(77)
    run = attach(tmp_path / "b", model, optimizer)

    assert run.steps == 5
    assert train(run, model, optimizer, 20) == undisturbed[5:]


def test_values_and_other_objects_come_back(tmp_path):
    model, optimizer = parts()
    ema = torch.nn.Linear(2, 2)
    weight = ema.weight.detach().clone()
    run = attach(tmp_path, model, optimizer, values={"best": 0.0}, ema=ema)
    run.values["best"] = 0.5
    run.values["history"] = [1, 2]
    train(run, model, optimizer, 5)
    run._native.detach()

    model, optimizer = parts()
    again = torch.nn.Linear(2, 2)
    run = attach(tmp_path, model, optimizer, values={"best": 0.0}, ema=again)

    assert run.values == {"best": 0.5, "history": [1, 2]}
    assert torch.equal(again.weight, weight)


def test_a_checkpoint_that_can_not_be_written_costs_no_training(tmp_path):
    directory = tmp_path / "checkpoints"
    model, optimizer = parts()
    run = attach(directory, model, optimizer)
    directory.rename(tmp_path / "moved")

    with pytest.warns(RuntimeWarning, match="no checkpoint was made, training goes on"):
        train(run, model, optimizer, 7)
    (tmp_path / "moved").rename(directory)
    train(run, model, optimizer, 12)

    assert run.steps == 12
    assert [path.name for path in directory.iterdir() if path.name[0].isdigit()] == ["000001-step-10"]


def test_every_difference_is_listed_and_nothing_is_changed(tmp_path):
    saved_at_step_5(tmp_path)
    model, optimizer = parts(width=5, groups=2)
    model.add_module("head", torch.nn.Linear(1, 1))
    before = {key: value.clone() for key, value in model.state_dict().items()}

    with pytest.raises(pawl.ResumeError) as caught:
        attach(tmp_path, model, optimizer)

    text = str(caught.value)
    assert f"checkpoint 1 of step 5 in '{tmp_path}' does not fit this program (6 differences); nothing was" in text
    assert "model: '0.weight' is (4, 3) in the checkpoint, but (5, 3) in the model" in text
    assert "model: 'head.weight' (1, 1) is in the model, but not in the checkpoint" in text
    assert "optimizer: 1 parameter groups in the checkpoint, but 2 in the optimizer" in text
    assert "strict=False" in text
    assert len(caught.value.problems) == 6
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_checkpoint_of_a_gpu_is_resumed_on_a_machine_without_one(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        saved_at_step_5(tmp_path)
    file = next(tmp_path.glob("0*-step-5")) / "rank-00000.pt"
    with pytest.raises(Exception, match="deserialize object on a CUDA device"):
        torch.load(file)

    assert attach(tmp_path, *parts()).steps == 5


def test_after_a_refusal_the_directory_is_free_for_the_next_try(tmp_path):
    saved_at_step_5(tmp_path)
    model, optimizer = parts(width=5)

    with pytest.raises(pawl.ResumeError) as caught:
        attach(tmp_path, model, optimizer)
    run = attach(tmp_path, *parts())

    assert caught.value.problems  # kept, with all that its traceback refers to, as a notebook does
    assert run.steps == 5


def test_a_checkpoint_without_an_object_says_which_it_has(tmp_path):
    saved_at_step_5(tmp_path)
    model, optimizer = parts()

    with pytest.raises(pawl.ResumeError, match="'ema_state_dict' is not in the checkpoint, which has epoch"):
        attach(tmp_path, model, optimizer, ema=torch.nn.Linear(1, 1))


def test_an_object_without_state_dict_is_refused_with_the_way_out(tmp_path):
    model, optimizer = parts()

    with pytest.raises(pawl.PawlError, match=r"values=\{'counter': ...\}"):
        attach(tmp_path, model, optimizer, counter=3)


class Mine:
    pass


@pytest.mark.skipif(not IS_TORCH_2, reason="1.13's weights_only knows no floats and is not used")
def test_a_value_that_weights_only_refuses_is_said_at_the_start(tmp_path):
    model, optimizer = parts()

    with pytest.raises(pawl.PawlError, match=r"values\['mine'\] of type Mine can't be loaded with weights_only"):
        attach(tmp_path, model, optimizer, values={"mine": Mine()})


@pytest.mark.skipif(not IS_TORCH_2, reason="1.13's weights_only knows no floats and is not used")
def test_a_checkpoint_with_an_unsafe_global_says_what_and_the_way_out(tmp_path):
    saved_at_step_5(tmp_path, values={"mine": Mine()}, weights_only=False)
    model, optimizer = parts()

    with pytest.raises(pawl.ResumeError, match=r"weights_only=False to pawl\.attach") as caught:
        attach(tmp_path, model, optimizer)

    assert "Mine" in str(caught.value)


def test_an_unpicklable_value_is_named(tmp_path):
    model, optimizer = parts()
    run = attach(tmp_path, model, optimizer)
    run.values["callback"] = lambda: 0

    with pytest.raises(Exception, match="lambda"):
        train(run, model, optimizer, 5)


@pytest.mark.parametrize(
    "make_scheduler",
    [
        lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2),
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10),
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=25),
    ],
    ids=["StepLR", "CosineAnnealingLR", "OneCycleLR"],
)
def test_a_scheduler_goes_on(tmp_path, make_scheduler):
    def rates(directory, until):
        model, optimizer = parts()
        scheduler = make_scheduler(optimizer)
        run = attach(directory, model, optimizer, scheduler=scheduler, weights_only=False)
        seen = {}
        while run.steps < until:
            optimizer.step()
            scheduler.step()
            seen[run.steps] = optimizer.param_groups[0]["lr"]
            run.step()
        run._native.detach()
        return seen

    undisturbed = rates(tmp_path / "undisturbed", 20)
    rates(tmp_path / "killed", 7)

    assert rates(tmp_path / "killed", 20) == {step: rate for step, rate in undisturbed.items() if step >= 5}


SLOW = """
import sys, time, torch, pawl
model = torch.nn.Linear(2, 2)
run = pawl.attach(model=model, checkpoint_directory=sys.argv[1], every_seconds=3600)
print("ready", run.steps, flush=True)
while True:
    time.sleep(0.01)
    run.step(loss=1.0)
    print(run.steps, flush=True)
"""


def test_sigterm_without_a_daemon_saves_and_exits_75(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready 0\n"
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    rest = process.stdout.read().split()
    assert process.wait() == 75

    again = subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    resumed = int(again.stdout.readline().split()[1])
    os.kill(again.pid, signal.SIGKILL)
    again.wait()

    assert resumed >= 1 + len(rest)


def test_the_loss_of_a_step_may_be_a_tensor_a_number_or_nothing(tmp_path):
    model, optimizer = parts()
    run = attach(tmp_path, model, optimizer)

    run.step(loss=torch.tensor(2.5, requires_grad=True))
    assert run.loss == 2.5
    run.step(loss=1)
    assert run.loss == 1.0
    run.step()
    assert run.loss == 1.0
