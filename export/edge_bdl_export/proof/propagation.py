"""How close moments come to the posterior whose members they stand for, on frames that nothing was fitted on."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import torch
from torch import Tensor

from edge_bdl.findings import ParityCheck
from edge_bdl.manifest import Manifest, Propagation
from edge_bdl_export.capture import Capture
from edge_bdl_export.cut import cut
from edge_bdl_export.fidelity import Reading, epistemic, rank_correlation, statistics
from edge_bdl_export.forms.posterior import ClosedForm
from edge_bdl_export.frames import FIGURES, CalibrationFrames
from edge_bdl_export.graphs import Network
from edge_bdl_export.proof.check import above, at_a_cost, at_most
from edge_bdl_export.proof.subject import tensors
from edge_bdl_export.seen import Seen

# Of the members' standard deviation.
MEAN_ERROR = 0.5
# Either way.
DEVIATION_RATIO = 1.5
EPISTEMIC_SPEARMAN = 0.8
# What members on all frames may cost, in multiply-accumulates, and frames within that.
_WORK = 200_000_000_000
_FRAMES = (48, 256)
# Draws of Gaussian logits that stand for their softmax.
_DRAWS = 1024


def compare(
    closed: ClosedForm, captured: Capture, frames: CalibrationFrames, reading: Reading, example: Network, work: int
) -> Propagation:
    """Measure mean, deviation and the rank of the epistemic score against members of the posterior.

    Args:
        closed: The moments, and the posterior they come close to.
        captured: The network's graph.
        frames: All calibration frames.
        reading: How outputs are read.
        example: The network as it is written.
        work: Multiply-accumulates of one member.
    """
    assert closed.whole is not None
    assert isinstance(closed.described, Propagation)
    whole = closed.whole.posterior
    parts = cut(captured, whole.stochastic)
    sampled = Network(parts, example.frame, example.input_names, whole.inputs)
    blocks = list(closed.whole.members())
    count = sum(len(next(iter(block.values()))) for block in blocks)
    limit = max(_FRAMES[0], min(_FRAMES[1], _WORK // max(1, work * count)))
    chosen = frames.part(FIGURES).thinned(limit)
    rows = [closed.reference(tensors(frame)) for frame in chosen]
    mean, variance = (torch.stack(values) for values in zip(*rows, strict=True))
    seen = Seen(sampled, chosen, reading)
    total = square = stats = torch.zeros(())
    for block in blocks:
        for outputs in seen.outputs(block):
            centred = outputs.double() - mean
            total, square = total + centred, square + centred**2
            stats = stats + statistics(outputs[:, None], reading)[:, 0]
    # Around our own mean, so that no digits are lost; the variance is around theirs.
    difference = total / count
    theirs = (square / count - difference**2) * (count / (count - 1))
    uncertain = theirs > 0.0
    ratio = (variance[uncertain] / theirs[uncertain]).sqrt()
    scores = [epistemic(each, reading.task).amax(-1).numpy() for each in (stats / count, _own(mean, variance, reading))]
    return msgspec.structs.replace(
        closed.described,
        frames=len(chosen),
        reference_members=count,
        mean_error=float((difference.square().mean() / theirs.mean().clamp_min(1e-300)).sqrt()),
        deviation_ratio=float(ratio.median()) if ratio.numel() else 0.0,
        epistemic_spearman=rank_correlation(scores[0], scores[1]),
    )


def _own(mean: Tensor, variance: Tensor, reading: Reading) -> Tensor:
    """Mean statistics [n, m, K] of Gaussian outputs."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(())
    for _ in range(_DRAWS):
        outputs = mean + variance.sqrt() * torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        total = total + statistics(outputs[:, None], reading)[:, 0]
    own = total / _DRAWS
    if reading.task != "classification":
        targets = mean.shape[-1] // (2 if reading.task == "heteroscedastic" else 1)
        known = [part[..., :targets].flatten(1) for part in (mean, mean.square() + variance)]
        own = torch.stack([*known, own[..., 2]], dim=-1)
    return own


def checks(found: Propagation) -> list[ParityCheck]:
    """What is allowed."""
    ratio = found.deviation_ratio
    return [
        at_most("torch", "moments_mean_error", found.mean_error, MEAN_ERROR),
        at_most("torch", "moments_deviation_off", max(ratio, 1.0 / ratio if ratio else np.inf), DEVIATION_RATIO),
        above("torch", "moments_epistemic_spearman", found.epistemic_spearman, EPISTEMIC_SPEARMAN),
    ]


def accepted(manifest: Manifest, found: Sequence[ParityCheck], accept_loss: bool) -> Manifest:
    """The manifest, with a warning where moments beyond the limits are accepted.

    Raises:
        ProofError: There are such, and they are not.
    """
    failed = [f"{c.check} {c.value:.3g}, limit {c.limit:.3g}" for c in found if not c.passed]
    if not failed:
        return manifest
    cost = f"the moments are not close enough to the posterior's members ({'; '.join(failed)})"
    remedy = "export members without form='moments', keep randomness to later layers"
    return at_a_cost(manifest, cost, remedy, accept_loss)
