"""States of posteriors as members: against the library's own sampling, and closed forms where that fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edge_bdl.errors import ExportError, UnsupportedModelError
from edge_bdl_export import export
from edge_bdl_export.adapters import adapt, members_of

N = 4000
X = torch.randn(1, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def posteriors(foreign: Callable[[str], Any]) -> Any:
    return foreign("posteriors")


def network() -> nn.Module:
    """Names that do not sort in the order of the layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential()
        model.add_module("stem", nn.Linear(4, 3))
        model.add_module("act", nn.Tanh())
        model.add_module("head", nn.Linear(3, 2))
        return model.eval()


def params() -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network().named_parameters()}


SIZE = sum(value.numel() for value in params().values())


def spreads() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {name: 0.1 + 0.5 * torch.rand(value.shape, generator=generator) for name, value in params().items()}


def factor() -> Tensor:
    """A lower triangle with correlations between all layers."""
    generator = torch.Generator().manual_seed(3)
    lower = 0.15 * torch.randn(SIZE, SIZE, generator=generator).tril(-1)
    return lower + torch.diag(0.2 + torch.rand(SIZE, generator=generator))


def vi_diagonal(p: Any, torchopt: Any) -> tuple[Any, Any]:
    logs = {name: value.log() for name, value in spreads().items()}
    return p.vi.diag.init(params(), torchopt.adam(lr=1e-2), init_log_sds=logs), p.vi.diag.sample


def laplace_diagonal(p: Any, torchopt: Any) -> tuple[Any, Any]:
    precision = {name: value**-2 for name, value in spreads().items()}
    return p.laplace.diag_fisher.DiagLaplaceState(params(), precision), p.laplace.diag_fisher.sample


def kalman_diagonal(p: Any, torchopt: Any) -> tuple[Any, Any]:
    return p.ekf.diag_fisher.init(params(), init_sds=spreads()), p.ekf.diag_fisher.sample


def kalman_dense(p: Any, torchopt: Any) -> tuple[Any, Any]:
    return p.ekf.dense_fisher.EKFDenseState(params(), factor() @ factor().mT), p.ekf.dense_fisher.sample


def dense_variational(p: Any, torchopt: Any) -> tuple[Any, Any]:
    lower = factor()
    rows = lower[tuple(torch.tril_indices(SIZE, SIZE))]
    return p.vi.dense.VIDenseState(params(), rows, None), p.vi.dense.sample


@pytest.mark.parametrize(
    "build", [vi_diagonal, dense_variational, laplace_diagonal, kalman_diagonal, kalman_dense], ids=lambda b: b.__name__
)
def test_a_state_has_the_library_s_moments(
    build: Callable[..., tuple[Any, Any]],
    posteriors: Any,
    foreign: Callable[[str], Any],
    member_outputs: Callable[..., Tensor],
    same_moments: Callable[[Tensor, Tensor], None],
):
    state, sample = build(posteriors, foreign("torchopt"))
    adapter = adapt(network(), state)
    members = members_of(adapter, N, seed=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        theirs = sample(state, torch.Size([N]))
    drawn = [{name: theirs[name][i] for name in params()} for i in range(N)]
    same_moments(member_outputs(adapter.network, members, X), member_outputs(network(), drawn, X))
    for name in params():
        same_moments(torch.stack([member[name] for member in members]), theirs[name])
    torch.testing.assert_close(adapter.network(X), network()(X))


def test_a_dense_precision_has_its_covariance(posteriors: Any):
    # The library's own sampling of it fails for parameters that are matrices.
    precision = torch.linalg.inv(factor() @ factor().mT)
    state = posteriors.laplace.dense_fisher.DenseLaplaceState(params(), (precision + precision.mT) / 2)
    members = members_of(adapt(network(), state), 5 * N, seed=4)
    flat = torch.stack([torch.cat([member[name].flatten() for name in sorted(member)]) for member in members])
    covariance = factor() @ factor().mT
    # An entry of a sample covariance has variance (c_ii c_jj + c_ij^2) / n.
    error = ((covariance.diag()[:, None] * covariance.diag() + covariance**2) / len(flat)).sqrt()
    assert ((flat.T.cov() - covariance).abs() <= 5.0 * error).all()


def test_states_of_sampling_are_the_members_themselves(
    posteriors: Any, member_outputs: Callable[..., Tensor], tmp_path: Path
):
    def log_posterior(weights: Mapping[str, Tensor], batch: Tensor) -> tuple[Tensor, Tensor]:
        return -sum((value**2).sum() for value in weights.values()), torch.tensor([])

    transform = posteriors.sgmcmc.sgld.build(log_posterior, lr=1e-2)
    state, states = transform.init(params()), []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        for _ in range(5):
            state, _ = transform.update(state, X)
            states.append(state)
    members = members_of(adapt(network(), states), samples=16, seed=0)
    assert len(members) == 5
    expected = [torch.func.functional_call(network(), {n: s.params[n] for n in params()}, (X,)) for s in states]
    torch.testing.assert_close(member_outputs(network(), members, X), torch.stack(expected))
    manifest = export(network(), X, tmp_path / "sgld.ebdl", members=states, formats=("onnx",))
    assert (manifest.bank.members, manifest.form) == (5, "weight_bank")
    assert manifest.provenance.versions["posteriors"] == "0.1.3"


def test_one_sample_is_no_distribution(posteriors: Any):
    state = posteriors.sgmcmc.sgld.init(params())
    with pytest.raises(UnsupportedModelError, match="SGLDState is one sample, not a distribution"):
        adapt(network(), state)


def test_a_state_of_another_network_is_refused(posteriors: Any):
    state = posteriors.laplace.diag_fisher.init(dict(nn.Linear(2, 2).named_parameters()))
    with pytest.raises(ExportError, match=r"'weight' of shape \(2, 2\), the network has no such parameter"):
        adapt(network(), state)
    state = posteriors.laplace.diag_fisher.init({**params(), "stem.bias": torch.zeros(7)})
    with pytest.raises(ExportError, match=r"'stem.bias' of shape \(7,\), the network has shape \(3,\)"):
        adapt(network(), state)


def test_parameters_without_names_are_refused(posteriors: Any):
    state = posteriors.laplace.diag_fisher.DiagLaplaceState(torch.zeros(3), torch.ones(3))
    with pytest.raises(ExportError, match="params are a Tensor; they must be named"):
        adapt(network(), state)
