"""The imitation trainer: its loss against closed forms, that it learns, and that it repeats itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from edge_bdl.errors import InputError
from edge_bdl_train.frames import LabelledFrames
from edge_bdl_train.imitation import ImitationConfig, gaussian_nll, imitate, predict, steps_of


def tilted_frames(count: int, seed: int) -> LabelledFrames:
    """Frames that are brighter on the side to steer to; the label is noisier where it is large."""
    rng = np.random.default_rng(seed)
    tilt = rng.uniform(-1, 1, count)
    frames = 128 + 100 * tilt[:, None, None, None] * np.linspace(-1, 1, 8)[None, None, :, None] * np.ones((1, 8, 8, 3))
    labels = tilt + rng.normal(0, 0.02 + 0.2 * (np.abs(tilt) > 0.5))
    return LabelledFrames(frames.astype(np.uint8), labels.astype(np.float32), np.zeros(count, np.int64))


class Head(nn.Module):
    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, 2))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.layers(frames.float() / 128 - 1)


def head(seed: int = 0) -> Head:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Head()


def trained(seed: int, config: ImitationConfig) -> tuple[nn.Module, dict[str, float]]:
    model = head()
    figures = imitate(
        model, tilted_frames(600, 0), tilted_frames(200, 1), config, generator=torch.Generator().manual_seed(seed)
    )
    return model, figures


def test_the_loss_is_the_negative_log_density_of_a_gaussian() -> None:
    rng = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(50, 2, generator=rng), torch.randn(50, generator=rng)
    density = torch.distributions.Normal(outputs[:, 0], torch.exp(0.5 * outputs[:, 1]))
    torch.testing.assert_close(gaussian_nll(outputs, targets), -density.log_prob(targets).mean())


def test_beta_weights_each_frames_gradient_by_its_variance() -> None:
    outputs = torch.tensor([[0.3, math.log(4.0)]], requires_grad=True)
    targets = torch.tensor([1.0])
    (plain,) = torch.autograd.grad(gaussian_nll(outputs, targets), outputs)
    (weighted,) = torch.autograd.grad(gaussian_nll(outputs, targets, beta=0.5), outputs)
    torch.testing.assert_close(weighted, 2.0 * plain)


def test_it_learns_the_steering_and_how_certain_it_is() -> None:
    model, figures = trained(0, ImitationConfig(epochs=100, learning_rate=3e-3))
    assert figures["validation_mae"] < 0.4 * figures["validation_mae_constant"]
    held_out = tilted_frames(400, 2)
    outputs = predict(model, held_out.frames)
    large, small = np.abs(outputs[:, 0]) > 0.6, np.abs(outputs[:, 0]) < 0.4
    assert np.median(np.exp(outputs[large, 1])) > 4 * np.median(np.exp(outputs[small, 1]))


def test_the_same_seed_gives_the_same_weights_and_another_gives_others() -> None:
    config = ImitationConfig(epochs=2)
    weights = [trained(seed, config)[0].state_dict()["layers.1.weight"] for seed in (3, 3, 4)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_training_leaves_torchs_global_generator_alone_and_the_model_in_eval_mode() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    model, _ = trained(0, ImitationConfig(epochs=1))
    assert torch.equal(torch.rand(3), expected)
    assert not model.training


def test_mirroring_makes_the_steering_odd() -> None:
    # Only right turns are shown; mirrored, they teach left turns.
    right = tilted_frames(600, 0)
    right = right[np.flatnonzero(right.labels > 0)]
    model = head()
    config = ImitationConfig(epochs=12, learning_rate=3e-3, mirror=True)
    imitate(model, right, right, config, generator=torch.Generator().manual_seed(0))
    left = predict(model, np.ascontiguousarray(right.frames[:, :, ::-1]))
    assert np.corrcoef(left[:, 0], -right.labels)[0, 1] > 0.8


def test_every_step_is_counted() -> None:
    calls = []
    config = ImitationConfig(epochs=3, batch_size=64)
    data = tilted_frames(100, 0)
    generator = torch.Generator().manual_seed(0)
    imitate(head(), data, data, config, generator=generator, advance=lambda: calls.append(1))
    assert len(calls) == steps_of(data, config) == 6


def test_nothing_to_learn_from_or_a_loss_that_runs_away_is_an_error() -> None:
    data = tilted_frames(64, 0)
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(InputError, match="got 0 to learn from"):
        imitate(head(), data[:0], data, ImitationConfig(epochs=1), generator=generator)
    broken = head()
    broken.layers[1].bias.data[0] = float("nan")
    with pytest.raises(InputError, match="diverged"):
        imitate(broken, data, data, ImitationConfig(epochs=1), generator=generator)


@pytest.mark.parametrize(
    "arguments",
    [{"epochs": 0}, {"epochs": 1, "batch_size": 0}, {"epochs": 1, "learning_rate": 0.0}, {"epochs": 1, "beta": 2.0}],
)
def test_a_config_out_of_range_is_refused(arguments: dict) -> None:
    with pytest.raises(InputError):
        ImitationConfig(**arguments)
