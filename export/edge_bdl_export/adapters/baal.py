"""baal 2: dropout that stays on at eval (Gal and Ghahramani 2016), and DropConnect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from edge_bdl_export.adapters.layers import Dropped, LayerAdapter, Replacement, Rule, convolution, linear


def _dropout(kind: type[nn.Module]) -> Rule:
    return lambda layer: Replacement(kind(layer.p, layer.inplace))


def _dropped(layer: Any, plain: nn.Module) -> Replacement:
    return Replacement(plain, {"weight": Dropped(layer.weight.detach().cpu().clone(), layer._weight_dropout)})


_RULES: dict[str, Rule] = {
    "baal.bayesian.dropout.Dropout": _dropout(nn.Dropout),
    "baal.bayesian.dropout.Dropout2d": _dropout(nn.Dropout2d),
    # These keep a mask until they are reset; from one reset to the next they draw as the others do.
    "baal.bayesian.consistent_dropout.ConsistentDropout": _dropout(nn.Dropout),
    "baal.bayesian.consistent_dropout.ConsistentDropout2d": _dropout(nn.Dropout2d),
    "baal.bayesian.weight_drop.WeightDropLinear": lambda layer: _dropped(layer, linear(layer.weight, layer.bias)),
    "baal.bayesian.weight_drop.WeightDropConv2d": lambda layer: _dropped(
        layer, convolution(nn.Conv2d, layer, layer.weight, layer.bias)
    ),
}


class Baal(LayerAdapter):
    """A model that baal's ``patch_module`` or one of its MC modules has patched."""

    library = "baal"
    rules: ClassVar[Mapping[str, Rule]] = _RULES
