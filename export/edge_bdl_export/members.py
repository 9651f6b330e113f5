"""Choose members: independent draws, or draws balanced so that few of them cover each unit's dropout evenly.

Every prefix of what is drawn here is a valid smaller bank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from edge_bdl.manifest import StochasticInput

# What each member keeps: [members, *shape] bool, by member input.
Keep = Mapping[str, NDArray[np.bool_]]


def balanced(
    inputs: Sequence[StochasticInput], members: int, generator: np.random.Generator
) -> dict[str, NDArray[np.bool_]]:
    """Masks in which each unit's draws are stratified over the members.

    Each unit gets its own scrambled van der Corput sequence (Owen 1995, "Randomly permuted (t,m,s)-nets"): a prefix of
    2^k members has exactly one draw in each of 2^k equal strata, so a unit of rate p is dropped in p * 2^k of them,
    rounded up or down, whatever the other units do.

    Returns:
        [members, *shape] bool per input, True where kept.
    """
    keep = {}
    for item in inputs:
        draws = _stratified(int(np.prod(item.shape)), members, generator)
        keep[item.name] = (draws >= item.rate).reshape(members, *item.shape)
    return keep


def balanced_normal(
    inputs: Sequence[StochasticInput], members: int, generator: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    """Draws from N(0, 1), each unit's stratified over the members as in `balanced`.

    Returns:
        [members, *shape] per input.
    """
    normal = {}
    for item in inputs:
        uniform = torch.from_numpy(_stratified(int(np.prod(item.shape)), members, generator))
        values = torch.special.ndtri(uniform.clamp(min=2.0**-54))
        normal[item.name] = values.float().numpy().reshape(members, *item.shape)
    return normal


def _stratified(units: int, members: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Uniform draws [members, units], stratified over every prefix of 2^k members, independent between units."""
    levels = max(1, int(np.ceil(np.log2(members))))
    order = np.arange(2**levels)
    stratum = np.zeros((2**levels, units))
    path = np.zeros(2**levels, dtype=np.int64)
    for level in range(levels):
        # One fair coin per unit and node of the tree of strata: which half the even members go to.
        flips = generator.integers(0, 2, size=(2**level, units))
        digit = (order >> level) & 1
        stratum += (digit[:, None] ^ flips[path]) * 2.0 ** -(level + 1)
        path |= digit << level
    jitter = generator.random((2**levels, units)) * 2.0**-levels
    return (stratum + jitter)[:members]
