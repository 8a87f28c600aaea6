"""The Python half of tests/e2e/test_languages.py: what supervised_training.cc does, with pawl's package.

supervised_training.py OPTIMIZER STEPS LOSSES [die]
"""

from __future__ import annotations

import os
import signal
import sys

import torch
from torch import nn

import pawl
from pawl.data import ShuffledSampler

SAMPLES = 36
BATCH = 8
STEPS_BEFORE_DEATH = 13
OPTIMIZERS = {
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=3e-3),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.1),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3, alpha=0.95),
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(4 * 6 * 6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.dropout(torch.relu(self.norm(self.conv(x))).flatten(1)))


name, steps, path, *die = sys.argv[1:]
torch.set_num_threads(1)
torch.manual_seed(7)
model = Net()
optimizer = OPTIMIZERS[name](model.parameters())
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.9)
loader = torch.utils.data.DataLoader(
    range(SAMPLES),
    batch_size=BATCH,
    sampler=ShuffledSampler(SAMPLES, seed=3),
    # A DataLoader draws a seed from torch's generator at each pass, if it has none of its own; C++ has none that does.
    generator=torch.Generator(),
)
run = pawl.attach(model=model, optimizer=optimizer, scheduler=scheduler, loader=loader, values={"seen": 0})
last = run.steps + int(steps[1:]) if steps[0] == "+" else int(steps)
for epoch in run.epochs(1 << 30):
    for batch in run.batches(loader):
        x = (batch.double().unsqueeze(1) * 0.73 + torch.arange(36, dtype=torch.float64) * 0.37).sin().float()
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x.view(-1, 1, 6, 6)), batch.remainder(3))
        loss.backward()
        optimizer.step()
        run.values["seen"] += len(batch)
        with open(path, "a") as file:
            file.write(f"{run.steps} {loss.item().hex()} python\n")
        run.step(loss=loss)
        if die and run.steps >= STEPS_BEFORE_DEATH and os.path.exists(".pawl/checkpoints/latest"):
            os.kill(os.getpid(), signal.SIGKILL)
        if run.steps == last:
            epochs, batches = divmod(run.steps, -(-SAMPLES // BATCH))
            assert run.values["seen"] == epochs * SAMPLES + min(batches * BATCH, SAMPLES), run.values
            run.finish()
            sys.exit(0)
    scheduler.step()
