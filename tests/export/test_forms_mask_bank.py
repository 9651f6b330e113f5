"""Dropout and Masksembles as masks: what the manifest says of each call site, torch's own answer, and the bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_bdl.bundle import Bundle
from edge_bdl.engines import open_engine
from edge_bdl.errors import ExportError, InputError
from edge_bdl.manifest import Manifest
from edge_bdl.runtime import Runtime
from edge_bdl.verification import verify_engine, verify_generator
from edge_bdl_export import export
from edge_bdl_export.capture import capture
from edge_bdl_export.dropout import FixedMask
from edge_bdl_export.forms import mask_bank
from edge_bdl_train.methods.masksembles import MasksemblesPosterior, draw_masks


class Mixed(nn.Module):
    """Three kinds of dropout, one called twice, one of rate 0, one in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.channels = nn.Dropout2d(0.25)
        self.alpha = nn.AlphaDropout(0.1)
        self.off = nn.Dropout(0.0)
        self.last = nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Linear(16, 2))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.channels(torch.selu(self.channels(self.conv(x))))
        return self.last(self.off(self.alpha(hidden.flatten(1))))


def test_each_call_site_is_one_described_input(networks: Callable[..., Any]):
    _, posterior = networks(Mixed().eval(), (torch.rand(1, 1, 4, 4),))
    told = [(i.name, i.source, i.call, i.kind, i.shape, i.rate) for i in posterior.inputs]
    assert told == [
        ("mask_0", "channels", 0, "Dropout2d", (1, 4, 1, 1), 0.25),
        ("mask_1", "channels", 1, "Dropout2d", (1, 4, 1, 1), 0.25),
        ("mask_2", "alpha", 0, "AlphaDropout", (1, 16), 0.1),
        ("mask_3", "last.0", 0, "Dropout", (1, 16), 0.5),
    ]
    scales = [item.scale for item in posterior.inputs]
    assert scales[2:] == [1.0, 2.0]
    assert abs(scales[0] - 4.0 / 3.0) < 1e-7
    assert posterior.form == "mask_bank"
    assert posterior.weights is None


def test_each_call_gets_its_own_mask_in_order(networks: Callable[..., Any]):
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 3, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(3))
    model.add_module("2", model[0])
    x = torch.ones(1, 3)
    _, posterior = networks(model, (x,))
    first, second = torch.tensor([[2.0, 0.0, 2.0]]), torch.tensor([[2.0, 2.0, 0.0]])
    answer = posterior.reference((x,), {"mask_0": first, "mask_1": second})
    assert torch.equal(answer, first * second)


def test_all_kept_without_scale_is_the_deterministic_model(networks: Callable[..., Any]):
    torch.manual_seed(0)
    model, x = Mixed().eval(), torch.rand(1, 1, 4, 4)
    network, _ = networks(model, (x,))
    # Alpha dropout that keeps everything still applies its gain, which belongs to the draw.
    torch.testing.assert_close(network.parts.deterministic(x), model(x), rtol=1e-5, atol=1e-6)


def test_the_sampler_draws_only_what_is_not_held(networks: Callable[..., Any]):
    model = Mixed().eval()
    sampler = mask_bank.own_dropout(model, ["channels", "last"])
    training = {name for name, module in sampler.named_modules() if module.training}
    assert training == {"alpha"}
    assert not any(module.training for module in model.modules())


def test_the_sampler_s_moments_are_those_of_the_masked_network(networks: Callable[..., Any]):
    torch.manual_seed(1)
    model, x, draws = Mixed().eval(), torch.rand(1, 1, 4, 4), 4000
    network, posterior = networks(model, (x,))
    masks = [(torch.rand(draws, *i.shape) >= i.rate) * torch.tensor(i.scale) for i in posterior.inputs]
    ours = network.members(network.boundary, masks).double()
    with torch.no_grad():
        theirs = torch.stack([posterior.sampler(x) for _ in range(draws)]).double()
    error = ((ours.var(0) + theirs.var(0)) / draws).sqrt()
    assert ((ours.mean(0) - theirs.mean(0)).abs() / error).max() < 5.0
    assert (ours.std(0) / theirs.std(0) - 1.0).abs().max() < 0.1


# --- in front of layers that read whole sequences ---------------------------------------------------------------------


class Sequence(nn.Module):
    """[1, 5, 8] -> [1, 2]: dropout, then a layer that reads the whole sequence."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.3)
        self.layer = layer
        self.last = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop(x)
        if isinstance(self.layer, nn.MultiheadAttention):
            return self.last(self.layer(hidden, hidden, hidden, need_weights=False)[0].mean(1))
        read = self.layer(hidden)
        return self.last(read[0][:, -1] if isinstance(read, tuple) else read.mean(1))


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "RNN": lambda: nn.RNN(8, 8, batch_first=True),
    "LSTM": lambda: nn.LSTM(8, 8, num_layers=2, batch_first=True),
    "GRU": lambda: nn.GRU(8, 4, bidirectional=True, batch_first=True),
    "attention": lambda: nn.MultiheadAttention(8, 2, batch_first=True),
    "transformer": lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
}


def sequence(layer: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Sequence(LAYERS[layer]()).eval()


@pytest.mark.parametrize("layer", LAYERS)
def test_one_mask_is_for_the_whole_sequence_and_each_member_is_torch_s_own_answer(
    layer: str, networks: Callable[..., Any]
):
    model, x = sequence(layer), torch.rand(1, 5, 8, generator=torch.Generator().manual_seed(1))
    network, posterior = networks(model, (x,))
    (described,) = posterior.inputs
    assert described.shape == (1, 5, 8)
    masks = (torch.rand(4, 1, 5, 8, generator=torch.Generator().manual_seed(2)) > 0.3) / 0.7
    expected = torch.stack([posterior.reference((x,), {"mask_0": mask}) for mask in masks])
    torch.testing.assert_close(network.members(network.boundary, [masks]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layer", ["LSTM", "attention"])
def test_dropout_in_front_of_such_a_layer_is_exported_and_proved(layer: str, tmp_path: Path):
    manifest = export(sequence(layer), torch.rand(1, 5, 8), tmp_path / "x.ebdl", samples=4, formats=("onnx",))
    assert {check.check for check in manifest.parity} >= {"members_equal_torch", "variance_equals_torch"}
    # A recurrent layer runs once per member, which the bundle says.
    assert any("runs once per member" in warning for warning in manifest.warnings) == (layer == "LSTM")


# --- Masksembles ------------------------------------------------------------------------------------------------------

MASKED = {"2": 8, "8": 12}  # a convolution and a linear layer, and what they read
IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def masked_network() -> nn.Module:
    """Its own dropout is no part of a Masksembles posterior."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2),
            nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 2),
        ).eval()  # fmt: skip


def masksembles() -> MasksemblesPosterior:
    generator = torch.Generator().manual_seed(0)
    masks = {name: draw_masks(width, 4, 2.0, generator) for name, width in MASKED.items()}
    return MasksemblesPosterior(masked_network(), {"layers": list(MASKED), "members": 4}, masks)


@pytest.fixture(scope="module")
def masksembles_bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("masksembles") / "x.ebdl"
    return folder, export(masksembles(), IMAGE, folder, task="heteroscedastic", formats=("onnx",))


def test_masksembles_are_a_bank_of_its_own_masks_one_bit_a_unit(masksembles_bundle: tuple[Path, Manifest]):
    folder, manifest = masksembles_bundle
    bank = manifest.bank
    assert (manifest.form, manifest.schema_version, bank.members, bank.selection) == ("mask_bank", 2, 4, "given")
    assert bank.fixed is True
    assert [(item.source, item.kind, item.shape, item.scale) for item in bank.inputs] == [
        ("2.mask", "FixedMask", (8, 1, 1), 1.0), ("8.mask", "FixedMask", (12,), 1.0),
    ]  # fmt: skip
    stored, masks = Bundle.open(folder).bank(), masksembles().masks
    for item, name in zip(bank.inputs, MASKED, strict=True):
        bits = np.unpackbits(stored[item.name], axis=1, count=masks[name].shape[1])
        np.testing.assert_array_equal(bits, masks[name].numpy())
        assert item.rate == pytest.approx(1.0 - float(masks[name].mean()))


def test_the_members_of_masksembles_are_the_posterior_s_own(masksembles_bundle: tuple[Path, Manifest]):
    folder, manifest = masksembles_bundle
    posterior = masksembles()
    members = posterior.sample(torch.Generator().manual_seed(0), 4)
    means = torch.stack([posterior.answer(IMAGE, member) for member in members])[..., 0]
    for samples in (None, 4):
        prediction = Runtime.open(folder, samples=samples).predict(IMAGE.numpy())
        assert prediction.fault is None
        np.testing.assert_allclose(prediction.mean.ravel(), means.mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(prediction.epistemic.ravel(), means.var(0), rtol=1e-3, atol=1e-8)
    proved = {check.check for check in manifest.parity}
    assert proved >= {"members_equal_torch", "members_differ[2.mask#0]", "members_differ[8.mask#0]"}
    assert not any(name.startswith("mask_rate") for name in proved)


def test_beyond_the_fixed_masks_there_are_none(masksembles_bundle: tuple[Path, Manifest]):
    folder, manifest = masksembles_bundle
    runtime = Runtime.open(folder)
    assert runtime.predict(IMAGE.numpy(), samples=3).samples == 3
    with pytest.raises(InputError, match="holds 4 masks and no more, asked for 5"):
        runtime.predict(IMAGE.numpy(), samples=5)
    bundle = Bundle.open(folder)
    golden = bundle.golden()
    assert not any(name.startswith("fresh.") for name in golden)
    engine = open_engine("onnxruntime", folder, manifest)
    assert verify_generator(manifest, golden) == []
    assert all(check.passed for check in verify_engine(engine, manifest, bundle.bank(), golden))


def test_layers_with_different_numbers_of_masks_are_no_posterior():
    model = nn.Sequential(FixedMask(torch.eye(3)), nn.Linear(3, 4), FixedMask(torch.eye(4)), nn.Linear(4, 1)).eval()
    captured = capture(model, (torch.rand(1, 3),))
    with pytest.raises(ExportError, match=r"different numbers of masks \(0 3, 2 4\)"):
        mask_bank.posterior(model, captured, ())
