"""Seen: members answer about frames behind the trunk as they answer about each frame by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_bdl_export import seen as module
from edge_bdl_export.fidelity import Reading, statistics
from edge_bdl_export.frames import FIGURES, CalibrationFrames
from edge_bdl_export.proof.subject import tensors
from edge_bdl_export.seen import Seen

READING = Reading("regression", None)


class Ragged(nn.Module):
    """Its head folds the batch axis away, which a batch of frames would not survive."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.drop, self.last = nn.Linear(4, 6), nn.Dropout(0.5), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(torch.tanh(self.body(x))).view(6)).view(1, 2)


def frames(name: str, count: int = 7) -> CalibrationFrames:
    values = np.random.Generator(np.random.Philox(0)).normal(size=(count, 1, 4)).astype(np.float32)
    return CalibrationFrames(inputs={name: values}, split=np.full(count, FIGURES))


@pytest.mark.parametrize("at_once", [3, 128])
def test_members_answer_about_all_frames_as_about_each(
    networks: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, at_once: int
):
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    network, _ = networks(Ragged().eval(), (torch.zeros(1, 4),))
    masks = {
        network.member_names[0]: (np.random.Generator(np.random.Philox(1)).random((5, 1, 6)) < 0.5) * np.float32(2)
    }
    given = frames(network.input_names[0])
    seen = Seen(network, given, READING)
    assert len(seen) == 7
    rows = [network.members(network.trunk(tensors(frame))[0], [torch.from_numpy(masks["mask_0"])]) for frame in given]
    expected = statistics(torch.stack(rows), READING)
    assert torch.allclose(torch.stack(list(seen.each(masks)), 1), expected, atol=1e-6)
    halves = [
        {name: values[:2] for name, values in masks.items()},
        {name: values[2:] for name, values in masks.items()},
    ]
    assert torch.allclose(seen.mean(halves), expected.mean(1), atol=1e-6)


def test_the_trunk_runs_over_each_frame_once(networks: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    network, _ = networks(Ragged().eval(), (torch.zeros(1, 4),))
    runs: list[int] = []
    trunk = network.trunk
    monkeypatch.setattr(network, "trunk", lambda frame: runs.append(1) or trunk(frame))
    seen = Seen(network, frames(network.input_names[0]), READING)
    for _ in range(2):
        list(seen.each({"mask_0": np.ones((3, 1, 6), np.float32)}))
    assert len(runs) == 7
