"""The recipe for accelerate that README.md shows: prepare as ever, then attach what came out of it."""

import pytest
import torch

accelerate = pytest.importorskip("accelerate")

import pawl  # noqa: E402


def train(directory, seen, leave_at=None):
    torch.manual_seed(0)
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Dropout(0.2), torch.nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loader = torch.utils.data.DataLoader(torch.arange(22.0).reshape(22, 1), batch_size=2, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    run = pawl.attach(model=model, optimizer=optimizer, loader=loader, checkpoint_directory=directory, every_steps=1)
    for epoch in run.epochs(3):
        for batch in run.batches(loader):
            with accelerator.accumulate(model):
                loss = model(batch).square().mean()
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            seen.append((epoch, batch.flatten().tolist(), loss.item()))
            if accelerator.sync_gradients:
                run.step(loss=loss)
                if run.steps == leave_at:
                    run.detach()
                    return None
    return [value.tolist() for value in model.state_dict().values()]


@pytest.mark.parametrize("leave_at", [1, 5, 6, 8])
def test_it_goes_on_where_it_was(tmp_path, leave_at):
    undisturbed, seen = [], []
    weights = train(tmp_path / "alone", undisturbed)

    train(tmp_path / "left", seen, leave_at)
    torch.manual_seed(1234)
    again = train(tmp_path / "left", seen)

    assert seen == undisturbed
    assert again == weights
