"""What must be in ``bank.safetensors`` and ``golden.safetensors``, and their decoding.

bank      per mask         uint8 [members, ceil(units / 8)], bit-packed
          per parameter    float32 or float16 [members, *shape], unless the graphs hold them
                           int8 [members, *shape] and its NAME.scale, float32 [members, shape[0]], of more than one axis
          per normal draw  float32 [members, *shape]
golden    input.NAME       [frames, *shape]
          det.output       [frames, *output]
          fused.members    [frames, members, *output]
          density          float32 [frames, 1], where the bundle has one
          fresh.MASK       the members behind the bank, packed, chunk of them      } mask banks only,
          fresh.members    [frames, chunk, *output]                                } unless fixed
          fused.output_mean        [frames, *output]                               } Gaussian heads only,
          fused.output_covariance  [frames, *output, outputs], or ..._variance     } in place of members
          fresh.NORMAL     the draws behind the bank, chunk of them                }
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from edge_bdl.errors import BundleError
from edge_bdl.manifest import DENSITY_OUTPUT, Manifest, StochasticInput

Arrays = dict[str, NDArray[Any]]

# Behind the name of an array of integers: that of their scales.
SCALE = ".scale"


class Expected(NamedTuple):
    """What one stored tensor must be. ``units``: of a packed mask, so many of a row's bits mean something."""

    dtype: str
    shape: tuple[int, ...]
    units: int | None = None


def read_bank(data: bytes, manifest: Manifest) -> Arrays:
    """Decode ``bank.safetensors``.

    Raises:
        BundleError: It cannot be decoded, or holds something other than the manifest's bank.
    """
    arrays = _decode(data)
    expected: dict[str, Expected] = {}
    for spec in () if manifest.bank.built_in else manifest.bank.inputs:
        wanted = _members(manifest, spec, manifest.bank.members)
        expected[spec.name] = wanted._replace(dtype=_stored_as(manifest, spec) or wanted.dtype)
        if expected[spec.name].dtype == "int8":
            expected[f"{spec.name}{SCALE}"] = Expected("float32", wanted.shape[:2])
    _compare(arrays, expected)
    return arrays


def _stored_as(manifest: Manifest, spec: StochasticInput) -> str | None:
    """The dtype of one parameter's members, where it is not the usual one. Vectors are few numbers, and stay fp32."""
    if manifest.stored_as == "int8" and len(spec.shape) > 1:
        return "int8"
    return "float16" if manifest.stored_as == "fp16" else None


def read_golden(data: bytes, manifest: Manifest) -> Arrays:
    """Decode ``golden.safetensors``.

    Raises:
        BundleError: It cannot be decoded, or its tensors do not fit the manifest or each other.
    """
    arrays = _decode(data)
    # How many frames there are is declared nowhere: the deterministic output says it, and the others must follow.
    deterministic = arrays.get("det.output")
    if deterministic is None or deterministic.shape[:1] in ((), (0,)):
        raise BundleError("it has no frames")
    frames = deterministic.shape[0]
    output, bank = manifest.output, manifest.bank
    expected = {f"input.{spec.name}": Expected(spec.dtype, (frames, *spec.shape)) for spec in manifest.inputs}
    expected["det.output"] = Expected(output.dtype, (frames, *output.shape))
    if manifest.has_density:
        expected[DENSITY_OUTPUT] = Expected("float32", (frames, 1))
    if manifest.closed is not None:
        expected |= {f"fused.{spec.name}": Expected(spec.dtype, (frames, *spec.shape)) for spec in manifest.outputs[:2]}
    else:
        expected["fused.members"] = Expected(output.dtype, (frames, bank.members, *output.shape))
    if manifest.form in ("mask_bank", "gaussian_head", "moments") and not bank.fixed:
        expected |= {f"fresh.{spec.name}": _members(manifest, spec, bank.chunk) for spec in bank.inputs}
    if manifest.form == "mask_bank" and not bank.fixed:
        expected["fresh.members"] = Expected(output.dtype, (frames, bank.chunk, *output.shape))
    _compare(arrays, expected)
    return arrays


def _members(manifest: Manifest, spec: StochasticInput, count: int) -> Expected:
    if manifest.form != "mask_bank":
        return Expected("float32", (count, *spec.shape))
    units = math.prod(spec.shape)
    return Expected("uint8", (count, -(-units // 8)), units)


def floats(stored: Mapping[str, NDArray[Any]], name: str, rows: slice) -> NDArray[np.float32]:
    """Some members of one input, [rows, *shape], from numbers as the bundle stores them.

    Integers are multiplied by ``NAME.scale``, float32 [members, shape[0]]: one scale per member and output channel.
    """
    values = np.asarray(stored[name][rows], np.float32)
    if stored[name].dtype != np.int8:
        return values
    scale = np.asarray(stored[f"{name}{SCALE}"][rows], np.float32)
    return values * scale.reshape(*scale.shape, *(1 for _ in values.shape[2:]))


def _decode(data: bytes) -> Arrays:
    try:
        return load(data)
    except Exception as error:  # the decoder's errors have no common base, and they all mean the same here
        raise BundleError(f"it cannot be decoded: {error}") from error


def _compare(arrays: Arrays, expected: dict[str, Expected]) -> None:
    for name in sorted(arrays.keys() ^ expected.keys()):
        raise BundleError(f"tensor {name!r} " + ("does not belong there" if name in arrays else "is missing"))
    for name, wanted in expected.items():
        problem = _problem(arrays[name], wanted)
        if problem:
            raise BundleError(f"tensor {name!r} {problem}")


def _problem(array: NDArray[Any], expected: Expected) -> str | None:
    """What is wrong with one tensor, for a person; None for nothing."""
    if (array.dtype.name, array.shape) != (expected.dtype, expected.shape):
        return f"is {array.dtype.name} {list(array.shape)}, expected {expected.dtype} {list(expected.shape)}"
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return "holds values that are not finite"
    if expected.units is not None and expected.units % 8 and (array[:, -1] & (0xFF >> expected.units % 8)).any():
        return "has bits set behind its last unit"
    return None
