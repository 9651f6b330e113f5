"""``mask_bank``: Monte-Carlo dropout (Gal and Ghahramani 2016, arXiv 1506.02142) with masks as graph inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from edge_bdl.manifest import StochasticInput
from edge_bdl_export.capture import Capture, Site, find_dropout, plain_attention, replace_modules
from edge_bdl_export.cut import Stochastic
from edge_bdl_export.dropout import KINDS, DropoutKind, recognise
from edge_bdl_export.forms.posterior import Posterior, Reference


def posterior(model: nn.Module, captured: Capture, deterministic: Sequence[str]) -> Posterior:
    """The dropout posterior of a model.

    Args:
        model: The model itself, at eval.
        captured: Its graph.
        deterministic: Modules held at eval.
    """
    inputs = describe(captured)
    return Posterior(
        form="mask_bank",
        inputs=inputs,
        stochastic=rewrite(captured),
        reference=reference(model, inputs, deterministic),
        sampler=own_dropout(model, deterministic),
        weights=None,
    )


def describe(captured: Capture) -> tuple[StochasticInput, ...]:
    """One mask input per call site."""
    return tuple(
        StochasticInput(
            name=f"mask_{i}",
            source=site.module,
            call=site.call,
            kind=site.kind.__name__,
            shape=site.shape,
            rate=site.rate,
            scale=site.arithmetic.scale(site.rate),
        )
        for i, site in enumerate(captured.sites)
    )


def rewrite(captured: Capture) -> tuple[Stochastic, ...]:
    """Each call site as arithmetic on its input and its mask."""
    return tuple(
        Stochastic(
            node=site.node, member=torch.full(site.shape, site.arithmetic.scale(site.rate)), rewrite=_write(site)
        )
        for site in captured.sites
    )


def _write(site: Site) -> Callable[[fx.Graph, tuple[fx.Node, ...], fx.Node], fx.Node]:
    def write(graph: fx.Graph, arguments: tuple[fx.Node, ...], mask: fx.Node) -> fx.Node:
        traced = fx.symbolic_trace(_Arithmetic(site.arithmetic, site.rate))
        result = graph.graph_copy(traced.graph, dict(zip(_placeholders(traced.graph), (*arguments, mask), strict=True)))
        assert isinstance(result, fx.Node)
        return result

    return write


def _placeholders(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "placeholder"]


class _Arithmetic(nn.Module):
    def __init__(self, kind: DropoutKind, rate: float) -> None:
        super().__init__()
        self.kind = kind
        self.rate = rate

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.kind.apply(x, mask, self.rate)


def reference(model: nn.Module, inputs: Sequence[StochasticInput], deterministic: Sequence[str]) -> Reference:
    """The model itself, not its captured graph, with given masks in place of its dropout modules."""
    injected = copy.deepcopy(model).cpu().eval()
    found = find_dropout(injected, deterministic)
    masked = {name: _Injected(module) for name, module in found.items()}
    injected = replace_modules(injected, {found[name]: module for name, module in masked.items()})

    def answer(frame: tuple[Tensor, ...], member: Mapping[str, Tensor]) -> Tensor:
        for name, module in masked.items():
            module.masks = [member[item.name] for item in inputs if item.source == name]
        with torch.no_grad(), plain_attention():
            return injected(*frame)

    return answer


class _Injected(nn.Module):
    """A dropout module that uses the masks it is given, one per call."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        kind = recognise(module)
        assert kind is not None
        self.kind = KINDS[kind]
        self.rate = float(module.p)  # type: ignore[arg-type]
        self.inplace = bool(getattr(module, "inplace", False))
        self.masks: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        dropped = self.kind.apply(x, self.masks.pop(0), self.rate)
        return x.copy_(dropped) if self.inplace else dropped


def own_dropout(model: nn.Module, deterministic: Sequence[str]) -> nn.Module:
    """The model with its own dropout switched on and everything else at eval: what torch itself samples."""
    sampling = copy.deepcopy(model).cpu().eval()
    for module in find_dropout(sampling, deterministic).values():
        module.train()
    return sampling
