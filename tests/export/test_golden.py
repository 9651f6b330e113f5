"""Golden frames: as many as a device reads, counted exactly, and refused before the work where none fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edge_bdl.bundle import GOLDEN, Bundle
from edge_bdl.errors import ExportError
from edge_bdl.manifest import TensorSpec
from edge_bdl_export import golden as module
from edge_bdl_export.forms.posterior import Posterior
from edge_bdl_export.golden import frames_that_fit

FRAME = (TensorSpec(name="x", shape=(1, 4), dtype="float32"),)
MAP = TensorSpec(name="members", shape=(1, 3, 512, 512), dtype="float32")  # 3 MiB


@pytest.fixture(scope="module")
def posterior(networks: Callable[..., Any]) -> Posterior:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 2)).eval()
    return networks(model, (torch.zeros(1, 4),))[1]


# Per frame 3 MiB for the deterministic output, every member, and 4 fresh ones; 256 MiB in all.
@pytest.mark.parametrize(("samples", "frames"), [(16, 3), (23, 3), (24, 2), (37, 2), (38, 1), (80, 1)])
def test_a_large_output_gets_fewer_frames(posterior: Posterior, samples: int, frames: int):
    assert frames_that_fit(FRAME, MAP, posterior, samples, 4) == frames


def test_not_even_one_frame_is_refused_with_its_size(posterior: Posterior):
    message = r"one frame of the self-test has 258 MiB \(81 members with an output of shape \(1, 3, 512, 512\)"
    with pytest.raises(ExportError, match=message):
        frames_that_fit(FRAME, MAP, posterior, 81, 4)


def test_a_large_input_counts_too(posterior: Posterior):
    image = (TensorSpec(name="x", shape=(1, 8192, 8192, 3), dtype="uint8"),)  # 192 MiB
    assert frames_that_fit(image, TensorSpec(name="members", shape=(1, 2), dtype="float32"), posterior, 16, 4) == 1
    with pytest.raises(ExportError, match="one frame of the self-test has 258 MiB"):
        frames_that_fit(image, MAP, posterior, 17, 4)


def test_a_bank_of_weights_has_no_fresh_members_and_no_more_than_there_are(posterior: Posterior):
    given = replace(posterior, weights={"weight_0": np.zeros((84, 1), np.float32)})
    assert frames_that_fit(FRAME, MAP, given, 84, 4) == 1
    assert frames_that_fit(FRAME, MAP, given, 100, 4) == 1
    more = replace(posterior, weights={"weight_0": np.zeros((256, 1), np.float32)})
    assert frames_that_fit(FRAME, MAP, more, 84, 4) == 1
    with pytest.raises(ExportError, match="258 MiB"):
        frames_that_fit(FRAME, MAP, more, 85, 4)


@pytest.mark.parametrize("name", ["camera_bundle", "dense_bundle", "ensemble_bundle"])
def test_the_count_is_that_of_the_tensors_which_are_stored(
    name: str, posterior: Posterior, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    bundle = Bundle.open(request.getfixturevalue(name).folder)
    manifest, stored = bundle.manifest, bundle.golden()
    size = sum(array.nbytes for key, array in stored.items() if key != "density")
    # Where graphs hold the members, the bank is empty: only how many there are counts.
    given = {"weight_0": np.zeros((manifest.bank.members, 1), np.float32)}
    weights = None if manifest.form == "mask_bank" else given
    of_bundle = replace(posterior, inputs=manifest.bank.inputs, weights=weights)
    # Room for these tensors to the byte, and for a byte less.
    monkeypatch.setattr(module, "_HEADER_BYTES", 0)
    for room, frames in ((size, 3), (size - 1, 2)):
        monkeypatch.setattr(module, "MAX_BYTES", {GOLDEN: room})
        bank = manifest.bank
        assert frames_that_fit(manifest.inputs, manifest.output, of_bundle, bank.members, bank.chunk) == frames
