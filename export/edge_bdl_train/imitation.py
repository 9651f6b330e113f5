"""Learning to steer from somebody who can: heteroscedastic regression on labelled frames."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.frames import LabelledFrames
from edge_bdl_train.progress import Advance
from edge_bdl_train.randomness import lent


@dataclass(frozen=True, kw_only=True)
class ImitationConfig:
    """How to train.

    Attributes:
        epochs: passes over the frames.
        batch_size: frames a step.
        learning_rate: AdamW's, at its peak: it rises for a fifth of the steps and falls along a cosine.
        weight_decay: AdamW's.
        beta: 0 is the plain negative log-likelihood; above 0 its gradients are weighted by variance^beta.
        mirror: show half of the frames mirrored, with opposite steering.
    """

    epochs: int
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    beta: float = 0.5
    mirror: bool = True

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.epochs < 1 or self.batch_size < 1:
            raise InputError(f"epochs and batch_size must be at least 1, got {self.epochs} and {self.batch_size}")
        if not (self.learning_rate > 0.0 and self.weight_decay >= 0.0 and 0.0 <= self.beta <= 1.0):
            raise InputError(
                "learning_rate must be above 0, weight_decay at least 0 and beta in [0, 1], "
                f"got {self.learning_rate}, {self.weight_decay} and {self.beta}"
            )


def gaussian_nll(outputs: Tensor, targets: Tensor, beta: float = 0.0) -> Tensor:
    """Mean negative log-likelihood of a Gaussian whose mean and log-variance a network gives.

    Args:
        outputs: [N, 2], mean and log-variance (Kendall and Gal 2017, equation 8).
        targets: [N].
        beta: weight each frame by variance^beta, held constant, so that frames with a large variance still teach the
            mean (Seitzer et al. 2022, equation 5).
    """
    mean, log_variance = outputs[:, 0], outputs[:, 1]
    loss = 0.5 * (log_variance + (targets - mean) ** 2 * torch.exp(-log_variance) + math.log(2.0 * math.pi))
    if beta > 0.0:
        loss = loss * torch.exp(beta * log_variance).detach()
    return loss.mean()


def imitate(
    model: nn.Module,
    train: LabelledFrames,
    validation: LabelledFrames,
    config: ImitationConfig,
    *,
    generator: torch.Generator,
    advance: Advance = lambda: None,
) -> dict[str, float]:
    """Trains ``model`` in place, and leaves it in eval mode.

    The same generator state gives the same weights on one machine with one number of threads.

    Args:
        model: uint8 [N, H, W, C] -> [N, 2], mean and log-variance.
        train: to learn from.
        validation: to judge by; nothing is chosen on it.
        config: how.
        generator: draws the order of the frames, the mirroring and the dropout masks.
        advance: called after each step of the optimiser; there are ``steps_of(train, config)`` of them.

    Returns:
        train_loss, validation_nll (nats), validation_mae, validation_mae_constant (of always giving the median training
        label; both in units of the label) and train_seconds.

    Raises:
        InputError: there is nothing to train on, or the loss became non-finite.
    """
    if not len(train) or not len(validation):
        raise InputError(f"training needs frames, got {len(train)} to learn from and {len(validation)} to judge by")
    started = time.monotonic()
    frames, labels = torch.from_numpy(train.frames), torch.from_numpy(train.labels)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    steps = steps_of(train, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, steps))
    model.train()
    # Dropout knows only torch's global generator.
    with lent(generator):
        for _ in range(config.epochs):
            total = 0.0
            for batch in torch.randperm(len(train), generator=generator).split(config.batch_size):
                inputs, targets = frames[batch], labels[batch]
                if config.mirror:
                    inputs, targets = _mirror_half(inputs, targets, generator)
                loss = gaussian_nll(model(inputs), targets, config.beta)
                if not torch.isfinite(loss):
                    raise InputError("training diverged (the loss is not finite): lower the learning rate")
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimiser.step()
                schedule.step()
                total += float(loss.detach()) * len(batch)
                advance()
    model.eval()
    predicted = torch.from_numpy(predict(model, validation.frames))
    targets = torch.from_numpy(validation.labels)
    return {
        "train_loss": total / len(train),
        "validation_nll": float(gaussian_nll(predicted, targets)),
        "validation_mae": float((predicted[:, 0] - targets).abs().mean()),
        "validation_mae_constant": float((labels.median() - targets).abs().mean()),
        "train_seconds": time.monotonic() - started,
    }


def steps_of(train: LabelledFrames, config: ImitationConfig) -> int:
    """How many steps the optimiser takes."""
    return config.epochs * math.ceil(len(train) / config.batch_size)


@torch.inference_mode()
def predict(model: nn.Module, frames: NDArray[np.uint8], batch_size: int = 256) -> NDArray[np.float32]:
    """The model's outputs, float32 [N, ...], for frames uint8 [N, H, W, C], in batches and in its present mode."""
    return np.concatenate([model(batch).numpy() for batch in torch.from_numpy(frames).split(batch_size)])


def _rate(step: int, steps: int) -> float:
    """The share of the peak learning rate in this step."""
    rising = max(1, steps // 5)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1.0 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def _mirror_half(frames: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    chosen = torch.rand(len(frames), generator=generator) < 0.5
    mirrored = torch.where(chosen[:, None, None, None], frames.flip(2), frames)
    return mirrored, torch.where(chosen, -targets, targets)
