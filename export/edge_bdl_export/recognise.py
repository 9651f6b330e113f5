"""Recognise: the form that a posterior takes, and what of the network is left random in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from edge_bdl.manifest import Selection, Task
from edge_bdl_export.capture import Capture
from edge_bdl_export.choose import Samples, pool_sizes
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
    given: Given,
    model: nn.Module,
    captured: Capture,
    example: tuple[Tensor, ...],
    *,
    form: str | None,
    stochastic_from: str | None,
    deterministic: Sequence[str],
    task: Task,
    samples: Samples,
    selection: Selection,
    seed: int,
) -> Recognised:
    """The posterior in the form that was asked for, or in its own; see ``exporter.export`` for the arguments.

    Raises:
        UnsupportedModelError: The network cannot have that form.
        ExportError: The posterior cannot.
    """
    if form == "moments":
        posterior, captured = moments.posterior(model, example, captured, deterministic, given, task, seed)
        return Recognised(model, captured, posterior)
    drawn: Sequence[StateDict] = ()
    if given.head is not None:
        posterior = gaussian_head.posterior(captured, given.head, task)
    elif given.draws is not None:
        drawn = given.draws.pool(*pool_sizes(samples, selection, whole=stochastic_from is None))
        whole = ensemble.is_one(model, drawn) if given.whole is None else given.whole
        posterior = (ensemble if whole else weight_bank).posterior(model, captured, drawn)
    else:
        posterior = mask_bank.posterior(model, captured, deterministic)
    if stochastic_from is None:
        return Recognised(model, captured, posterior, drawn)
    part = partial.from_layer(
        stochastic_from, model, example, captured, deterministic, posterior, given.draws, drawn, seed
    )
    return Recognised(part.model, part.captured, part.posterior, part.members, part)
