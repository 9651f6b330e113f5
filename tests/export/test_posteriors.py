"""What training gives, export takes: the four posteriors of most people through the whole chain, on a tiny network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edge_bdl.bundle import Bundle
from edge_bdl.runtime import Runtime
from edge_bdl_export import export
from edge_bdl_train.bayesianize import bayesianize
from edge_bdl_train.fit import fit
from edge_bdl_train.likelihoods.gaussian import HeteroscedasticGaussian
from edge_bdl_train.methods import open_method
from edge_bdl_train.posterior import Posterior

SAMPLES = 4
X = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))
Y = X.mean((1, 2, 3))
ARGUMENTS: dict[str, dict[str, Any]] = {
    "dropout": {},
    "ensemble": {"members": SAMPLES},
    "mean_field": {"layers": 2},
    "laplace": {},
}


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(),
            nn.Linear(54, 8), nn.ReLU(), nn.Linear(8, 2),
        )  # fmt: skip


def fitted(method: str) -> Posterior:
    module = open_method(method)
    start = bayesianize(network(), "dropout", layers=2, rate=0.3) if method == "dropout" else network()
    trainee = module.build(
        start, HeteroscedasticGaussian(), module.Config(**ARGUMENTS[method]), n_data=32,
        generator=torch.Generator().manual_seed(2),
    )  # fmt: skip
    return fit(trainee, (X, Y), epochs=3, batch_size=16, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("method", ARGUMENTS)
def test_a_fitted_posterior_becomes_a_proved_bundle_with_its_own_members(method: str, tmp_path: Path) -> None:
    posterior = fitted(method)
    arguments: dict[str, Any] = {"samples": SAMPLES}
    members = None
    if method != "dropout":
        members = posterior.sample(torch.Generator().manual_seed(4), SAMPLES)
        arguments = {"members": members}
    manifest = export(
        posterior.network, X[:1], tmp_path / "x.ebdl", task="heteroscedastic", formats=("onnx",), **arguments
    )
    assert manifest.form == {"dropout": "mask_bank", "ensemble": "ensemble"}.get(method, "weight_bank")
    assert all(check.passed for check in manifest.parity)

    prediction = Runtime.open(tmp_path / "x.ebdl", engine="onnxruntime", samples=SAMPLES).predict(X[:1].numpy())
    assert prediction.fault is None
    if members is None:
        # Its members are other masks, so compare what is not random: the network itself.
        golden = Bundle.open(tmp_path / "x.ebdl").golden()
        frames = torch.from_numpy(next(value for name, value in golden.items() if name.startswith("input.")))
        expected = torch.cat([posterior.answer(frame, posterior.mean()) for frame in frames]).numpy()
        np.testing.assert_allclose(golden["det.output"].reshape(expected.shape), expected, atol=1e-5)
    else:
        means = torch.stack([posterior.answer(X[:1], member) for member in members])[..., 0]
        np.testing.assert_allclose(prediction.mean.ravel(), means.mean(0).ravel(), atol=1e-4)
        np.testing.assert_allclose(prediction.epistemic.ravel(), means.var(0).ravel(), rtol=1e-2, atol=1e-6)
