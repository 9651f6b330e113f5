"""``ensemble``: whole networks, of which nothing is shared but what has no weights; the preprocessing, mostly.

In the graphs they are what a bank of weights is: together where their operators take all weights at once, else one
after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from edge_bdl.errors import ExportError
from edge_bdl_export.capture import Capture
from edge_bdl_export.draws import StateDict
from edge_bdl_export.forms import weight_bank
from edge_bdl_export.forms.posterior import Posterior


def is_one(model: nn.Module, members: Sequence[StateDict]) -> bool:
    """Whether these members are networks of their own: every parameter differs between some of them."""
    return all(
        any(name in member and not torch.equal(member[name], members[0][name]) for member in members[1:])
        for name, _ in model.named_parameters()
    )


def posterior(model: nn.Module, captured: Capture, members: Sequence[StateDict]) -> Posterior:
    """The posterior that whole networks are.

    Args:
        model: One of them, at eval.
        captured: Its graph.
        members: Their state dicts.

    Raises:
        ExportError: As for a bank of weights.
    """
    return replace(weight_bank.posterior(model, captured, members), form="ensemble")


def states(networks: Sequence[nn.Module]) -> list[StateDict]:
    """What each of several networks of one architecture has learned.

    Raises:
        ExportError: They are fewer than two, or of different architectures.
    """
    if len(networks) < 2:
        raise ExportError(f"an ensemble has at least 2 networks, got {len(networks)}")
    first = networks[0].state_dict()
    for number, network in enumerate(networks):
        state = network.state_dict()
        shapes = {name: value.shape for name, value in state.items()}
        if type(network) is not type(networks[0]) or shapes != {name: value.shape for name, value in first.items()}:
            raise ExportError(
                f"network {number} is not of the first one's architecture; an ensemble of different ones would be as "
                "many graphs: export each as a bundle, or wrap them in one module that returns what they say together"
            )
    return [network.state_dict() for network in networks]
