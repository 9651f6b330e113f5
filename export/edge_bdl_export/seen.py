"""Seen: frames as a network's head sees them, ready to be shown to any number of members."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_bdl_export.fidelity import Reading, statistics
from edge_bdl_export.frames import CalibrationFrames
from edge_bdl_export.graphs import Network
from edge_bdl_export.member_axis import MemberAxis, member_axis
from edge_bdl_export.proof.subject import tensors

Members = Mapping[str, NDArray[np.float32]]

# Frames that go through the head at once.
_AT_ONCE = 128


class Seen:
    """Frames behind the trunk, which runs over them once.

    Args:
        network: What sees them.
        frames: At least one.
        reading: How an output is read.
    """

    def __init__(self, network: Network, frames: CalibrationFrames, reading: Reading) -> None:
        rows = [network.trunk(tensors(frame))[0] for frame in frames]
        self.boundary = [torch.stack(values) for values in zip(*rows, strict=True)]
        self._network = network
        self.reading = reading
        self._axis: MemberAxis | None = None

    def __len__(self) -> int:
        return len(self.boundary[0])

    def each(self, members: Members) -> Iterator[Tensor]:
        """Statistics float64 [n, m, K] of one member after the other."""
        if isinstance(self._network.head, MemberAxis):
            for outputs in self.outputs(members):
                yield statistics(outputs[:, None], self.reading)[:, 0]
        else:
            values = [torch.from_numpy(value) for value in members.values()]
            rows = zip(*self.boundary, strict=True)
            outputs = torch.stack([self._network.members(row, values) for row in rows])
            yield from statistics(outputs, self.reading).unbind(1)

    def outputs(self, members: Members) -> Iterator[Tensor]:
        """Outputs [n, *output] of one member after the other."""
        values = [torch.from_numpy(value) for value in members.values()]
        for row in zip(*values, strict=True):
            yield self._outputs(row)

    def mean(self, blocks: Iterable[Members]) -> Tensor:
        """Mean statistics [n, m, K] of all members, given a block at a time."""
        total, count = torch.zeros(()), 0
        for block in blocks:
            for stats in self.each(block):
                total, count = total + stats, count + 1
        return total / count

    def _outputs(self, member: Sequence[Tensor]) -> Tensor:
        """One member's outputs [n, *output]."""
        if self._axis is None:
            self._axis = frame_axis(self._network.parts.head, member, self.boundary)
        with torch.no_grad():
            parts = zip(*(values.split(_AT_ONCE) for values in self.boundary), strict=True)
            return torch.cat([self._axis(*member, *part) for part in parts])


class _MembersFirst(nn.Module):
    """A head with its members in front: they are what all frames share."""

    def __init__(self, head: nn.Module, members: int) -> None:
        super().__init__()
        self.head = head
        self.members = members

    def forward(self, *tensors: Tensor) -> Tensor:
        outputs: Tensor = self.head(*tensors[self.members :], *tensors[: self.members])
        return outputs


def frame_axis(head: nn.Module, members: Sequence[Tensor], boundary: Sequence[Tensor]) -> MemberAxis:
    """A head over frames: ``(*members, *boundary [n, ...]) -> [n, ...]``."""
    return member_axis(_MembersFirst(head, len(members)), members, [values[:2] for values in boundary])
