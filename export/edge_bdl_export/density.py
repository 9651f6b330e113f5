"""Feature density: how far a frame is from known ones, evaluated in the same graphs as the network.

Dropout's variance says little about an input that the features do not recognise; how far the features are from those of
known frames says it plainly (Lee et al. 2018, arXiv 1807.03888). The Gaussian is a probabilistic PCA model (Tipping and
Bishop 1999): full variances in the leading directions, one shrunk variance in all others.

Which features: what the network's first convolution sees of a picture, and, where there are classes or no convolution,
those that the stochastic part of the network reads. The score is the larger of the two. Known is a camera's picture in
somewhat other light too, for the sun moves: else what was recorded in one light would be alarmed by what nobody sees.

In the graph each is one product with a whitening matrix and a sum of squares: on small networks every further operator
costs more than its arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_bdl.errors import ExportError
from edge_bdl.manifest import Task
from edge_bdl.pictures import takes_pictures
from edge_bdl_export.frames import CalibrationFrames
from edge_bdl_export.picture import Picture
from edge_bdl_train.evaluation.density import PrincipalGaussian

if TYPE_CHECKING:
    from edge_bdl_export.graphs import Network

MINIMUM_FRAMES = 50
_MOST_FRAMES = 2000
# Every known picture is seen once more, lighter or darker by up to so much.
_OTHER_LIGHT = 0.2
# Rows that stand for the directions outside the leading ones; where there are more, random projections of them.
_REST_ROWS = 32
# With fewer on average, a mean is mostly of chance.
_FRAMES_PER_CLASS = 5


def fit_density(network: Network, frames: CalibrationFrames, task: Task) -> Density | None:
    """The density over known frames; None where there are too few of them.

    Args:
        network: Gives the features.
        frames: Known ones; with labels of classes, each class has a Gaussian of its own.
        task: Whether there are classes.
    """
    if len(frames) < MINIMUM_FRAMES:
        return None
    known = frames.thinned(_MOST_FRAMES)
    picture = network.parts.picture
    deeper = picture is None or task == "classification"
    generator = np.random.default_rng(0)
    seen: list[Tensor] = []
    deep: list[Tensor] = []
    for frame in known:
        features = _features(network, frame)
        if picture is not None:
            seen.append(picture(features[0]))
            features = features[1:]
            if lit := in_other_light(frame, generator):
                seen.append(picture(_features(network, {**frame, **lit})[0]))
        if deeper:
            deep.append(pool(features))
    of_picture = FeatureDensity(torch.cat(seen)) if seen else None
    return Density(picture, of_picture, FeatureDensity(torch.cat(deep), _classes(known, task)) if deeper else None)


def _features(network: Network, frame: Mapping[str, NDArray[Any]]) -> tuple[Tensor, ...]:
    return network.trunk(tuple(torch.from_numpy(np.array(value)) for value in frame.values()))[1]


def in_other_light(frame: Mapping[str, NDArray[Any]], generator: np.random.Generator) -> dict[str, NDArray[Any]]:
    """The pictures among a frame's inputs, all by as much lighter or darker."""
    gain = math.exp(generator.uniform(-_OTHER_LIGHT, _OTHER_LIGHT))
    return {
        name: np.clip(np.rint(value * gain), 0, 255).astype(value.dtype)
        for name, value in frame.items()
        if takes_pictures(value.shape, value.dtype.name)
    }


def _classes(frames: CalibrationFrames, task: Task) -> NDArray[Any] | None:
    """The class of each frame, where it has one."""
    labels = frames.labels
    one_each = labels is not None and labels.size == len(frames) and labels.dtype.kind in "iu"
    return labels.reshape(-1) if labels is not None and one_each and task == "classification" else None


class Density(nn.Module):
    """The score of a frame: about 1 on known ones, larger = worse.

    Args:
        picture: What the network's first convolution sees; None where there is none.
        of_picture: The density over that.
        of_features: The density over what the stochastic part of the network reads; None where it is not looked at.
    """

    def __init__(
        self, picture: Picture | None, of_picture: FeatureDensity | None, of_features: FeatureDensity | None
    ) -> None:
        super().__init__()
        self.picture, self.of_picture, self.of_features = picture, of_picture, of_features

    def forward(self, *features: Tensor) -> Tensor:
        """The score of one frame, [1], from the features of its trunk."""
        scores = []
        if self.picture is not None and self.of_picture is not None:
            scores.append(self.of_picture(self.picture(features[0])))
            features = features[1:]
        if self.of_features is not None:
            scores.append(self.of_features(*features))
        return scores[0] if len(scores) == 1 else torch.maximum(*scores)


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
    """Squared Mahalanobis distance of the pooled features per dimension: from the mean, or the nearest class's mean.

    Args:
        features: [n, F] pooled features of known frames.
        classes: int [n]: the class of each frame. Classes have a mean each, and share their covariance.

    Raises:
        ExportError: There are too few frames, or their features are not finite.
    """

    def __init__(self, features: Tensor, classes: NDArray[Any] | None = None) -> None:
        super().__init__()
        count, width = features.shape
        if count < MINIMUM_FRAMES:
            raise ExportError(f"a feature density needs at least {MINIMUM_FRAMES} calibration frames, got {count}")
        if not torch.isfinite(features).all():
            raise ExportError("the trunk's features are not finite on the calibration frames; check them for NaN")
        data = features.double()
        means, member = _means(data, classes)
        gaussian = PrincipalGaussian.fit(data - means[member], len(means))
        inside = gaussian.directions / gaussian.variances.sqrt()[:, None]
        outside = _rest_rows(gaussian.directions) / gaussian.rest.sqrt()
        whitening = torch.cat([inside, outside]) / width**0.5
        self.register_buffer("whitening", whitening.float())
        self.register_buffer("offset", -(whitening @ means[0]).float())
        # Where the other classes are, seen from the first.
        self.register_buffer("classes", ((means - means[0]) @ whitening.T).float() if len(means) > 1 else None)

    def forward(self, *features: Tensor) -> Tensor:
        """The score of one frame, [1]."""
        white = nn.functional.linear(pool(features), self.whitening, self.offset)
        if self.classes is None:
            return (white * white).sum(1)
        away = white - self.classes
        return (away * away).sum(1).amin(0, keepdim=True)


def _means(data: Tensor, classes: NDArray[Any] | None) -> tuple[Tensor, Tensor]:
    """Means [K, F], and which of them each of the data [n, F] belongs to; of too few frames per class there is one."""
    if classes is not None:
        kinds, member = torch.from_numpy(np.asarray(classes, np.int64)).unique(return_inverse=True)
        if len(data) >= _FRAMES_PER_CLASS * len(kinds):
            return torch.stack([data[member == kind].mean(0) for kind in range(len(kinds))]), member
    return data.mean(0, keepdim=True), torch.zeros(len(data), dtype=torch.int64)


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
