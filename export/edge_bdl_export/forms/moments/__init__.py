"""``moments``: mean and variance of the outputs in one pass, without members (Postels et al. 2019, arXiv 1908.00598).

From the first stochastic layer on, every activation is a Gaussian of its own: dropout and Gaussian weights add
variance, each operator has a rule for what it makes of mean and variance (Wu et al. 2019, arXiv 1810.03958; Brach et
al. 2020, arXiv 2007.03293). What is left out is that activations depend on each other; how much that matters for a
network is measured against its members, and the bundle says it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, fx, nn

from edge_bdl import sampling
from edge_bdl.errors import ExportError
from edge_bdl.manifest import Bank, Propagation, StochasticInput, Task
from edge_bdl_export.capture import Capture
from edge_bdl_export.cut import cut
from edge_bdl_export.fold import fold_norms
from edge_bdl_export.forms import mask_bank, weight_bank
from edge_bdl_export.forms.moments.head import MomentHead
from edge_bdl_export.forms.moments.normal import Weight
from edge_bdl_export.forms.posterior import ClosedForm, Members, Posterior, Whole
from edge_bdl_export.given import Given

# Of these members every output's deviation is known to 2 %, and its mean to 3 % of a deviation.
MEMBERS = 1024
_BLOCK = 64
# Where in the counter-based stream they come from: never what a runtime draws.
_TO_COMPARE = 1 << 34


def posterior(
    model: nn.Module,
    example: tuple[Tensor, ...],
    captured: Capture,
    deterministic: Sequence[str],
    given: Given,
    task: Task,
    seed: int,
) -> tuple[Posterior, Capture]:
    """The posterior as moments.

    Args:
        model: The model itself, at eval.
        example: Its inputs.
        captured: Its graph.
        deterministic: Modules held at eval.
        given: Where weights are random, how.
        task: Only classes need draws.
        seed: Of the members that the moments are compared with.

    Returns:
        The posterior, and the graph with its batch normalisation folded.

    Raises:
        UnsupportedModelError: An operator has no rule.
        ExportError: The posterior is neither dropout nor Gaussian, independent weights.
    """
    whole, weights = _whole(model, captured, deterministic, given, seed)
    captured = fold_norms(captured, {item.node for item in whole.posterior.stochastic})
    parts = cut(captured, whole.posterior.stochastic)
    count = len(parts.boundary)
    with torch.no_grad():
        exact = MomentHead(captured, parts.boundary, parts.trunk(*example)[:count], weights)

    def reference(frame: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return exact(*(value.double() for value in parts.trunk(*frame)[:count]))

    shape = tuple(captured.output.meta["val"].shape)
    closed = ClosedForm(
        described=Propagation(noise_variance=given.noise**2 if task == "regression" else 0.0),
        head=exact.in_float32(),
        reference=reference,
        posterior=None,
        whole=whole,
    )
    draws = (StochasticInput(name="normal_0", source="output", kind="normal", shape=shape),)
    form = Posterior(
        form="moments",
        inputs=draws if task == "classification" else (),
        stochastic=whole.posterior.stochastic,
        reference=None,
        sampler=None,
        weights=None,
        closed=closed,
    )
    return form, captured


def _whole(
    model: nn.Module, captured: Capture, deterministic: Sequence[str], given: Given, seed: int
) -> tuple[Whole, dict[fx.Node, Weight]]:
    if given.head is not None:
        raise ExportError("a Gaussian over the last layer is in closed form already; leave out form='moments'")
    if given.draws is None:
        masks = mask_bank.posterior(model, captured, deterministic)
        return Whole(masks, _masks(masks.inputs, seed)), {}
    if given.sigmas is None:
        raise ExportError(
            "form='moments' is for dropout and for independent Gaussian weights (mean field), whose variance is known; "
            "these weights have members and no more: leave out form"
        )
    draws = given.draws
    weights = weight_bank.posterior(model, captured, draws.pool(2, 2))
    nodes = {name: node for node, name in captured.parameters.items()}
    gaussian = {nodes[item.source]: _weight(captured, nodes[item.source], given.sigmas[item.source])
                for item in weights.inputs}  # fmt: skip

    def blocks() -> Iterable[Members]:
        return (weight_bank.bank(weights.inputs, block) for block in draws.others((), MEMBERS))

    return Whole(weights, blocks), gaussian


def _weight(captured: Capture, node: fx.Node, sigma: Tensor) -> Weight:
    return Weight(captured.state[node].double(), sigma.detach().cpu().double().square())


def _masks(inputs: tuple[StochasticInput, ...], seed: int) -> Callable[[], Iterable[Members]]:
    drawn = Bank(members=MEMBERS, chunk=1, selection="iid", seed=seed, inputs=inputs)

    def blocks() -> Iterable[Mapping[str, np.ndarray]]:
        for start in range(0, MEMBERS, _BLOCK):
            yield sampling.masks(drawn, sampling.draw_keep(drawn, _TO_COMPARE + start, _BLOCK))

    return blocks
