"""Fashion-MNIST, MNIST beside it, and a small CNN with dropout in its head: the stage of the few-samples benchmark."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

# The training images after these are held back for selection.
TRAINED_ON = 55_000
_EPOCHS, _BATCH = 4, 128


def read(folder: Path, part: str, what: str) -> NDArray[np.uint8]:
    """One IDX file, compressed or not: ``part`` is train or t10k, ``what`` images-idx3 or labels-idx1."""
    path = folder / f"{part}-{what}-ubyte"
    data = path.read_bytes() if path.exists() else gzip.decompress(path.with_name(path.name + ".gz").read_bytes())
    axes = data[3]
    shape = np.frombuffer(data, ">u4", axes, offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def frames(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Images as one-frame inputs [n, 1, 1, 28, 28] in [0, 1]."""
    return images[:, None, None].astype(np.float32) / np.float32(255.0)


def network() -> nn.Module:
    """[n, 1, 28, 28] to logits [n, 10], dropout 0.3 before both layers of the head."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Dropout(0.3), nn.Linear(3136, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10),
    )  # fmt: skip


def trained(folder: Path, cache: Path) -> nn.Module:
    """The network after four epochs, from ``cache`` where it was trained before."""
    torch.manual_seed(0)
    model = network()
    if cache.exists():
        model.load_state_dict(load_file(cache))
        return model.eval()
    images = torch.from_numpy(frames(read(folder, "train", "images-idx3")[:TRAINED_ON])[:, 0])
    labels = torch.from_numpy(read(folder, "train", "labels-idx1")[:TRAINED_ON].astype(np.int64))
    fit(model, images, labels, nn.functional.cross_entropy, epochs=_EPOCHS, batch=_BATCH)
    cache.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), cache)
    return model.eval()


def fit(model: nn.Module, x: Tensor, y: Tensor, loss_of, *, epochs: int, batch: int) -> None:
    """Train with Adam, in an order that is the same every time."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for epoch in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(batch):
            loss = loss_of(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1} of {epochs}: loss {loss.item():.3f}", flush=True)
