"""laplace-torch's posteriors as members: against the library's own draws of the network's outputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from edge_bdl.errors import UnsupportedModelError
from edge_bdl_export import export
from edge_bdl_export.adapters import adapt, members_of

N = 2000
X = torch.randn(24, 1, 4, 4, generator=torch.Generator().manual_seed(1))
Y = torch.stack([X.mean((1, 2, 3)), X[:, 0, 0, 0]], 1)


@pytest.fixture
def laplace(foreign: Callable[[str], Any]) -> Any:
    return foreign("laplace")


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 2))


def fitted(laplace: Any, likelihood: str = "regression", **settings: Any) -> Any:
    posterior = laplace.Laplace(network(), likelihood, prior_precision=5.0, **settings)
    targets = Y if likelihood == "regression" else (Y[:, 0] > 0).long()
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # of the libraries that compute curvature
        torch.manual_seed(0)
        posterior.fit(DataLoader(TensorDataset(X, targets), batch_size=8))
    return posterior


POSTERIORS = {
    "last layer, full": {"subset_of_weights": "last_layer", "hessian_structure": "full"},
    "last layer, kron": {"subset_of_weights": "last_layer", "hessian_structure": "kron"},
    "last layer, diag": {"subset_of_weights": "last_layer", "hessian_structure": "diag"},
    "all, full": {"subset_of_weights": "all", "hessian_structure": "full"},
    "all, kron": {"subset_of_weights": "all", "hessian_structure": "kron"},
    "all, diag": {"subset_of_weights": "all", "hessian_structure": "diag"},
    "subnetwork": {
        "subset_of_weights": "subnetwork", "hessian_structure": "full", "subnetwork_indices": torch.arange(0, 60, 4),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", POSTERIORS)
def test_a_posterior_has_the_library_s_mean_and_moments(
    name: str, laplace: Any, member_outputs: Callable[..., Tensor], same_moments: Callable[[Tensor, Tensor], None]
):
    posterior = fitted(laplace, **POSTERIORS[name])
    adapter = adapt(posterior)
    ours = member_outputs(adapter.network, members_of(adapter, N, seed=3), X[:2])
    theirs = posterior.predictive_samples(
        X[:2], pred_type="nn", n_samples=N, generator=torch.Generator().manual_seed(4)
    )
    same_moments(ours, theirs)
    assert (ours.std(0) > 1e-3).all()
    torch.testing.assert_close(adapter.network(X[:2]), network()(X[:2]))
    assert any("sigma_noise" in note for note in adapter.notes)
    assert any("linearises" in note for note in adapter.notes) != name.startswith("last layer")


def test_a_last_layer_posterior_is_exported_with_a_shared_trunk(laplace: Any, tmp_path: Path):
    posterior = fitted(laplace, "classification", subset_of_weights="last_layer")
    manifest = export(posterior, X[:1], tmp_path / "la.ebdl", task="classification", samples=4, formats=("onnx",))
    assert [item.source for item in manifest.bank.inputs] == ["5.weight", "5.bias"]
    assert manifest.flops.deterministic_share > 0.9
    assert manifest.provenance.versions["laplace-torch"] == "0.3"


def test_adapting_leaves_the_posterior_usable(laplace: Any):
    posterior = fitted(laplace, subset_of_weights="last_layer", hessian_structure="diag")
    before = posterior.mean.clone()
    adapter = adapt(posterior)
    adapter.network.load_state_dict(members_of(adapter, 2, seed=0)[0], strict=False)
    assert torch.equal(before, posterior.mean)
    torch.testing.assert_close(posterior.model(X[:3]), network()(X[:3]))
    assert posterior(X[:3])[0].shape == (3, 2)


def test_what_was_not_fitted_is_refused(laplace: Any):
    with pytest.raises(UnsupportedModelError, match=r"KronLLLaplace was not fitted; call fit"):
        adapt(laplace.Laplace(network(), "regression", subset_of_weights="last_layer"))
    with pytest.raises(UnsupportedModelError, match=r"DiagLaplace was not fitted; call fit"):
        adapt(laplace.Laplace(network(), "regression", subset_of_weights="all", hessian_structure="diag"))


def test_a_posterior_over_functions_is_refused(laplace: Any):
    posterior = laplace.Laplace(network(), "regression", subset_of_weights="all", hessian_structure="gp", n_subset=8)
    with pytest.raises(UnsupportedModelError, match="FunctionalLaplace is a posterior over functions"):
        adapt(posterior)
