"""Partial: all before a layer at its mean, all from it on as random as it was, and what that costs is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_bdl.bundle import Bundle
from edge_bdl.errors import ExportError
from edge_bdl.findings import Partial
from edge_bdl.manifest import Manifest
from edge_bdl_export import export
from edge_bdl_export.capture import capture
from edge_bdl_export.draws import Draws
from edge_bdl_export.forms import mask_bank, partial, weight_bank
from edge_bdl_train.methods.ensemble import EnsemblePosterior
from edge_bdl_train.methods.mean_field import MeanFieldPosterior

EXAMPLE = (torch.linspace(-1.0, 1.0, 5)[None],)
FRAMES = np.random.Generator(np.random.Philox(0)).normal(size=(200, 1, 5)).astype(np.float32)


class Net(nn.Module):
    """[1, 5] -> [1, 2]; dropout behind both hidden layers, BatchNorm in the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop1 = nn.Linear(5, 16), nn.BatchNorm1d(16), nn.Dropout(0.2)
        self.second, self.drop2 = nn.Linear(16, 16), nn.Dropout(0.3)
        self.last = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop1(torch.relu(self.norm(self.first(x))))
        return self.last(self.drop2(torch.relu(self.second(x))))


class Twice(nn.Module):
    """One layer, and one dropout, at the beginning and at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.drop, self.middle = nn.Linear(5, 5), nn.Dropout(0.2), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.layer(self.middle(self.drop(torch.relu(self.layer(x))))))


def seeded(kind: type[nn.Module] = Net, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind().eval()


def of_weights(layer: str, draws: Draws, model: nn.Module | None = None) -> partial.Part:
    model = model or seeded()
    captured, pool = capture(model, EXAMPLE), draws.pool(4, 256)
    posterior = weight_bank.posterior(model, captured, pool)
    return partial.from_layer(layer, model, EXAMPLE, captured, (), posterior, draws, pool, 0)


def of_masks(layer: str, model: nn.Module | None = None) -> partial.Part:
    model = model or seeded()
    captured = capture(model, EXAMPLE)
    posterior = mask_bank.posterior(model, captured, ())
    return partial.from_layer(layer, model, EXAMPLE, captured, (), posterior, None, (), 0)


def jittered(state: dict[str, Tensor], scale: float = 0.1) -> Any:
    def sample(generator: torch.Generator, count: int) -> list[dict[str, Tensor]]:
        return [
            {
                name: value + scale * torch.randn(value.shape, generator=generator).abs()
                if value.is_floating_point()
                else value
                for name, value in state.items()
            }
            for _ in range(count)
        ]

    return sample


# --- what is random, and what is not ----------------------------------------------------------------------------------


def test_dropout_before_the_layer_is_off_and_from_it_on_stays():
    part = of_masks("second")
    assert [site.module for site in part.captured.sites] == ["drop2"]
    assert [item.source for item in part.posterior.inputs] == ["drop2"]
    # Dropout is a module like any other.
    assert [site.module for site in of_masks("drop2").captured.sites] == ["drop2"]


def test_weights_before_the_layer_are_their_mean_and_from_it_on_stay():
    state = seeded().state_dict()
    part = of_weights("second", Draws(jittered(state), None))
    assert {item.source for item in part.posterior.inputs} == {
        "second.weight", "second.bias", "last.weight", "last.bias",
    }  # fmt: skip
    mean = part.model.state_dict()
    # Draws are above the network's own weights, by |N(0, 0.1)|: 0.08 on average, 256 of them.
    for name in ("first.weight", "norm.running_mean", "norm.running_var"):
        assert torch.allclose(mean[name], state[name] + 0.1 * (2.0 / torch.pi) ** 0.5, atol=5 * 0.06 / 16)
    placeholders = {name: node for node, name in part.captured.parameters.items()}
    assert torch.equal(part.captured.state[placeholders["first.weight"]], mean["first.weight"])
    assert torch.equal(part.captured.state[placeholders["norm.running_var"]], mean["norm.running_var"])


def test_a_posterior_s_own_mean_is_taken_where_it_has_one():
    state = seeded().state_dict()
    part = of_weights("second", Draws(jittered(state), None, mean={"first.weight": torch.full((16, 5), 7.0)}))
    assert (part.model.state_dict()["first.weight"] == 7.0).all()


def test_the_given_network_is_not_changed():
    model = seeded()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    of_weights("second", Draws(jittered(model.state_dict()), None), model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# --- the whole way ----------------------------------------------------------------------------------------------------


def exported(model: Any, out: Path, **options: Any) -> Manifest:
    arguments: dict[str, Any] = {"samples": 4, "selection": "iid", "formats": ("onnx",), "calibration": FRAMES}
    return export(model, EXAMPLE[0], out, **{**arguments, **options})


def mean_field() -> MeanFieldPosterior:
    network = seeded()
    sigmas = {name: torch.full_like(value, 0.1) for name, value in network.named_parameters() if "norm" not in name}
    return MeanFieldPosterior(network, {}, sigmas)


def test_every_member_is_torch_with_that_state_dict_and_the_trunk_at_its_mean(tmp_path: Path):
    posterior = mean_field()
    manifest = exported(posterior, tmp_path / "x.ebdl", stochastic_from="second")
    golden = Bundle.open(tmp_path / "x.ebdl").golden()
    members = posterior.sample(torch.Generator().manual_seed(0), 4)
    mean = posterior.network.state_dict()
    for i, member in enumerate(members):
        late = {name: value for name, value in member.items() if not name.startswith("first")}
        model = seeded()
        model.load_state_dict({**mean, **late})
        with torch.no_grad():
            expected = model(torch.from_numpy(golden["input.x"][0])).numpy()
        np.testing.assert_allclose(golden["fused.members"][0, i], expected, rtol=1e-5, atol=1e-6)
    assert all(check.passed for check in manifest.parity)
    assert manifest.flops.deterministic == 5 * 16


@pytest.mark.parametrize("kind", ["masks", "weights"])
def test_what_it_costs_is_that_of_many_members_of_both(
    tmp_path: Path, kind: str, member_outputs: Callable[..., Tensor]
):
    model = seeded() if kind == "masks" else mean_field()
    manifest = exported(model, tmp_path / "x.ebdl", stochastic_from="second", samples=3)
    cost = manifest.partial
    assert isinstance(cost, Partial)
    assert (manifest.schema_version, cost.from_layer, cost.reference_members) == (2, "second", 256)
    # 2,000 members of each, by torch alone.
    x = torch.from_numpy(FRAMES[160:, 0])
    outputs = []
    for late_only in (False, True):
        if kind == "masks":
            rows = x.repeat_interleave(2000, 0)
            sampling = seeded()
            sampling.drop2.train()
            sampling.drop1.train(not late_only)
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                outputs.append(sampling(rows).reshape(len(x), -1, 2).double())
        else:
            members = mean_field().sample(torch.Generator().manual_seed(1), 2000)
            kept = [{k: v for k, v in m.items() if not (late_only and k.startswith("first"))} for m in members]
            outputs.append(member_outputs(seeded(), kept, x).transpose(0, 1).double())
    variance = [values.var(1) for values in outputs]
    # 256 members tell a variance to 9 %, and its mean over 40 frames better.
    assert cost.epistemic_ratio == pytest.approx(float(variance[1].mean() / variance[0].mean()), rel=0.15)
    error = float(((outputs[0].mean(1) - outputs[1].mean(1)) ** 2).mean().sqrt())
    noise = float((variance[0].mean() + variance[1].mean()).div(256).sqrt())
    assert cost.mean_error == pytest.approx(error, abs=2.0 * noise)
    assert 0.2 < cost.epistemic_spearman < 1.0
    assert 0.0 < cost.kl < 1.0


def test_networks_that_were_trained_apart_have_no_mean(tmp_path: Path):
    x = torch.randn(256, 5, generator=torch.Generator().manual_seed(0))
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 2].abs()], 1)
    members = []
    for seed in range(4):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = Net()
            optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
            for _ in range(150):
                loss = nn.functional.mse_loss(net(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        members.append(net.eval().state_dict())
    with pytest.raises(ExportError, match=r"the average of these weights is no network \(an ensemble's is not\)"):
        exported(EnsemblePosterior(net, {}, members), tmp_path / "x.ebdl", stochastic_from="last")
    assert list(tmp_path.iterdir()) == []


# --- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("third", r"stochastic_from='third' is not a module of Net; it has first, norm, drop1, second, drop2, last$"),
        ("first", "nothing before it is random"),
        ("last", "nothing is random from it on"),
    ],
)
def test_a_layer_that_does_not_fit_dropout_is_refused(layer: str, message: str):
    with pytest.raises(ExportError, match=message):
        of_masks(layer)


def test_a_layer_that_does_not_fit_weights_is_refused():
    state = seeded().state_dict()
    heads = [{"last.bias": torch.full((2,), float(i))} for i in range(3)]
    bodies = [{"first.bias": torch.full((16,), float(i))} for i in range(3)]
    for layer, members, message in (
        ("second", heads, "nothing before it is random"),
        ("second", bodies, "nothing is random from it on"),
        ("drop2", [state, state], None),
    ):
        with pytest.raises(ExportError, match=message):
            of_weights(layer, Draws.of(members))


def test_what_is_used_on_both_sides_cannot_be_both():
    with pytest.raises(ExportError, match="'drop' is called before that layer and from it on"):
        of_masks("middle", seeded(Twice))
    members = [{"layer.bias": torch.full((5,), float(i)), "middle.bias": torch.ones(5) * i} for i in range(3)]
    with pytest.raises(ExportError, match=r"'layer\.bias' is used before that layer and from it on"):
        of_weights("middle", Draws.of(members), seeded(Twice))


def test_without_calibration_it_is_refused_for_nobody_knows_the_cost(tmp_path: Path):
    with pytest.raises(ExportError, match="only calibration frames say how far"):
        exported(seeded(), tmp_path / "x.ebdl", stochastic_from="second", calibration=None)
