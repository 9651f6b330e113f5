"""What an adapter is: somebody else's stochastic model, seen as a deterministic network and the members of it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edge_bdl.errors import UnsupportedModelError

Member = Mapping[str, Tensor]


class Adapter(ABC):
    """A stochastic model of another library, in the parts that an export takes.

    A subclass sets ``network`` when it is built, and gives ``sample``. The first adapter that recognises a model adapts
    it; one that is written outside this project is handed to ``export`` in the model's place.

    Attributes:
        library: Name of the library's distribution, whose version goes into the bundle; empty if there is none.
        network: A copy of the model, deterministic at eval, made of plain torch layers.
        size: How many members there are; None if they are drawn, as many as asked; 0 if there are none, for what is
            random in ``network`` is its dropout modules.
        sigmas: Standard deviations by parameter name, where all that is random are independent Gaussian weights around
            the network's own; None where it is something else.
        notes: What a person should know of how the members differ from what the library itself computes; one sentence
            each, for the manifest's warnings.
    """

    library: ClassVar[str] = ""
    network: nn.Module
    size: int | None = None
    sigmas: Mapping[str, Tensor] | None = None
    notes: tuple[str, ...] = ()

    @abstractmethod
    def sample(self, generator: torch.Generator, n: int) -> list[Member]:
        """Draws ``n`` members, or gives the ``n`` that there are: state dicts of what differs between them.

        Whatever else draws from torch's global generator meanwhile is seeded from ``generator`` too.
        """

    def check(self, example: tuple[Tensor, ...]) -> None:  # noqa: B027
        """Compares with the library's own model on an input, where there is something that only this shows.

        Raises:
            UnsupportedModelError: The members do not say what the model says.
        """


def qualified(cls: type) -> str:
    """The name that a class is known by here: importing no library, one can still tell its classes."""
    return f"{cls.__module__}.{cls.__qualname__}"


def named(obj: object, names: Iterable[str]) -> str | None:
    """The first of an object's classes, its own or inherited, that is among ``names``."""
    known = set(names)
    return next((name for name in map(qualified, type(obj).__mro__) if name in known), None)


def copied(model: nn.Module, replacements: Mapping[int, nn.Module] | None = None) -> nn.Module:
    """A copy of a model at eval, on the CPU.

    Args:
        model: Any module. It is not changed.
        replacements: What to put in the place of submodules, by their ``id``; those are not copied themselves.

    Raises:
        UnsupportedModelError: Some part of it cannot be copied.
    """
    memo: dict[int, Any] = dict(replacements or {})
    try:
        network = copy.deepcopy(model, memo)
    except Exception as error:  # whatever the parts of the model raise
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be copied ({error}); if it keeps results of a forward pass, run one under "
            "torch.no_grad() first"
        ) from error
    return network.cpu().eval()


def skeleton(kind: Callable[..., nn.Module], *arguments: Any, **settings: Any) -> Any:
    """A torch layer without values: initialising them would draw from the global generator."""
    return nn.utils.skip_init(kind, *arguments, **settings)
