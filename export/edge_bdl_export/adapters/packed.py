"""torch-uncertainty's Packed-Ensembles: networks, each in a block of one's channels, taken apart into narrow ones.

Laurent et al. 2023, arXiv 2210.09184. The first layer shows all members the whole input, the last one puts what they
say behind one another in the batch; in between, nothing goes from one member's channels to another's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from edge_bdl.errors import UnsupportedModelError
from edge_bdl_export.adapters.base import Member, copied, named
from edge_bdl_export.adapters.layers import Replacement, Rule, linear

_MODULE = "torch_uncertainty.layers.packed"
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def _linear(layer: Any) -> Replacement:
    count = layer.num_estimators
    if layer.weight.is_sparse:
        raise UnsupportedModelError(
            "a PackedLinear of implementation='sparse' cannot be copied; give it implementation='einsum'"
        )
    rows = torch.block_diag(*layer.weight.detach().cpu()).chunk(count)
    values = {"weight": torch.stack(rows if layer.first else [row.chunk(count, 1)[i] for i, row in enumerate(rows)])}
    if layer.bias is not None:
        values["bias"] = torch.stack(layer.bias.detach().cpu().chunk(count))
    first = {name: value[0] for name, value in values.items()}
    return Replacement(linear(first["weight"], first.get("bias")), values=values)


def _convolution(layer: Any) -> Replacement:
    transposed = hasattr(layer, "conv_transpose")
    whole = layer.conv_transpose if transposed else layer.conv
    # The weights of a transposed convolution begin with the input's channels, which members of a first layer share.
    new = _cut(whole, layer.num_estimators, axis=1 if transposed and layer.first else 0)
    if not layer.first:
        own: Any = new.module
        own.groups = whole.groups // layer.num_estimators
    return new


def _cut(layer: nn.Module, count: int, axis: int = 0) -> Replacement:
    """A layer with its first member's channels: everything but a bias is cut along ``axis``."""
    values = {
        name: torch.stack(value.detach().cpu().chunk(count, axis if value.ndim > 1 else 0))
        for name, value in layer.state_dict().items()
        if value.ndim
    }
    own = copied(layer)
    for name, value in values.items():
        getattr(own, name).data = value[0].clone()
    return Replacement(own, values=values)


RULES: Mapping[str, Rule] = {
    f"{_MODULE}.PackedLinear": _linear,
    **{f"{_MODULE}.Packed{kind}": _convolution for kind in ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose2d")},
}


def is_packed(model: nn.Module) -> bool:
    """Whether a model holds packed layers."""
    return any(named(module, RULES) for module in model.modules())


def norms(model: nn.Module) -> dict[nn.Module, Rule]:
    """Rules for the batch norms behind the first packed layer: they too hold each member's channels side by side."""
    found: dict[nn.Module, Rule] = {}
    count = None
    for module in model.modules():
        if count is None and named(module, RULES):
            count = module.num_estimators
        elif count is not None and type(module) in _NORMS and not module.num_features % count:
            found[module] = partial(_cut, count=count)
    return found


def check_apart(model: nn.Module, network: nn.Module, members: Sequence[Member], example: tuple[Tensor, ...]) -> None:
    """That members by themselves say what the whole network says.

    Args:
        model: The library's; it is not changed.
        network: One member's.
        members: What differs between them.
        example: Inputs of either.

    Raises:
        UnsupportedModelError: They do not, or cannot be run.
    """
    whole = copied(model)
    # An example of zeros, say, may hide what other inputs show.
    for inputs in (example, tuple(map(_other, example))):
        if not _same(whole, network, members, inputs):
            raise UnsupportedModelError(
                f"the packed members of {type(model).__name__} cannot be told apart: its forward pass joins their "
                "channels, or does not begin with a layer of first=True and end with one of last=True, as its only "
                "output"
            )


def _same(whole: nn.Module, network: nn.Module, members: Sequence[Member], inputs: tuple[Tensor, ...]) -> bool:
    with torch.no_grad():
        theirs = whole(*inputs)
        try:
            ours = [functional_call(network, dict(member), inputs) for member in members]
        except (RuntimeError, ValueError):  # shapes that do not fit
            return False
    if not all(isinstance(value, Tensor) for value in (theirs, *ours)):
        return False
    own = torch.cat(ours)
    alike = own.shape == theirs.shape and torch.allclose(own, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
    return alike and torch.isfinite(theirs).all().item()


def _other(value: Tensor) -> Tensor:
    """Another input of that shape: noise, or the same integers in another order."""
    generator = torch.Generator().manual_seed(0)
    if value.is_floating_point():
        return torch.randn(value.shape, generator=generator).to(value.dtype)
    return value.flatten()[torch.randperm(value.numel(), generator=generator)].reshape(value.shape)
