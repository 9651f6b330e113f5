"""The zoo, shortly: each network by a method or two, so that each method meets several kinds of network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edge_bdl import Runtime
from edge_bdl.errors import InputError
from edge_bdl_export import export
from edge_bdl_train.models.zoo import METHODS_SHOWN, ZOO, posterior_of

EXPORTED = {
    ("pilotnet", "mean field, all layers"): "weight_bank",
    ("lenet", "dropout, last layers"): "mask_bank",
    ("lenet", "last-layer Laplace"): "gaussian_head",
    ("resnet8", "SWAG"): "weight_bank",
    ("mobilenet", "mean field, last layer"): "gaussian_head",
    ("efficientnet_lite0", "last-layer Laplace"): "gaussian_head",
    ("cnn1d", "ensemble of 5"): "ensemble",
    ("lstm", "dropout, last layers"): "mask_bank",
    ("lstm", "SWAG"): "weight_bank",
    ("transformer", "last-layer Laplace"): "gaussian_head",
    ("transformer", "mean field, all layers"): "weight_bank",
    ("mlp", "ensemble of 5"): "ensemble",
    ("unet", "dropout, last layers"): "mask_bank",
    ("unet", "mean field, last layer"): "weight_bank",
}


@pytest.mark.parametrize(("name", "method"), EXPORTED)
def test_it_is_exported_proved_and_predicts_with_uncertainty(name: str, method: str, tmp_path: Path):
    exhibit = ZOO[name]
    frame = exhibit.inputs(1, torch.Generator().manual_seed(1))
    manifest = export(
        posterior_of(exhibit, method, rows=8), frame, tmp_path / "x.ebdl",
        task=exhibit.task, class_axis=exhibit.class_axis, samples=4, deterministic=exhibit.deterministic,
        formats=("onnx",),
    )  # fmt: skip
    assert manifest.form == EXPORTED[name, method]
    prediction = Runtime.open(tmp_path / "x.ebdl").predict(frame.numpy())
    assert prediction.fault is None
    assert (prediction.epistemic > 0.0).any()
    assert np.isfinite(prediction.total).all()


def test_every_network_and_every_method_is_shown():
    assert {name for name, _ in EXPORTED} == set(ZOO)
    assert {method for _, method in EXPORTED} == set(METHODS_SHOWN)


def test_a_network_that_a_method_cannot_have_is_refused_with_a_reason():
    with pytest.raises(InputError, match=r"needs a network that ends in nn.Linear, with outputs"):
        posterior_of(ZOO["unet"], "last-layer Laplace")
    with pytest.raises(InputError, match=r"cannot convert _conv_stem \(Conv2dStaticSamePadding\)"):
        posterior_of(ZOO["efficientnet_lite0"], "mean field, all layers", rows=2)
    with pytest.raises(InputError, match="the zoo shows no 'magic'"):
        posterior_of(ZOO["mlp"], "magic")
