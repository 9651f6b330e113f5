"""How unlike anything known an input looks to the network: a Gaussian over its features.

Dropout's variance says little about an input that the features do not recognise; how far the features are from those of
known examples says it plainly (Lee et al. 2018, arXiv 1807.03888, with one class). The Gaussian is a probabilistic PCA
model (Tipping and Bishop 1999). A bundle's score has the same Gaussian, over features of its first convolution too;
what it sketches for speed, the norm outside the leading directions, is exact here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from edge_bdl.errors import InputError
from edge_bdl_train.evaluation.checks import finite

MAXIMUM_RANK = 32
MINIMUM_EXAMPLES = 50
_ROWS = 1000


class PrincipalGaussian(NamedTuple):
    """A centred Gaussian with full variances in a few leading directions, and one shared by all others.

    Attributes:
        directions: [rank, F], orthonormal.
        variances: [rank], along them; at least ``rest``.
        rest: a scalar, along everything else.
    """

    directions: Tensor
    variances: Tensor
    rest: Tensor

    @classmethod
    def fit(cls, centred: Tensor, means: int = 1) -> PrincipalGaussian:
        """That of float64 features [n, F] less their mean, or each less one of so many ``means``; n is larger."""
        count, width = centred.shape
        _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
        variances = singular**2 / (count - means)
        rank = min(MAXIMUM_RANK, max(1, count // 10), len(variances))
        # No direction is ever exactly known.
        floor = 1e-3 * variances.sum() / width + torch.finfo(torch.float32).tiny
        rest = torch.maximum(variances[rank:].sum() / max(width - rank, 1), floor)
        return cls(directions[:rank], variances[:rank].clamp_min(rest), rest)


class FeatureDensity:
    """The score: squared Mahalanobis distance per dimension, about 1 on known examples.

    Args:
        features: [n, F] of known examples.

    Raises:
        InputError: they are too few, all alike, or not finite.
    """

    def __init__(self, features: Any) -> None:
        known = finite("features", features, "[N, F]", (2,))
        count, self._width = known.shape
        if count < MINIMUM_EXAMPLES:
            raise InputError(f"a feature density needs at least {MINIMUM_EXAMPLES} known examples, got {count}")
        if (known == known[0]).all():
            raise InputError(f"the features of all {count} known examples are the same: nothing can be told from them")
        self._mean = known.mean(0)
        self._gaussian = PrincipalGaussian.fit(known - self._mean)

    def __call__(self, features: Any) -> Tensor:
        """Scores [N] of features [N, F].

        Raises:
            InputError: they are not finite, or not as wide as the known ones.
        """
        given = finite("features", features, "[N, F]", (2,))
        if given.shape[1] != self._width:
            raise InputError(f"these are {given.shape[1]} features, the known examples have {self._width}")
        directions, variances, rest = self._gaussian
        centred = given - self._mean
        leading = centred @ directions.T
        outside = ((centred - leading @ directions) ** 2).sum(1) / rest
        return ((leading**2 / variances).sum(1) + outside) / self._width


@torch.no_grad()
def features_of(network: nn.Module, inputs: Tensor) -> Tensor | None:
    """What the deterministic network makes of inputs before it gets to what is stochastic, or to its last layer.

    That is the input of the first dropout module that it calls, else of the last linear layer; the mean over everything
    behind the channel axis.

    Args:
        network: is called in eval mode and left in the mode in which it was.
        inputs: [N, ...].

    Returns:
        [N, F], or None where the network has no such module.
    """
    dropouts = [module for module in network.modules() if isinstance(module, nn.modules.dropout._DropoutNd)]
    sites = dropouts or [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not sites:
        return None
    seen: list[Tensor] = []
    handles = [site.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0])) for site in sites]
    training = network.training
    network.eval()
    blocks = []
    try:
        for rows in inputs.split(_ROWS):
            seen.clear()
            network(rows)
            blocks.append(_pooled(seen[0 if dropouts else -1]))
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return torch.cat(blocks)


def _pooled(feature: Tensor) -> Tensor:
    return feature.flatten(2).mean(2) if feature.ndim > 2 else feature
