"""``weight_bank``: posterior samples or an ensemble of heads, given as state dicts, with their weights in the graphs.

The parameters and buffers that differ between the members are the stochastic ones. Where every operator takes all
members' weights well, the head has a member axis in front; else it is written once for each member.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_bdl.errors import ExportError
from edge_bdl.manifest import StochasticInput
from edge_bdl_export.capture import Capture
from edge_bdl_export.cut import Stochastic
from edge_bdl_export.forms.posterior import Posterior, Reference

StateDict = Mapping[str, Tensor]


def posterior(model: nn.Module, captured: Capture, members: Sequence[StateDict]) -> Posterior:
    """The posterior that a list of members is.

    Args:
        model: The model itself, at eval.
        captured: Its graph.
        members: State dicts, whole or only of the parameters that differ.

    Raises:
        ExportError: See ``describe``.
    """
    inputs = describe(captured, members)
    return Posterior(
        form="weight_bank",
        inputs=inputs,
        stochastic=rewrite(captured, inputs),
        reference=reference(model, inputs),
        sampler=None,
        weights=bank(inputs, members),
    )


def describe(captured: Capture, members: Sequence[StateDict]) -> tuple[StochasticInput, ...]:
    """One weight input per parameter that differs between the members.

    Raises:
        ExportError: The members are fewer than two, do not fit the model, are not finite, or are all the same.
    """
    _check(captured, members)
    differing = [name for name in captured.parameters.values() if _differs(name, members)]
    if not differing:
        raise ExportError("all members are equal, so there is no posterior in them; pass members that differ")
    return tuple(
        StochasticInput(name=f"weight_{i}", source=name, kind="parameter", shape=tuple(members[0][name].shape))
        for i, name in enumerate(differing)
    )


def _differs(name: str, members: Sequence[StateDict]) -> bool:
    return any(name in member and not torch.equal(member[name], members[0][name]) for member in members)


def _check(captured: Capture, members: Sequence[StateDict]) -> None:
    if len(members) < 2:
        raise ExportError(f"a weight bank needs at least 2 members, got {len(members)}")
    for number, member in enumerate(members):
        for name in sorted(member.keys() ^ members[0].keys()):
            has, lacks = (number, 0) if name in member else (0, number)
            raise ExportError(f"member {has} has {name!r}, member {lacks} has not; give every member the same names")
    for node, name in captured.parameters.items():
        expected = captured.state[node]
        for number, member in enumerate(members):
            if name not in member:
                continue
            if member[name].shape != expected.shape:
                got, wanted = tuple(member[name].shape), tuple(expected.shape)
                raise ExportError(f"member {number}: {name!r} has shape {got}, the model's has {wanted}")
            if not torch.isfinite(member[name]).all():
                raise ExportError(f"member {number}: {name!r} holds NaN or infinity")
        if _differs(name, members) and expected.dtype != torch.float32:
            raise ExportError(f"{name!r} is {expected.dtype} and differs between the members; only float32 may differ")
    known = set(captured.parameters.values())
    for name in members[0]:
        if name not in known and not name.endswith("num_batches_tracked"):
            raise ExportError(
                f"the members hold {name!r}, which the model does not use; its parameters: {sorted(known)}"
            )


def rewrite(captured: Capture, inputs: Sequence[StochasticInput]) -> tuple[Stochastic, ...]:
    """Each stochastic parameter is its member input."""
    nodes = {name: node for node, name in captured.parameters.items()}
    return tuple(
        Stochastic(
            node=nodes[item.source],
            member=captured.state[nodes[item.source]],
            rewrite=lambda graph, arguments, member: member,
        )
        for item in inputs
    )


def bank(inputs: Sequence[StochasticInput], members: Sequence[StateDict]) -> dict[str, NDArray[np.float32]]:
    """The members' weights, [members, *shape] per input."""
    return {
        item.name: np.stack([member[item.source].detach().cpu().float().numpy() for member in members])
        for item in inputs
    }


def reference(model: nn.Module, inputs: Sequence[StochasticInput]) -> Reference:
    """The model itself with a member's weights loaded."""
    loaded = copy.deepcopy(model).cpu().eval()

    def answer(frame: tuple[Tensor, ...], member: Mapping[str, Tensor]) -> Tensor:
        weights = {item.source: member[item.name] for item in inputs}
        with torch.no_grad():
            loaded.load_state_dict({**loaded.state_dict(), **weights})
            return loaded(*frame)

    return answer
