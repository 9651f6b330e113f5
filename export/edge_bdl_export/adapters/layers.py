"""Adapting layer by layer: each stochastic layer of a library becomes a plain one, and a rule for what its weights are.

A library's file is a table from qualified class names to such rules. A subclass with a ``forward`` of its own may do
anything and is not recognised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_bdl.errors import ExportError, UnsupportedModelError
from edge_bdl_export.adapters.base import Adapter, Member, copied, qualified, skeleton

Draw = Callable[[torch.Generator], Tensor]


@dataclass(frozen=True)
class Gaussian:
    """Independent normal weights.

    Attributes:
        mean: Of any shape.
        sigma: Standard deviations, of the same shape.
    """

    mean: Tensor
    sigma: Tensor

    @classmethod
    def of(cls, mean: Tensor, rho: Tensor) -> Gaussian:
        """As these libraries hold it: the standard deviation is softplus(rho)."""
        return cls(mean.detach().cpu().clone(), functional.softplus(rho.detach()).cpu())

    def __call__(self, generator: torch.Generator) -> Tensor:
        """One draw."""
        return self.mean + self.sigma * torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype)


@dataclass(frozen=True)
class Dropped:
    """Weights of which each is dropped by itself (Wan et al. 2013, DropConnect), the others scaled up.

    Attributes:
        weight: Of any shape.
        rate: Drop probability.
    """

    weight: Tensor
    rate: float

    def __call__(self, generator: torch.Generator) -> Tensor:
        """One draw."""
        kept = torch.rand(self.weight.shape, generator=generator) >= self.rate
        return self.weight * kept / (1.0 - self.rate)


@dataclass(frozen=True)
class Replacement:
    """A stochastic layer as data.

    Attributes:
        module: The layer at its mean, or with its first member's values: plain torch.
        draws: How to draw those parameters of ``module`` that are random, by name.
        values: Those of an implicit ensemble, [members, *shape] by name.
        note: What the members do not share with the library's own forward pass.
    """

    module: nn.Module
    draws: Mapping[str, Draw] = field(default_factory=dict)
    values: Mapping[str, Tensor] = field(default_factory=dict)
    note: str | None = None


Rule = Callable[[Any], Replacement]


class LayerAdapter(Adapter):
    """A model with layers of a library.

    Attributes:
        rules: What becomes of each layer, by qualified class name.
        refusals: Why there are no members of what else the library has, by the beginning of qualified class names.

    Args:
        model: Any module that holds some. It is not changed.
        deterministic: Names of modules whose layers are held at their mean.

    Raises:
        UnsupportedModelError: A layer of the library has no members, or the model cannot be copied.
        ExportError: ``deterministic`` names part of a layer or an implicit ensemble's layer, or the sizes of implicit
            ensembles differ.
    """

    rules: ClassVar[Mapping[str, Rule]]
    refusals: ClassVar[Mapping[str, str]] = {}

    def __init__(self, model: nn.Module, deterministic: Sequence[str] = ()) -> None:
        found = self.found(model)
        _refuse(model, self.refusals, within=found)
        replaced = {module: rule(module) for module, rule in found.items()}
        self.network = self.finish(copied(model, {id(old): new.module for old, new in replaced.items()}))
        held = _held(model, deterministic)
        _check_held(held, replaced)
        random = {new.module: new for old, new in replaced.items() if old not in held}
        # Under every name that it is held: capture tells each from the others.
        self._random = [
            (name, random[module])
            for name, module in self.network.named_modules(remove_duplicate=False)
            if module in random
        ]
        self.size = self._count([new for _, new in self._random])
        self.sigmas = self._sigmas()
        self.notes = tuple(dict.fromkeys(new.note for _, new in self._random if new.note))
        if self.size != 0 and (drops := _dropout(self.network)):
            self.notes += (f"{', '.join(drops)} held at eval: the members are draws of the weights alone",)

    @classmethod
    def recognises(cls, model: object) -> bool:
        """Whether a model holds anything of this library that an export must mind."""
        if not isinstance(model, nn.Module):
            return False
        return any(_known(module, cls.rules) or _refusal(module, cls.refusals) for module in model.modules())

    def found(self, model: nn.Module) -> dict[nn.Module, Rule]:
        """The modules to replace, each by its rule."""
        known = {module: _known(module, self.rules) for module in _outermost(model, self.rules)}
        return {module: self.rules[name] for module, name in known.items() if name}

    def finish(self, network: nn.Module) -> nn.Module:
        """What else the library's models need, once their layers are replaced."""
        return network

    def sample(self, generator: torch.Generator, n: int) -> list[Member]:
        """Draws ``n`` members, one after the other."""
        return [self._member(generator, index) for index in range(n)]

    def _member(self, generator: torch.Generator, index: int) -> Member:
        drawn: dict[nn.Module, Member] = {}
        member: dict[str, Tensor] = {}
        for prefix, new in self._random:
            if new.module not in drawn:
                values = {name: stacked[index] for name, stacked in new.values.items()}
                drawn[new.module] = {**values, **{name: draw(generator) for name, draw in new.draws.items()}}
            for name, value in drawn[new.module].items():
                member[f"{prefix}.{name}" if prefix else name] = value
        return member

    def _sigmas(self) -> dict[str, Tensor] | None:
        drawn = {
            (f"{prefix}.{name}" if prefix else name): draw
            for prefix, new in self._random
            for name, draw in new.draws.items()
        }
        sigmas = {name: draw.sigma for name, draw in drawn.items() if isinstance(draw, Gaussian)}
        return sigmas if sigmas and len(sigmas) == len(drawn) and self.size is None else None

    def _count(self, random: Sequence[Replacement]) -> int | None:
        sizes = {_size(new) for new in random if new.values}
        if len(sizes) > 1:
            raise ExportError(f"the layers have {sorted(sizes)} members; an ensemble has as many in each of them")
        if sizes:
            return sizes.pop()
        return None if any(new.draws for new in random) else 0


def _known(module: nn.Module, names: Mapping[str, Any]) -> str | None:
    for cls in type(module).__mro__:
        if qualified(cls) in names and type(module).forward is cls.forward:  # type: ignore[attr-defined]
            return qualified(cls)
    return None


def _outermost(model: nn.Module, names: Mapping[str, Any]) -> list[nn.Module]:
    """The known modules that are not parts of a known one."""
    if _known(model, names):
        return [model]
    return list(dict.fromkeys(module for child in model.children() for module in _outermost(child, names)))


def _refusal(module: nn.Module, refusals: Mapping[str, str]) -> str | None:
    names = list(map(qualified, type(module).__mro__))
    return next((why for start, why in refusals.items() if any(name.startswith(start) for name in names)), None)


def _refuse(model: nn.Module, refusals: Mapping[str, str], within: Mapping[nn.Module, Any]) -> None:
    parts = {part for module in within for part in module.modules()}
    for name, module in model.named_modules():
        if module not in parts and (why := _refusal(module, refusals)):
            raise UnsupportedModelError(f"{name or 'the model'} is a {type(module).__name__}, of which {why}")


def _held(model: nn.Module, deterministic: Sequence[str]) -> set[nn.Module]:
    known = dict(model.named_modules(remove_duplicate=False))
    return {module for name in deterministic if name in known for module in known[name].modules()}


def _check_held(held: set[nn.Module], replaced: Mapping[nn.Module, Replacement]) -> None:
    for module, new in replaced.items():
        kind = type(module).__name__
        if module in held and new.values:
            raise ExportError(f"deterministic names a {kind}, which has no mean but {_size(new)} members")
        if module not in held and held & set(module.modules()):
            raise ExportError(f"deterministic names a part of a {kind}; name the whole layer, to hold it at its mean")


def _size(new: Replacement) -> int:
    return len(next(iter(new.values.values())))


def _dropout(network: nn.Module) -> list[str]:
    dropout = nn.modules.dropout._DropoutNd
    return [name for name, module in network.named_modules() if isinstance(module, dropout) and module.p > 0.0]


# --- plain layers with given values -----------------------------------------------------------------------------------


def filled(module: nn.Module, **values: Tensor | None) -> Any:
    """A layer with these parameters."""
    for name, value in values.items():
        kept = None if value is None else nn.Parameter(value.detach().cpu().clone(), requires_grad=False)
        setattr(module, name, kept)
    return module


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer: weight [out, in], bias [out]."""
    layer = skeleton(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None)
    return filled(layer, weight=weight, bias=bias)


def convolution(kind: type[nn.Module], like: Any, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A convolution with the settings of the layer ``like``.

    Args:
        kind: ``nn.Conv1d`` to ``nn.ConvTranspose3d``.
        like: Has ``stride``, ``padding``, ``dilation``, ``groups``; perhaps ``output_padding``, ``padding_mode``.
        weight: [out, in / groups, ...], of transposed ones [in, out / groups, ...].
        bias: [out] or None.
    """
    transposed = "Transpose" in kind.__name__
    first, second = weight.shape[0], weight.shape[1] * like.groups
    settings = {name: getattr(like, name) for name in ("stride", "padding", "dilation", "groups")}
    if transposed:
        settings["output_padding"] = like.output_padding
    layer = skeleton(
        kind,
        first if transposed else second,
        second if transposed else first,
        tuple(weight.shape[2:]),
        bias=bias is not None,
        padding_mode=getattr(like, "padding_mode", "zeros"),
        **settings,
    )
    return filled(layer, weight=weight, bias=bias)
