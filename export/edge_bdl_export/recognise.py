"""Recognise: the form that a posterior takes, and what of the network is left random in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from edge_bdl.errors import ExportError
from edge_bdl_export.arguments import Asked
from edge_bdl_export.capture import Capture
from edge_bdl_export.choose import pool_sizes
from edge_bdl_export.draws import StateDict
from edge_bdl_export.forms import ensemble, gaussian_head, mask_bank, moments, partial, weight_bank
from edge_bdl_export.forms.partial import Part
from edge_bdl_export.forms.posterior import Posterior
from edge_bdl_export.given import Given


@dataclass(frozen=True)
class Recognised:
    """A posterior in its form.

    Attributes:
        model: The network, at eval.
        captured: Its graph.
        posterior: What is random in it.
        drawn: The members that are weights, to make a bank of.
        part: Of a whole posterior, where some of it was put to its mean.
    """

    model: nn.Module
    captured: Capture
    posterior: Posterior
    drawn: Sequence[StateDict] = ()
    part: Part | None = None


def recognise(
    given: Given, model: nn.Module, captured: Capture, example: tuple[Tensor, ...], asked: Asked
) -> Recognised:
    """The posterior in the form that was asked for, or in its own.

    Args:
        given: What was handed over.
        model: Its network, at eval.
        captured: Its graph.
        example: One input.
        asked: See ``exporter.export``.

    Raises:
        UnsupportedModelError: The network cannot have that form.
        ExportError: The posterior cannot.
    """
    held, seed = asked.deterministic, asked.seed
    if asked.form == "moments":
        posterior, captured = moments.posterior(model, example, captured, held, given, asked.task, seed)
        return Recognised(model, captured, posterior)
    start = asked.stochastic_from
    head = None if asked.of_members else given.head or gaussian_head.of_independent(given, model, captured, example)
    drawn: Sequence[StateDict] = ()
    if head is not None:
        if asked.task == "classification" and asked.class_axis != 1:
            raise ExportError(
                f"the last layer's outputs are [rows, classes], and class_axis={asked.class_axis} is not where the "
                "classes are; leave it out"
            )
        posterior = gaussian_head.posterior(captured, head, asked.task)
    elif given.draws is not None:
        drawn = given.draws.pool(*pool_sizes(asked.samples, asked.selection, whole=start is None))
        whole = ensemble.is_one(model, drawn) if given.whole is None else given.whole
        posterior = (ensemble if whole else weight_bank).posterior(model, captured, drawn)
    elif asked.form == "weight_bank":
        raise ExportError("form='weight_bank' is for weights that are random, and here masks are; leave out form")
    else:
        posterior = mask_bank.posterior(model, captured, held)
    if start is None:
        return Recognised(model, captured, posterior, drawn)
    part = partial.from_layer(start, model, example, captured, held, posterior, given.draws, drawn, seed)
    return Recognised(part.model, part.captured, part.posterior, part.members, part)
