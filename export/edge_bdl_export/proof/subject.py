"""What is proved: staged graphs under one engine, beside the torch model that they must equal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edge_bdl.engines.base import Engine
from edge_bdl.manifest import MEAN_OUTPUT, MEMBERS_OUTPUT, Manifest
from edge_bdl.verification import moment_scales, tolerances
from edge_bdl_export.density import Density
from edge_bdl_export.forms.posterior import ClosedForm, Reference
from edge_bdl_export.graphs import Network

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Subject:
    """Everything the checks compare, without an engine.

    Attributes:
        manifest: As it will be shipped, but for the proof itself.
        members: The bank as member inputs, [S, *shape] float32 by name.
        frames: Frames the proof runs on, each by input name.
        model: The trained model, at eval.
        reference: Torch's answer for a frame and a member; None in closed form.
        sampler: The model with its own dropout on, None where it has none to draw (a weight bank).
        network: The cut network in torch.
        density: The fitted density, if any.
        closed: The head of a form that gives moments in place of members.
        moved: How far numbers of fewer bits move members on these frames, as a share of the output's range.
    """

    manifest: Manifest
    members: Arrays
    frames: Sequence[Arrays]
    model: nn.Module
    reference: Reference | None
    sampler: nn.Module | None
    network: Network
    density: Density | None
    closed: ClosedForm | None = None
    moved: float = 0.0

    @property
    def tolerance(self) -> float:
        """How far an engine may be from torch in the graphs' own numbers, as a share of the output's range."""
        return tolerances(self.manifest)[0]

    @property
    def rounding(self) -> float:
        """By how much outputs may differ from the model's own for other reasons than chance."""
        return (self.tolerance + self.moved) * self.output_range

    @cached_property
    def expected_moments(self) -> dict[str, NDArray[np.float64]]:
        """Torch's mean and covariance or variance [n, ...], by their names in the goldens."""
        assert self.closed is not None
        answers = [self.closed.reference(tensors(frame)) for frame in self.frames]
        rows = (np.stack([values.numpy() for values in moments]) for moments in zip(*answers, strict=True))
        return {f"fused.{spec.name}": values for spec, values in zip(self.manifest.outputs[:2], rows, strict=True)}

    @cached_property
    def expected(self) -> NDArray[np.float32]:
        """Torch's outputs [n, S, *output]: the model itself, frame by frame and member by member."""
        count = self.manifest.bank.members
        return np.stack([[self.answer(frame, self.member(i)) for i in range(count)] for frame in self.frames])

    @cached_property
    def expected_deterministic(self) -> NDArray[np.float32]:
        """Torch's outputs [n, *output] with all dropout off."""
        with torch.no_grad():
            return np.stack([self.model(*tensors(frame)).numpy() for frame in self.frames])

    @cached_property
    def expected_density(self) -> NDArray[np.float32]:
        """Torch's density [n, 1]."""
        assert self.density is not None
        with torch.no_grad():
            return np.stack([self.density(*self.network.trunk(tensors(frame))[1]).numpy() for frame in self.frames])

    @cached_property
    def drawn(self) -> dict[tuple[int, int, int], NDArray[np.float32]]:
        """What torch's own dropout drew of the outputs that are watched, by frame, number of draws and seed."""
        return {}

    @cached_property
    def output_range(self) -> float:
        """Largest minus smallest torch output: what tolerances are stated against."""
        if self.closed is not None:
            return moment_scales(self.manifest, self.expected_moments)[f"fused.{MEAN_OUTPUT}"]
        return float(self.expected.max() - self.expected.min()) or 1.0

    def member(self, index: int) -> dict[str, NDArray[np.generic]]:
        """One member's inputs."""
        return {name: values[index] for name, values in self.members.items()}

    def answer(self, frame: Arrays, member: Arrays) -> NDArray[np.float32]:
        """Torch's output for one frame under one member."""
        assert self.reference is not None
        weights = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in member.items()}
        return np.asarray(self.reference(tensors(frame), weights).numpy())


@dataclass(frozen=True)
class EngineSubject:
    """A subject under one engine."""

    subject: Subject
    engine: Engine

    def fused(self, frame: Arrays, members: Arrays | None = None) -> dict[str, NDArray[np.generic]]:
        """The fused graph's outputs for one frame, under the bank or under other members of the same number."""
        graph = self.engine.graph("fused")
        held = None
        if self.subject.manifest.member_inputs:
            held = graph.hold(self.subject.members if members is None else members)
        return {name: np.array(value) for name, value in graph.run(frame, held).items()}

    def heads(self, frame: Arrays) -> NDArray[np.generic]:
        """Outputs [S, *output] of the trunk and of heads that hold their members themselves."""
        boundary, bank = self._boundary(frame), self.subject.manifest.bank
        return np.concatenate([np.array(self.engine.graph(name).run(boundary)[MEMBERS_OUTPUT]) for name in bank.heads])

    def split(self, frame: Arrays, members: Arrays) -> NDArray[np.generic]:
        """Outputs [n, *output] of any number of members through trunk and head, chunk by chunk."""
        chunk, total = self.subject.manifest.bank.chunk, len(next(iter(members.values())))
        blocks = (
            {name: value[start : start + chunk] for name, value in members.items()} for start in range(0, total, chunk)
        )
        return np.concatenate(list(self.stream(frame, blocks)))

    def stream(self, frame: Arrays, blocks: Iterable[Arrays]) -> Iterator[NDArray[np.generic]]:
        """Outputs [n, *output] of each block of at most a chunk of members, one block at a time."""
        head, chunk = self.engine.graph("head"), self.subject.manifest.bank.chunk
        boundary = self._boundary(frame)
        for block in blocks:
            count = len(next(iter(block.values())))
            # A short block repeats its last member; what is too much is cut off below.
            rows = np.minimum(np.arange(chunk), count - 1)
            held = head.hold({name: np.ascontiguousarray(value[rows]) for name, value in block.items()})
            yield np.array(head.run(boundary, held)[MEMBERS_OUTPUT])[:count]

    def _boundary(self, frame: Arrays) -> Arrays:
        trunk = self.engine.graph("trunk").run(frame)
        return {spec.name: np.array(trunk[spec.name]) for spec in self.subject.manifest.boundary}


def tensors(frame: Arrays) -> tuple[torch.Tensor, ...]:
    """A frame as the model's positional inputs; a copy, for a model may write to its input."""
    return tuple(torch.from_numpy(np.array(value)) for value in frame.values())
