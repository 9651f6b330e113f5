"""What a person may hand over: a network as it is, or one of this project's posteriors, to be taken apart."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edge_bdl.errors import ExportError
from edge_bdl_train.methods.dropout import DropoutPosterior
from edge_bdl_train.methods.gaussian_head import GaussianHeadPosterior
from edge_bdl_train.posterior import Posterior


@dataclass(frozen=True)
class Given:
    """What is exported.

    Attributes:
        model: The network.
        members: State dicts, where they are the posterior.
        head: The posterior over the network's last layer, where it is Gaussian.
    """

    model: nn.Module
    members: Sequence[Mapping[str, Tensor]] | None = None
    head: GaussianHeadPosterior | None = None


def take_apart(
    given: nn.Module | Posterior, members: Sequence[Mapping[str, Tensor]] | None, samples: int, seed: int
) -> Given:
    """The network, and in which form its posterior is.

    Args:
        given: A network, or a fitted posterior. Dropout is the network's own; of every other posterior but a Gaussian
            last layer, members are drawn.
        members: Of a network.
        samples: How many members to draw, or all where there are fewer.
        seed: For drawing them.

    Raises:
        ExportError: A posterior came with members of its own, or has less than two.
    """
    if not isinstance(given, Posterior):
        return Given(given, members)
    if members is not None:
        raise ExportError(
            f"a {given.kind} posterior draws its own members; give it without members=..., or its network with them"
        )
    if isinstance(given, GaussianHeadPosterior):
        head = _on_the_cpu(given)
        return Given(head.network, head=head)
    if isinstance(given, DropoutPosterior):
        return Given(given.network)
    count = samples if given.size is None else min(samples, given.size)
    if count < 2:
        raise ExportError(
            f"a {given.kind} posterior of {count} member knows nothing of its uncertainty; give 2 or more"
        )
    return Given(given.network, given.sample(torch.Generator().manual_seed(seed), count))


def _on_the_cpu(head: GaussianHeadPosterior) -> GaussianHeadPosterior:
    """A copy, whole and checked as if it came from a file."""
    copied = type(head).blank(copy.deepcopy(head.network).cpu(), head.settings)
    copied.load_state_dict({name: tensor.cpu() for name, tensor in head.state_dict().items()})
    return copied
