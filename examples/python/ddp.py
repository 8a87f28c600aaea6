"""Several ranks in DistributedDataParallel. Rank 0 saves the model for all, each rank its own position and generators.

pawl run --ranks 2 --every-steps 50 -- python ddp.py
"""

import argparse

import torch
import torch.distributed as dist
from fashion import dataset, network

import pawl

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--samples", type=int, default=0, help="of the training set (all)")
parser.add_argument("--workers", type=int, default=2)
parser.add_argument("--losses", help="a file a rank: its number is appended; one line a step")
parser.add_argument("--weights", default="weights.pth")
options = parser.parse_args()

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(rank)
model = torch.nn.parallel.DistributedDataParallel(network())
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
data = dataset("train", options.samples)
sampler = torch.utils.data.DistributedSampler(data, shuffle=True)
loader = torch.utils.data.DataLoader(data, batch_size=32, sampler=sampler, num_workers=options.workers)

run = pawl.attach(model=model, optimizer=optimizer, loader=loader)
for epoch in run.epochs(options.epochs):
    for images, labels in run.batches(loader):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        if options.losses:
            with open(f"{options.losses}-{rank}", "a") as file:
                file.write(f"{run.steps} {loss.item().hex()}\n")
        run.step(loss=loss)
    if rank == 0:
        print(f"epoch {epoch}: loss {run.loss:.4f}", flush=True)

if rank == 0:
    torch.save(model.module.state_dict(), options.weights)
dist.destroy_process_group()
