"""BLiTZ 0.2.8: mean-field layers (Blundell et al. 2015).

The values are the samplers': ``weight_mu`` beside them is an alias that a copy of the model no longer shares, and that
only frozen layers compute with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edge_bdl.errors import UnsupportedModelError
from edge_bdl_export.adapters.base import skeleton
from edge_bdl_export.adapters.layers import Gaussian, LayerAdapter, Replacement, Rule, convolution, filled, linear

_PACKAGE = "blitz.modules"


def _mean(layer: Any, name: str) -> Tensor:
    return getattr(layer, f"{name}_mu") if layer.freeze else getattr(layer, f"{name}_sampler").mu


def _draws(layer: Any, names: Mapping[str, str]) -> dict[str, Gaussian]:
    if layer.freeze:
        return {}
    samplers = {name: getattr(layer, f"{theirs}_sampler") for name, theirs in names.items()}
    return {name: Gaussian.of(sampler.mu, sampler.rho) for name, sampler in samplers.items()}


def _with_bias(layer: Any, build: Callable[[Tensor, Tensor | None], nn.Module]) -> Replacement:
    names = {"weight": "weight", "bias": "bias"} if layer.bias else {"weight": "weight"}
    bias = _mean(layer, "bias") if layer.bias else None
    return Replacement(build(_mean(layer, "weight"), bias), _draws(layer, names))


def _convolution(kind: type[nn.Module]) -> Rule:
    return lambda layer: _with_bias(layer, lambda weight, bias: convolution(kind, layer, weight, bias))


def _embedding(layer: Any) -> Replacement:
    if layer.max_norm is not None:
        raise UnsupportedModelError(
            "BayesianEmbedding with max_norm changes its weights as it runs; export one without max_norm"
        )
    embedding = skeleton(nn.Embedding, layer.num_embeddings, layer.embedding_dim, padding_idx=layer.padding_idx)
    return Replacement(filled(embedding, weight=_mean(layer, "weight")), _draws(layer, {"weight": "weight"}))


class _Recurrent(nn.Module):
    """What BLiTZ's recurrent layers share: weights [features, 4 * units], one draw for the whole sequence."""

    def __init__(self, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor) -> None:
        super().__init__()
        filled(self, weight_ih=weight_ih, weight_hh=weight_hh, bias=bias)
        self.units = weight_hh.shape[0]


class _Lstm(_Recurrent):
    """Gates in the order input, forget, cell, output."""

    def forward(self, x: Tensor, hidden_states: tuple[Tensor, Tensor] | None = None) -> Any:
        zeros = x.new_zeros(x.shape[0], self.units)
        hidden, cell = (zeros, zeros) if hidden_states is None else hidden_states
        hiddens = []
        for step in x.unbind(1):
            gates = step @ self.weight_ih + hidden @ self.weight_hh + self.bias
            entry, forget, candidate, exit_ = gates.chunk(4, dim=1)
            cell = forget.sigmoid() * cell + entry.sigmoid() * candidate.tanh()
            hidden = exit_.sigmoid() * cell.tanh()
            hiddens.append(hidden)
        return torch.stack(hiddens, 1), (hidden, cell)


class _Peephole(_Recurrent):
    """BLiTZ's LSTM with peephole: its gates see the cell in place of the output."""

    def forward(self, x: Tensor, hidden_states: tuple[Tensor, Tensor] | None = None) -> Any:
        zeros = x.new_zeros(x.shape[0], self.units)
        hidden, cell = (zeros, zeros) if hidden_states is None else hidden_states
        hiddens = []
        for step in x.unbind(1):
            entering = step @ self.weight_ih + self.bias
            entry, forget, _, exit_ = (entering + cell @ self.weight_hh).chunk(4, dim=1)
            cell = forget.sigmoid() * cell + entry.sigmoid() * entering.chunk(4, dim=1)[2].sigmoid()
            hidden = (exit_.sigmoid() * cell).tanh()
            hiddens.append(hidden)
        return torch.stack(hiddens, 1), (hidden, cell)


class _Gru(_Recurrent):
    """Parts in the order reset, update, candidate from the input, candidate from the state."""

    def forward(self, x: Tensor, hidden_states: Tensor | None = None) -> Any:
        hidden = x.new_zeros(x.shape[0], self.units) if hidden_states is None else hidden_states
        hiddens = []
        for step in x.unbind(1):
            from_input = (step @ self.weight_ih).chunk(4, dim=1)
            from_state = (hidden @ self.weight_hh).chunk(4, dim=1)
            bias = self.bias.chunk(4)
            reset, update = ((from_input[i] + from_state[i] + bias[i]).sigmoid() for i in (0, 1))
            candidate = (from_input[2] + bias[2] + reset * (from_state[3] + bias[3])).tanh()
            hidden = (1 - update) * candidate + update * hidden
            hiddens.append(hidden)
        return torch.stack(hiddens, 1), hidden


def _recurrent(layer: Any, kind: type[_Recurrent]) -> Replacement:
    if not layer.use_bias:
        raise UnsupportedModelError(
            f"{type(layer).__name__} without bias does not run in BLiTZ 0.2.8 itself; train one with bias=True"
        )
    if layer.freeze and kind is _Peephole:
        raise UnsupportedModelError(
            "a frozen BayesianLSTM with peephole computes something else than an unfrozen one in BLiTZ 0.2.8; unfreeze "
            "it, and hold it with deterministic=[its name]"
        )
    names = {name: name for name in ("weight_ih", "weight_hh", "bias")}
    return Replacement(kind(*(_mean(layer, name) for name in names)), _draws(layer, names))


_RULES: dict[str, Rule] = {
    f"{_PACKAGE}.linear_bayesian_layer.BayesianLinear": lambda layer: _with_bias(layer, linear),
    f"{_PACKAGE}.conv_bayesian_layer.BayesianConv1d": _convolution(nn.Conv1d),
    f"{_PACKAGE}.conv_bayesian_layer.BayesianConv2d": _convolution(nn.Conv2d),
    f"{_PACKAGE}.conv_bayesian_layer.BayesianConv3d": _convolution(nn.Conv3d),
    f"{_PACKAGE}.embedding_bayesian_layer.BayesianEmbedding": _embedding,
    f"{_PACKAGE}.lstm_bayesian_layer.BayesianLSTM": lambda layer: _recurrent(
        layer, _Peephole if layer.peephole else _Lstm
    ),
    f"{_PACKAGE}.gru_bayesian_layer.BayesianGRU": lambda layer: _recurrent(layer, _Gru),
}


class Blitz(LayerAdapter):
    """A model with layers of BLiTZ."""

    library = "blitz-bayesian-pytorch"
    rules: ClassVar[Mapping[str, Rule]] = _RULES
    refusals: ClassVar[Mapping[str, str]] = {
        "blitz.utils.layer_wrappers.": (
            "no draw of the weights computes what it does: its noise multiplies the mean too; train and export the "
            "layer without the wrapper"
        ),
    }
