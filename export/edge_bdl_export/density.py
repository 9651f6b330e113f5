"""Feature density: a Gaussian over pooled trunk features, evaluated in the same graphs as the network.

Dropout's variance says little about an input that the features do not recognise; how far the features are from those of
known frames says it plainly (Lee et al. 2018, arXiv 1807.03888, with one class). The Gaussian is a probabilistic PCA
model (Tipping and Bishop 1999): full variances in the leading directions, one shrunk variance in all others.

In the graph it is one product with a whitening matrix and a sum of squares: on small networks every further operator
costs more than its arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edge_bdl.errors import ExportError

MAXIMUM_RANK = 32
MINIMUM_FRAMES = 50
# Rows that stand for the directions outside the leading ones; where there are more, random projections of them.
_REST_ROWS = 32


def pool(features: Sequence[Tensor]) -> Tensor:
    """One vector [1, F] from feature tensors [N, C, ...]: the mean over everything behind the channel axis.

    A vector feature [N, C] is taken as it is. The first axis is the example's own batch; more than one example is
    averaged.
    """
    parts = []
    for feature in features:
        value = feature.to(torch.float32)
        if value.ndim > 2:
            value = value.mean(tuple(range(2, value.ndim)))
        if value.ndim == 2 and len(value) > 1:
            value = value.mean(0)
        parts.append(value if value.ndim == 2 else value.reshape(1, -1))
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


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
        rank = min(MAXIMUM_RANK, max(1, count // 10), len(variances))
        rest = _rest_variance(variances, rank, width)
        leading = directions[:rank]
        inside = leading / variances[:rank].clamp_min(rest).sqrt()[:, None]
        outside = _rest_rows(leading) / rest.sqrt()
        whitening = torch.cat([inside, outside]) / width**0.5
        self.register_buffer("whitening", whitening.float())
        self.register_buffer("offset", -(whitening @ mean).float())

    def forward(self, *features: Tensor) -> Tensor:
        """The score of one frame, [1]."""
        white = nn.functional.linear(pool(features), self.whitening, self.offset)
        return (white * white).sum(1)


def _rest_variance(variances: Tensor, rank: int, width: int) -> Tensor:
    """Mean variance of the directions outside the leading ones, shrunk so that no direction is ever exactly known."""
    outside = variances[rank:].sum() / max(width - rank, 1)
    floor = 1e-3 * variances.sum() / width + torch.finfo(torch.float32).tiny
    return torch.maximum(outside, floor)


def _rest_rows(leading: Tensor) -> Tensor:
    """Rows whose sum of squared products is the squared norm outside the leading directions.

    An orthonormal basis while there are few; of wide features a random sketch, which keeps the norm to about
    sqrt(2 / rows) (Johnson and Lindenstrauss 1984).
    """
    rank, width = leading.shape
    if width - rank <= _REST_ROWS:
        return torch.linalg.qr(leading.T, mode="complete").Q[:, rank:].T
    generator = torch.Generator().manual_seed(0)
    sketch = torch.randn(_REST_ROWS, width, generator=generator, dtype=leading.dtype) / _REST_ROWS**0.5
    return sketch - (sketch @ leading.T) @ leading
