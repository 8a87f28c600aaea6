"""The script of every beginner's article: saves after each epoch, and goes on from the file if it is there.

python article.py
"""

import argparse
import os

import torch

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--hidden", type=int, default=256)
options = parser.parse_args()

PATH = "checkpoint.pth"

torch.manual_seed(0)
inputs = torch.randn(1024, 64)
targets = torch.sin(inputs.sum(dim=1, keepdim=True))

model = torch.nn.Sequential(
    torch.nn.Linear(64, options.hidden),
    torch.nn.ReLU(),
    torch.nn.Linear(options.hidden, options.hidden),
    torch.nn.ReLU(),
    torch.nn.Linear(options.hidden, 1),
)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
criterion = torch.nn.MSELoss()

start_epoch = 0
if os.path.exists(PATH):
    checkpoint = torch.load(PATH)
    model.load_state_dict(checkpoint["model_state_dict"])
    optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    start_epoch = checkpoint["epoch"] + 1
    print(f"going on after epoch {checkpoint['epoch']}, loss {checkpoint['loss']:.4f}", flush=True)

for epoch in range(start_epoch, options.epochs):
    for batch, labels in zip(inputs.split(64), targets.split(64)):
        optimizer.zero_grad()
        loss = criterion(model(batch), labels)
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.4f}", flush=True)
    torch.save(
        {
            "epoch": epoch,
            "model_state_dict": model.state_dict(),
            "optimizer_state_dict": optimizer.state_dict(),
            "loss": loss.item(),
        },
        PATH,
    )

torch.save(model.state_dict(), "weights.pth")
