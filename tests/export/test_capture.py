"""What is stochastic is found, call by call, or refused by name and place; nothing random is ever ignored."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_bdl.errors import ExportError, UnsupportedModelError
from edge_bdl_export.capture import Capture, capture, find_dropout
from edge_bdl_export.cut import cut
from edge_bdl_export.forms import mask_bank

X = torch.linspace(-1.0, 1.0, 4).reshape(1, 4)
SEQUENCE = torch.linspace(-1.0, 1.0, 12).reshape(1, 3, 4)


class Probe(nn.Module):
    """A network with one known dropout, and in front of it whatever ``middle`` does to the hidden layer."""

    def __init__(self, middle: Callable[[Any, Tensor], Tensor], part: nn.Module | None = None) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 8)
        self.part = part
        self.middle = middle
        self.drop = nn.Dropout(0.3)
        self.outer = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.middle(self, self.inner(x))
        return self.outer(self.drop(hidden if hidden.ndim == 2 else hidden[:, -1]))


class BernoulliGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * torch.bernoulli(torch.full_like(x, 0.5))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class OwnForward(nn.Dropout):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.p, training=True)


def gated_in_a_branch(model: Probe, h: Tensor) -> Tensor:
    return torch.cond(h.sum() > 0, lambda v: functional.dropout(v, 0.5, True), lambda v: v * 1.0, (h,))


OPERATIONS = {
    "F.dropout on": (lambda m, h: functional.dropout(h, 0.5, True), "dropout"),
    "F.dropout while training": (lambda m, h: functional.dropout(h, 0.5, m.training), "dropout"),
    "F.dropout at eval": (lambda m, h: functional.dropout(h, 0.5, not m.training), "dropout"),
    "F.dropout2d": (lambda m, h: functional.dropout2d(h[..., None, None], 0.5, True)[..., 0, 0], "feature_dropout"),
    "F.alpha_dropout": (lambda m, h: functional.alpha_dropout(h, 0.5, True), "alpha_dropout"),
    "F.feature_alpha_dropout": (lambda m, h: functional.feature_alpha_dropout(h, 0.5, True), "feature_alpha_dropout"),
    "torch.rand": (lambda m, h: h * torch.rand(8), "rand"),
    "torch.randn": (lambda m, h: h + torch.randn(8), "randn"),
    "torch.randn at eval only": (lambda m, h: h if m.training else h + torch.randn(8), "randn"),
    "torch.rand_like": (lambda m, h: h + torch.rand_like(h), "rand_like"),
    "torch.normal": (lambda m, h: torch.normal(h, 1.0), "normal"),
    "torch.bernoulli": (lambda m, h: h * torch.bernoulli(torch.sigmoid(h)), "bernoulli"),
    "torch.multinomial": (lambda m, h: h[:, torch.multinomial(torch.softmax(h[0], 0), 8, True)], "multinomial"),
    "torch.randperm": (lambda m, h: h[:, torch.randperm(8)], "randperm"),
    "in-place uniform_": (lambda m, h: h + torch.empty(8).uniform_(), "uniform_"),
    "gumbel softmax": (lambda m, h: functional.gumbel_softmax(h), "exponential"),
    "a distribution": (lambda m, h: torch.distributions.Normal(h, 1.0, validate_args=False).rsample(), "normal"),
    "stochastic depth": (lambda m, h: h * (torch.rand(1, 1) < 0.8).float() if m.training else h, "rand"),
    "custom autograd": (lambda m, h: BernoulliGate.apply(h), "bernoulli"),
    "attention": (lambda m, h: functional.scaled_dot_product_attention(h, h, h, dropout_p=0.2), "dropout_p = 0.2"),
    "a branch": (gated_in_a_branch, "dropout"),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_random_operation_is_refused_by_name_and_place(name: str):
    middle, operator = OPERATIONS[name]
    with pytest.raises(UnsupportedModelError, match=operator) as caught:
        capture(Probe(middle).eval(), (X,))
    assert "the model's own forward" in str(caught.value)
    assert "\n" not in str(caught.value)


MODULES = {
    "LSTM": (
        lambda: nn.LSTM(8, 8, 2, dropout=0.5, batch_first=True),
        lambda m, h: m.part(h)[0],
        "0.5 between the layers",
    ),
    "GRU": (
        lambda: nn.GRU(8, 8, 2, dropout=0.5, batch_first=True),
        lambda m, h: m.part(h)[0],
        "0.5 between the layers",
    ),
    "RNN": (
        lambda: nn.RNN(8, 8, 2, dropout=0.5, batch_first=True),
        lambda m, h: m.part(h)[0],
        "0.5 between the layers",
    ),
    "attention with weights": (
        lambda: nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True),
        lambda m, h: m.part(h, h, h)[0],
        "dropout",
    ),
    "attention without weights": (
        lambda: nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True),
        lambda m, h: m.part(h, h, h, need_weights=False)[0],
        "dropout_p = 0.1 of attention",
    ),
    "RReLU": (nn.RReLU, lambda m, h: m.part(h), "rrelu"),
    "a dropout with its own forward": (lambda: OwnForward(0.5), lambda m, h: m.part(h), "dropout"),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_random_module_is_refused_by_its_name(name: str):
    build, middle, what = MODULES[name]
    with pytest.raises(UnsupportedModelError, match=what) as caught:
        capture(Probe(middle, build()).eval(), (SEQUENCE,))
    assert " in part (" in str(caught.value)


@pytest.mark.parametrize("name", [name for name in MODULES if "own forward" not in name])
def test_a_random_module_may_be_held_at_eval(name: str):
    build, middle, _ = MODULES[name]
    captured = capture(Probe(middle, build()).eval(), (SEQUENCE,), deterministic=["part"])
    assert [site.module for site in captured.sites] == ["drop"]


def test_recurrent_layers_and_attention_without_dropout_are_no_reason_to_refuse():
    for build, middle in [
        (lambda: nn.LSTM(8, 8, 2, batch_first=True), lambda m, h: m.part(h)[0]),
        (lambda: nn.MultiheadAttention(8, 2, batch_first=True), lambda m, h: m.part(h, h, h)[0]),
        (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)), lambda m, h: m.part(h)),
    ]:
        assert len(capture(Probe(middle, build()).eval(), (SEQUENCE,)).sites) == 1


OUTSIDE = {
    "numpy": (lambda m, h: h + float(np.random.normal()), "numpy.random"),  # noqa: NPY002
    "numpy, rarely, while training": (
        lambda m, h: h + (1.0 if m.training and np.random.rand() < 0.01 else 0.0),  # noqa: NPY002
        "numpy.random",
    ),
    "random": (lambda m, h: h + random.gauss(0.0, 1.0), "Python's random module"),
    "random, rarely, while training": (
        lambda m, h: h + (1.0 if m.training and random.random() < 0.01 else 0.0),
        "Python's random module",
    ),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_randomness_from_outside_torch_is_refused_however_rare(name: str):
    middle, source = OUTSIDE[name]
    with pytest.raises(UnsupportedModelError, match=source):
        capture(Probe(middle).eval(), (X,))


@pytest.mark.parametrize("training_only", [False, True])
def test_a_generator_that_the_model_holds_is_noticed_by_comparing_passes(training_only: bool):
    model = Probe(lambda m, h: h if training_only and not m.training else h + float(m.noise.normal()))
    model.noise = np.random.default_rng(0)
    with pytest.raises(UnsupportedModelError, match=r"two passes .* differ"):
        capture(model.eval(), (X,))


def test_capture_leaves_every_global_generator_and_the_model_as_they_were():
    model = Probe(lambda m, h: torch.relu(h)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    expected = torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    capture(model, (X,))
    assert torch.equal(torch.rand(3), expected[0])
    assert (random.random(), np.random.rand()) == expected[1:]  # noqa: NPY002
    assert not model.training
    assert isinstance(model.drop, nn.Dropout)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_may_count_its_calls():
    def middle(m: Any, h: Tensor) -> Tensor:
        m.calls = getattr(m, "calls", 0) + 1
        return h

    assert len(capture(Probe(middle).eval(), (X,)).sites) == 1


# --- what cannot be captured ---------------------------------------------------------------------------------------


class Returning(nn.Module):
    def __init__(self, shape: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.3)
        self.shape = shape

    def forward(self, x: Tensor) -> Any:
        return self.shape(self.drop(x), x)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        (lambda y, x: (y, x), "tuple"),
        (lambda y, x: (y,), "tuple"),
        (lambda y, x: [y], "list"),
        (lambda y, x: {"y": y}, "dict"),
        (lambda y, x: None, "NoneType"),
        (lambda y, x: 1.0, "float"),
    ],
)
def test_an_output_that_is_not_one_tensor_is_refused(shape: Callable[..., Any], kind: str):
    with pytest.raises(UnsupportedModelError, match=f"returns a {kind}; a bundle has one output tensor"):
        capture(Returning(shape).eval(), (X,))


def test_control_flow_on_data_is_refused_in_one_line(capfd: pytest.CaptureFixture[str]):
    def middle(m: Any, h: Tensor) -> Tensor:
        return h if h.sum() > 0 else -h

    with pytest.raises(UnsupportedModelError, match=r"cannot capture Probe .*control flow") as caught:
        capture(Probe(middle).eval(), (X,))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_branch_in_the_graph_is_refused():
    def middle(m: Any, h: Tensor) -> Tensor:
        return torch.cond(h.sum() > 0, lambda v: v * 2.0, lambda v: v * 1.0, (h,))

    with pytest.raises(UnsupportedModelError, match=r"control flow.*torch.where"):
        capture(Probe(middle).eval(), (X,))


def test_a_wrong_example_shape_is_refused_in_one_line(capfd: pytest.CaptureFixture[str]):
    with pytest.raises(UnsupportedModelError, match=r"Probe does not run on the example input, torch.float32 \[1, 5\]"):
        capture(Probe(lambda m, h: h).eval(), (torch.zeros(1, 5),))
    assert capfd.readouterr() == ("", "")


def stochastic_or_raise(model: nn.Module, deterministic: Sequence[str] = ()) -> Capture:
    captured = capture(model, (X,), deterministic)
    cut(captured, mask_bank.posterior(model, captured, deterministic).stochastic)
    return captured


@pytest.mark.parametrize(
    ("model", "deterministic"),
    [
        (nn.Sequential(nn.Linear(4, 2)), ()),
        (nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.0)), ()),
        (nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5)), ["1"]),
    ],
    ids=["no dropout", "p = 0", "all held at eval"],
)
def test_a_model_without_a_posterior_is_refused(model: nn.Module, deterministic: Sequence[str]):
    with pytest.raises(UnsupportedModelError, match="depends on nothing stochastic"):
        stochastic_or_raise(model.eval(), deterministic)


def test_dropout_that_does_not_reach_the_output_is_no_posterior():
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)
            self.layer = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.drop(x)
            return self.layer(x)

    with pytest.raises(UnsupportedModelError, match="depends on nothing stochastic"):
        stochastic_or_raise(Aside().eval())


# --- call sites ----------------------------------------------------------------------------------------------------


def test_a_module_called_three_times_is_three_call_sites():
    model = Probe(lambda m, h: m.drop(torch.relu(m.drop(h))))
    sites = capture(model.eval(), (X,)).sites
    assert [(site.module, site.call, site.shape, site.rate) for site in sites] == [
        ("drop", 0, (1, 8), 0.3),
        ("drop", 1, (1, 8), 0.3),
        ("drop", 2, (1, 8), 0.3),
    ]


def test_a_rate_of_zero_is_deterministic_and_a_rate_of_one_is_refused():
    model = nn.Sequential(nn.Dropout(0.0), nn.Linear(4, 4), nn.Dropout(0.2), nn.Linear(4, 2)).eval()
    assert [site.module for site in capture(model, (X,)).sites] == ["2"]
    with pytest.raises(ExportError, match=r"2 drops everything \(p = 1\)"):
        capture(nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Dropout(1.0)).eval(), (X,))


def test_deterministic_names_hold_all_that_is_below_them():
    inner = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.2), nn.Sequential(nn.Dropout(0.3)))
    model = nn.Sequential(inner, nn.Dropout(0.4), nn.Linear(4, 2)).eval()
    assert [site.module for site in capture(model, (X,)).sites] == ["0.1", "0.2.0", "1"]
    assert [site.module for site in capture(model, (X,), ["0.2"]).sites] == ["0.1", "1"]
    assert [site.module for site in capture(model, (X,), ["0"]).sites] == ["1"]


def test_a_similar_name_is_not_below():
    model = nn.ModuleDict({"drop": nn.Dropout(0.2), "drop2": nn.Dropout(0.3)})
    assert list(find_dropout(model, ["drop"])) == ["drop2"]


def test_an_unknown_deterministic_name_is_refused():
    with pytest.raises(ExportError, match="deterministic='dorp' is not a module of Probe"):
        capture(Probe(lambda m, h: h).eval(), (X,), ["dorp"])


class HeldTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.3)
        self.body = nn.Sequential(nn.Linear(4, 4), self.drop)
        self.other = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(self.body(self.drop(x)))


def test_a_module_held_under_two_names_is_one_module_with_two_calls():
    sites = capture(HeldTwice().eval(), (X,)).sites
    assert [(site.module, site.call) for site in sites] == [("drop", 0), ("drop", 1), ("other", 0)]


@pytest.mark.parametrize("name", ["drop", "body.1", "body"])
def test_a_module_held_under_two_names_is_held_at_eval_under_either(name: str):
    assert [site.module for site in capture(HeldTwice().eval(), (X,), [name]).sites] == ["other"]


def test_the_model_itself_may_be_the_dropout():
    assert [(site.module, site.shape) for site in capture(nn.Dropout(0.4).eval(), (X,)).sites] == [("", (1, 4))]


def test_dropout_only_used_in_training_is_no_call_site():
    model = Probe(lambda m, h: m.part(h) if m.training else h, nn.Dropout(0.5))
    assert [site.module for site in capture(model.eval(), (X,)).sites] == ["drop"]


def test_a_transformer_layer_is_refused_for_its_attention_and_accepted_with_it_held():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    model = Probe(lambda m, h: m.part(h), layer).eval()
    with pytest.raises(UnsupportedModelError, match=r"dropout_p = 0.1 of attention in part\.self_attn"):
        capture(model, (SEQUENCE,))
    captured = capture(model, (SEQUENCE,), ["part.self_attn"])
    assert [site.module for site in captured.sites] == ["part.dropout1", "part.dropout", "part.dropout2", "drop"]
