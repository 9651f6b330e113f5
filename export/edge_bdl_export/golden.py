"""Golden frames: the self-test that a bundle brings to the device, no larger than the device reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_bdl import sampling
from edge_bdl.bundle import GOLDEN, MAX_BYTES
from edge_bdl.errors import ExportError
from edge_bdl.manifest import TensorSpec
from edge_bdl_export.forms.posterior import Posterior
from edge_bdl_export.proof.subject import Subject

_FRAMES = 3
# The file's own header, and the density's one number per frame.
_HEADER_BYTES = 1 << 16


def frames_that_fit(
    inputs: Sequence[TensorSpec], output: TensorSpec, posterior: Posterior, samples: int, chunk: int
) -> int:
    """How many golden frames there are: three, or fewer where three would be more than a device reads.

    Args:
        inputs: The frame inputs.
        output: One member's output.
        posterior: Its masks are stored too.
        samples: Members in the bank; of weights, at most those that there are.
        chunk: Members per call of the head.

    Raises:
        ExportError: Not even one frame fits.
    """
    moments: tuple[TensorSpec, ...] = ()
    if posterior.closed is not None:
        members, fresh, masks = 0, 0, 4 * chunk * sum(math.prod(item.shape) for item in posterior.inputs)
        moments = posterior.closed.described.moments(output.shape)
    elif posterior.weights is not None:
        members, fresh, masks = min(samples, len(next(iter(posterior.weights.values())))), 0, 0
    else:
        members, fresh = samples, min(chunk, samples)
        masks = fresh * sum(-(-math.prod(item.shape) // 8) for item in posterior.inputs)
    frame = sum(map(_bytes, (*inputs, *moments))) + (1 + members + fresh) * _bytes(output)
    room = MAX_BYTES[GOLDEN] - _HEADER_BYTES - masks
    if frame > room:
        raise ExportError(
            f"one frame of the self-test has {frame / 2**20:.0f} MiB ({members} members with an output of shape "
            f"{output.shape}, and more), a bundle's may have {room / 2**20:.0f} MiB; use fewer members or a smaller "
            "input and output"
        )
    return min(_FRAMES, room // frame)


def _bytes(spec: TensorSpec) -> int:
    return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize


def golden(subject: Subject) -> dict[str, NDArray[Any]]:
    """The subject's frames, torch's outputs for the bank, and masks that the device must draw alike, by name."""
    manifest, bank = subject.manifest, subject.manifest.bank
    arrays: dict[str, NDArray[Any]] = {
        f"input.{key}": np.stack([frame[key] for frame in subject.frames]) for key in subject.frames[0]
    }
    arrays["det.output"] = subject.expected_deterministic
    if subject.closed is None:
        arrays["fused.members"] = subject.expected
    else:
        arrays.update({name: values.astype(np.float32) for name, values in subject.expected_moments.items()})
        normals = sampling.draw_normal(bank, bank.members, bank.chunk)
        arrays.update({f"fresh.{key}": value for key, value in normals.items()})
    if subject.density is not None:
        arrays["density"] = subject.expected_density
    if manifest.form == "mask_bank" and not bank.fixed:
        keep = sampling.draw_keep(bank, bank.members, bank.chunk)
        masks = sampling.masks(bank, keep)
        arrays.update({f"fresh.{key}": value for key, value in sampling.pack(keep).items()})
        rows = [{key: value[i] for key, value in masks.items()} for i in range(bank.chunk)]
        arrays["fresh.members"] = np.stack([[subject.answer(frame, row) for row in rows] for frame in subject.frames])
    return {key: np.ascontiguousarray(value) for key, value in arrays.items()}
