"""Checks that draw: the masks' distribution, and Monte-Carlo moments against torch's own dropout.

Every check is a z-score under the hypothesis that all is well. The limit is corrected for the number of comparisons, so
that a sound export fails once in a million exports.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray

from edge_bdl.findings import ParityCheck
from edge_bdl.manifest import StochasticInput
from edge_bdl.sampling import draw_keep, masks
from edge_bdl_export.capture import plain_attention
from edge_bdl_export.proof.check import at_most
from edge_bdl_export.proof.subject import Arrays, EngineSubject, Subject, tensors

# Of all checks together: the masks, and the moments under each of two engines.
ERROR_RATE = 1e-6 / 3
MASK_DRAWS = 1024
# Of masks with so many units that all these draws would not fit in memory: fewer, within this many units in all.
_MASK_UNITS = 1 << 28
_FEWEST_MASK_DRAWS = 64
# Outputs whose moments are compared: all, or of a dense output so many.
MOMENT_OUTPUTS = 4096
Keep = NDArray[np.bool_]


def limit(comparisons: int) -> float:
    """Largest |z| allowed among ``comparisons`` two-sided tests, by Bonferroni."""
    return NormalDist().inv_cdf(1.0 - ERROR_RATE / (2.0 * max(1, comparisons)))


# --- masks ------------------------------------------------------------------------------------------------------------


def masks_are_dropout(subject: Subject) -> list[ParityCheck]:
    """Rate, scale and independence of the masks: the stored bank's rate, and everything of the generator behind it."""
    bank = subject.manifest.bank
    units = sum(math.prod(item.shape) for item in bank.inputs)
    draws = max(_FEWEST_MASK_DRAWS, min(MASK_DRAWS, _MASK_UNITS // units))
    keep = draw_keep(bank, bank.members, draws)
    allowed = limit(4 * len(bank.inputs))
    generator = np.random.Generator(np.random.Philox(bank.seed))
    checks = []
    for item in bank.inputs:
        drawn = keep[item.name].reshape(draws, -1)
        stored = np.asarray(subject.members[item.name]).reshape(bank.members, -1) > 0.0
        checks += [
            at_most("masks", f"bank_rate[{item.name}]", _rate_z(stored, item.rate), allowed),
            at_most("masks", f"mask_rate[{item.name}]", _rate_z(drawn, item.rate), allowed),
            at_most("masks", f"mask_units_independent[{item.name}]", _dispersion_z(drawn, item, generator), allowed),
            at_most("masks", f"mask_members_independent[{item.name}]", _agreement_z(drawn, item.rate), allowed),
            _scale(subject, item),
        ]
    return checks


def _rate_z(keep: Keep, rate: float) -> float:
    return _binomial_z(int((~keep).sum()), keep.size, rate)


def _dispersion_z(keep: Keep, item: StochasticInput, generator: np.random.Generator) -> float:
    """Do the units of one member fall independently? Then its count of dropped ones has the binomial variance."""
    draws, units = keep.shape
    counts, expected = (~keep).sum(1), generator.binomial(units, item.rate, draws)
    return _variance_z(counts.astype(np.float64), expected.astype(np.float64), 0.0)


def _agreement_z(keep: Keep, rate: float) -> float:
    """Do successive members fall independently? Then they agree in a unit with probability p^2 + (1-p)^2."""
    pairs = len(keep) // 2
    agreed = keep[0 : 2 * pairs : 2] == keep[1 : 2 * pairs : 2]
    return _binomial_z(int(agreed.sum()), agreed.size, rate**2 + (1.0 - rate) ** 2)


def _binomial_z(count: int, trials: int, probability: float) -> float:
    """Root of the deviance of a binomial count: nearly normal where the count is small too, unlike the count itself."""
    deviance = 0.0
    for seen, share in ((count, probability), (trials - count, 1.0 - probability)):
        if seen:
            deviance += 2.0 * seen * math.log(seen / (trials * share))
    return math.sqrt(max(0.0, deviance))


def _scale(subject: Subject, item: StochasticInput) -> ParityCheck:
    """A mask holds 0 and one value; for plain dropout that value keeps the mean, 1/(1-p)."""
    values = np.unique(np.asarray(subject.members[item.name]))
    foreign = values[(values != 0.0) & (values != np.float32(item.scale))]
    wanted = 1.0 if "Alpha" in item.kind else 1.0 / (1.0 - item.rate)
    error = float("inf") if foreign.size else abs(item.scale - wanted) / wanted
    return at_most("masks", f"mask_scale[{item.name}]", error, 1e-6)


# --- moments ----------------------------------------------------------------------------------------------------------


def moments_equal_torch(proved: EngineSubject, draws: int, seed: int) -> list[ParityCheck]:
    """Mean and variance over fresh masks equal those of torch's own dropout, output by output.

    Of an output of more than ``MOMENT_OUTPUTS`` elements that many are compared, drawn by ``seed``: all draws of all
    elements of a dense output would not fit in memory. (Every element is held against torch, member by member, by
    ``equality.members_equal_torch``.)

    Args:
        proved: The graphs under one engine; their subject has a sampler.
        draws: Passes on either side, per frame.
        seed: For torch's draws, and for which elements of a large output are compared.
    """
    subject = proved.subject
    watched = _watched(subject, seed)
    rounding = subject.rounding
    worst_mean = worst_variance = 0.0
    for index in range(len(subject.frames)):
        ours = _engine_draws(proved, index, draws, seed).astype(np.float64)
        theirs = _torch_draws(subject, index, draws, seed).astype(np.float64)
        worst_mean = max(worst_mean, _mean_z(ours, theirs, rounding))
        worst_variance = max(worst_variance, _variance_z(ours, theirs, rounding))
    allowed = limit(2 * len(subject.frames) * len(watched))
    return [
        at_most(proved.engine.name, f"{name}_equals_torch", value, allowed)
        for name, value in (("mean", worst_mean), ("variance", worst_variance))
    ]


def _watched(subject: Subject, seed: int) -> NDArray[np.int64]:
    """Which elements of the flattened output are compared."""
    elements = math.prod(subject.manifest.output.shape)
    if elements <= MOMENT_OUTPUTS:
        return np.arange(elements)
    return np.random.Generator(np.random.Philox(seed)).choice(elements, MOMENT_OUTPUTS, replace=False)


def _engine_draws(proved: EngineSubject, index: int, draws: int, seed: int) -> NDArray[np.generic]:
    """Watched outputs [draws, n] of the graphs for one frame, under masks that are not in the bank."""
    subject = proved.subject
    watched = _watched(subject, seed)
    passes = proved.stream(subject.frames[index], _fresh_masks(subject, draws))
    return np.concatenate([outputs.reshape(len(outputs), -1)[:, watched] for outputs in passes])


def _fresh_masks(subject: Subject, draws: int) -> Iterator[Arrays]:
    """The masks behind the bank, a chunk at a time."""
    bank = subject.manifest.bank
    for start in range(0, draws, bank.chunk):
        yield masks(bank, draw_keep(bank, bank.members + start, min(bank.chunk, draws - start)))


def _torch_draws(subject: Subject, index: int, draws: int, seed: int) -> NDArray[np.float32]:
    """Watched outputs [draws, n] of torch's own dropout for one frame; every engine is held against the same ones."""
    key = (index, draws, seed)
    if key not in subject.drawn:
        assert subject.sampler is not None
        frame, watched = tensors(subject.frames[index]), _watched(subject, seed)
        with torch.random.fork_rng(devices=[]), torch.no_grad(), plain_attention():
            torch.manual_seed(seed)
            passes = [subject.sampler(*frame).numpy().ravel()[watched] for _ in range(draws)]
        subject.drawn[key] = np.stack(passes)
    return subject.drawn[key]


def _mean_z(a: NDArray[np.float64], b: NDArray[np.float64], rounding: float) -> float:
    return two_sample_z(a, b, rounding)


def _variance_z(a: NDArray[np.float64], b: NDArray[np.float64], rounding: float) -> float:
    middle = (a.mean(0) + b.mean(0)) / 2.0
    left, right = (a - middle) ** 2, (b - middle) ** 2
    spread = np.sqrt((left.mean(0) + right.mean(0)) / 2.0)
    return two_sample_z(left, right, 2.0 * spread * rounding + rounding**2)


def two_sample_z(a: NDArray[np.float64], b: NDArray[np.float64], rounding: float | NDArray[np.float64]) -> float:
    """Difference of two means, beyond what rounding explains, over its error, which both samples give together.

    Under the hypothesis that both have one distribution, which sample a draw is in is chance; whatever that
    distribution, a difference measured against the pooled spread then has no heavier tail than the normal one
    (Hoeffding 1963). Errors from each sample by itself have: a sample without its rare draws claims to be exact.
    """
    error = np.sqrt(2.0 * np.concatenate([a, b]).var(0) / len(a)) + np.finfo(np.float64).tiny
    return _worst(np.maximum(np.abs(a.mean(0) - b.mean(0)) - rounding, 0.0) / error)


def _worst(z: NDArray[np.float64]) -> float:
    return float(z.max()) if np.isfinite(z).all() else float("inf")
