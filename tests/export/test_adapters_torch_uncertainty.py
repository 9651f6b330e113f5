"""torch-uncertainty's models as members: against the library itself, at its mean, by its sampling, member by member.

Its package imports lightning and torchvision, which nothing here needs and whose builds clash with a CPU's torch; its
layers and methods import neither. So they are loaded without the package's own ``__init__``.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edge_bdl.errors import EdgeBdlError, ExportError, UnsupportedModelError
from edge_bdl_export import export
from edge_bdl_export.adapters import adapt, members_of
from edge_bdl_export.capture import find_dropout
from edge_bdl_export.forms.mask_bank import own_dropout

N = 2000
X = torch.randn(1, 12, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def library(foreign: Callable[[str], Any]) -> Callable[[str], Any]:
    spec = importlib.util.find_spec("torch_uncertainty")
    if spec is not None and "torch_uncertainty" not in sys.modules:
        package = types.ModuleType("torch_uncertainty")
        package.__path__ = list(spec.submodule_search_locations or ())
        sys.modules["torch_uncertainty"] = package
    return lambda name: foreign(f"torch_uncertainty.{name}")


@pytest.fixture
def layers(library: Callable[[str], Any]) -> Any:
    return library("layers")


@pytest.fixture
def seeded(varied: Callable[..., nn.Module]) -> Callable[[Callable[[], nn.Module]], nn.Module]:
    return partial(varied, mean="_mu", spread="_sigma")


BAYESIAN: dict[str, tuple[Callable[[Any], nn.Module], Tensor]] = {
    "linear": (lambda m: m.BayesLinear(6, 3), X[:, 0, 0]),
    "linear without bias": (lambda m: m.BayesLinear(6, 3, bias=False), X[:, 0, 0]),
    "conv1d": (lambda m: m.BayesConv1d(12, 4, 3, groups=2, padding=1, padding_mode="circular"), X[:, :, 0]),
    "conv2d": (lambda m: m.BayesConv2d(12, 4, (3, 2), stride=2, dilation=(1, 2), bias=False), X),
    "conv3d": (lambda m: m.BayesConv3d(1, 2, 3), X[:, None, :4, :4, :4]),
}


@pytest.mark.parametrize("name", BAYESIAN)
def test_a_layer_has_the_library_s_mean_and_moments(
    name: str,
    layers: Any,
    member_outputs: Callable[..., Tensor],
    same_moments: Callable[[Tensor, Tensor], None],
    seeded: Callable[..., nn.Module],
    answers: Callable[..., Tensor],
):
    build, x = BAYESIAN[name]
    model = seeded(lambda: build(layers))
    adapter = adapt(model)
    ours = member_outputs(adapter.network, members_of(adapter, N, seed=3), x)
    same_moments(ours, answers(model, x, N))
    assert (ours.std(0) > 1e-3).all()
    model.freeze()
    torch.testing.assert_close(adapter.network(x), model(x))
    assert adapt(model).size == 0


def test_a_wrapped_bayesian_network_is_exported(
    layers: Any, library: Callable[[str], Any], tmp_path: Path, seeded: Callable[..., nn.Module]
):
    core = nn.Sequential(
        nn.Conv2d(12, 4, 3), nn.ReLU(), layers.BayesConv2d(4, 3, 3), nn.ReLU(), nn.Flatten(), layers.BayesLinear(12, 2)
    )
    model = seeded(lambda: library("methods").StochasticModel(core, num_samples=5))
    with torch.random.fork_rng(devices=[]):
        model(X).sum().backward()  # the layers keep what they drew, and cannot be copied any more
    manifest = export(model, X, tmp_path / "tu.ebdl", samples=4, formats=("onnx",))
    assert manifest.outputs[0].shape == (1, 2)
    assert [item.source for item in manifest.bank.inputs] == [
        f"core_model.{layer}.{parameter}" for layer in (2, 5) for parameter in ("weight", "bias")
    ]
    assert manifest.provenance.versions["torch-uncertainty"] == "0.13.0"


# --- implicit ensembles: estimator i of the library, fed with the input repeated, is member i -------------------------


def masked(layers: Any) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(12, 12, 3), nn.ReLU(), layers.MaskedConv2d(12, 12, 3, 4, 2.0, groups=2), nn.ReLU(),
        layers.MaskedConvTranspose2d(12, 10, 2, 4, 2.0), nn.Flatten(), nn.Linear(90, 12),
        layers.MaskedLinear(12, 3, 4, 2.0),
    )  # fmt: skip


def batched(layers: Any) -> nn.Module:
    return nn.Sequential(
        layers.BatchConv2d(12, 6, 3, num_estimators=4), nn.ReLU(),
        layers.BatchConvTranspose2d(6, 4, 2, num_estimators=4, bias=False), nn.Flatten(2),
        layers.BatchConv1d(4, 2, 5, num_estimators=4), nn.Flatten(), layers.BatchLinear(42, 3, num_estimators=4),
    )  # fmt: skip


@pytest.mark.parametrize("build", [masked, batched])
def test_each_member_is_one_of_the_estimators(
    build: Callable[[Any], nn.Module],
    layers: Any,
    member_outputs: Callable[..., Tensor],
    seeded: Callable[..., nn.Module],
):
    model = seeded(lambda: build(layers))
    adapter = adapt(model)
    assert adapter.size == 4
    members = members_of(adapter, samples=16, seed=0)
    assert len(members) == 4
    expected = model(X.repeat(4, 1, 1, 1))
    torch.testing.assert_close(member_outputs(adapter.network, members, X)[:, 0], expected, rtol=1e-5, atol=1e-6)
    # What tells the members apart is one number per channel; the weights behind it are stored once.
    assert all(value.numel() <= 42 for member in members for value in member.values())


def test_a_wrapper_that_repeats_the_input_is_put_aside(
    layers: Any, library: Callable[[str], Any], member_outputs: Callable[..., Tensor], seeded: Callable[..., nn.Module]
):
    model = seeded(lambda: library("methods").batch_ensemble(batched(layers), 4))
    adapter = adapt(model)
    ours = member_outputs(adapter.network, members_of(adapter, 4, seed=0), X)
    torch.testing.assert_close(ours[:, 0], model(X), rtol=1e-5, atol=1e-6)


def test_a_network_that_repeats_its_input_does_so_once(
    library: Callable[[str], Any], layers: Any, member_outputs: Callable[..., Tensor], seeded: Callable[..., nn.Module]
):
    class Repeating(nn.Module):
        """As the library's own masked networks are written."""

        def __init__(self) -> None:
            super().__init__()
            self.num_estimators = 4
            self.core = masked(layers)

        def forward(self, x: Tensor) -> Tensor:
            return self.core(x.repeat(self.num_estimators, 1, 1, 1))

    model = seeded(Repeating)
    adapter = adapt(model)
    ours = member_outputs(adapter.network, members_of(adapter, 4, seed=0), X)
    torch.testing.assert_close(ours[:, 0], model(X), rtol=1e-5, atol=1e-6)


def test_masksembles_are_exported(layers: Any, tmp_path: Path, seeded: Callable[..., nn.Module]):
    model = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(432, 12), layers.MaskedLinear(12, 3, 4, 2.0)))
    manifest = export(model, X, tmp_path / "masked.ebdl", task="classification", formats=("onnx",))
    assert manifest.bank.members == 4
    assert [(item.source, item.shape) for item in manifest.bank.inputs] == [("2.before", (1, 12))]


def test_a_deep_ensemble_s_models_are_its_members(
    library: Callable[[str], Any], member_outputs: Callable[..., Tensor], seeded: Callable[..., nn.Module]
):
    def core() -> nn.Module:
        return nn.Sequential(nn.Conv2d(12, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))

    model = seeded(lambda: library("methods").deep_ensembles([core() for _ in range(3)]))
    for i, part in enumerate(model.core_models):
        part[1].running_mean += 0.1 * i
    adapter = adapt(model)
    ours = member_outputs(adapter.network, members_of(adapter, 16, seed=0), X)
    torch.testing.assert_close(ours[:, 0], model(X), rtol=1e-5, atol=1e-6)


# --- Packed-Ensembles: each member is a network of its own ------------------------------------------------------------

PACK = {"alpha": 2, "num_estimators": 4}
FIRST, LAST = {"first": True}, {"last": True}


def packed(layers: Any) -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm2d(12), layers.PackedConv2d(12, 4, 3, **PACK, **FIRST), nn.BatchNorm2d(8), nn.ReLU(),
        layers.PackedConvTranspose2d(4, 8, 2, bias=False, minimum_channels_per_group=1, gamma=2, **PACK), nn.ReLU(),
        nn.Flatten(), layers.PackedLinear(200, 8, gamma=2, **PACK), nn.BatchNorm1d(16), nn.ReLU(),
        layers.PackedLinear(8, 3, **PACK, **LAST),
    )  # fmt: skip


PACKED: dict[str, tuple[Callable[[Any], nn.Module], Tensor]] = {
    "all kinds": (packed, X),
    "one layer": (lambda m: m.PackedLinear(6, 3, **PACK, **FIRST, **LAST), X[:, 0, 0]),
    "three dimensions": (
        lambda m: nn.Sequential(
            m.PackedConv3d(1, 8, 3, **PACK, **FIRST),
            m.PackedConv3d(8, 2, 2, groups=2, padding=1, padding_mode="replicate", **PACK, **LAST),
        ),
        X[:, None, :4, :4, :4],
    ),
    "a sequence": (
        lambda m: nn.Sequential(
            m.PackedConv1d(12, 4, 3, **PACK, **FIRST), m.PackedConv1d(4, 2, 2, bias=False, **PACK, **LAST)
        ),
        X[:, :, 0],
    ),
    "transposed first": (
        lambda m: nn.Sequential(
            m.PackedConvTranspose2d(12, 4, 3, **PACK, **FIRST), m.PackedConvTranspose2d(4, 2, 2, **PACK, **LAST)
        ),
        X,
    ),
} | {
    f"linear, {how}": (
        lambda m, how=how: nn.Sequential(
            m.PackedLinear(6, 4, implementation=how, **PACK, **FIRST),
            m.PackedLinear(4, 3, implementation=how, bias=False, **PACK, **LAST),
        ),
        X[:, 0, 0],
    )
    for how in ("full", "einsum", "conv1d")
}  # fmt: skip


@pytest.mark.parametrize("name", PACKED)
def test_packed_members_are_told_apart(
    name: str, layers: Any, member_outputs: Callable[..., Tensor], seeded: Callable[..., nn.Module]
):
    build, x = PACKED[name]
    model = seeded(lambda: build(layers))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.copy_(torch.linspace(-1.0, 1.0, module.num_features))
            module.running_var.copy_(torch.linspace(0.5, 2.0, module.num_features))
    adapter = adapt(model)
    adapter.check((x,))
    members = members_of(adapter, 16, seed=0)
    ours = member_outputs(adapter.network, members, x)
    torch.testing.assert_close(ours[:, 0], model(x), rtol=1e-4, atol=1e-5)
    assert len(members) == 4
    assert (ours.std(0) > 1e-3).all()


def test_a_packed_ensemble_is_exported(layers: Any, tmp_path: Path, seeded: Callable[..., nn.Module]):
    manifest = export(seeded(lambda: packed(layers)), X, tmp_path / "packed.ebdl", formats=("onnx",))
    assert manifest.bank.members == 4
    assert manifest.outputs[0].shape == (1, 3)
    assert {item.source.partition(".")[0] for item in manifest.bank.inputs} == {"1", "4", "7", "10"}


@pytest.mark.parametrize(
    "between",
    [nn.Softmax(1), nn.ChannelShuffle(2), nn.LocalResponseNorm(3, alpha=1.0)],
    ids=lambda module: type(module).__name__,
)
def test_packed_members_that_meet_on_the_way_are_refused(
    between: nn.Module, layers: Any, tmp_path: Path, seeded: Callable[..., nn.Module]
):
    model = seeded(
        lambda: nn.Sequential(
            layers.PackedConv2d(12, 4, 3, **PACK, **FIRST), between, nn.Flatten(),
            layers.PackedLinear(64, 3, **PACK, **LAST),
        )
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="the packed members of Sequential cannot be told apart"):
        export(model, X, tmp_path / "packed.ebdl", formats=("onnx",))
    assert not list(tmp_path.iterdir())


def test_an_example_that_hides_where_members_meet_does_not_help(layers: Any, seeded: Callable[..., nn.Module]):
    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(-1, keepdim=True)

    model = seeded(
        lambda: nn.Sequential(
            layers.PackedLinear(6, 4, bias=False, **PACK, **FIRST), Centred(),
            layers.PackedLinear(4, 3, bias=False, **PACK, **LAST),
        )
    )  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="cannot be told apart"):
        adapt(model).check((torch.zeros(1, 6),))


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ((torch.rand(1, 5),), "PackedLinear|Sequential|mat1"),
        ((torch.rand(1, 6), torch.rand(1, 6)), "takes|positional"),
        ((torch.zeros(1, 6, dtype=torch.uint8),), "dtype|type"),
    ],
    ids=["width", "two inputs", "integers"],
)
def test_an_example_that_does_not_fit_a_packed_network_is_one_sentence(
    example: tuple[Tensor, ...], message: str, layers: Any, tmp_path: Path, seeded: Callable[..., nn.Module]
):
    model = seeded(
        lambda: nn.Sequential(
            layers.PackedLinear(6, 4, **PACK, **FIRST), layers.PackedLinear(4, 3, **PACK, **LAST), nn.BatchNorm1d(3)
        )
    )
    with pytest.raises(EdgeBdlError, match=message):
        export(model, example, tmp_path / "x.ebdl", formats=("onnx",))


def test_sparse_packed_weights_are_refused(layers: Any):
    with pytest.raises(UnsupportedModelError, match="give it implementation='einsum'"):
        adapt(layers.PackedLinear(6, 4, implementation="sparse", **PACK, **FIRST, **LAST))


@pytest.mark.parametrize("ends", [{}, FIRST, LAST], ids=str)
def test_a_packed_layer_that_is_not_both_first_and_last_is_no_network(
    ends: dict[str, bool], layers: Any, seeded: Callable[..., nn.Module]
):
    x = torch.rand(1, 6 if ends == FIRST else 12)
    adapter = adapt(seeded(lambda: nn.Sequential(layers.PackedLinear(6, 4, **PACK, **ends))))
    with pytest.raises(UnsupportedModelError, match="does not begin with a layer of first=True and end with one of"):
        adapter.check((x,))


# --- Monte-Carlo dropout ----------------------------------------------------------------------------------------------


def dropping() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(12, 4, 3), nn.Dropout2d(0.3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.4), nn.ReLU(),
        nn.Linear(8, 2),
    )  # fmt: skip


@pytest.mark.parametrize("on_batch", [True, False])
@pytest.mark.parametrize("last_layer", [True, False])
def test_mc_dropout_is_the_core_s_dropout(
    last_layer: bool,
    on_batch: bool,
    library: Callable[[str], Any],
    same_moments: Callable[[Tensor, Tensor], None],
    seeded: Callable[..., nn.Module],
    answers: Callable[..., Tensor],
):
    mc_dropout = library("methods").mc_dropout
    model = seeded(lambda: mc_dropout(dropping(), N, last_layer=last_layer, on_batch=on_batch))
    adapter = adapt(model)
    assert members_of(adapter, 4, seed=0) is None
    theirs = answers(model, X, 1)[0][:, None]
    same_moments(answers(own_dropout(adapter.network, []), X, N), theirs)


def test_mc_dropout_in_the_last_layer_leaves_the_others_out(
    library: Callable[[str], Any], seeded: Callable[..., nn.Module]
):
    model = seeded(lambda: library("methods").mc_dropout(dropping(), 8, last_layer=True))
    assert list(find_dropout(adapt(model).network)) == ["core_model.5"]


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda m: m.PackedLayerNorm(6, 2, 2), "1 is a PackedLayerNorm, of which the members have their attention or"),
        (lambda m: m.bayesian.LPBNNLinear(6, 4, 2), "1 is a LPBNNLinear, of which the noise passes through a network"),
        (lambda m: m.bayesian.abnn.BatchNormAdapter2d(4), "1 is a BatchNormAdapter2d, of which the noise is on each"),
    ],
)
def test_what_has_no_members_is_refused_by_name(
    build: Callable[[Any], nn.Module], message: str, layers: Any, library: Callable[[str], Any]
):
    library("layers.bayesian.abnn")
    with pytest.raises(UnsupportedModelError, match=message):
        adapt(nn.Sequential(nn.Flatten(), build(layers)))


def test_batch_statistics_of_monte_carlo_are_refused(library: Callable[[str], Any]):
    norm = library("layers.mc_batch_norm").MCBatchNorm2d(4, 2)
    with pytest.raises(UnsupportedModelError, match="MCBatchNorm2d, of which the statistics are counted"):
        adapt(nn.Sequential(norm))


def test_swag_drawn_tensor_by_tensor_is_refused(library: Callable[[str], Any]):
    with pytest.raises(
        UnsupportedModelError, match="the model is a SWAG, of which the draws are made tensor by tensor"
    ):
        adapt(library("methods").SWAG(dropping(), cycle_start=0, cycle_length=1))


def test_ensembles_of_different_sizes_are_refused(layers: Any):
    model = nn.Sequential(layers.BatchLinear(6, 4, 2), layers.BatchLinear(4, 2, 3))
    with pytest.raises(ExportError, match=r"the layers have \[2, 3\] members"):
        adapt(model)


def test_an_implicit_ensemble_has_no_mean_to_be_held_at(layers: Any):
    with pytest.raises(ExportError, match="deterministic names a BatchLinear, which has no mean but 2 members"):
        adapt(nn.Sequential(layers.BatchLinear(6, 4, 2)), deterministic=["0"])


def test_models_that_are_not_alike_are_no_ensemble(library: Callable[[str], Any]):
    model = library("methods").deep_ensembles([nn.Linear(3, 2), nn.Linear(3, 4)])
    with pytest.raises(ExportError, match=r"core_models\.1 has other parameters than core_models\.0"):
        adapt(model)
