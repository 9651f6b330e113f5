"""LabelledFrames: its checks, slices and joins."""

from __future__ import annotations

import numpy as np
import pytest

from edge_bdl.errors import InputError
from edge_bdl_train.frames import LabelledFrames


def some(count: int, episode: int = 0) -> LabelledFrames:
    frames = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    return LabelledFrames(frames, np.arange(count, dtype=np.float32), np.full(count, episode))


def test_a_slice_keeps_frames_labels_and_episodes_together() -> None:
    part = some(5)[1:3]
    assert len(part) == 2
    assert part.frames[:, 0, 0, 0].tolist() == part.labels.tolist() == [1, 2]


def test_joined_parts_follow_each_other() -> None:
    joined = LabelledFrames.join([some(2, episode=0), some(3, episode=1)])
    assert joined.episode.tolist() == [0, 0, 1, 1, 1]
    assert joined.labels.tolist() == [0, 1, 0, 1, 2]


def test_frames_and_labels_that_do_not_belong_together_are_refused() -> None:
    good = some(3)
    with pytest.raises(InputError, match="as many labels"):
        LabelledFrames(good.frames, good.labels[:2], good.episode)
    with pytest.raises(InputError, match="as many labels"):
        LabelledFrames(good.frames, good.labels, good.episode[:1])
    with pytest.raises(InputError, match="uint8"):
        LabelledFrames(good.frames.astype(np.float32), good.labels, good.episode)
    with pytest.raises(InputError, match="1 labels are not finite"):
        LabelledFrames(good.frames, np.array([0, np.nan, 0], np.float32), good.episode)


def test_short_episodes_are_left_out_whole() -> None:
    joined = LabelledFrames.join([some(2, episode=0), some(4, episode=1), some(3, episode=2)])
    assert joined.of_episodes_from(3).episode.tolist() == [1] * 4 + [2] * 3
    assert len(joined.of_episodes_from(5)) == 0
