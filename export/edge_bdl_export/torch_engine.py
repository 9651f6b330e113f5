"""Torch as an engine: a cut network that is asked what the fused graph gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_bdl.engines.base import Array, Arrays, Graph, GraphName, Held
from edge_bdl.manifest import DENSITY_OUTPUT
from edge_bdl_export.density import Density
from edge_bdl_export.graphs import Network
from edge_bdl_export.member_axis import MemberAxis
from edge_bdl_export.proof.subject import tensors


class TorchEngine:
    """A network with its bank inside, as its only graph, ``fused``.

    Args:
        network: The network.
        members: The bank as member inputs; a head in closed form makes nothing of them.
        density: The fitted density, if any.
    """

    name = "torch"
    version = f"torch {torch.__version__}"

    def __init__(self, network: Network, members: Arrays, density: Density | None) -> None:
        self.members = members
        self._network = network
        self._density = density
        self._members = [torch.from_numpy(np.array(values)) for values in members.values()]
        self._built_in = network.holding(self._members) if network.built_in else None

    def graph(self, name: GraphName) -> Graph:
        """See `Engine.graph`."""
        assert name == "fused"
        return self

    def hold(self, constants: Arrays) -> Held:
        """See `Graph.hold`; the bank is inside."""
        return Held(self, {})

    def run(self, inputs: Arrays, held: Held | None = None) -> dict[str, Array]:
        """See `Graph.run`."""
        return self.outputs(inputs, lambda module, *arguments: module(*arguments))

    def outputs(self, inputs: Arrays, call: Callable[..., Any]) -> dict[str, NDArray[np.float32]]:
        """The fused graph's outputs by name, its trunk and a head with members inside called by ``call``."""
        network = self._network
        with torch.no_grad():
            crossing = call(network.parts.trunk, *tensors(inputs))
            cut = len(network.boundary_names)
            given = dict(zip(network.head_outputs, self._head(crossing[:cut], call), strict=True))
            if self._density is not None:
                given[DENSITY_OUTPUT] = self._density(*crossing[cut:])
        return {name: values.numpy() for name, values in given.items()}

    def _head(self, boundary: tuple[Tensor, ...], call: Callable[..., Any]) -> tuple[Tensor, ...]:
        head = self._network.head
        if self._built_in is not None:
            return (call(self._built_in, *boundary),)
        return (head(*boundary, *self._members),) if isinstance(head, MemberAxis) else tuple(head(*boundary))
