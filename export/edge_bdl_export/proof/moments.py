"""Checks that draw: the masks' distribution, and Monte-Carlo moments against torch's own dropout.

Every check is a z-score under the hypothesis that all is well. The limit is corrected for the number of comparisons, so that
a sound export fails once in a million exports.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray

from edge_bdl.manifest import ParityCheck, StochasticInput
from edge_bdl.sampling import draw_keep, masks
from edge_bdl_export.capture import plain_attention
from edge_bdl_export.proof.check import at_most
from edge_bdl_export.proof.subject import Arrays, EngineSubject, Subject, tensors

ERROR_RATE = 1e-6
MASK_DRAWS = 1024
Keep = NDArray[np.bool_]


def limit(comparisons: int) -> float:
    """Largest |z| allowed among ``comparisons`` two-sided tests, by Bonferroni."""
    return NormalDist().inv_cdf(1.0 - ERROR_RATE / (2.0 * max(1, comparisons)))


# --- masks --------------------------------------------------------------------------------------------------------------


def masks_are_dropout(subject: Subject) -> list[ParityCheck]:
    """Rate, scale and independence of the masks: the stored bank's rate, and everything of the generator behind it."""
    bank = subject.manifest.bank
    keep = draw_keep(bank, bank.members, MASK_DRAWS)
    allowed = limit(4 * len(bank.inputs))
    checks = []
    for item in bank.inputs:
        drawn = keep[item.name].reshape(MASK_DRAWS, -1)
        stored = np.asarray(subject.members[item.name]).reshape(bank.members, -1) > 0.0
        checks += [
            at_most("masks", f"bank_rate[{item.name}]", _rate_z(stored, item.rate), allowed),
            at_most("masks", f"mask_rate[{item.name}]", _rate_z(drawn, item.rate), allowed),
            at_most("masks", f"mask_units_independent[{item.name}]", _dispersion_z(drawn, item.rate), allowed),
            at_most("masks", f"mask_members_independent[{item.name}]", _agreement_z(drawn, item.rate), allowed),
            _scale(subject, item),
        ]
    return checks


def _rate_z(keep: Keep, rate: float) -> float:
    expected, deviation = keep.size * rate, math.sqrt(keep.size * rate * (1.0 - rate))
    # Half a count of continuity correction: small layers hold few units.
    return max(0.0, abs((~keep).sum() - expected) - 0.5) / deviation


def _dispersion_z(keep: Keep, rate: float) -> float:
    """Do the units of one member fall independently? Then its count of dropped ones has the binomial variance."""
    draws, units = keep.shape
    counts = (~keep).sum(1)
    chi_square = float(((counts - units * rate) ** 2).sum()) / (units * rate * (1.0 - rate))
    # Wilson and Hilferty 1931: the cube root of a chi-square over its degrees of freedom is nearly normal.
    spread = 2.0 / (9.0 * draws)
    return abs(((chi_square / draws) ** (1.0 / 3.0) - (1.0 - spread)) / math.sqrt(spread))


def _agreement_z(keep: Keep, rate: float) -> float:
    """Do successive members fall independently? Then they agree in a unit with probability p^2 + (1-p)^2."""
    pairs = len(keep) // 2
    agreed = keep[0 : 2 * pairs : 2] == keep[1 : 2 * pairs : 2]
    probability = rate**2 + (1.0 - rate) ** 2
    deviation = math.sqrt(agreed.size * probability * (1.0 - probability))
    return max(0.0, abs(agreed.sum() - agreed.size * probability) - 0.5) / deviation


def _scale(subject: Subject, item: StochasticInput) -> ParityCheck:
    """A mask holds 0 and one value; for plain dropout that value keeps the mean, 1/(1-p)."""
    values = np.unique(np.asarray(subject.members[item.name]))
    foreign = values[(values != 0.0) & (values != np.float32(item.scale))]
    wanted = 1.0 if "Alpha" in item.kind else 1.0 / (1.0 - item.rate)
    error = float("inf") if foreign.size else abs(item.scale - wanted) / wanted
    return at_most("masks", f"mask_scale[{item.name}]", error, 1e-6)


# --- moments ------------------------------------------------------------------------------------------------------------


def moments_equal_torch(proved: EngineSubject, draws: int, seed: int) -> list[ParityCheck]:
    """Mean and variance over fresh masks equal those of torch's own dropout, output by output.

    Args:
        proved: The graphs under one engine; their subject has a sampler.
        draws: Passes on either side, per frame.
        seed: For torch's draws.
    """
    subject = proved.subject
    assert subject.sampler is not None
    fresh = masks(subject.manifest.bank, draw_keep(subject.manifest.bank, subject.manifest.bank.members, draws))
    comparisons = 2 * len(subject.frames) * int(np.prod(subject.manifest.output.shape))
    floor = (1e-6 * subject.output_range) ** 2
    worst_mean = worst_variance = 0.0
    for frame in subject.frames:
        ours = proved.split(frame, fresh).astype(np.float64)
        theirs = _torch_draws(subject, frame, draws, seed)
        worst_mean = max(worst_mean, _mean_z(ours, theirs, floor))
        worst_variance = max(worst_variance, _variance_z(ours, theirs, floor))
    allowed = limit(comparisons)
    return [
        at_most(proved.engine.name, f"{name}_equals_torch", value, allowed)
        for name, value in (("mean", worst_mean), ("variance", worst_variance))
    ]


def _torch_draws(subject: Subject, frame: Arrays, draws: int, seed: int) -> NDArray[np.float64]:
    assert subject.sampler is not None
    with torch.random.fork_rng(devices=[]), torch.no_grad(), plain_attention():
        torch.manual_seed(seed)
        return np.stack([subject.sampler(*tensors(frame)).numpy() for _ in range(draws)]).astype(np.float64)


def _mean_z(a: NDArray[np.float64], b: NDArray[np.float64], floor: float) -> float:
    error = np.sqrt((a.var(0) + b.var(0)) / len(a) + floor)
    return _worst(np.abs(a.mean(0) - b.mean(0)) / error)


def _variance_z(a: NDArray[np.float64], b: NDArray[np.float64], floor: float) -> float:
    """Difference of the log variances over its error, which the fourth moments give."""
    log_a, error_a = _log_variance(a, floor)
    log_b, error_b = _log_variance(b, floor)
    return _worst(np.abs(log_a - log_b) / np.sqrt(error_a + error_b))


def _log_variance(draws: NDArray[np.float64], floor: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    centred = draws - draws.mean(0)
    variance = (centred**2).mean(0) + floor
    kurtosis = ((centred**4).mean(0) + 3.0 * floor**2) / variance**2
    return np.log(variance), np.maximum(kurtosis - 1.0, 2e-1) / len(draws)


def _worst(z: NDArray[np.float64]) -> float:
    return float(z.max()) if np.isfinite(z).all() else float("inf")
