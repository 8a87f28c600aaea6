"""A model that is cut among the ranks (fully_shard, or FSDP1). Each rank saves its own part; no rank holds the whole.

pawl run --ranks 2 --every-steps 50 -- python fsdp.py
"""

import argparse

import torch
import torch.distributed as dist
from fashion import dataset, network
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

import pawl

parser = argparse.ArgumentParser()
parser.add_argument("--kind", choices=["fully_shard", "fsdp1", "fsdp1-orig"], default="fully_shard")
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--samples", type=int, default=0, help="of the training set (all)")
parser.add_argument("--workers", type=int, default=2)
parser.add_argument("--losses", help="a file a rank: its number is appended; one line a step")
options = parser.parse_args()

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)  # the same model on every rank, before it is cut
model = network()
if options.kind == "fully_shard":
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (model[0], model[6]):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
else:
    model = FullyShardedDataParallel(model, use_orig_params=options.kind == "fsdp1-orig", device_id=torch.device("cpu"))
torch.manual_seed(rank)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
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
dist.destroy_process_group()
