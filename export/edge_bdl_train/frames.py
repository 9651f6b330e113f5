"""Camera frames with their labels, and how a data set is divided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_bdl.errors import InputError


@dataclass(frozen=True)
class LabelledFrames:
    """Frames in the order in which they were seen.

    Attributes:
        frames: uint8 [N, H, W, 3].
        labels: float32 [N], the steering in [-1, 1] that a good driver would have chosen, positive right.
        episode: int64 [N], which drive a frame belongs to; frames of one episode are neighbours in time.
    """

    frames: NDArray[np.uint8]
    labels: NDArray[np.float32]
    episode: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Checks that the three belong together."""
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4:
            raise InputError(f"frames must be uint8 [N, H, W, C], got {self.frames.dtype} {self.frames.shape}")
        if self.labels.shape != (len(self.frames),) or self.episode.shape != (len(self.frames),):
            raise InputError(
                f"{len(self.frames)} frames need as many labels and episode numbers, "
                f"got {self.labels.shape} and {self.episode.shape}"
            )
        if not np.isfinite(self.labels).all():
            raise InputError(f"{np.sum(~np.isfinite(self.labels))} labels are not finite")

    def __len__(self) -> int:
        """The number of frames."""
        return len(self.frames)

    def __getitem__(self, index: slice | NDArray[np.intp]) -> LabelledFrames:
        """The frames of a slice or an index array, in its order."""
        return LabelledFrames(self.frames[index], self.labels[index], self.episode[index])

    def of_episodes_from(self, least_frames: int) -> LabelledFrames:
        """The frames of all episodes that are at least so long."""
        return self[np.flatnonzero(np.bincount(self.episode)[self.episode] >= least_frames)]

    @classmethod
    def join(cls, parts: Sequence[LabelledFrames]) -> LabelledFrames:
        """All parts in one, in their order."""
        return cls(
            np.concatenate([part.frames for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.episode for part in parts]),
        )


@dataclass(frozen=True)
class CalibrationSets:
    """What an export needs besides the model: three disjoint sets of frames that it was not trained on.

    Attributes:
        selection: members are selected on these.
        calibration: thresholds are set on these; its episodes are drives in sequence.
        test: figures are reported on these.
        period_s: time between two frames of an episode.
    """

    selection: LabelledFrames
    calibration: LabelledFrames
    test: LabelledFrames
    period_s: float
