"""``gaussian_head``: a Gaussian over the last layer's weights, as mean and covariance of the outputs in closed form.

For last-layer Laplace, variational last layers, and mean field where the last layer alone is random. With features phi
(and a 1 for the bias), mean weights W and covariance S = L L^T, the outputs have mean W phi and covariance
(L_a^T phi) . (L_b^T phi), where L_a are the rows of L that belong to output a. A sum of squares cannot become negative,
and keeps its digits where phi^T S phi is small against |phi|^2 |S|: float32 suffices, where the quadratic form itself
would need float64.

Logits with a full covariance are centred first: their covariance is that of the logits less their common shift, on
which no probability depends. Nothing in the data determines the shift, so that its variance may be a million times the
others', and would swallow their digits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from edge_bdl.errors import ExportError, InputError, UnsupportedModelError
from edge_bdl.manifest import Covariance, GaussianHead, StochasticInput, Task
from edge_bdl_export.capture import Capture
from edge_bdl_export.cut import Stochastic
from edge_bdl_export.forms.posterior import ClosedForm, MomentReference, Posterior
from edge_bdl_export.given import Given
from edge_bdl_train.methods.gaussian_head import GaussianHeadPosterior, features, last_layer, matrix

# Numbers in a covariance's root, 64 MiB: every one of them is read for every frame.
MOST_NUMBERS = 1 << 24
_LAYOUTS: dict[int, Covariance] = {2: "diagonal", 3: "per_output", 4: "full"}


def posterior(captured: Capture, given: GaussianHeadPosterior, task: Task) -> Posterior:
    """The posterior over the last layer.

    Args:
        captured: Graph of the posterior's network.
        given: The posterior.
        task: Only classes need draws.

    Raises:
        UnsupportedModelError: The layer is not the network's last operation, or is used twice.
        ExportError: The covariance is too large for a graph.
    """
    described = describe(given)
    shape = tuple(captured.output.meta["val"].shape)
    stochastic = rewrite(captured, described.layer)
    inputs = _draws(described.layer, shape) if task == "classification" else ()
    return Posterior(
        form="gaussian_head",
        inputs=inputs,
        stochastic=stochastic,
        reference=None,
        sampler=None,
        weights=None,
        closed=ClosedForm(
            described=described, head=head(given, task), reference=reference(given, task), posterior=given
        ),
    )


def of_independent(
    given: Given, model: nn.Module, captured: Capture, example: tuple[Tensor, ...]
) -> GaussianHeadPosterior | None:
    """Independent Gaussian weights as a posterior over the last layer; None where they are not that layer's alone.

    Args:
        given: What was handed over.
        model: Its network, at eval.
        captured: Its graph.
        example: One input.
    """
    sigmas = given.sigmas or {}
    layers = {name.rpartition(".")[0] for name in sigmas}
    if len(layers) != 1 or captured.output.meta["val"].ndim != 2:
        return None
    name = layers.pop()
    layer = dict(model.named_modules()).get(name)
    if not isinstance(layer, nn.Linear) or not _is_last(captured, name):
        return None
    if layer.weight.numel() > MOST_NUMBERS or not _is_called(model, layer, example):
        return None
    prefix = f"{name}." if name else ""
    fixed = torch.zeros_like(layer.weight[:, 0])
    parts = [sigmas.get(f"{prefix}weight", torch.zeros_like(layer.weight))]
    if layer.bias is not None:
        parts.append(sigmas.get(f"{prefix}bias", fixed)[:, None])
    variances = torch.cat([part.detach().cpu() for part in parts], dim=1).double().square()
    return GaussianHeadPosterior(model, {"layer": name, "noise": given.noise}, variances)


def describe(given: GaussianHeadPosterior) -> GaussianHead:
    """The last layer, its covariance's structure, and the noise where the posterior's method knew one."""
    noise = float(given.settings.get("noise", 0.0))
    layout = _LAYOUTS[given.covariance.ndim]
    return GaussianHead(layer=given.settings["layer"], covariance=layout, noise_variance=noise**2)


def _draws(layer: str, shape: tuple[int, ...]) -> tuple[StochasticInput, ...]:
    """What the runtime makes members of."""
    return (StochasticInput(name="normal_0", source=layer or "output", kind="normal", shape=shape),)


def rewrite(captured: Capture, layer: str) -> tuple[Stochastic, ...]:
    """The last layer's parameters, for the cut to be before it; `head` takes the layer's place.

    Raises:
        UnsupportedModelError: The layer is not the network's last operation, or is used twice.
    """
    if not _is_last(captured, layer):
        raise UnsupportedModelError(
            f"the posterior is over the weights of {layer or 'the model itself'!r}, and the network does something "
            "else with them than give its outputs, last of all; end the network in that nn.Linear"
        )
    nodes = _parameters(captured, layer)
    return tuple(Stochastic(node=node, member=captured.state[node], rewrite=_as_given) for node in nodes)


def _parameters(captured: Capture, layer: str) -> list[fx.Node]:
    prefix = f"{layer}." if layer else ""
    return [node for node, name in captured.parameters.items() if name in (f"{prefix}weight", f"{prefix}bias")]


def _is_last(captured: Capture, layer: str) -> bool:
    nodes, last = _parameters(captured, layer), captured.output
    alone = all(list(node.users) == [last] for node in nodes)
    return bool(nodes) and alone and last.target is torch.ops.aten.linear.default and last.args[1] in nodes


def _is_called(model: nn.Module, layer: nn.Linear, example: tuple[Tensor, ...]) -> bool:
    """Whether the layer computes its product itself: its weights may be used without it."""
    try:
        features(model, layer, *example)
    except InputError:
        return False
    return True


def _as_given(graph: fx.Graph, arguments: Sequence[fx.Node], member: fx.Node) -> fx.Node:
    return member


def head(given: GaussianHeadPosterior, task: Task) -> nn.Module:
    """The features' way to mean and covariance, in float32.

    Raises:
        ExportError: The covariance is too large for a graph.
    """
    layer = last_layer(given.network, given.settings["layer"])
    outputs, width = matrix(layer).shape
    layout = _LAYOUTS[given.covariance.ndim]
    rows = _contrasts(outputs).shape[1] if _centred(given, task) else outputs
    numbers = {
        "diagonal": outputs * width,
        "per_output": outputs * width**2,
        "full": rows * (rows + 1) // 2 * width**2,
    }[layout]
    if numbers > MOST_NUMBERS:
        raise ExportError(
            f"the {layout} covariance of {outputs} outputs by {width} features is {numbers:,} numbers, which every "
            f"frame would read; at most {MOST_NUMBERS:,} are written: fit the posterior with covariance='diagonal', or "
            "give the last layer fewer features"
        )
    mean = _affine(matrix(layer), biased=layer.bias is not None)
    biased = layer.bias is not None
    if layout == "diagonal":
        return Diagonal(mean, given.covariance, biased)
    if layout == "per_output":
        return _PerOutput(mean, given.covariance, biased)
    return _Full(mean, given.covariance, biased, _contrasts(outputs) if _centred(given, task) else None)


def _centred(given: GaussianHeadPosterior, task: Task) -> bool:
    return task == "classification" and given.covariance.ndim == 4


def _contrasts(outputs: int) -> Tensor:
    """Orthonormal columns [outputs, outputs - 1] that each sum to 0 (Helmert 1876): all that a shift leaves alone."""
    steps = torch.arange(1, outputs, dtype=torch.float64)
    columns = torch.ones(outputs, outputs - 1, dtype=torch.float64).triu()
    columns[steps.long(), steps.long() - 1] = -steps
    return columns / torch.sqrt(steps * (steps + 1.0))


def _affine(weights: Tensor, biased: bool) -> nn.Linear:
    """A linear layer of float64 weights [out, features], the last of which is the bias where there is one."""
    matrices = weights.float()
    layer = nn.Linear(weights.shape[1] - biased, weights.shape[0], bias=biased)
    with torch.no_grad():
        layer.weight.copy_(matrices[:, :-1] if biased else matrices)
        if biased:
            layer.bias.copy_(matrices[:, -1])
    return layer.requires_grad_(False)


def reference(given: GaussianHeadPosterior, task: Task) -> MomentReference:
    """The posterior's own mean and covariance, in float64."""

    def answer(frame: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        mean, covariance = given.moments(*frame)
        if given.covariance.ndim != 4:
            return mean, covariance.diagonal(dim1=1, dim2=2)
        if _centred(given, task):
            centring = torch.eye(mean.shape[1], dtype=torch.float64) - 1.0 / mean.shape[1]
            covariance = centring @ covariance @ centring
        return mean, covariance

    return answer


class Diagonal(nn.Module):
    """Every weight on its own: the variance is linear in the squared features."""

    def __init__(self, mean: nn.Linear, covariance: Tensor, biased: bool) -> None:
        super().__init__()
        self.mean = mean
        self.variance = _affine(covariance, biased)

    def forward(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance [N, outputs] of features [N, features]."""
        return self.mean(phi), self.variance(phi * phi)


class _PerOutput(nn.Module):
    """Every output's weights on their own: the variance is |L_a^T phi|^2."""

    def __init__(self, mean: nn.Linear, covariance: Tensor, biased: bool) -> None:
        super().__init__()
        self.mean = mean
        root = torch.linalg.cholesky(covariance)
        self.root = _affine(root.transpose(1, 2).flatten(0, 1), biased)
        self.outputs = len(covariance)

    def forward(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        projected = self.root(phi).unflatten(1, (self.outputs, -1))
        return self.mean(phi), (projected * projected).sum(2)


class _Full(nn.Module):
    """All weights together. L is lower triangular, so only its blocks of output a and an output b <= a are stored.

    With contrasts [outputs, c], L is that of the c contrasts, and so smaller.
    """

    places: Tensor
    contrasts: Tensor | None

    def __init__(self, mean: nn.Linear, covariance: Tensor, biased: bool, contrasts: Tensor | None) -> None:
        super().__init__()
        self.mean = mean
        if contrasts is not None:
            covariance = torch.einsum("ak,adbe,bl->kdle", contrasts, covariance, contrasts)
        self.register_buffer("contrasts", None if contrasts is None else contrasts.float())
        outputs, width = covariance.shape[:2]
        root = torch.linalg.cholesky(covariance.flatten(2, 3).flatten(0, 1)).reshape(covariance.shape)
        below = torch.tril_indices(outputs, outputs)
        self.root = _affine(root.permute(0, 2, 3, 1)[below[0], below[1]].flatten(0, 1), biased)
        # Where b > a there is the block behind the last one, which is zero.
        places = torch.full((outputs, outputs), below.shape[1])
        places[below[0], below[1]] = torch.arange(below.shape[1])
        self.register_buffer("places", places.flatten())
        self.outputs, self.width = outputs, width

    def forward(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        blocks = self.root(phi).unflatten(1, (-1, self.width))
        rows = torch.cat([blocks, torch.zeros_like(blocks[:, :1])], dim=1).index_select(1, self.places)
        projected = rows.reshape(-1, self.outputs, self.outputs * self.width)
        if self.contrasts is not None:
            projected = self.contrasts @ projected
        return self.mean(phi), projected @ projected.transpose(1, 2)
