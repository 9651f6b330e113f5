"""Cut: a captured graph into a trunk (computed once per frame) and a head (once per member), and back into modules.

The head is everything that depends on a stochastic node; the trunk is whatever else depends on the frame. What crosses
between them, residual connections included, is the boundary. What depends on neither is a constant, kept on whichever
side uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from edge_bdl.errors import UnsupportedModelError
from edge_bdl_export.batchable import batchable
from edge_bdl_export.capture import Capture
from edge_bdl_export.fold import fold_norms

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
        features: The trunk nodes that the boundary was flattened from, whose density can be scored.
    """

    deterministic: nn.Module
    trunk: nn.Module
    head: nn.Module
    boundary: tuple[fx.Node, ...]
    features: tuple[fx.Node, ...]


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
    features = tuple(_before_reshaping(node) for node in boundary)
    return Cut(
        deterministic=_module(captured, captured.inputs, (captured.output,), single=True),
        trunk=_module(captured, captured.inputs, (*boundary, *features)),
        head=batchable(_module(captured, boundary, (captured.output,), stochastic, single=True)),
        boundary=boundary,
        features=features,
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
    root = nn.Module()
    graph = fx.Graph()
    written: dict[fx.Node, fx.Node] = {node: graph.placeholder(node.name) for node in inputs}
    members = {item.node: (item, graph.placeholder(f"member_{i}")) for i, item in enumerate(stochastic)}
    sites = {site.node for site in captured.sites}
    needed = _upstream(outputs, set(inputs))
    for node in captured.graph.nodes:
        if node not in needed:
            continue
        if node in members:
            item, placeholder = members[node]
            arguments = tuple(written[source] for source in node.all_input_nodes)
            written[node] = item.rewrite(graph, arguments, placeholder)
        elif node in sites:
            written[node] = written[node.args[0]]  # type: ignore[index]
        elif node in captured.state:
            written[node] = graph.get_attr(_hold(root, node.name, captured.state[node]))
        else:
            written[node] = graph.node_copy(node, lambda source: written[source])
    # An input that is also an output would have one name for two tensors.
    results = tuple(
        graph.call_function(torch.ops.aten.clone.default, (written[node],)) if node in inputs else written[node]
        for node in outputs
    )
    graph.output(results[0] if single else results)
    return fx.GraphModule(root, graph).eval()


def _hold(root: nn.Module, name: str, value: Tensor) -> str:
    attribute = f"held_{name}"
    if not hasattr(root, attribute):
        root.register_buffer(attribute, value)
    return attribute


class MemberAxis(nn.Module):
    """A head with the member axis S in front: ``(*boundary, *members [S, ...]) -> [S, ...]``.

    The axis comes from ``torch.func.vmap`` over the members, so that a head with any layout of its own batch axis stays
    right. A head that vmap cannot batch runs once per member.
    """

    def __init__(self, head: nn.Module, boundary: int, batched: bool = True) -> None:
        super().__init__()
        self.head = head
        self.boundary = boundary
        self.batched = batched

    def forward(self, *tensors: Tensor) -> Tensor:
        """Outputs of all members, [S, *output]."""
        boundary, members = tensors[: self.boundary], tensors[self.boundary :]
        if self.batched:
            return torch.func.vmap(lambda *member: self.head(*boundary, *member))(*members)
        count = members[0].shape[0]
        return torch.stack([self.head(*boundary, *(member[i] for member in members)) for i in range(count)])


def member_axis(head: nn.Module, boundary: Sequence[Tensor], members: Sequence[Tensor]) -> MemberAxis:
    """``head`` with a member axis: batched by vmap where that works and agrees with the loop, else looped.

    Args:
        head: One member's head.
        boundary: Example boundary tensors.
        members: Example members, each [S, ...].
    """
    looped = MemberAxis(head, len(boundary), batched=False)
    batched = MemberAxis(head, len(boundary), batched=True)
    with torch.no_grad():
        expected = looped(*boundary, *members)
        try:
            actual = batched(*boundary, *members)
        except RuntimeError:
            return looped
    close = torch.allclose(actual, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()) + 1e-12)
    return batched if close else looped
