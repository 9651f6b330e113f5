"""Feature density: a Gaussian over pooled trunk features, evaluated in the same graphs as the network.

Dropout's variance says little about an input that the features do not recognise; how far the features are from those of known
frames says it plainly (Lee et al. 2018, arXiv 1807.03888, with one class). The Gaussian is a probabilistic PCA model
(Tipping and Bishop 1999): full covariance in the leading directions, one shrunk variance in all others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edge_bdl.errors import ExportError

MAXIMUM_RANK = 32
MINIMUM_FRAMES = 50

def pool(features: Sequence[Tensor]) -> Tensor:
    """One vector [F] from feature tensors [N, C, ...]: the mean over everything behind the channel axis.

    A vector feature [N, C] is taken as it is. The first axis is the example's own batch, which is averaged.
    """
    parts = []
    for feature in features:
        value = feature.to(torch.float32)
        if value.ndim > 2:
            value = value.flatten(2).mean(2)
        parts.append(value.mean(0).flatten() if value.ndim > 1 else value.flatten())
    return torch.cat(parts)


class FeatureDensity(nn.Module):
    """The score: squared Mahalanobis distance of the pooled features per dimension; about 1 on known frames.

    Args:
        features: [n, F] pooled features of known frames.

    Raises:
        ExportError: There are too few frames, or their features are not finite.
    """

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        count, width = features.shape
        if count < MINIMUM_FRAMES:
            raise ExportError(f"a feature density needs at least {MINIMUM_FRAMES} calibration frames, got {count}")
        if not torch.isfinite(features).all():
            raise ExportError("the trunk's features are not finite on the calibration frames; check them for NaN")
        data = features.double()
        mean = data.mean(0)
        _, singular, directions = torch.linalg.svd(data - mean, full_matrices=False)
        variances = singular**2 / (count - 1)
        rank = min(MAXIMUM_RANK, max(1, count // 10), width)
        rest = self._rest_variance(variances, rank, width)
        leading = variances[:rank].clamp_min(rest)
        self.register_buffer("mean", mean.float())
        self.register_buffer("directions", directions[:rank].T.contiguous().float())
        self.register_buffer("leading_precision", (1.0 / leading / width).float())
        self.register_buffer("rest_precision", (1.0 / rest / width).float())

    @staticmethod
    def _rest_variance(variances: Tensor, rank: int, width: int) -> Tensor:
        """Mean variance of the directions outside the subspace, shrunk so that no direction is ever exactly known."""
        mean = variances.sum() / width
        outside = variances[rank:].sum() / max(width - rank, 1)
        floor = 1e-3 * mean + torch.finfo(torch.float32).tiny
        return torch.maximum(outside, floor)

    def forward(self, *features: Tensor) -> Tensor:
        """The score of one frame, [1]."""
        centred = pool(features) - self.mean
        inside = centred @ self.directions
        # The part outside the subspace, computed as a vector: the difference of two large squares would cancel.
        outside = centred - self.directions @ inside
        distance = (inside * inside * self.leading_precision).sum() + (outside * outside).sum() * self.rest_precision
        return distance.reshape(1)
