"""The four-line version: killed at any moment, it goes on as if nothing had happened.

pawl run --every-steps 50 -- python four_lines.py
"""

import argparse

import torch
from fashion import dataset, network

import pawl

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--samples", type=int, default=0, help="of the training set (all)")
parser.add_argument("--workers", type=int, default=2)
parser.add_argument("--losses", help="a file: one line a step")
options = parser.parse_args()

torch.manual_seed(0)
model = network()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
loader = torch.utils.data.DataLoader(
    dataset("train", options.samples), batch_size=64, shuffle=True, num_workers=options.workers
)

run = pawl.attach(model=model, optimizer=optimizer, scheduler=scheduler, loader=loader)  # resumes what there is
for epoch in run.epochs(options.epochs):
    for images, labels in run.batches(loader):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        if options.losses:
            with open(options.losses, "a") as file:
                file.write(f"{run.steps} {loss.item().hex()}\n")
        run.step(loss=loss)
    scheduler.step()
    print(f"epoch {epoch}: loss {run.loss:.4f}", flush=True)

torch.save(model.state_dict(), "weights.pth")
