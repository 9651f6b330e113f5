"""BLiTZ's models as members: against the library itself, at its mean and by its own sampling."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edge_bdl.errors import UnsupportedModelError
from edge_bdl_export import export
from edge_bdl_export.adapters import adapt, members_of

N = 2000


@pytest.fixture
def modules(foreign: Callable[[str], Any]) -> Any:
    return foreign("blitz.modules")


class Last(nn.Module):
    """All that a recurrent layer returns, as one tensor."""

    def __init__(self, recurrent: nn.Module) -> None:
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x: Tensor) -> Tensor:
        sequence, states = self.recurrent(x)
        last = torch.cat(states, 1) if isinstance(states, tuple) else states
        return torch.cat([sequence.flatten(1), last], 1)


BUILD: dict[str, tuple[Callable[[Any], nn.Module], Tensor]] = {}
_GENERATOR = torch.Generator().manual_seed(1)
for name, build, x in (
    ("linear", lambda m: m.BayesianLinear(5, 3), torch.randn(1, 5, generator=_GENERATOR)),
    ("linear without bias", lambda m: m.BayesianLinear(5, 3, bias=False), torch.randn(1, 5, generator=_GENERATOR)),
    ("conv1d", lambda m: m.BayesianConv1d(4, 6, 2, groups=2, stride=2), torch.randn(1, 4, 7, generator=_GENERATOR)),
    (
        "conv2d",
        lambda m: m.BayesianConv2d(2, 3, (2, 3), padding=1, dilation=(1, 2), bias=False),
        torch.randn(1, 2, 5, 6, generator=_GENERATOR),
    ),
    ("conv3d", lambda m: m.BayesianConv3d(1, 2, (2, 2, 2)), torch.randn(1, 1, 3, 3, 3, generator=_GENERATOR)),
    ("embedding", lambda m: m.BayesianEmbedding(7, 3), torch.tensor([[1, 4, 1]])),
    ("lstm", lambda m: Last(m.BayesianLSTM(4, 3)), torch.randn(1, 4, 4, generator=_GENERATOR)),
    ("lstm peephole", lambda m: Last(m.BayesianLSTM(4, 3, peephole=True)), torch.randn(1, 4, 4, generator=_GENERATOR)),
    ("gru", lambda m: Last(m.BayesianGRU(4, 3)), torch.randn(1, 4, 4, generator=_GENERATOR)),
):
    BUILD[name] = build, x


@pytest.fixture
def seeded(varied: Callable[..., nn.Module]) -> Callable[[Callable[[], nn.Module]], nn.Module]:
    return partial(varied, mean="sampler.mu", spread="sampler.rho")


@pytest.mark.parametrize("name", BUILD)
def test_a_layer_has_the_library_s_mean_and_moments(
    name: str,
    modules: Any,
    member_outputs: Callable[..., Tensor],
    same_moments: Callable[[Tensor, Tensor], None],
    seeded: Callable[..., nn.Module],
    answers: Callable[..., Tensor],
):
    build, x = BUILD[name]
    model = seeded(lambda: build(modules))
    adapter = adapt(model)
    ours = member_outputs(adapter.network, members_of(adapter, N, seed=3), x)
    same_moments(ours, answers(model, x, N))
    assert (ours.std(0) > 1e-3).all()
    for name, parameter in model.named_parameters():
        if name.endswith("sampler.rho"):
            parameter.data.fill_(-100.0)
    torch.testing.assert_close(adapter.network(x), answers(model, x, 1)[0], rtol=1e-5, atol=1e-6)


def net(modules: Any) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), modules.BayesianConv2d(4, 3, (2, 2)), nn.ReLU(), nn.Flatten(),
        modules.BayesianLinear(3, 2),
    )  # fmt: skip


def test_a_copy_that_was_trained_further_is_taken_by_its_samplers(modules: Any, seeded: Callable[..., nn.Module]):
    model = copy.deepcopy(seeded(lambda: net(modules)))
    with torch.no_grad():
        model[5].weight_sampler.mu.add_(1.0)
    assert not torch.equal(model[5].weight_mu, model[5].weight_sampler.mu)
    assert torch.equal(adapt(model).network[5].weight, model[5].weight_sampler.mu)


def test_a_model_just_trained_is_exported_though_its_layers_keep_their_last_draw(
    modules: Any, tmp_path: Path, seeded: Callable[..., nn.Module]
):
    model, x = seeded(lambda: net(modules)), torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    with torch.random.fork_rng(devices=[]):
        model(x).sum().backward()
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    manifest = export(model, x, tmp_path / "blitz.ebdl", samples=4, formats=("onnx",))
    assert [item.source for item in manifest.bank.inputs] == ["2.weight", "2.bias", "5.weight", "5.bias"]
    assert manifest.provenance.versions["blitz-bayesian-pytorch"] == "0.2.8"
    assert manifest.flops.deterministic_share > 0.0


def test_a_frozen_layer_is_deterministic(modules: Any, seeded: Callable[..., nn.Module]):
    model = seeded(lambda: net(modules))
    model[2].freeze = True
    adapter = adapt(model)
    assert set(members_of(adapter, 2, seed=0)[0]) == {"5.weight", "5.bias"}
    x = torch.ones(1, 1, 4, 4)
    model[5].freeze = True
    torch.testing.assert_close(adapter.network(x), model(x))
    assert adapt(model).size == 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda m, u: u.Flipout(m.BayesianLinear)(3, 2),
            "Flipout, of which no draw of the weights computes",
        ),
        (lambda m, u: m.BayesianLSTM(3, 2, bias=False), "BayesianLSTM without bias does not run in BLiTZ"),
        (lambda m, u: m.BayesianLSTM(3, 2, peephole=True, freeze=True), "frozen BayesianLSTM with peephole"),
        (lambda m, u: m.BayesianEmbedding(3, 2, max_norm=1.0), "BayesianEmbedding with max_norm"),
    ],
)
def test_what_has_no_members_is_refused_by_name(
    build: Callable[[Any, Any], nn.Module], message: str, modules: Any, foreign: Callable[[str], Any]
):
    with pytest.raises(UnsupportedModelError, match=message):
        adapt(nn.Sequential(build(modules, foreign("blitz.utils.layer_wrappers"))))
