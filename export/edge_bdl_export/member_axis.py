"""The member axis: a head of one member becomes one of all members at once."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Literal

import torch
from torch import Tensor, fx, nn

Way = Literal["examples", "vmap", "loop"]


class MemberAxis(nn.Module):
    """A head with the member axis S in front: ``(*boundary, *members [S, ...]) -> [S, ...]``.

    Args:
        head: One member's head.
        boundary: How many of its arguments are boundary tensors.
        way: Members go through the head as the ``examples`` of a batch, which costs nothing, but the head must have a
            batch axis; by ``torch.func.vmap``, so that a head with any layout of its own stays right; or one after the
            other, in a ``loop``.
    """

    def __init__(self, head: nn.Module, boundary: int, way: Way = "vmap") -> None:
        super().__init__()
        self.head = head
        self.boundary = boundary
        self.way = way

    @property
    def batched(self) -> bool:
        """Whether every operator takes all members at once."""
        return self.way != "loop"

    def forward(self, *tensors: Tensor) -> Tensor:
        """Outputs of all members, [S, *output]."""
        boundary, members = tensors[: self.boundary], tensors[self.boundary :]
        if self.way == "examples":
            outputs: Tensor = self.head(*boundary, *(member.flatten(0, 1) for member in members)).unsqueeze(1)
            return outputs
        if self.way == "vmap":
            return torch.func.vmap(lambda *member: self.head(*boundary, *member))(*members)
        count = members[0].shape[0]
        return torch.stack([self.head(*boundary, *(member[i] for member in members)) for i in range(count)])


class Holding(nn.Module):
    """A head with a member axis that holds the members itself: ``(*boundary) -> [S, *output]``.

    Args:
        axis: The head.
        members: Of each member input, [S, ...].
    """

    def __init__(self, axis: MemberAxis, members: Sequence[Tensor]) -> None:
        super().__init__()
        self.axis = axis
        for i, values in enumerate(members):
            self.register_buffer(f"members_{i}", values)

    def forward(self, *boundary: Tensor) -> Tensor:
        """Outputs of all members."""
        outputs: Tensor = self.axis(*boundary, *self._buffers.values())
        return outputs


@contextmanager
def _fallback(allowed: bool) -> Iterator[None]:
    """Whether vmap may run an operator that it has no rule for once per member."""
    functorch = torch._C._functorch
    before = functorch._is_vmap_fallback_enabled()
    functorch._set_vmap_fallback_enabled(before and allowed)
    try:
        yield
    finally:
        functorch._set_vmap_fallback_enabled(before)


def member_axis(
    head: nn.Module, boundary: Sequence[Tensor], members: Sequence[Tensor], strict: bool = False
) -> MemberAxis:
    """``head`` with a member axis, the cheapest way that works and agrees with the loop.

    Args:
        head: One member's head.
        boundary: Example boundary tensors.
        members: Example members, each [S, ...].
        strict: Loop also where vmap itself would run an operator once per member, for it has no rule.
    """
    looped = MemberAxis(head, len(boundary), "loop")
    as_examples = all(member.shape[1:2] == (1,) for member in members) and not _recurrent(head)
    ways: tuple[Way, ...] = ("examples", "vmap") if as_examples else ("vmap",)
    with torch.no_grad():
        expected = looped(*boundary, *members)
        tolerance = 1e-5 * float(expected.abs().max()) + 1e-12
        for way in ways:
            axis = MemberAxis(head, len(boundary), way)
            try:
                # A written graph that fails prints where, before it raises.
                with _fallback(not strict), redirect_stderr(io.StringIO()):
                    actual = axis(*boundary, *members)
            except (RuntimeError, IndexError):
                continue
            if actual.shape == expected.shape and torch.allclose(actual, expected, rtol=1e-4, atol=tolerance):
                return axis
    return looped


def _recurrent(head: nn.Module) -> bool:
    """Whether there is a recurrent layer: its state was written down for one example, and torch reads past its end."""
    names = (
        str(node.target)
        for module in head.modules()
        if isinstance(module, fx.GraphModule)
        for node in module.graph.nodes
        if node.op == "call_function"
    )
    return any(kind in name for name in names for kind in ("lstm", "gru", "rnn"))
