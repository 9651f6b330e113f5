"""posteriors 0.1.3: states of its algorithms, whose ``params`` are a network's parameters by name.

A state of variational inference, Laplace or a Kalman filter is a Gaussian; states of SGMCMC are samples, given as a
list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edge_bdl.errors import ExportError, UnsupportedModelError
from edge_bdl_export.adapters.base import Adapter, Member, copied, qualified

_PACKAGE = "posteriors."
Draw = Callable[[torch.Generator], Member]


class Posteriors(Adapter):
    """A network with a state of posteriors, or a list of them.

    Args:
        model: The network whose parameters the states hold. It is not changed.
        members: A state that is a Gaussian, or states of SGMCMC.

    Raises:
        ExportError: The parameters are not the network's.
        UnsupportedModelError: A state tells no distribution.
    """

    library = "posteriors"

    def __init__(self, model: nn.Module, members: Any) -> None:
        self.network = copied(model)
        states = list(members) if isinstance(members, Sequence) else [members]
        known = {name: value.shape for name, value in self.network.state_dict().items()}
        for state in states:
            _check(state, known)
        if isinstance(members, Sequence):
            self._samples = [_named(state.params) for state in states]
            self.size = len(states)
        else:
            self._draw = _gaussian(members)
            self.network.load_state_dict(_named(members.params), strict=False)

    @classmethod
    def recognises(cls, members: object) -> bool:
        """Whether it is a state of this library, or a list of them."""
        if isinstance(members, Sequence) and not isinstance(members, str):
            return len(members) > 0 and all(map(_is_state, members))
        return _is_state(members)

    def sample(self, generator: torch.Generator, n: int) -> list[Member]:
        """Draws ``n`` members, or gives the states' parameters."""
        return self._samples[:n] if self.size is not None else [self._draw(generator) for _ in range(n)]


def _is_state(value: object) -> bool:
    return qualified(type(value)).startswith(_PACKAGE) and hasattr(value, "params")


def _named(params: Any) -> dict[str, Tensor]:
    """Parameters by name, as functional_call takes them."""
    if not isinstance(params, Mapping) and not hasattr(params, "items"):
        raise ExportError(
            f"the state's params are a {type(params).__name__}; they must be named, as dict(model.named_parameters())"
        )
    return {str(name): value.detach().cpu().clone() for name, value in params.items()}


def _check(state: Any, known: Mapping[str, torch.Size]) -> None:
    for name, value in _named(state.params).items():
        if known.get(name) != value.shape:
            has = f"shape {tuple(known[name])}" if name in known else "no such parameter"
            raise ExportError(f"the state has {name!r} of shape {tuple(value.shape)}, the network has {has}")


def _gaussian(state: Any) -> Draw:
    mean = _named(state.params)
    for attribute, sigma in _DIAGONAL.items():
        if hasattr(state, attribute):
            spread = {name: sigma(value) for name, value in _named(getattr(state, attribute)).items()}
            return lambda generator: {
                name: value + spread[name] * torch.randn(value.shape, generator=generator)
                for name, value in mean.items()
            }
    for attribute, factor in _DENSE.items():
        if hasattr(state, attribute):
            return _dense(mean, factor(getattr(state, attribute).detach().cpu()))
    raise UnsupportedModelError(
        f"{type(state).__name__} is one sample, not a distribution; give members=[states] of several steps"
    )


# What each kind of state holds of its covariance, and the standard deviations, or a factor F of it: F F^T.
_DIAGONAL: Mapping[str, Callable[[Tensor], Tensor]] = {
    "log_sd_diag": torch.exp,
    "sd_diag": lambda sigma: sigma,
    "prec_diag": torch.rsqrt,
}
_DENSE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "L_factor": lambda flat: _lower(flat),
    "cov": torch.linalg.cholesky,
    "prec": lambda precision: torch.linalg.inv(torch.linalg.cholesky(precision)).mT,
}


def _lower(flat: Tensor) -> Tensor:
    """The triangular matrix whose rows follow each other in ``flat``."""
    size = round(((1 + 8 * len(flat)) ** 0.5 - 1) / 2)
    lower = torch.zeros(size, size)
    lower[tuple(torch.tril_indices(size, size))] = flat
    return lower


def _dense(mean: Mapping[str, Tensor], factor: Tensor) -> Draw:
    # The library flattens its trees with optree, which sorts the names.
    names = sorted(mean)
    sizes = [mean[name].numel() for name in names]

    def draw(generator: torch.Generator) -> Member:
        parts = (factor @ torch.randn(len(factor), generator=generator)).split(sizes)
        return {name: mean[name] + part.reshape(mean[name].shape) for name, part in zip(names, parts, strict=True)}

    return draw
