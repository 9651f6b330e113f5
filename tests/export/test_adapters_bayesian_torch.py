"""bayesian-torch's models as members: against the library itself, at its mean and by its own sampling."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edge_bdl.errors import ExportError, UnsupportedModelError
from edge_bdl_export import export
from edge_bdl_export.adapters import adapt, members_of

N = 2000
PRIOR = {"prior_mean": 0.0, "prior_variance": 1.0, "posterior_mu_init": 0.0, "posterior_rho_init": -3.0}
CONVOLUTIONS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "Conv1d": ((1, 4, 7), {"stride": 2, "padding": 1, "groups": 2}),
    "Conv2d": ((1, 4, 5, 6), {"stride": (1, 2), "padding": (0, 1), "dilation": (2, 1)}),
    # The only one without defaults.
    "Conv3d": ((1, 4, 3, 4, 3), {"padding": 1, "bias": False, **PRIOR}),
    "ConvTranspose1d": ((1, 4, 4), {"stride": 2, "output_padding": 1, "groups": 2}),
    "ConvTranspose2d": ((1, 4, 3, 3), {"stride": 2, "padding": 1}),
    "ConvTranspose3d": ((1, 4, 2, 2, 2), {"dilation": 2, "bias": False}),
}


@pytest.fixture
def layers(foreign: Callable[[str], Any]) -> Any:
    return foreign("bayesian_torch.layers")


@pytest.fixture
def seeded(varied: Callable[..., nn.Module]) -> Callable[[Callable[[], nn.Module]], nn.Module]:
    return partial(varied, mean="mu_", spread="rho_")


def without_noise(model: nn.Module) -> nn.Module:
    for name, parameter in model.named_parameters():
        if "rho_" in name:
            parameter.data.fill_(-100.0)
    return model


def frame(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


class Sequence(nn.Module):
    """The output of the last step of an LSTM, with the divergence beside it."""

    def __init__(self, lstm: nn.Module, flag: bool = False) -> None:
        super().__init__()
        self.lstm = lstm
        lstm.dnn_to_bnn_flag = flag

    def forward(self, x: Tensor) -> Any:
        sequence, (hidden, cells), *divergence = self.lstm(x)
        output = torch.cat([sequence[:, -1], hidden[:, 0], cells[:, -1]], 1)
        return (output, divergence[0]) if divergence else output


@pytest.fixture
def layer(layers: Any, seeded: Callable[..., nn.Module]) -> Callable[[str], tuple[nn.Module, Tensor]]:
    return lambda name: build_layer(layers, name, seeded)


def build_layer(layers: Any, name: str, seeded: Callable[..., nn.Module]) -> tuple[nn.Module, Tensor]:
    kind = name.removesuffix("Flipout").removesuffix("Reparameterization")
    if kind == "Linear":
        return seeded(lambda: getattr(layers, name)(5, 3)), frame(1, 5)
    if kind == "LSTM":
        return seeded(lambda: Sequence(getattr(layers, name)(4, 3))), frame(1, 1, 4)
    shape, settings = CONVOLUTIONS[kind]
    model = seeded(lambda: getattr(layers, name)(4, 6, 2, **settings))
    # The library's transposed Flipout layers have a prior of the wrong shape, and so no divergence to return.
    model.dnn_to_bnn_flag = "Transpose" in name
    return model, frame(*shape)


NAMES = [kind + how for kind in ("Linear", *CONVOLUTIONS, "LSTM") for how in ("Reparameterization", "Flipout")]


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_has_the_library_s_mean_and_moments(
    name: str,
    layer: Callable[[str], tuple[nn.Module, Tensor]],
    member_outputs: Callable[..., Tensor],
    same_moments: Callable[[Tensor, Tensor], None],
    answers: Callable[..., Tensor],
):
    model, x = layer(name)
    adapter = adapt(model)
    ours = member_outputs(adapter.network, members_of(adapter, N, seed=3), x)
    same_moments(ours, answers(model, x, N))
    assert (ours.std(0) > 1e-3).all()
    torch.testing.assert_close(adapter.network(x), answers(without_noise(model), x, 1)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", ["Reparameterization", "Flipout"])
def test_an_lstm_s_member_is_the_library_s_lstm_with_those_weights(
    how: str,
    layers: Any,
    member_outputs: Callable[..., Tensor],
    seeded: Callable[..., nn.Module],
    answers: Callable[..., Tensor],
):
    model, x = seeded(lambda: Sequence(getattr(layers, f"LSTM{how}")(4, 3))), frame(1, 5, 4)
    adapter = adapt(model)
    (member,) = adapter.sample(torch.Generator().manual_seed(4), 1)
    without_noise(model)
    for name, value in member.items():
        prefix, _, parameter = name.rpartition(".")
        getattr(model.get_submodule(prefix), f"mu_{parameter}").data.copy_(value)
    torch.testing.assert_close(member_outputs(adapter.network, [member], x)[0], answers(model, x, 1)[0])
    assert any("one draw for the whole sequence" in note for note in adapter.notes)


def test_an_lstm_that_keeps_its_divergence_returns_two(layers: Any, seeded: Callable[..., nn.Module]):
    model = seeded(lambda: Sequence(layers.LSTMReparameterization(4, 3), flag=True))
    assert adapt(model).network(frame(2, 3, 4)).shape == (2, 9)


class Pairs(nn.Module):
    """As bayesian-torch's own networks are written: divergences are summed up and returned beside the logits."""

    def __init__(self, layers: Any) -> None:
        super().__init__()
        self.first = layers.Conv2dReparameterization(1, 4, 3)
        self.relu = layers.ReLU()
        self.drop = layers.Dropout(0.4)
        self.last = layers.LinearFlipout(16, 3, bias=False)

    def forward(self, x: Tensor) -> Any:
        pair = self.drop(self.relu(self.first(x)))
        logits, kl = self.last(pair[0].flatten(1))
        return logits, pair[1] + kl


def test_a_model_that_returns_divergences_gives_its_output_alone(
    layers: Any,
    member_outputs: Callable[..., Tensor],
    same_moments: Callable[[Tensor, Tensor], None],
    seeded: Callable[..., nn.Module],
    answers: Callable[..., Tensor],
):
    model, x = seeded(lambda: Pairs(layers)), frame(1, 1, 4, 4)
    adapter = adapt(model)
    assert adapter.network(x).shape == (1, 3)
    assert set(members_of(adapter, 2, seed=0)[0]) == {"first.layer.weight", "first.layer.bias", "last.layer.weight"}
    assert any(note.startswith("drop.dropout held at eval") for note in adapter.notes)
    same_moments(member_outputs(adapter.network, members_of(adapter, N, seed=3), x), answers(model, x, N))


@pytest.fixture
def converted(foreign: Callable[[str], Any]) -> nn.Module:
    """A plain network that the library has made Bayesian."""
    dnn_to_bnn = foreign("bayesian_torch.models.dnn_to_bnn").dnn_to_bnn
    settings = {
        "prior_mu": 0.0, "prior_sigma": 1.0, "posterior_mu_init": 0.0, "posterior_rho_init": -2.0,
        "type": "Reparameterization", "moped_enable": True, "moped_delta": 0.3,
    }  # fmt: skip

    def build() -> nn.Module:
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
        dnn_to_bnn(model, settings)
        return model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


def test_a_converted_network_is_exported_with_its_seed_s_members(
    converted: nn.Module,
    member_outputs: Callable[..., Tensor],
    same_moments: Callable[..., None],
    tmp_path: Path,
    answers: Callable[..., Tensor],
):
    x = frame(1, 1, 4, 4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)  # which state the global generator is in does not matter
        before = torch.get_rng_state()
        manifest = export(
            converted, x, tmp_path / "bt.ebdl", task="classification", samples=5, seed=7, formats=("onnx",)
        )
        assert torch.equal(before, torch.get_rng_state())
    adapter = adapt(converted)
    first, again = (members_of(adapter, 5, seed=7) for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for a, b in zip(first, again, strict=True) for name in a)
    assert (manifest.form, manifest.bank.members, manifest.bank.selection) == ("weight_bank", 5, "given")
    assert manifest.provenance.versions["bayesian-torch"] == "0.5.0"
    assert [item.source for item in manifest.bank.inputs] == [
        "0.layer.weight",
        "0.layer.bias",
        "4.layer.weight",
        "4.layer.bias",
    ]
    same_moments(member_outputs(adapter.network, members_of(adapter, N, seed=3), x), answers(converted, x, N))


def test_a_layer_can_be_held_at_its_mean(converted: nn.Module):
    adapter = adapt(converted, deterministic=["0"])
    assert set(members_of(adapter, 2, seed=0)[0]) == {"4.layer.weight", "4.layer.bias"}


def test_a_layer_that_is_used_twice_is_one_draw(layers: Any, seeded: Callable[..., nn.Module]):
    shared = seeded(lambda: layers.LinearReparameterization(3, 3))
    shared.dnn_to_bnn_flag = True
    member = members_of(adapt(nn.Sequential(shared, nn.Tanh(), shared)), 2, seed=0)[0]
    assert torch.equal(member["0.layer.weight"], member["2.layer.weight"])


def test_the_model_is_not_changed(layer: Callable[[str], tuple[nn.Module, Tensor]]):
    model, x = layer("LinearReparameterization")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapter = adapt(model)
    adapter.network.load_state_dict(members_of(adapter, 2, seed=0)[0], strict=False)
    assert isinstance(model(x), tuple)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_has_no_members_is_refused_by_name(layers: Any):
    model = nn.Sequential(nn.Flatten(), layers.QuantizedLinearReparameterization(4, 2))
    with pytest.raises(
        UnsupportedModelError, match="1 is a QuantizedLinearReparameterization, of which the weights are"
    ):
        adapt(model)


def test_part_of_a_layer_cannot_be_held(layers: Any, seeded: Callable[..., nn.Module]):
    model = seeded(lambda: Sequence(layers.LSTMReparameterization(4, 3)))
    with pytest.raises(ExportError, match="deterministic names a part of a LSTMReparameterization"):
        adapt(model, deterministic=["lstm.ih"])


def test_members_are_not_given_to_what_has_its_own(layer: Callable[[str], tuple[nn.Module, Tensor]]):
    model, _ = layer("LinearReparameterization")
    with pytest.raises(ExportError, match="LinearReparameterization has members of its own"):
        adapt(model, members=[{}, {}])


def test_a_layer_with_a_forward_of_its_own_is_unknown_and_refused(
    layers: Any, tmp_path: Path, seeded: Callable[..., nn.Module]
):
    class Own(layers.LinearReparameterization):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x, return_kl=False) * 2.0

    model = seeded(lambda: Own(4, 2))
    assert adapt(model) is None
    with pytest.raises(UnsupportedModelError, match=r"the forward of .*Own; .*write an adapter for it"):
        export(model, frame(1, 4), tmp_path / "own.ebdl", formats=("onnx",))
    assert not (tmp_path / "own.ebdl").exists()


@pytest.mark.parametrize("samples", [0, 1])
def test_one_member_is_refused(samples: int, layer: Callable[[str], tuple[nn.Module, Tensor]]):
    model, _ = layer("LinearReparameterization")
    with pytest.raises(ExportError, match="samples must be at least 2"):
        members_of(adapt(model), samples, seed=0)
