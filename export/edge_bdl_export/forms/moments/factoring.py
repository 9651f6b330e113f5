"""Squared weights as a product of two thinner layers: variances need fewer digits than means.

A variance is a sum of hundreds of positive terms, in which what is wrong with single weights averages out. A
convolution becomes one within each channel and one across channels, a wide linear layer one weighted sum that all
outputs share. Both are closest to the whole under the KL divergence, of which a rank of one has a closed form (Lee and
Seung 2001, "Algorithms for non-negative matrix factorization": row sums times column sums), keep every output's sum of
weights, so that no variance is off on the whole, and cannot make a variance negative.
"""

from __future__ import annotations

import math

from torch import Tensor

# Standard deviation of an output's variance around what the whole layer gives, as a share of it, where the inputs'
# variances spread as much as they are large. Half of it is left in the standard deviation.
TOLERANCE = 0.1
# Multiply-accumulates that must be saved for one more operation to be worth it.
_WORTH = 50_000
# Engines compute channels in blocks; of an image's three colours one by one they are slower than of all together.
_FEWEST_CHANNELS = 8


def factor(squared: Tensor, places: int) -> tuple[Tensor, Tensor] | None:
    """Two layers in place of squared weights, or None where they would not be cheaper or not close enough.

    Args:
        squared: float64 [outputs, inputs, *kernel], not negative.
        places: How often the product is taken for one frame: an image's pixels.

    Returns:
        ``(across, within)``. Of a kernel larger than 1: [outputs, inputs, 1...] and [inputs, 1, *kernel]. Else
        [outputs, 1, 1...] and [1, inputs, 1...].
    """
    outputs, inputs = squared.shape[:2]
    taps = math.prod(squared.shape[2:])
    # [outputs, groups, members of a group]: the group of a channel's taps, or of all inputs.
    grouped = squared.reshape(outputs, inputs, taps) if taps > 1 else squared.reshape(outputs, 1, inputs)
    groups, members = grouped.shape[1:]
    saved = (outputs * members - outputs - members) * groups * places
    sums = grouped.sum((0, 2), keepdim=True)
    if saved < _WORTH or 1 < groups < _FEWEST_CHANNELS or not bool((sums > 0.0).all()):
        return None
    across, within = grouped.sum(2, keepdim=True), grouped.sum(0, keepdim=True) / sums
    if miss(grouped.flatten(1), (across * within).flatten(1)) > TOLERANCE:
        return None
    ones = (1,) * (squared.ndim - 2)
    if taps > 1:
        return across.reshape(outputs, inputs, *ones), within.reshape(inputs, 1, *squared.shape[2:])
    return across.reshape(outputs, 1, *ones), within.reshape(1, inputs, *ones)


def miss(whole: Tensor, product: Tensor) -> float:
    """What ``TOLERANCE`` limits, of [outputs, inputs], root mean square over the outputs."""
    error = (product - whole).square().sum(1) / whole.sum(1).square()
    return math.sqrt(float(error.mean()))
