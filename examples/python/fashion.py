"""What the examples share: Fashion-MNIST from Debian's package, and a small network."""

import gzip
import os
from pathlib import Path

import torch

DIRECTORY = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))


def _read(name: str, header_bytes: int) -> torch.Tensor:
    with gzip.open(DIRECTORY / name) as file:
        return torch.frombuffer(bytearray(file.read()[header_bytes:]), dtype=torch.uint8)


def dataset(part: str = "train", samples: int = 0) -> torch.utils.data.TensorDataset:
    """Images as float32 [N, 1, 28, 28] in 0 to 1, labels as int64 [N]. `part` is "train" or "t10k"."""
    images = _read(f"{part}-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28).float() / 255
    labels = _read(f"{part}-labels-idx1-ubyte.gz", 8).long()
    count = samples or len(labels)
    return torch.utils.data.TensorDataset(images[:count], labels[:count])


def network() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(4),
        torch.nn.Flatten(),
        torch.nn.Dropout(0.1),
        torch.nn.Linear(8 * 7 * 7, 10),
    )
