"""Mushrooms that nobody gathered: a contextual bandit whose best action depends on the context nonlinearly.

Rewards are those of the mushroom task of Blundell et al. 2015 (arXiv 1505.05424, section 5.3): an edible one pays 5,
a poisonous one -35 or 5 by the toss of a coin, and passing by pays nothing and teaches nothing. Their mushrooms are
UCI's, with 22 attributes. Ours have two, cap and smell, of six kinds each, and are made here: a mushroom is edible if
the numbers of both kinds are even or both are odd. Neither attribute alone tells anything, nor does any linear rule.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KINDS = 6
"""Of either attribute."""

FEATURES = 2 * KINDS
ACTIONS = 2
PASS, EAT = 0, 1
PLEASURE, HARM = 5.0, -35.0
"""What eating pays; a poisonous one does harm half of the times."""


def mushrooms(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Kinds [N, 2] of cap and smell, all equally likely."""
    return rng.integers(KINDS, size=(count, 2))


def features(kinds: NDArray[np.int64]) -> NDArray[np.float64]:
    """Both attributes as indicators, [N, 12]."""
    return np.eye(KINDS)[kinds].reshape(len(kinds), FEATURES)


def edible(kinds: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Those whose kinds are both even or both odd, [N]."""
    return kinds.sum(1) % 2 == 0


def means(kinds: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean rewards [N, 2] of both actions."""
    eaten = np.where(edible(kinds), PLEASURE, 0.5 * (PLEASURE + HARM))
    return np.stack([np.zeros(len(kinds)), eaten], axis=1)


def rewards(kinds: NDArray[np.int64], actions: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
    """What the chosen actions pay, [N]."""
    harmed = ~edible(kinds) & (rng.random(len(kinds)) < 0.5)
    return np.where(actions == EAT, np.where(harmed, HARM, PLEASURE), 0.0)
