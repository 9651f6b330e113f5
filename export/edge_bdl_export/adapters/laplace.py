"""laplace-torch 0.3: Gaussian posteriors around a trained network (Daxberger et al. 2021, arXiv 2106.14806).

Last layer, subnetwork or all weights, of any structure: the library's own ``sample`` knows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edge_bdl.errors import UnsupportedModelError
from edge_bdl_export.adapters.base import Adapter, Member, copied, named

_WEIGHTS = "laplace.baselaplace.ParametricLaplace"
_LAST_LAYER = "laplace.lllaplace.LLLaplace"
_FUNCTIONS = "laplace.baselaplace.BaseFunctionalLaplace"
# Whose hooks gather curvature; at inference they only get in the way.
_CURVATURE = ("laplace", "backpack", "asdl", "asdfghjkl")


class LaplaceTorch(Adapter):
    """What ``laplace.Laplace(...)`` gives, after ``fit``.

    Args:
        model: The fitted posterior. It is not changed.
        deterministic: Does not apply: what is random was chosen when it was fitted.

    Raises:
        UnsupportedModelError: It is a posterior over functions, or was not fitted.
    """

    library = "laplace-torch"

    def __init__(self, model: object, deterministic: Sequence[str] = ()) -> None:
        posterior: Any = model
        kind = type(posterior).__name__
        if named(posterior, [_FUNCTIONS]):
            raise UnsupportedModelError(
                f"{kind} is a posterior over functions and has no weights to draw; fit one with "
                "subset_of_weights='last_layer' or 'all' and a Hessian structure"
            )
        # Until it is fitted, its mean is the prior's: one number.
        if not isinstance(posterior.mean, Tensor) or posterior.mean.numel() != posterior.n_params:
            raise UnsupportedModelError(f"{kind} was not fitted; call fit(train_loader) first")
        last = bool(named(posterior, [_LAST_LAYER]))
        theirs = posterior.model.model if last else posterior.model
        random = list(posterior.model.last_layer.parameters()) if last else list(posterior.params)
        names = {id(parameter): name for name, parameter in theirs.named_parameters()}
        self._posterior = posterior
        self._shapes = [(names[id(parameter)], parameter.shape) for parameter in random]
        self.network = _without_hooks(copied(theirs))
        self.network.load_state_dict(self._state(posterior.mean), strict=False)
        self.notes = _notes(posterior, last)

    @classmethod
    def recognises(cls, model: object) -> bool:
        """Whether it is a posterior of this library."""
        return named(model, [_WEIGHTS, _FUNCTIONS]) is not None

    def sample(self, generator: torch.Generator, n: int) -> list[Member]:
        """Draws ``n`` members."""
        device = self._posterior._device
        if device != generator.device:
            generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return [self._state(weights) for weights in self._posterior.sample(n, generator=generator)]

    def _state(self, weights: Tensor) -> Member:
        """Named parameters from the vector of all that are random."""
        parts = weights.detach().cpu().split([shape.numel() for _, shape in self._shapes])
        return {name: part.reshape(shape).clone() for (name, shape), part in zip(self._shapes, parts, strict=True)}


def _without_hooks(network: nn.Module) -> nn.Module:
    for module in network.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            for key, hook in list(hooks.items()):
                if getattr(hook, "__module__", "").partition(".")[0] in _CURVATURE:
                    del hooks[key]
    return network


def _notes(posterior: Any, last: bool) -> tuple[str, ...]:
    notes = ()
    if not last:
        notes += (
            "members are the network at drawn weights (laplace-torch's pred_type='nn'); its default, 'glm', linearises "
            "the network and gives other moments",
        )
    if str(getattr(posterior.likelihood, "value", posterior.likelihood)) == "regression":
        notes += ("laplace-torch's sigma_noise is not in the bundle: the members' spread is epistemic alone",)
    return notes
