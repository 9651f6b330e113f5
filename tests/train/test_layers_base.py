"""Every variational layer is its deterministic twin but for the draws, and has one set of parameters."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from edge_bdl.errors import InputError
from edge_bdl_train.layers.attention import VariationalMultiheadAttention
from edge_bdl_train.layers.base import Estimator, VariationalLayer, drawing, total_kl, variational_layers
from edge_bdl_train.layers.conv import VariationalConv
from edge_bdl_train.layers.conv_transpose import VariationalConvTranspose
from edge_bdl_train.layers.embedding import VariationalEmbedding
from edge_bdl_train.layers.linear import VariationalLinear
from edge_bdl_train.layers.recurrent import VariationalRecurrent
from edge_bdl_train.priors.gaussian import Gaussian
from edge_bdl_train.priors.structured import Structured


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=seeded(9))


Case = tuple[type[VariationalLayer], Callable[[], nn.Module], tuple[Tensor, ...]]
CASES: dict[str, Case] = {
    "linear": (VariationalLinear, lambda: nn.Linear(5, 3), (normal(7, 5),)),
    "linear, no bias": (VariationalLinear, lambda: nn.Linear(5, 3, bias=False), (normal(7, 5),)),
    "linear, axes": (VariationalLinear, lambda: nn.Linear(5, 3), (normal(2, 4, 5),)),
    "linear, one row": (VariationalLinear, lambda: nn.Linear(5, 3), (normal(5),)),
    "conv1d, same": (VariationalConv, lambda: nn.Conv1d(4, 6, 3, padding="same", dilation=2), (normal(2, 4, 9),)),
    "conv1d, one row": (VariationalConv, lambda: nn.Conv1d(4, 6, 3), (normal(4, 9),)),
    "conv2d": (VariationalConv, lambda: nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False), (normal(2, 4, 9, 8),)),
    "conv2d, reflect": (
        VariationalConv,
        lambda: nn.Conv2d(4, 6, (3, 5), padding=2, padding_mode="reflect"),
        (normal(2, 4, 9, 8),),
    ),
    "conv2d, circular": (
        VariationalConv,
        lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", groups=4),
        (normal(2, 4, 5, 6),),
    ),
    "conv3d, replicate": (
        VariationalConv,
        lambda: nn.Conv3d(2, 3, 3, padding=1, padding_mode="replicate"),
        (normal(2, 2, 4, 5, 4),),
    ),
    "transposed1d": (VariationalConvTranspose, lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), (normal(2, 4, 5),)),
    "transposed2d": (
        VariationalConvTranspose,
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2, dilation=2),
        (normal(2, 4, 5, 4),),
    ),
    "transposed3d": (
        VariationalConvTranspose,
        lambda: nn.ConvTranspose3d(2, 3, 2, bias=False),
        (normal(2, 2, 3, 3, 3),),
    ),
    "embedding": (VariationalEmbedding, lambda: nn.Embedding(6, 4), (torch.tensor([[0, 1, 5], [5, 5, 2]]),)),
    "lstm": (
        VariationalRecurrent,
        lambda: nn.LSTM(5, 4, num_layers=2, bidirectional=True, batch_first=True),
        (normal(2, 6, 5),),
    ),
    "gru": (VariationalRecurrent, lambda: nn.GRU(5, 4, bidirectional=True), (normal(6, 2, 5),)),
    "gru, no bias": (VariationalRecurrent, lambda: nn.GRU(5, 4, bias=False), (normal(6, 2, 5),)),
    "rnn": (VariationalRecurrent, lambda: nn.RNN(5, 4, nonlinearity="relu"), (normal(6, 2, 5),)),
    "attention": (
        VariationalMultiheadAttention,
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        (normal(2, 5, 8), normal(2, 6, 8), normal(2, 6, 8)),
    ),
    "attention, sizes": (
        VariationalMultiheadAttention,
        lambda: nn.MultiheadAttention(8, 4, kdim=3, vdim=5, add_bias_kv=True),
        (normal(5, 2, 8), normal(6, 2, 3), normal(6, 2, 5)),
    ),
}
EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
ESTIMATORS = [(case, estimator) for case in CASES.values() for estimator in case[0].estimators]
EVERY_ESTIMATOR = pytest.mark.parametrize(
    ("case", "estimator"),
    ESTIMATORS,
    ids=[f"{name}-{how}" for name, case in CASES.items() for how in case[0].estimators],
)


def made(case: Case, sigma: float, estimator: Estimator = "reparametrisation") -> tuple[nn.Module, VariationalLayer]:
    kind, make, _ = case
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layer = make()
    return layer, kind.from_deterministic(layer, Gaussian(0.8), sigma, estimator=estimator, generator=seeded(1))


def first(answer: Tensor | tuple[Tensor, ...]) -> Tensor:
    return answer if isinstance(answer, Tensor) else answer[0]


@EVERY_ESTIMATOR
@pytest.mark.parametrize("training", [True, False])
def test_without_sigma_it_is_the_deterministic_layer_to_the_bit(
    case: Case, estimator: Estimator, training: bool
) -> None:
    layer, twin = made(case, 0.0, estimator)
    layer.train(training)
    twin.train(training)
    assert torch.equal(first(twin(*case[2])), first(layer(*case[2])))
    # torch takes another kernel, which rounds differently, for weights that need no gradient, as those drawn here.
    layer.requires_grad_(not training)
    with torch.no_grad():
        assert torch.equal(first(twin(*case[2])), first(layer(*case[2])))


@EVERY_ESTIMATOR
def test_in_eval_mode_it_is_the_deterministic_layer_whatever_sigma(case: Case, estimator: Estimator) -> None:
    layer, twin = made(case, 0.5, estimator)
    assert torch.equal(first(twin.eval()(*case[2])), first(layer.eval()(*case[2])))


@EVERY
def test_forward_is_the_deterministic_layer_with_one_draw(case: Case) -> None:
    layer, twin = made(case, 0.5)
    answer = first(twin(*case[2]))
    before = first(layer(*case[2]))
    layer.load_state_dict(twin.draw(seeded(1)))
    assert torch.equal(first(layer(*case[2])), answer)
    assert not torch.allclose(before, answer)


@EVERY_ESTIMATOR
def test_draws_are_the_generators_and_torchs_own_is_left_alone(case: Case, estimator: Estimator) -> None:
    _, twin = made(case, 0.5, estimator)
    state = torch.random.get_rng_state()
    answers = []
    for seed in (0, 0, 1):
        with drawing(twin, seeded(seed)):
            answers.append(first(twin(*case[2])))
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])
    assert torch.equal(torch.random.get_rng_state(), state)


@EVERY
def test_kl_is_the_sum_over_all_weights_and_biases(case: Case) -> None:
    layer, twin = made(case, 0.3)
    expected = sum(
        kl_divergence(Normal(mean, torch.tensor(0.3)), Normal(0.0, 0.8)).sum() for mean in layer.parameters()
    )
    torch.testing.assert_close(twin.kl(), expected)
    torch.testing.assert_close(total_kl(nn.Sequential(twin)), expected)


@EVERY
def test_names_are_the_deterministic_layers(case: Case) -> None:
    layer, twin = made(case, 0.3)
    names = [name for name, _ in layer.named_parameters()]
    assert [*twin.means()] == names
    assert {*twin.state_dict()} == {f"{name}.{part}" for name in names for part in ("mean", "rho")}
    assert {name: tuple(mean.shape) for name, mean in twin.means().items()} == {
        name: tuple(parameter.shape) for name, parameter in layer.named_parameters()
    }


@EVERY_ESTIMATOR
def test_every_parameter_gets_a_finite_gradient(case: Case, estimator: Estimator) -> None:
    _, twin = made(case, 0.3, estimator)
    (first(twin(*case[2])).square().sum() + twin.kl()).backward()
    for parameter in twin.parameters():
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.any()


@EVERY_ESTIMATOR
def test_a_copy_is_its_own_and_can_be_made_after_a_step(case: Case, estimator: Estimator) -> None:
    _, twin = made(case, 0.3, estimator)
    first(twin(*case[2])).sum().backward()
    other = copy.deepcopy(twin)
    unchanged = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    torch.optim.SGD(twin.parameters(), lr=1.0).step()
    assert all(torch.equal(tensor, unchanged[name]) for name, tensor in other.state_dict().items())
    assert not {id(parameter) for parameter in other.parameters()} & {id(parameter) for parameter in twin.parameters()}
    with drawing(twin, seeded(2)), drawing(other, seeded(2)):
        assert not torch.equal(first(twin(*case[2])), first(other(*case[2])))
        other.load_state_dict(twin.state_dict())
    with drawing(twin, seeded(2)):
        expected = first(twin(*case[2]))
    with drawing(other, seeded(2)):
        assert torch.equal(first(other(*case[2])), expected)


@EVERY_ESTIMATOR
def test_double_changes_all_there_is(case: Case, estimator: Estimator) -> None:
    _, twin = made(case, 0.3, estimator)
    before = [*twin.parameters()]
    twin.double()
    assert [id(parameter) for parameter in twin.parameters()] == [id(parameter) for parameter in before]
    inputs = [x.double() if x.is_floating_point() else x for x in case[2]]
    assert first(twin(*inputs)).dtype == torch.float64
    assert twin.kl().dtype == torch.float64
    old = first(twin.eval()(*inputs))
    with torch.no_grad():
        for weight in twin.weights().values():
            weight.mean.mul_(2.0)
    assert not torch.allclose(first(twin(*inputs)), old)


@EVERY
def test_a_move_to_another_device_moves_all_there_is(case: Case) -> None:
    _, twin = made(case, 0.3)
    twin.to("meta")
    assert first(twin(*(x.to("meta") for x in case[2]))).device.type == "meta"
    assert {tensor.device.type for tensor in twin.state_dict().values()} == {"meta"}


@EVERY
def test_it_survives_pickling_as_a_copy_process_does_it(case: Case) -> None:
    _, twin = made(case, 0.3)
    twin.generator = None
    other = pickle.loads(pickle.dumps(twin))
    assert torch.equal(first(other.eval()(*case[2])), first(twin.eval()(*case[2])))


@EVERY
def test_the_deterministic_layer_stays_as_it_was(case: Case) -> None:
    layer, twin = made(case, 0.3)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    first(twin(*case[2])).sum().backward()
    torch.optim.SGD(twin.parameters(), lr=1.0).step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
    assert all(parameter.grad is None for parameter in layer.parameters())


def test_hyperparameters_are_the_deterministic_layers_and_its_methods_are_not() -> None:
    conv = made(CASES["conv2d, reflect"], 0.1)[1]
    assert (conv.stride, conv.padding, conv.padding_mode, conv.out_channels) == ((1, 1), (2, 2), "reflect", 6)
    assert made(CASES["lstm"], 0.1)[1].bidirectional is True
    assert made(CASES["linear, no bias"], 0.1)[1].bias is None
    assert "in_features=5" in repr(made(CASES["linear"], 0.1)[1])
    with pytest.raises(AttributeError, match="reset_parameters"):
        conv.reset_parameters()


def test_the_prior_may_differ_between_weight_and_bias() -> None:
    layer = nn.Linear(3, 2)
    prior = Structured({"bias": Gaussian(10.0)}, default=Gaussian(0.1))
    twin = VariationalLinear.from_deterministic(layer, prior, 0.3)
    expected = [
        kl_divergence(Normal(mean, torch.tensor(0.3)), Normal(0.0, scale)).sum()
        for mean, scale in ((layer.weight, 0.1), (layer.bias, 10.0))
    ]
    torch.testing.assert_close(twin.kl(), sum(expected))
    with pytest.raises(InputError, match="bais"):
        VariationalLinear.from_deterministic(layer, Structured({"bais": Gaussian()}, Gaussian()), 0.3)


def test_drawing_gives_the_layers_their_generators_back() -> None:
    network = nn.Sequential(made(CASES["linear"], 0.1)[1], nn.ReLU(), made(CASES["linear"], 0.1)[1])
    own = [layer.generator for layer in variational_layers(network).values()]
    lent = seeded(0)
    with drawing(network, lent):
        assert [layer.generator for layer in variational_layers(network).values()] == [lent, lent]
    assert [layer.generator for layer in variational_layers(network).values()] == own
    with pytest.raises(RuntimeError, match="shapes"), drawing(network, lent):
        network(torch.zeros(1, 4))
    assert [layer.generator for layer in variational_layers(network).values()] == own


def test_drawing_needs_a_generator() -> None:
    twin = VariationalLinear.from_deterministic(nn.Linear(2, 2), Gaussian(), 0.1)
    with pytest.raises(InputError, match="no generator"):
        twin(torch.zeros(1, 2))
    twin.eval()(torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("kind", "layer", "message"),
    [
        (VariationalLinear, nn.Conv1d(1, 1, 1), "twin of Linear, got Conv1d"),
        (VariationalLinear, nn.Bilinear(1, 1, 1), "twin of Linear, got Bilinear"),
        (VariationalConv, nn.ConvTranspose2d(1, 1, 1), "got ConvTranspose2d"),
        (VariationalRecurrent, nn.LSTMCell(1, 1), "got LSTMCell"),
        (VariationalRecurrent, nn.LSTM(1, 1, num_layers=2, dropout=0.5), "dropout=0.5"),
        (VariationalMultiheadAttention, nn.MultiheadAttention(2, 1, dropout=0.1), "dropout=0.1"),
        (VariationalEmbedding, nn.Embedding(2, 1, max_norm=1.0), "max_norm=1.0"),
        (VariationalEmbedding, nn.Embedding(2, 1, sparse=True), "sparse=True"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(kind: type[VariationalLayer], layer: nn.Module, message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind.from_deterministic(layer, Gaussian(), 0.1)


def test_a_parametrised_layer_is_refused() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    with pytest.raises(InputError, match="got ParametrizedLinear"):
        VariationalLinear.from_deterministic(layer, Gaussian(), 0.1)


@pytest.mark.parametrize(
    ("kind", "layer", "estimator", "message"),
    [
        (VariationalRecurrent, nn.GRU(1, 1), "flipout", "VariationalRecurrent draws by reparametrisation"),
        (
            VariationalLinear,
            nn.Linear(1, 1),
            "flip",
            "draws by reparametrisation or local_reparametrisation or flipout",
        ),
    ],
)
def test_an_estimator_that_a_layer_does_not_know_is_refused(
    kind: type[VariationalLayer], layer: nn.Module, estimator: Estimator, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        kind.from_deterministic(layer, Gaussian(), 0.1, estimator=estimator)


def test_a_network_without_variational_layers_has_no_kl() -> None:
    with pytest.raises(InputError, match="bayesianize"):
        total_kl(nn.Linear(1, 1))
