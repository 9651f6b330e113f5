"""The head of a network, run once on means and variances in place of once per member on numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from edge_bdl.errors import UnsupportedModelError
from edge_bdl_export.capture import Capture, Site
from edge_bdl_export.forms.moments.affine import Affine
from edge_bdl_export.forms.moments.dropping import dropout
from edge_bdl_export.forms.moments.normal import Value, Weight
from edge_bdl_export.forms.moments.rules import AFFINE, RULES


class MomentHead(nn.Module):
    """``(*boundary) -> (mean, variance)`` of the output, in float64 until it is cast.

    Args:
        captured: The network, its batch normalisation folded.
        boundary: The nodes that the head starts at.
        example: Their values for some frame.
        weights: The Gaussian parameters.

    Raises:
        UnsupportedModelError: An operator has no rule.
    """

    def __init__(
        self,
        captured: Capture,
        boundary: Sequence[fx.Node],
        example: Sequence[Tensor],
        weights: Mapping[fx.Node, Weight],
    ) -> None:
        super().__init__()
        self.boundary = tuple(node.name for node in boundary)
        self.output = captured.output.name
        self.steps = nn.ModuleDict()
        constants = _Constants(captured, weights)
        values: dict[str, Any] = dict(zip(self.boundary, map(_double, example), strict=True))
        sites = {site.node: site for site in captured.sites}
        for node in _between(captured, boundary, weights):
            step = _Step(node, values, constants, sites.get(node))
            values[node.name] = step(values)
            self.steps[node.name.replace(".", "_")] = step

    def forward(self, *boundary: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance, each of the output's shape."""
        values: dict[str, Any] = dict(zip(self.boundary, boundary, strict=True))
        for step in self.steps.values():
            values[step.name] = step(values)
        output = values[self.output]
        return output.mean, output.variance

    def in_float32(self) -> MomentHead:
        """As it is written."""
        return copy.deepcopy(self).float()


class _Step(nn.Module):
    """One operator's rule, with everything it takes that no frame changes."""

    def __init__(self, node: fx.Node, values: Mapping[str, Any], constants: _Constants, site: Site | None) -> None:
        super().__init__()
        self.name = node.name
        self._held = 0
        rule = partial(dropout, rate=site.rate, alpha=site.arithmetic.alpha) if site else _rule(node)
        arguments = node.args[:1] if site else node.args
        if rule is Affine:
            x, *parameters = arguments
            given = [values[x.name], *map(constants.of, parameters)]  # type: ignore[union-attr]
            rule, arguments = Affine(node.target, *given), node.args[:1]  # type: ignore[arg-type]
        self.rule: Callable[..., Any] = rule
        self.arguments = fx.node.map_aggregate(arguments, lambda a: self._reference(a, values, constants))
        self.named = fx.node.map_aggregate(node.kwargs, lambda a: self._reference(a, values, constants))

    def forward(self, values: Mapping[str, Any]) -> Value:
        """The node's value, from those of the nodes before it."""
        arguments, named = (fx.node.map_aggregate(given, partial(self._resolve, values)) for given in
                            (self.arguments, self.named))  # fmt: skip
        return self.rule(*arguments, **named)  # type: ignore[misc]

    def _reference(self, argument: Any, values: Mapping[str, Any], constants: _Constants) -> Any:
        if not isinstance(argument, fx.Node):
            return argument
        if argument.name in values:
            return _Flowing(argument.name)
        value = constants.of(argument)
        if isinstance(value, Weight):
            raise UnsupportedModelError(
                f"{argument.name} is Gaussian, and read by more than linear layers and convolutions, for which "
                "form='moments' has no rule; keep it deterministic, or export without form='moments'"
            )
        if not isinstance(value, Tensor):
            return value
        if value.ndim == 0:
            return value.item()
        self._held += 1
        self.register_buffer(f"constant_{self._held}", value)
        return _Held(f"constant_{self._held}")

    def _resolve(self, values: Mapping[str, Any], argument: Any) -> Any:
        if isinstance(argument, _Flowing):
            return values[argument]
        return getattr(self, argument) if isinstance(argument, _Held) else argument


class _Flowing(str):
    """Name of a node whose value a frame decides."""


class _Held(str):
    """Name of a buffer."""


def _rule(node: fx.Node) -> Callable[..., Any]:
    if node.target in AFFINE:
        return Affine
    if node.target in RULES:
        return RULES[node.target]
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    where = f" in {stack[-1]}" if stack and stack[-1] else ""
    raise UnsupportedModelError(
        f"form='moments' has no rule for {node.target}{where}, which comes after the first stochastic layer; put it "
        "before, use layers that have one (docs/export.md, Moments), or export without form='moments'"
    )


def _between(captured: Capture, boundary: Sequence[fx.Node], weights: Mapping[fx.Node, Weight]) -> list[fx.Node]:
    """The nodes that depend on the boundary or on anything stochastic, and on which the output depends; in order."""
    after = {*boundary, *weights}
    for node in captured.graph.nodes:
        if node.op == "call_function" and any(source in after for source in node.all_input_nodes):
            after.add(node)
    needed, pending = set(), [captured.output]
    while pending:
        node = pending.pop()
        if node not in needed and node in after and node not in boundary and node not in weights:
            needed.add(node)
            pending.extend(node.all_input_nodes)
    return [node for node in captured.graph.nodes if node in needed]


class _Constants:
    """Values that depend on no frame, in float64, each computed once."""

    def __init__(self, captured: Capture, weights: Mapping[fx.Node, Weight]) -> None:
        self._known: dict[fx.Node, Any] = {node: _double(value) for node, value in captured.state.items()}
        self._known.update(weights)

    def of(self, argument: Any) -> Any:
        """An argument's value; of a node, what it computes."""
        if not isinstance(argument, fx.Node):
            return argument
        if argument not in self._known:
            given, named = fx.node.map_aggregate((argument.args, argument.kwargs), self.of)
            with torch.no_grad():
                self._known[argument] = argument.target(*given, **named)  # type: ignore[operator]
        return self._known[argument]


def _double(value: Tensor) -> Tensor:
    return value.detach().double() if value.is_floating_point() else value.detach()
