"""What a person may hand over, taken apart: a network, and where its members come from."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from edge_bdl.errors import ExportError
from edge_bdl_export.adapters import Adapter, adapt, draw_from
from edge_bdl_export.draws import Draws
from edge_bdl_export.forms import ensemble
from edge_bdl_export.forms.mask_bank import masksembles
from edge_bdl_train.methods.bank import BankPosterior
from edge_bdl_train.methods.dropout import DropoutPosterior
from edge_bdl_train.methods.ensemble import EnsemblePosterior
from edge_bdl_train.methods.gaussian_head import GaussianHeadPosterior
from edge_bdl_train.methods.masksembles import MasksemblesPosterior
from edge_bdl_train.methods.mean_field import MeanFieldPosterior
from edge_bdl_train.methods.multi_swag import MultiSwagPosterior
from edge_bdl_train.posterior import Posterior


@dataclass(frozen=True)
class Given:
    """What is exported.

    Attributes:
        model: The network.
        draws: The members, where weights are the posterior.
        head: The posterior over the network's last layer, where it is Gaussian.
        adapter: What somebody else's model was adapted by.
        whole: Whether the members are whole networks; None: if they differ in everything.
        sigmas: Standard deviations by parameter, where all random weights are independent Gaussians around the model's.
        noise: Standard deviation of a target around a member's output, where the posterior knows one for all; else 0.
    """

    model: nn.Module
    draws: Draws | None = None
    head: GaussianHeadPosterior | None = None
    adapter: Adapter | None = None
    sigmas: Mapping[str, Tensor] | None = None
    whole: bool | None = False
    noise: float = 0.0


def take_apart(given: Any, members: Any, deterministic: Sequence[str], seed: int) -> Given:
    """The network, and in which form its posterior is.

    Args:
        given: A network, a fitted posterior, or somebody else's model. Dropout is the network's own; of every other
            posterior members can be drawn.
        members: Of a network.
        deterministic: Qualified names of modules to hold at eval.
        seed: For drawing members.

    Raises:
        ExportError: It is no model, or came with members of its own, or there are less than two of them.
        UnsupportedModelError: It is of a known library, but has no members.
    """
    if members is None and isinstance(given, (list, tuple)) and all(isinstance(one, nn.Module) for one in given):
        members = ensemble.states(given)
        return Given(given[0], Draws.of(members), whole=True)
    adapter = adapt(given, members, deterministic)
    if adapter is not None:
        if adapter.size == 1:
            raise ExportError("samples must be at least 2, got 1: one member knows nothing of its uncertainty")
        draws = None if adapter.size == 0 else Draws(_drawing(adapter), adapter.size, seed)
        return Given(adapter.network, draws, adapter=adapter, sigmas=adapter.sigmas)
    if not isinstance(given, Posterior):
        return Given(given) if members is None else Given(given, _listed(members), whole=None)
    if members is not None:
        raise ExportError(
            f"a {given.kind} posterior draws its own members; give it without members=..., or its network with them"
        )
    if isinstance(given, GaussianHeadPosterior):
        head = _on_the_cpu(given)
        return Given(head.network, Draws(head.sample, None, seed, head.mean()), head=head)
    likelihood = given.settings.get("likelihood")
    noise = float(likelihood.get("noise", 0.0)) if isinstance(likelihood, Mapping) else 0.0
    if isinstance(given, DropoutPosterior):
        return Given(given.network, noise=noise)
    if isinstance(given, MasksemblesPosterior):
        return Given(masksembles(given))
    if given.size == 1:
        raise ExportError(f"a {given.kind} posterior of 1 member knows nothing of its uncertainty; give 2 or more")
    # The mean of these is only one of their members.
    mean = None if isinstance(given, BankPosterior | MultiSwagPosterior) else given.mean()
    sigmas = given.sigmas if isinstance(given, MeanFieldPosterior) else None
    whole = isinstance(given, EnsemblePosterior | MultiSwagPosterior)
    return Given(given.network, Draws(given.sample, given.size, seed, mean), sigmas=sigmas, whole=whole, noise=noise)


def _drawing(adapter: Adapter) -> Any:
    return lambda generator, count: draw_from(adapter, generator, count)


def _listed(members: Any) -> Draws:
    if not isinstance(members, Sequence) or not all(map(_is_state_dict, members)):
        kinds = sorted({type(member).__name__ for member in members}) if isinstance(members, Sequence) else ""
        raise ExportError(
            f"members is a {type(members).__name__} of {', '.join(kinds) or 'nothing known'}; give a list of state "
            "dicts, or a function that draws one"
        )
    return Draws.of(members)


def _is_state_dict(member: object) -> bool:
    return isinstance(member, Mapping) and all(isinstance(value, Tensor) for value in member.values())


def _on_the_cpu(head: GaussianHeadPosterior) -> GaussianHeadPosterior:
    """A copy, whole and checked as if it came from a file."""
    copied = type(head).blank(copy.deepcopy(head.network).cpu(), head.settings)
    copied.load_state_dict({name: tensor.cpu() for name, tensor in head.state_dict().items()})
    return copied
