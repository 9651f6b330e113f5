"""bayesian-torch 0.5: mean-field layers, by reparameterisation (Blundell et al. 2015) or Flipout (Wen et al. 2018).

A member is one draw of all weights, for the whole input. That is the posterior; the library's forward pass adds to it
what keeps gradients quiet in training, and each of that is noted in the bundle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edge_bdl_export.adapters.layers import Gaussian, LayerAdapter, Replacement, Rule, convolution, linear

_PACKAGE = "bayesian_torch.layers"
_FLIPOUT = (
    "bayesian-torch's Flipout layers flip signs at each position; members here are draws of the same posterior of the "
    "weights: each unit has the same variance, positions of one input vary together"
)
_RECURRENT = (
    "bayesian-torch's LSTM draws its weights anew at every time step; members here are one draw for the whole "
    "sequence, which is what the posterior says, and varies more"
)
_QUANTISED = "the weights are integers already; export the model before quantising it"


def _without_divergence(module: nn.Module, arguments: Any, output: Any) -> Any:
    if isinstance(output, tuple) and len(output) == 2 and not isinstance(output[1], tuple) and _is_scalar(output[1]):
        return output[0]
    return output


def _is_scalar(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.ndim == 0)


class _WithDivergence(nn.Module):
    """A plain layer that is called as the library's are, and returns a divergence of zero where those return theirs."""

    def __init__(self, layer: nn.Module, bare: bool) -> None:
        super().__init__()
        self.layer = layer
        self.bare = bare

    def forward(self, x: Tensor, return_kl: bool = True) -> Any:
        output = self.layer(x)
        return output if self.bare or not return_kl else (output, torch.zeros(()))


class _Lstm(nn.Module):
    """The library's LSTM: gates in the order input, forget, cell, output; it returns the cells of all steps."""

    def __init__(self, ih: nn.Linear, hh: nn.Linear, bare: bool) -> None:
        super().__init__()
        self.ih = ih
        self.hh = hh
        self.bare = bare

    def forward(self, x: Tensor, hidden_states: tuple[Tensor, Tensor] | None = None, return_kl: bool = True) -> Any:
        zeros = x.new_zeros(x.shape[0], self.hh.in_features)
        hidden, cell = (zeros, zeros) if hidden_states is None else hidden_states
        hiddens, cells = [], []
        for step in x.unbind(1):
            entry, forget, candidate, exit_ = (self.ih(step) + self.hh(hidden)).chunk(4, dim=1)
            cell = forget.sigmoid() * cell + entry.sigmoid() * candidate.tanh()
            hidden = exit_.sigmoid() * cell.tanh()
            hiddens.append(hidden)
            cells.append(cell)
        sequence, states = torch.stack(hiddens, 1), torch.stack(cells, 1)
        if self.bare or not return_kl:
            return sequence, (sequence, states)
        return sequence, (sequence, states), torch.zeros(())


class _Dropout(nn.Module):
    """The library's dropout takes and returns pairs of output and divergence."""

    def __init__(self, rate: float, inplace: bool) -> None:
        super().__init__()
        self.dropout = nn.Dropout(rate, inplace)

    def forward(self, pair: Any) -> Any:
        return self.dropout(pair[0]), 0


def _gaussians(layer: Any, weight: str, prefix: str = "") -> dict[str, Gaussian]:
    draws = {f"{prefix}weight": Gaussian.of(getattr(layer, f"mu_{weight}"), getattr(layer, f"rho_{weight}"))}
    if layer.mu_bias is not None:
        draws[f"{prefix}bias"] = Gaussian.of(layer.mu_bias, layer.rho_bias)
    return draws


def _replaced(layer: Any, plain: nn.Module, weight: str, note: str | None) -> Replacement:
    bare = bool(layer.dnn_to_bnn_flag)
    return Replacement(_WithDivergence(plain, bare), _gaussians(layer, weight, "layer."), note=note)


def _linear(note: str | None) -> Rule:
    return lambda layer: _replaced(layer, linear(layer.mu_weight, layer.mu_bias), "weight", note)


def _convolution(kind: type[nn.Module], note: str | None) -> Rule:
    return lambda layer: _replaced(layer, convolution(kind, layer, layer.mu_kernel, layer.mu_bias), "kernel", note)


def _lstm(layer: Any) -> Replacement:
    ih, hh = (linear(part.mu_weight, part.mu_bias) for part in (layer.ih, layer.hh))
    return Replacement(
        _Lstm(ih, hh, bool(layer.dnn_to_bnn_flag)),
        {**_gaussians(layer.ih, "weight", "ih."), **_gaussians(layer.hh, "weight", "hh.")},
        note=_RECURRENT,
    )


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_RULES: dict[str, Rule] = {
    f"{_PACKAGE}.variational_layers.linear_variational.LinearReparameterization": _linear(None),
    f"{_PACKAGE}.flipout_layers.linear_flipout.LinearFlipout": _linear(_FLIPOUT),
    f"{_PACKAGE}.variational_layers.rnn_variational.LSTMReparameterization": _lstm,
    f"{_PACKAGE}.flipout_layers.rnn_flipout.LSTMFlipout": _lstm,
    **{
        f"{_PACKAGE}.variational_layers.conv_variational.{kind.__name__}Reparameterization": _convolution(kind, None)
        for kind in _CONVOLUTIONS
    },
    **{
        f"{_PACKAGE}.flipout_layers.conv_flipout.{kind.__name__}Flipout": _convolution(kind, _FLIPOUT)
        for kind in _CONVOLUTIONS
    },
    f"{_PACKAGE}.dropout.Dropout": lambda layer: Replacement(_Dropout(layer.p, layer.inplace)),
}


class BayesianTorch(LayerAdapter):
    """A model with layers of bayesian-torch, also one made by ``dnn_to_bnn``."""

    library = "bayesian-torch"

    rules: ClassVar[Mapping[str, Rule]] = _RULES
    refusals: ClassVar[Mapping[str, str]] = {
        f"{_PACKAGE}.variational_layers.quantize_": _QUANTISED,
        f"{_PACKAGE}.flipout_layers.quantized_": _QUANTISED,
    }

    def finish(self, network: nn.Module) -> nn.Module:
        """Drops the divergence from what the model returns."""
        if any(isinstance(module, _WithDivergence | _Lstm | _Dropout) for module in network.modules()):
            network.register_forward_hook(_without_divergence)
        return network
