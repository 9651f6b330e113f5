"""``mask_bank``: masks as graph inputs, of Monte-Carlo dropout or of Masksembles.

Dropout (Gal and Ghahramani 2016, arXiv 1506.02142) draws masks without end; Masksembles (Durasov et al. 2021, arXiv
2012.08334) has a few that never change, and dropout beside them is no part of its posterior.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from edge_bdl.errors import ExportError
from edge_bdl.manifest import StochasticInput
from edge_bdl_export.capture import Capture, Site, find_dropout, plain_attention, replace_modules
from edge_bdl_export.cut import Stochastic
from edge_bdl_export.dropout import KINDS, DropoutKind, FixedMask, recognise
from edge_bdl_export.forms.posterior import Posterior, Reference
from edge_bdl_train.methods.masksembles import MasksemblesPosterior


def posterior(model: nn.Module, captured: Capture, deterministic: Sequence[str]) -> Posterior:
    """The posterior over a model's masks.

    Args:
        model: The model itself, at eval.
        captured: Its graph.
        deterministic: Modules held at eval.
    """
    inputs = describe(captured)
    fixed = fixed_masks(model, inputs)
    return Posterior(
        form="mask_bank",
        inputs=inputs,
        stochastic=rewrite(captured),
        reference=reference(model, inputs, deterministic),
        sampler=None if fixed else own_dropout(model, deterministic),
        weights=fixed or None,
    )


def fixed_masks(model: nn.Module, inputs: Sequence[StochasticInput]) -> dict[str, NDArray[np.float32]]:
    """Those of a model that holds them, [members, *shape] by member input.

    Raises:
        ExportError: Its layers have different numbers of them.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    sources = {item.name: modules[item.source] for item in inputs}
    fixed = {name: module.masks.numpy() for name, module in sources.items() if isinstance(module, FixedMask)}
    if len({len(masks) for masks in fixed.values()}) > 1:
        counts = ", ".join(f"{item.source} {len(fixed[item.name])}" for item in inputs)
        raise ExportError(f"the layers have different numbers of masks ({counts}); a member is one of each")
    return fixed


def _random(captured: Capture) -> Sequence[Site]:
    """The call sites that the posterior is over."""
    fixed = [site for site in captured.sites if site.arithmetic.fixed]
    return fixed or captured.sites


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
        for i, site in enumerate(_random(captured))
    )


def rewrite(captured: Capture) -> tuple[Stochastic, ...]:
    """Each call site as arithmetic on its input and its mask."""
    return tuple(
        Stochastic(
            node=site.node, member=torch.full(site.shape, site.arithmetic.scale(site.rate)), rewrite=_write(site)
        )
        for site in _random(captured)
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
    random = {item.source for item in inputs}
    found = {name: module for name, module in find_dropout(injected, deterministic).items() if name in random}
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


class _Masked(nn.Module):
    """A layer that reads what a mask leaves."""

    def __init__(self, mask: FixedMask, layer: nn.Module) -> None:
        super().__init__()
        self.mask = mask
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.mask(x))


def masksembles(given: MasksemblesPosterior) -> nn.Module:
    """The network with its masks in it: in front of each layer that reads through one."""
    network = copy.deepcopy(given.network).cpu()
    replacements: dict[nn.Module, nn.Module] = {}
    for name, masks in given.masks.items():
        layer = network.get_submodule(name)
        spatial = 0 if isinstance(layer, nn.Linear) else layer.weight.ndim - 2  # type: ignore[union-attr,operator]
        shaped = masks.cpu().reshape(*masks.shape, *(1 for _ in range(spatial)))
        replacements[layer] = _Masked(FixedMask(shaped), layer)
    return replace_modules(network, replacements)


def own_dropout(model: nn.Module, deterministic: Sequence[str]) -> nn.Module:
    """The model with its own dropout switched on and everything else at eval: what torch itself samples."""
    sampling = copy.deepcopy(model).cpu().eval()
    for module in find_dropout(sampling, deterministic).values():
        module.train()
    return sampling
