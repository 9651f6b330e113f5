"""What adapters share: any network with a function that draws, adapters written elsewhere, bad input, and the docs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_bdl.errors import ExportError, UnsupportedModelError
from edge_bdl.runtime import Runtime
from edge_bdl_export import export
from edge_bdl_export.adapters import Adapter, adapt, members_of
from edge_bdl_export.adapters.base import copied

GUIDE = Path(__file__).parents[2] / "docs" / "export.md"
X = torch.randn(1, 4, generator=torch.Generator().manual_seed(1))


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).eval()


def jittered(generator: torch.Generator) -> Mapping[str, Tensor]:
    """Half of its randomness from the generator given, half from the global one."""
    weight = network()[2].weight.detach()
    return {"2.weight": weight + 0.1 * torch.randn(2, 6, generator=generator) + 0.1 * torch.randn(2, 6)}


def test_a_function_draws_the_members_of_any_network(tmp_path: Path, member_outputs: Callable[..., Tensor]):
    export(network(), X, tmp_path / "f.ebdl", members=jittered, samples=5, seed=3, formats=("onnx",))
    members = members_of(adapt(network(), jittered), 5, seed=3)
    expected = member_outputs(network(), members, X).numpy()
    prediction = Runtime.open(tmp_path / "f.ebdl", engine="onnxruntime").predict(X.numpy())
    np.testing.assert_allclose(prediction.mean, expected.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(prediction.epistemic, expected.var(0, ddof=1), rtol=1e-3, atol=1e-6)


def test_members_depend_on_the_seed_and_on_nothing_else():
    def drawn(seed: int, state: int) -> list[Mapping[str, Tensor]]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(state)
            before = torch.get_rng_state()
            members = members_of(adapt(network(), jittered), 3, seed)
            assert torch.equal(before, torch.get_rng_state())
        return members

    same = [torch.equal(a["2.weight"], b["2.weight"]) for a, b in zip(drawn(1, 2), drawn(1, 99), strict=True)]
    other = [torch.equal(a["2.weight"], b["2.weight"]) for a, b in zip(drawn(1, 2), drawn(2, 2), strict=True)]
    assert all(same)
    assert not any(other)


def test_a_function_may_hand_out_the_same_tensor_each_time():
    weight = torch.zeros(2, 6)

    def overwriting(generator: torch.Generator) -> Mapping[str, Tensor]:
        return {"2.weight": weight.normal_(generator=generator)}

    first, second = members_of(adapt(network(), overwriting), 2, seed=0)
    assert not torch.equal(first["2.weight"], second["2.weight"])


def test_the_guide_s_adapter_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The code in the docs, as it stands there, and the layer that it adapts."""
    section = GUIDE.read_text().partition("## Models of other libraries")[2].partition("\n## ")[0]
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL) if "class " in block)
    assert code.count("\n") <= 40
    names: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        exec(code, names)
    manifest = names["manifest"]
    assert (manifest.form, manifest.bank.members) == ("weight_bank", 8)
    assert [item.source for item in manifest.bank.inputs] == ["1.weight"]
    assert (tmp_path / "noisy.ebdl" / "manifest.json").exists()
    with pytest.raises(UnsupportedModelError, match=r"randn_like .* is random but .* an adapter for it \(docs/exp"):
        export(names["model"], names["x"], tmp_path / "without.ebdl", formats=("onnx",))
    assert not (tmp_path / "without.ebdl").exists()


class Fixed(Adapter):
    """Members as they are given."""

    def __init__(self, members: list[Any], size: int | None = None) -> None:
        self.network = network()
        self.size = size
        self.notes = ("members are given",)
        self._members = members

    def sample(self, generator: torch.Generator, n: int) -> list[Any]:
        return self._members


def test_an_adapter_s_notes_are_in_the_manifest(tmp_path: Path):
    members = [{"2.bias": torch.full((2,), float(i))} for i in range(3)]
    manifest = export(Fixed(members, size=3), X, tmp_path / "a.ebdl", formats=("onnx",))
    assert manifest.warnings[-1] == "members are given"
    assert manifest.bank.members == 3


@pytest.mark.parametrize(
    ("model", "members", "message"),
    [
        ("a name", None, r"the model is a str; give a torch.nn.Module, .* Adapter \(docs/export.md"),
        (network(), lambda generator: [1.0], "the function in members returned a list; it must return a state dict"),
        (network(), lambda generator: {"2.bias": 1.0}, "the function in members returned a dict; it must return"),
        (
            network(),
            lambda generator: {"tail": torch.randn(2, generator=generator)},
            "'tail', which the model does",
        ),
        (network(), lambda generator: {"2.bias": torch.zeros(2)}, "all members are equal"),
        (Fixed([{}]), None, "Fixed.sample gave 1 members, asked for 16"),
        (Fixed([{}], size=1), None, "samples must be at least 2, got 1"),
        (Fixed([{}, {}]), [{}, {}], "Fixed has members of its own; export it without members="),
    ],
)
def test_what_gives_no_members_is_refused(model: Any, members: Any, message: str, tmp_path: Path):
    with pytest.raises(ExportError, match=message):
        export(model, X, tmp_path / "bad.ebdl", members=members, formats=("onnx",))
    assert not (tmp_path / "bad.ebdl").exists()


def test_a_plain_network_needs_no_adapter():
    assert adapt(network()) is None
    assert adapt(network(), [network().state_dict()]) is None


def test_a_part_that_cannot_be_copied_is_refused():
    model = network()
    model.last = model(X)
    with pytest.raises(UnsupportedModelError, match=r"Sequential cannot be copied .* under torch.no_grad\(\) first"):
        copied(model)


def test_the_layer_that_draws_is_named(tmp_path: Path):
    class Noise(nn.Module):
        """Draws on its way through a buffer, where no graph can follow."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("eps", torch.zeros(6))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.eps.data.normal_()

    model = nn.Sequential(nn.Linear(4, 6), nn.Sequential(nn.Tanh(), Noise()), nn.Linear(6, 2))
    with pytest.raises(UnsupportedModelError, match=r"something else in the model is random: 1\.1, a .*Noise; hold it"):
        export(model, X, tmp_path / "noise.ebdl", formats=("onnx",))
