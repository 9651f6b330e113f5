"""A deterministic network to its Bayesian twin, without rewriting it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from edge_bdl.errors import InputError
from edge_bdl_train.layers.attention import VariationalMultiheadAttention
from edge_bdl_train.layers.base import Estimator, VariationalLayer
from edge_bdl_train.layers.conv import VariationalConv
from edge_bdl_train.layers.conv_transpose import VariationalConvTranspose
from edge_bdl_train.layers.embedding import VariationalEmbedding
from edge_bdl_train.layers.linear import VariationalLinear
from edge_bdl_train.layers.recurrent import VariationalRecurrent
from edge_bdl_train.layers.weight import Proportional
from edge_bdl_train.priors.base import Prior
from edge_bdl_train.priors.gaussian import Gaussian

Layers = str | int | Sequence[str]

_VARIATIONAL: tuple[type[VariationalLayer], ...] = (
    VariationalLinear,
    VariationalConv,
    VariationalConvTranspose,
    VariationalEmbedding,
    VariationalRecurrent,
    VariationalMultiheadAttention,
)
_TWINS = {twin: layer for layer in _VARIATIONAL for twin in layer.twins}
# Whose units a dropout module in front of a layer drops: single features, or whole channels.
_DROPOUTS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: nn.Dropout,
    nn.Conv1d: nn.Dropout1d,
    nn.Conv2d: nn.Dropout2d,
    nn.Conv3d: nn.Dropout3d,
}
# A scale and a shift per feature: they stay as they are.
_NORMALISATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def bayesianize(model: nn.Module, method: str, layers: Layers = "all", **options: Any) -> nn.Module:
    """A copy of the model in which some layers are Bayesian; all parameters keep their values and names.

    Args:
        model: is not changed.
        method: ``mean_field`` makes layers variational: their parameter ``weight`` becomes ``weight.mean`` and
            ``weight.rho``. ``dropout`` puts a dropout module, named ``dropout_before``, in front of layers.
        layers: ``all`` that have parameters but normalisation layers, the last so many of them, or their names.
        options: of ``mean_field``: ``prior`` (N(0, 1)), ``sigma`` (0.05, every weight's initial standard deviation; or
            ``Proportional``, one that follows from the weight) and ``estimator`` (``reparametrisation``). Of
            ``dropout``: ``rate`` (0.1).

    Raises:
        InputError: a layer cannot be converted or is not there, or an option or the method is not known.
    """
    if method not in _METHODS:
        raise InputError(f"bayesianize knows {' and '.join(_METHODS)}, got {method!r}")
    known, convert = _METHODS[method]
    return convert(copy.deepcopy(model), layers, known, **options)


def _variational(
    model: nn.Module,
    layers: Layers,
    known: Sequence[type[nn.Module]],
    *,
    prior: Prior | None = None,
    sigma: float | Proportional = 0.05,
    estimator: Estimator = "reparametrisation",
) -> nn.Module:
    prior = Gaussian(1.0) if prior is None else prior
    prior.check([name for name, _ in model.named_parameters()])
    chosen = _chosen(model, layers, known)
    _refuse_tied(model, chosen)
    twins: dict[nn.Module, VariationalLayer] = {}
    for name, layer in chosen.items():
        convert = _TWINS[type(layer)].from_deterministic
        twins[layer] = convert(layer, prior.within(name), sigma, estimator=_estimator(layer, estimator))
    if model in twins:
        return twins[model]
    # A module may be in more than one place.
    for name, module in [*model.named_modules(remove_duplicate=False)]:
        if module in twins:
            model.set_submodule(name, twins[module])
    return model


def _with_dropout(
    model: nn.Module, layers: Layers, known: Sequence[type[nn.Module]], *, rate: float = 0.1
) -> nn.Module:
    if not 0.0 < rate < 1.0:
        raise InputError(f"a dropout rate is above 0 and below 1, got {rate}")
    for layer in _chosen(model, layers, known).values():
        layer.dropout_before = _DROPOUTS[type(layer)](rate).train(layer.training)
        layer.register_forward_pre_hook(_drop_input)
    return model


def _drop_input(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (layer.dropout_before(inputs[0]), *inputs[1:])


_METHODS: dict[str, tuple[Sequence[type[nn.Module]], Callable[..., nn.Module]]] = {
    "mean_field": (tuple(_TWINS), _variational),
    "dropout": (tuple(_DROPOUTS), _with_dropout),
}


def _estimator(layer: nn.Module, wanted: Estimator) -> Estimator:
    """The wanted one where the layer has a choice, and else its only one."""
    known = _TWINS[type(layer)].estimators
    return wanted if len(known) > 1 else known[0]


def _chosen(model: nn.Module, layers: Layers, known: Sequence[type[nn.Module]]) -> dict[str, nn.Module]:
    """The layers that are meant, by their names; all of them can be converted."""
    candidates = _candidates(model, known)
    if layers == "all":
        chosen = candidates
    elif isinstance(layers, int):
        if not 1 <= layers <= len(candidates):
            raise InputError(
                f"{type(model).__name__} has {len(candidates)} layers with parameters, got layers={layers}"
            )
        chosen = dict([*candidates.items()][-layers:])
    else:
        names = [layers] if isinstance(layers, str) else layers
        modules = dict(model.named_modules(remove_duplicate=False))
        strange = sorted(set(names) - modules.keys())
        if strange or not names:
            raise InputError(
                f"{type(model).__name__} has no layers {', '.join(strange) or 'in an empty list'}; "
                f"it has {', '.join(candidates)}"
            )
        chosen = {name: modules[name] for name in names}
    refused = [
        f"{name or 'the model'} ({type(layer).__name__})" for name, layer in chosen.items() if type(layer) not in known
    ]
    if refused or not chosen:
        raise InputError(
            f"cannot convert {', '.join(refused) or 'a model without parameters'}; known are "
            f"{', '.join(layer.__name__ for layer in known)}: name the layers to convert with layers=[...]"
        )
    return chosen


def _candidates(model: nn.Module, known: Sequence[type[nn.Module]]) -> dict[str, nn.Module]:
    """Every module with parameters of its own but normalisation layers; what is inside a known layer is part of it."""
    found: dict[str, nn.Module] = {}
    inside: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(f"{layer}." if layer else "") for layer in inside):
            continue
        if type(module) in known:
            inside.append(name)
        elif isinstance(module, _NORMALISATIONS) or not any(True for _ in module.parameters(recurse=False)):
            continue
        found[name] = module
    return found


def _refuse_tied(model: nn.Module, chosen: dict[str, nn.Module]) -> None:
    """Two layers that share a parameter would each get their own."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    tied = [names for names in owners.values() if len(names) > 1 and set(names) & chosen.keys()]
    if tied:
        raise InputError(
            f"{' and '.join(tied[0])} share a parameter, which Bayesian layers cannot: leave them out of layers"
        )
