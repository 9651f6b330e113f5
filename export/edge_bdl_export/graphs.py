"""The graphs of a bundle, as torch modules with the names that the shipped graphs carry.

det    inputs                    -> output
trunk  inputs                    -> boundary_0 ..., density
head   boundary_0 ..., members   -> members        one chunk of members
fused  inputs, members           -> members, density   the whole bank

A head in closed form takes no members, and gives mean and covariance in place of them. Weights are built in: no graph
takes members then, fused holds all of them, and head_0, head_1 and so on hold a chunk each.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from edge_bdl.gaussian_head import Moments, draw
from edge_bdl.manifest import (
    COVARIANCE_OUTPUT,
    DENSITY_OUTPUT,
    DETERMINISTIC_OUTPUT,
    MEAN_OUTPUT,
    MEMBERS_OUTPUT,
    SELF_CONTAINED_OUTPUTS,
    VARIANCE_OUTPUT,
    StochasticInput,
)
from edge_bdl_export.cut import Cut
from edge_bdl_export.density import Density
from edge_bdl_export.member_axis import Holding, MemberAxis, member_axis

# What an input of the model cannot be called, because the graphs call something else so.
_RESERVED = re.compile(
    rf"{DENSITY_OUTPUT}|{DETERMINISTIC_OUTPUT}|{MEMBERS_OUTPUT}|{MEAN_OUTPUT}|{COVARIANCE_OUTPUT}|{VARIANCE_OUTPUT}|"
    rf"{'|'.join(SELF_CONTAINED_OUTPUTS)}|"
    r"(boundary|mask|weight|normal)_\d+"
)


@dataclass(frozen=True)
class Graph:
    """One graph to be written.

    Attributes:
        module: Takes the example's tensors by name, returns a dictionary by output name.
        example: Example inputs, by name, in order.
        outputs: Output names, in order.
    """

    module: nn.Module
    example: Mapping[str, Tensor]
    outputs: tuple[str, ...]


class Network:
    """A cut network with its example, ready to be run in torch and to be written as graphs.

    Args:
        parts: The cut.
        frame: Example inputs, in order.
        input_names: Their names.
        inputs: The member inputs.
        closed: A head in closed form and the names of its outputs; its members are draws of the outputs.
        apart: Whether members that are weights are graph inputs where they can be, for they are not stored as the
            graphs compute them.
    """

    def __init__(
        self,
        parts: Cut,
        frame: tuple[Tensor, ...],
        input_names: Sequence[str],
        inputs: Sequence[StochasticInput],
        closed: tuple[nn.Module, tuple[str, ...]] | None = None,
        apart: bool = False,
    ) -> None:
        self.parts = parts
        self.frame = frame
        self.input_names = tuple(f"{name}_in" if _RESERVED.fullmatch(name) else name for name in input_names)
        self.member_names = () if closed else tuple(item.name for item in inputs)
        self._weights = all(item.kind == "parameter" for item in inputs)
        self._apart = apart
        self.boundary_names = tuple(f"boundary_{i}" for i in range(len(parts.boundary)))
        self.boundary, self.features = self.trunk(frame)
        self.head, self.head_outputs = closed or (self._member_axis(inputs), (MEMBERS_OUTPUT,))

    def _member_axis(self, inputs: Sequence[StochasticInput]) -> MemberAxis:
        generator = torch.Generator().manual_seed(0)
        probe = [torch.rand(2, *item.shape, generator=generator) for item in inputs]
        batched = member_axis(self.parts.head, self.boundary, probe, strict=self._weights)
        return MemberAxis(self.parts.head, batched.boundary, "loop") if self.parts.unbanked else batched

    def with_parts(self, parts: Cut) -> Network:
        """The same network of other parts with the same borders."""
        other = copy.copy(self)
        other.parts = parts
        other.boundary, other.features = other.trunk(self.frame)
        if isinstance(self.head, MemberAxis):
            other.head = MemberAxis(parts.head, self.head.boundary, self.head.way)
        return other

    @property
    def axis(self) -> MemberAxis:
        """The head with its member axis; a head in closed form has none."""
        assert isinstance(self.head, MemberAxis)
        return self.head

    @property
    def built_in(self) -> bool:
        """Whether the graphs hold the members themselves: masks may be drawn anew, weights stay."""
        if not isinstance(self.head, MemberAxis) or not self._weights:
            return False
        return not (self._apart and self.head.batched)

    def holding(self, members: Sequence[Tensor]) -> nn.Module:
        """The head with members [S, ...] built in, ``(*boundary) -> [S, *output]``: together or one after the other."""
        return Holding(self.axis, members) if self.axis.batched else self.parts.unrolled(members)

    def trunk(self, frame: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Boundary and feature tensors of one frame."""
        with torch.no_grad():
            tensors = self.parts.trunk(*frame)
        cut = len(self.parts.boundary)
        return tensors[:cut], tensors[cut:]

    def members(self, boundary: Sequence[Tensor], members: Sequence[Tensor]) -> Tensor:
        """Outputs [S, *output] of members [S, ...] for one frame's boundary."""
        with torch.no_grad():
            if isinstance(self.head, MemberAxis):
                outputs: Tensor = self.head(*boundary, *members)
                return outputs
            moments = Moments(*(values.double().numpy() for values in self.head(*boundary)))
            return torch.from_numpy(draw(moments, members[0].numpy()))

    def graphs(self, members: Mapping[str, Tensor], chunk: int, density: Density | None) -> dict[str, Graph]:
        """All graphs, for a bank of ``members`` ([S, ...] each) and heads of ``chunk`` members."""
        frame = dict(zip(self.input_names, self.frame, strict=True))
        boundary = dict(zip(self.boundary_names, self.boundary, strict=True))
        members = {name: members[name] for name in self.member_names}
        scored = (DENSITY_OUTPUT,) if density is not None else ()
        outputs = (*self.head_outputs, *scored)
        graphs = {
            "det": self._wire(self._write_det, frame, (DETERMINISTIC_OUTPUT,), None),
            "trunk": self._wire(self._write_trunk, frame, (*self.boundary_names, *scored), density),
        }
        if self.built_in:
            values = list(members.values())
            for i, start in enumerate(range(0, len(values[0]), chunk)):
                head = self.holding([value[start : start + chunk] for value in values])
                graphs[f"head_{i}"] = self._wire(self._write_head, boundary, self.head_outputs, None, head)
            graphs["fused"] = self._wire(self._write_fused, frame, outputs, density, self.holding(values))
            return graphs
        some = {name: value[:chunk] for name, value in members.items()}
        graphs["head"] = self._wire(self._write_head, {**boundary, **some}, self.head_outputs, None)
        graphs["fused"] = self._wire(self._write_fused, {**frame, **members}, outputs, density)
        return graphs

    def _wire(
        self,
        write: Callable[[fx.Graph, dict[str, fx.Node], bool], dict[str, fx.Node]],
        example: Mapping[str, Tensor],
        outputs: tuple[str, ...],
        density: Density | None,
        head: nn.Module | None = None,
    ) -> Graph:
        root = nn.Module()
        root.add_module("det", self.parts.deterministic)
        root.add_module("trunk", self.parts.trunk)
        root.add_module("head", self.head if head is None else head)
        if density is not None:
            root.add_module("density", density)
        graph = fx.Graph()
        written = write(graph, {name: graph.placeholder(name) for name in example}, density is not None)
        graph.output({name: written[name] for name in outputs})
        return Graph(module=fx.GraphModule(root, graph).eval(), example=example, outputs=outputs)

    def _write_det(self, graph: fx.Graph, given: dict[str, fx.Node], scored: bool) -> dict[str, fx.Node]:
        return {DETERMINISTIC_OUTPUT: graph.call_module("det", tuple(given.values()))}

    def _write_trunk(self, graph: fx.Graph, given: dict[str, fx.Node], scored: bool) -> dict[str, fx.Node]:
        tensors = graph.call_module("trunk", tuple(given[name] for name in self.input_names))
        cut = len(self.boundary_names)
        written = {name: graph.call_function(_item, (tensors, i)) for i, name in enumerate(self.boundary_names)}
        if scored:
            features = tuple(graph.call_function(_item, (tensors, cut + i)) for i in range(len(self.features)))
            written[DENSITY_OUTPUT] = graph.call_module("density", features)
        return written

    def _write_head(self, graph: fx.Graph, given: dict[str, fx.Node], scored: bool) -> dict[str, fx.Node]:
        arguments = tuple(given[name] for name in (*self.boundary_names, *self.member_names) if name in given)
        result = graph.call_module("head", arguments)
        if len(self.head_outputs) == 1:
            return {self.head_outputs[0]: result}
        return {name: graph.call_function(_item, (result, i)) for i, name in enumerate(self.head_outputs)}

    def _write_fused(self, graph: fx.Graph, given: dict[str, fx.Node], scored: bool) -> dict[str, fx.Node]:
        written = self._write_trunk(graph, given, scored)
        return {**written, **self._write_head(graph, {**given, **written}, scored)}


def _item(tensors: Sequence[Tensor], index: int) -> Tensor:
    return tensors[index]
