"""A network's Bayesian twin: which layers, what is kept, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.bayesianize import bayesianize
from edge_bdl_train.layers.base import drawing, total_kl, variational_layers
from edge_bdl_train.likelihoods.gaussian import Gaussian
from edge_bdl_train.methods import mean_field
from edge_bdl_train.priors.structured import informed


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Mixed(nn.Module):
    """Some of everything, with options that are not the defaults."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2, padding_mode="circular")
        self.norm = nn.BatchNorm2d(6)
        self.up = nn.ConvTranspose2d(6, 4, 3, stride=2, output_padding=1, groups=2, bias=False)
        self.read = nn.GRU(4, 5, num_layers=2, batch_first=True, bidirectional=True)
        self.attend = nn.MultiheadAttention(10, 2, batch_first=True)
        self.last = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(torch.relu(self.norm(self.image(x)))).flatten(2).transpose(1, 2)
        x, _ = self.read(x)
        x, _ = self.attend(x, x, x)
        return self.last(x.mean(1))


X = torch.randn(3, 4, 7, 7, generator=seeded(0))


def test_with_a_sigma_of_0_the_twin_is_the_network_bit_for_bit() -> None:
    network = Mixed()
    twin = bayesianize(network, "mean_field", sigma=0.0)
    with torch.no_grad(), drawing(twin, seeded(1)):
        # torch's GRU rounds by where its weights lie in memory; all else is equal to the bit.
        assert torch.allclose(twin(X), network(X), atol=1e-6)
        assert torch.equal(twin.image(X), network.image(X))
        assert torch.equal(twin.up(twin.image(X)), network.up(network.image(X)))
        assert torch.equal(twin.eval()(X), network.eval()(X))
    assert variational_layers(twin).keys() == {"image", "up", "read", "attend", "last"}
    assert type(twin.norm) is nn.BatchNorm2d


def test_a_twin_keeps_the_options_of_its_layers() -> None:
    twin = bayesianize(Mixed(), "mean_field")
    assert (twin.image.stride, twin.image.dilation, twin.image.groups) == ((2, 2), (2, 2), 2)
    assert (twin.image.padding, twin.image.padding_mode) == ((2, 2), "circular")
    assert (twin.up.output_padding, twin.up.groups) == ((1, 1), 2)
    assert (twin.read.bidirectional, twin.read.num_layers, twin.read.batch_first) == (True, 2, True)
    assert twin.attend.num_heads == 2


def test_the_model_itself_is_not_changed() -> None:
    network = Mixed()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    twin = bayesianize(network, "mean_field")
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert {name: type(module) for name, module in network.named_modules()}["last"] is nn.Linear
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("all", {"image", "up", "read", "attend", "last"}),
        (1, {"last"}),
        (2, {"attend", "last"}),
        (["image", "last"], {"image", "last"}),
        ("read", {"read"}),
    ],
)
def test_the_layers_that_were_asked_for_become_variational(layers: Any, expected: set[str]) -> None:
    twin = bayesianize(Mixed(), "mean_field", layers=layers, sigma=0.3)
    assert variational_layers(twin).keys() == expected
    with drawing(twin, seeded(1)):
        assert not torch.equal(twin(X), twin(X))
        total_kl(twin).backward()


def test_a_layer_by_itself_becomes_its_twin() -> None:
    for layer in (nn.Linear(3, 2), nn.MultiheadAttention(4, 2)):
        assert variational_layers(bayesianize(layer, "mean_field")).keys() == {""}
    trainee = mean_field.build(nn.Linear(3, 2), Gaussian(noise=1.0), mean_field.Config(), n_data=3, generator=seeded(0))
    assert trainee.posterior([]).mean().keys() == {"weight", "bias"}


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.gain = Gain()
        self.last = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.gain(self.first(x)))


class Gain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


class Special(nn.Linear):
    """May do anything."""


@pytest.mark.parametrize("method", ["mean_field", "dropout"])
@pytest.mark.parametrize(
    ("network", "layers", "message"),
    [
        (Scaled(), "all", r"cannot convert gain \(Gain\); known are Linear, Conv1d"),
        (Scaled(), 2, r"cannot convert gain \(Gain\)"),
        (Scaled(), ["gain", "last"], r"cannot convert gain \(Gain\)"),
        (Scaled(), ["lust"], "has no layers lust; it has first, gain, last"),
        (Scaled(), [], "has no layers in an empty list"),
        (Scaled(), 4, "has 3 layers with parameters, got layers=4"),
        (Scaled(), 0, "got layers=0"),
        (nn.Sequential(Special(2, 2)), "all", r"cannot convert 0 \(Special\)"),
        (nn.Sequential(nn.ReLU()), "all", "cannot convert a model without parameters"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(
    method: str, network: nn.Module, layers: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        bayesianize(network, method, layers=layers)


def test_what_is_left_out_of_the_layers_need_not_be_convertible() -> None:
    assert variational_layers(bayesianize(Scaled(), "mean_field", layers=1)).keys() == {"last"}
    assert variational_layers(bayesianize(Scaled(), "mean_field", layers=["first"])).keys() == {"first"}


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(InputError, match="knows mean_field and dropout, got 'hope'"):
        bayesianize(nn.Linear(2, 2), "hope")


def test_layers_that_share_a_parameter_are_refused_by_name() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    network[1].weight = network[0].weight
    with pytest.raises(InputError, match="0 and 1 share a parameter"):
        bayesianize(network, "mean_field")


def test_a_module_in_two_places_stays_one_module() -> None:
    shared = nn.Linear(3, 3)
    twin = bayesianize(nn.Sequential(shared, nn.ReLU(), shared), "mean_field")
    assert twin[0] is twin[2]
    assert len(variational_layers(twin)) == 1


def test_each_layer_gets_its_part_of_the_prior() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    twin = bayesianize(network, "mean_field", prior=informed(network, scale=0.5), sigma=0.5)
    # The network's own weights are the prior's mean, so that nothing is left.
    assert float(total_kl(twin).detach()) == pytest.approx(0.0, abs=1e-4)
    deeper = nn.Sequential(*(nn.Linear(3, 3) for _ in range(3)))
    with pytest.raises(InputError, match=r"the prior is of 2\.weight"):
        bayesianize(network, "mean_field", prior=informed(deeper, scale=0.5))


def test_an_estimator_is_used_where_a_layer_has_the_choice() -> None:
    twin = bayesianize(Mixed(), "mean_field", estimator="flipout")
    assert (twin.last.estimator, twin.image.estimator, twin.read.estimator) == (
        "flipout",
        "flipout",
        "reparametrisation",
    )


# --- dropout ----------------------------------------------------------------------------------------------------------


def test_dropout_stands_before_the_last_layers_and_keeps_all_names() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3), nn.Linear(3, 2))
    twin = bayesianize(network, "dropout", layers=2, rate=0.25)
    assert twin.state_dict().keys() == network.state_dict().keys()
    found = {name: module for name, module in twin.named_modules() if isinstance(module, nn.Dropout)}
    assert {name: module.p for name, module in found.items()} == {"3.dropout_before": 0.25, "4.dropout_before": 0.25}
    assert type(bayesianize(network, "dropout").get_submodule("0.dropout_before")) is nn.Dropout2d
    x = torch.randn(2, 1, 4, 4, generator=seeded(0))
    assert torch.equal(twin.eval()(x), network.eval()(x))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert not torch.equal(twin.train()(x), network(x))


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1])
def test_a_dropout_rate_that_drops_nothing_or_all_is_refused(rate: float) -> None:
    with pytest.raises(InputError, match="above 0 and below 1"):
        bayesianize(nn.Linear(2, 2), "dropout", rate=rate)
