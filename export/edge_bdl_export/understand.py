"""Understand: a model captured, its posterior recognised, the network cut; nothing is written or changed yet."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edge_bdl.findings import Flops
from edge_bdl.manifest import TensorSpec
from edge_bdl_export.arguments import Asked, Inputs, as_tensors, check_dtypes, output_spec, spec_of
from edge_bdl_export.capture import capture
from edge_bdl_export.choose import AUTO, FEWEST
from edge_bdl_export.cut import cut
from edge_bdl_export.fidelity import Reading
from edge_bdl_export.given import Given, take_apart
from edge_bdl_export.golden import frames_that_fit
from edge_bdl_export.graphs import Network
from edge_bdl_export.recognise import Recognised, recognise
from edge_bdl_export.work import flops_of

# Members per call of the head graph: what anytime sampling adds at a time.
CHUNK = 4


@dataclass(frozen=True)
class Understood:
    """A model, and what of it is random.

    Attributes:
        given: What was handed over.
        found: Its posterior.
        network: In two parts, in fp32.
        reading: How outputs are read.
        inputs: A frame.
        output: What one member says of it.
        outputs: What the fused graph gives, but for the density.
    """

    given: Given
    found: Recognised
    network: Network
    reading: Reading
    inputs: Sequence[TensorSpec]
    output: TensorSpec
    outputs: tuple[TensorSpec, ...]

    @cached_property
    def flops(self) -> Flops:
        """What each part costs."""
        return flops_of(self.network)

    def frames_that_fit(self, members: int) -> int:
        """How many golden frames there are, with so many members in the bank.

        Raises:
            ExportError: Not one would fit.
        """
        return frames_that_fit(self.inputs, self.output, self.found.posterior, members, CHUNK)


def understand(model: Any, example_input: Inputs, members: Any, asked: Asked) -> Understood:
    """See ``exporter.export`` for the arguments.

    Raises:
        UnsupportedModelError: The model is random in a way that is not understood, or cannot be captured.
        ExportError: Model, members and example do not fit each other, or what is asked.
    """
    given = take_apart(model, members, asked.deterministic, asked.seed)
    own = copy.deepcopy(given.model).cpu().eval()
    example = as_tensors(example_input)
    check_dtypes(example, asked.formats)
    captured = capture(own, example, asked.deterministic)
    if given.adapter is not None:
        given.adapter.check(example)
    reading = Reading(asked.task, asked.class_axis if asked.task == "classification" else None)
    output = output_spec(captured, reading)
    found = recognise(given, own, captured, example, asked)
    closed = found.posterior.closed
    outputs = (output,) if closed is None else closed.described.moments(output.shape)
    network = Network(
        cut(found.captured, found.posterior.stochastic),
        example,
        [node.name for node in found.captured.inputs],
        found.posterior.inputs,
        closed and (closed.head, tuple(spec.name for spec in outputs)),
        apart=asked.numbering.bank == "int8",
    )
    understood = Understood(
        given=given,
        found=found,
        network=network,
        reading=reading,
        inputs=tuple(map(spec_of, network.input_names, example)),
        output=output,
        outputs=outputs,
    )
    understood.frames_that_fit(FEWEST if asked.samples == AUTO else asked.samples)
    asked.numbering.check(found.posterior, asked.calibrated, asked.accept_loss)
    return understood
