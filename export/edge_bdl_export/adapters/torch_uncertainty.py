"""torch-uncertainty from 0.11: mean-field layers, Masksembles, Batch-, Packed- and deep ensembles, MC dropout.

Its wrappers repeat the input for each estimator; a bundle runs one member at a time, so they are put aside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edge_bdl.errors import ExportError
from edge_bdl_export.adapters import packed
from edge_bdl_export.adapters.base import copied, named
from edge_bdl_export.adapters.layers import Gaussian, LayerAdapter, Replacement, Rule, convolution, linear
from edge_bdl_export.capture import replace_modules

_PACKAGE = "torch_uncertainty"
_METHODS = f"{_PACKAGE}.methods"
_MC_DROPOUT = (f"{_METHODS}.mc_dropout._RegMCDropout", f"{_METHODS}.mc_dropout._MCDropout")
_WRAPPERS = (*_MC_DROPOUT, f"{_METHODS}.stochastic.StochasticModel", f"{_METHODS}.batch_ensemble.BatchEnsemble")
_ONE_PASS = "the members share one pass over several inputs, and have none of their own; train another ensemble"
_REFUSALS = {
    "layers.packed": "the members have their attention or their normalisation in common; train another ensemble",
    "models.classification.resnet.mimo": _ONE_PASS,
    "models.classification.wideresnet.mimo": _ONE_PASS,
    "models.classification.inception_time.mimo": _ONE_PASS,
    "models.segmentation.unet.mimo": _ONE_PASS,
    "layers.bayesian.lpbnn": "the noise passes through a network before it becomes weights; write an adapter",
    "layers.bayesian.abnn": "the noise is on each activation, not on weights; write an adapter",
    "layers.mc_batch_norm": "the statistics are counted through from call to call; write an adapter",
    "methods.swag": "the draws are made tensor by tensor, which is not SWAG's covariance; fit it with edge_bdl_train",
    "methods.checkpoint_collector": "each member is a whole model: give members=[m.state_dict() for m in saved_models]",
}


class _Core(nn.Module):
    """What a wrapper held, under the same name."""

    def __init__(self, core_model: nn.Module) -> None:
        super().__init__()
        self.core_model = core_model

    def forward(self, *inputs: Any) -> Any:
        return self.core_model(*inputs)


def _unwrapped(wrapper: Any) -> nn.Module:
    if named(wrapper, _MC_DROPOUT):
        on = set(wrapper.filtered_modules)
        off = [
            module
            for module in wrapper.core_model.modules()
            if isinstance(module, nn.modules.dropout._DropoutNd) and module not in on
        ]
        replace_modules(wrapper.core_model, {module: nn.Identity() for module in off})
    return _Core(wrapper.core_model)


# --- mean field -------------------------------------------------------------------------------------------------------


def _gaussians(layer: Any) -> dict[str, Gaussian]:
    if layer.frozen:
        return {}
    # What is called sigma here is rho: the layer takes its softplus.
    draws = {"weight": Gaussian.of(layer.weight_mu, layer.weight_sigma)}
    if layer.bias_mu is not None:
        draws["bias"] = Gaussian.of(layer.bias_mu, layer.bias_sigma)
    return draws


def _bayes_convolution(kind: type[nn.Module]) -> Rule:
    return lambda layer: Replacement(convolution(kind, layer, layer.weight_mu, layer.bias_mu), _gaussians(layer))


# --- implicit ensembles -----------------------------------------------------------------------------------------------


class _Scaled(nn.Module):
    """A layer whose channels are scaled before it, and perhaps after it: what tells the members apart."""

    def __init__(self, layer: nn.Module, before: Tensor, after: Tensor | None = None, bias: Tensor | None = None):
        super().__init__()
        self.layer = layer
        self.register_buffer("before", before)
        self.register_buffer("after", after)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        output = self.layer(x * self.before)
        if self.after is not None:
            output = output * self.after
        return output if self.bias is None else output + self.bias


def _per_channel(values: Tensor, layer: nn.Module) -> Tensor:
    """[members, channels] as [members, 1, channels, 1, ...], to scale what ``layer`` takes."""
    spatial = 0 if isinstance(layer, nn.Linear) else layer.weight.ndim - 2  # type: ignore[union-attr,operator]
    return values.detach().cpu().float().reshape(len(values), 1, -1, *(1 for _ in range(spatial)))


def _scaled(layer: nn.Module, **values: Tensor | None) -> Replacement:
    plain = copied(layer)
    given = {name: _per_channel(value, plain) for name, value in values.items() if value is not None}
    return Replacement(_Scaled(plain, **{name: value[0].clone() for name, value in given.items()}), values=given)


def _masked(layer: Any) -> Replacement:
    return _scaled(layer.linear if hasattr(layer, "linear") else layer.conv, before=layer.mask.masks)


def _batched(attribute: str) -> Rule:
    return lambda layer: _scaled(getattr(layer, attribute), before=layer.r_group, after=layer.s_group, bias=layer.bias)


def _ensemble(wrapper: Any) -> Replacement:
    models = list(wrapper.core_models)
    states = [model.state_dict() for model in models]
    for number, state in enumerate(states):
        if {name: value.shape for name, value in state.items()} != {n: v.shape for n, v in states[0].items()}:
            raise ExportError(
                f"core_models.{number} has other parameters than core_models.0; a bank's members are alike"
            )
    if any(TorchUncertainty.recognises(model) for model in models):
        raise ExportError("the members of the ensemble are stochastic themselves; export one of them")
    values = {
        f"core_model.{name}": torch.stack([state[name].detach().cpu() for state in states])
        for name, value in states[0].items()
        if value.is_floating_point()
    }
    return Replacement(_Core(copied(models[0])), values=values)


_RULES: dict[str, Rule] = {
    f"{_PACKAGE}.layers.bayesian.bayes_linear.BayesLinear": lambda layer: Replacement(
        linear(layer.weight_mu, layer.bias_mu), _gaussians(layer)
    ),
    **{
        f"{_PACKAGE}.layers.bayesian.bayes_conv.Bayes{kind.__name__}": _bayes_convolution(kind)
        for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    },
    **{f"{_PACKAGE}.layers.masksembles.Masked{kind}": _masked for kind in ("Linear", "Conv2d", "ConvTranspose2d")},
    **{
        f"{_PACKAGE}.layers.batch_ensemble.Batch{kind}": _batched(attribute)
        for kind, attribute in (
            ("Linear", "linear"),
            ("Conv1d", "conv"),
            ("Conv2d", "conv"),
            ("ConvTranspose2d", "conv_transpose"),
        )
    },
    **packed.RULES,
    **{f"{_METHODS}.deep_ensembles.{kind}": _ensemble for kind in ("_DeepEnsembles", "_RegDeepEnsembles")},
}


class TorchUncertainty(LayerAdapter):
    """A model with layers or wrappers of torch-uncertainty."""

    library = "torch-uncertainty"
    rules: ClassVar[Mapping[str, Rule]] = _RULES
    refusals: ClassVar[Mapping[str, str]] = {f"{_PACKAGE}.{start}.": why for start, why in _REFUSALS.items()}

    def __init__(self, model: nn.Module, deterministic: Sequence[str] = ()) -> None:
        super().__init__(model, deterministic)
        self._packed = model if packed.is_packed(model) else None

    @classmethod
    def recognises(cls, model: object) -> bool:
        """Whether a model holds layers, or is or holds a wrapper."""
        if super().recognises(model):
            return True
        return isinstance(model, nn.Module) and any(named(module, _WRAPPERS) for module in model.modules())

    def found(self, model: nn.Module) -> dict[nn.Module, Rule]:
        """The layers, and the batch norms between packed ones."""
        return {**super().found(model), **packed.norms(model)}

    def check(self, example: tuple[Tensor, ...]) -> None:
        """That a packed network's members are networks of their own."""
        if self._packed is not None:
            packed.check_apart(self._packed, self.network, self.sample(torch.Generator(), self.size or 0), example)

    def finish(self, network: nn.Module) -> nn.Module:
        """Puts the wrappers aside, and makes forwards that repeat their input for each estimator do so once."""
        # From the inside out: a wrapper may hold another.
        for module in reversed(list(network.modules())):
            if named(module, _WRAPPERS):
                network = replace_modules(network, {module: _unwrapped(module)})
        for module in network.modules():
            if isinstance(getattr(module, "num_estimators", None), int):
                module.num_estimators = 1
        return network.eval()
