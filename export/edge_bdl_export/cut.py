"""Cut: a captured graph into a trunk (computed once per frame) and a head (once per member), and back into modules.

The head is everything that depends on a stochastic node; the trunk is whatever else depends on the frame. What crosses
between them, residual connections included, is the boundary. What depends on neither is a constant, kept on whichever
side uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, fx, nn

from edge_bdl.errors import UnsupportedModelError
from edge_bdl_export.banked import unbanked
from edge_bdl_export.batchable import batchable
from edge_bdl_export.capture import Capture
from edge_bdl_export.fold import fold_norms
from edge_bdl_export.picture import Picture, first_convolution

# Of a copied node's metadata: the name of the captured node, which may have several copies.
CAPTURED = "captured"

# How a stochastic node is written into a graph that is being built: (graph, its rewritten arguments, its member input).
Rewrite = Callable[[fx.Graph, tuple[fx.Node, ...], fx.Node], fx.Node]


@dataclass(frozen=True)
class Stochastic:
    """One stochastic node of a captured graph, and how to write it.

    Attributes:
        node: A dropout call site or a parameter.
        member: Example value of one member: a mask, or the parameter.
        rewrite: Writes the node, given its member.
    """

    node: fx.Node
    member: Tensor
    rewrite: Rewrite


@dataclass(frozen=True)
class Cut:
    """A network in two parts, as modules.

    Attributes:
        deterministic: ``(*inputs) -> output``, all dropout off, parameters as trained.
        trunk: ``(*inputs) -> (*boundary, *features)``.
        head: ``(*boundary, *members) -> output`` of one member.
        boundary: The captured nodes that cross.
        features: Trunk nodes whose density can be scored: what the first convolution reads, where there is one, then
            those that the boundary was flattened from.
        picture: That convolution, at a few places.
        unrolled: The head with members built in, ``(*boundary) -> [S, *output]``, of each stochastic node's members.
        unbanked: What in the head has no operator, or only a slow one, that takes all members' weights at once.
    """

    deterministic: nn.Module
    trunk: nn.Module
    head: nn.Module
    boundary: tuple[fx.Node, ...]
    features: tuple[fx.Node, ...]
    picture: Picture | None
    unrolled: Callable[[Sequence[Tensor]], nn.Module]
    unbanked: str | None


def cut(captured: Capture, stochastic: Sequence[Stochastic]) -> Cut:
    """Cut ``captured`` at its first stochastic operations.

    Raises:
        UnsupportedModelError: The output depends on no stochastic node.
    """
    captured = fold_norms(captured, {item.node for item in stochastic})
    graph = captured.graph
    after = _downstream(graph, {item.node for item in stochastic})
    if captured.output not in after:
        raise UnsupportedModelError(
            "the output depends on nothing stochastic: the model has no torch dropout module with p > 0 on the way to "
            "its output, so there is no posterior to export"
        )
    framed = _downstream(graph, set(captured.inputs))
    boundary = tuple(
        node
        for node in graph.nodes
        if node in framed and node not in after and any(user in after for user in node.users)
    )
    first = first_convolution(captured, framed - after)
    looked_at = () if first is None else (first.all_input_nodes[0],)
    features = (*looked_at, *(_before_reshaping(node) for node in boundary))
    return Cut(
        deterministic=_module(captured, captured.inputs, (captured.output,), single=True),
        trunk=_module(captured, captured.inputs, (*boundary, *features)),
        head=batchable(_module(captured, boundary, (captured.output,), stochastic, single=True)),
        boundary=boundary,
        features=features,
        picture=None if first is None else Picture(first, captured.state),
        unrolled=partial(_unrolled, captured, boundary, stochastic),
        unbanked=unbanked(captured, {item.node for item in stochastic if item.node in captured.state}),
    )


_RESHAPES = {"view", "_unsafe_view", "reshape", "flatten", "clone", "contiguous", "unsqueeze", "squeeze", "_to_copy"}


def _before_reshaping(node: fx.Node) -> fx.Node:
    """The feature map that a boundary tensor was flattened from: pooling needs its axes."""
    while node.op == "call_function" and _operator(node) in _RESHAPES:
        node = node.all_input_nodes[0]
    return node


def _operator(node: fx.Node) -> str:
    target = node.target
    return target.name().removeprefix("aten::").partition(".")[0] if isinstance(target, torch._ops.OpOverload) else ""


def _downstream(graph: fx.Graph, seeds: set[fx.Node]) -> set[fx.Node]:
    reached = set(seeds)
    for node in graph.nodes:
        if node.op != "output" and any(source in reached for source in node.all_input_nodes):
            reached.add(node)
    return reached


def _upstream(outputs: Sequence[fx.Node], stop: set[fx.Node]) -> set[fx.Node]:
    reached: set[fx.Node] = set()
    pending = [node for node in outputs if node not in stop]
    while pending:
        node = pending.pop()
        if node in reached:
            continue
        reached.add(node)
        pending.extend(source for source in node.all_input_nodes if source not in stop)
    return reached


def _module(
    captured: Capture,
    inputs: Sequence[fx.Node],
    outputs: Sequence[fx.Node],
    stochastic: Sequence[Stochastic] = (),
    single: bool = False,
) -> fx.GraphModule:
    """The part of a captured graph from ``inputs`` (then one placeholder per member) to ``outputs``, as a module.

    Without ``stochastic``, dropout call sites pass their input on and parameters are as trained.
    """
    part = _Part(captured)
    written = {node: part.graph.placeholder(node.name) for node in inputs}
    members = {item.node: (item, part.graph.placeholder(f"member_{i}")) for i, item in enumerate(stochastic)}
    part.write(_upstream(outputs, set(inputs)), written, members)
    # An input that is also an output would have one name for two tensors.
    results = tuple(
        part.graph.call_function(torch.ops.aten.clone.default, (written[node],)) if node in inputs else written[node]
        for node in outputs
    )
    return part.module(results[0] if single else results)


def _unrolled(
    captured: Capture, boundary: Sequence[fx.Node], stochastic: Sequence[Stochastic], values: Sequence[Tensor]
) -> fx.GraphModule:
    """A head in which the members are built in: ``(*boundary) -> [S, *output]``, one member after the other.

    Args:
        captured: The graph.
        boundary: What enters.
        stochastic: The stochastic nodes.
        values: Of each of them, every member's, [S, ...].
    """
    part = _Part(captured)
    shared = {node: part.graph.placeholder(node.name) for node in boundary}
    needed = _upstream((captured.output,), set(boundary))
    after = _downstream(captured.graph, {item.node for item in stochastic})
    part.write(needed - after, shared)
    outputs = []
    for i, member in enumerate(zip(*values, strict=True)):
        written, constants = dict(shared), zip(stochastic, member, strict=True)
        part.write(
            needed & after,
            written,
            {item.node: (item, part.constant(f"{item.node.name}_{i}", value)) for item, value in constants},
        )
        outputs.append(written[captured.output])
    shape = captured.output.meta["val"].shape
    if not shape:
        return part.module(part.graph.call_function(torch.stack, (outputs,)))
    # One operator for all members, where stacking would take one for each.
    joined = part.graph.call_function(torch.cat, (outputs,))
    return part.module(part.graph.call_function(torch.reshape, (joined, (len(outputs), *shape))))


class _Part:
    """A module that is written from nodes of a captured graph."""

    def __init__(self, captured: Capture) -> None:
        self.graph = fx.Graph()
        self._captured = captured
        self._root = nn.Module()
        self._sites = {site.node for site in captured.sites}

    def write(
        self,
        nodes: set[fx.Node],
        written: dict[fx.Node, fx.Node],
        members: Mapping[fx.Node, tuple[Stochastic, fx.Node]] | None = None,
    ) -> None:
        """Write those ``nodes`` that are not yet ``written``, and note them there; stochastic ones by ``members``."""
        members, state = members or {}, self._captured.state
        for node in self._captured.graph.nodes:
            if node not in nodes or node in written:
                continue
            if node in members:
                item, member = members[node]
                arguments = tuple(written[source] for source in node.all_input_nodes)
                written[node] = item.rewrite(self.graph, arguments, member)
            elif node in self._sites:
                written[node] = written[node.args[0]]  # type: ignore[index]
            elif node in state:
                written[node] = self.constant(node.name, state[node])
            else:
                written[node] = self.graph.node_copy(node, lambda source: written[source])
                written[node].meta[CAPTURED] = node.name

    def constant(self, name: str, value: Tensor) -> fx.Node:
        """A tensor that the module holds."""
        self._root.register_buffer(f"held_{name}", value)
        return self.graph.get_attr(f"held_{name}")

    def module(self, result: fx.Node | tuple[fx.Node, ...]) -> fx.GraphModule:
        """All that was written, with this result."""
        self.graph.output(result)
        return fx.GraphModule(self._root, self.graph).eval()
