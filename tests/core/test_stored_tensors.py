"""A bank of weights in fewer bits: what must be in the file, and what is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save

from edge_bdl.bundle import Bundle
from edge_bdl.errors import BundleError
from edge_bdl.manifest import Manifest, Numbers, Precision
from edge_bdl.stored_tensors import SCALE, Arrays, floats, read_bank

WEIGHTS = Path(__file__).parents[1] / "bundles" / "tiny_weights.ebdl"


def of(bank: Numbers) -> tuple[Manifest, Arrays]:
    """A bundle of weights as if it were stored in other numbers, and its bank as it must be."""
    bundle = Bundle.open(WEIGHTS)
    precision = Precision(bank=bank, tolerance=1e-5, density_tolerance=1e-3)
    stored: Arrays = {}
    for name, values in bundle.bank().items():
        if bank == "int8" and values.ndim > 2:
            stored[name] = np.ones(values.shape, np.int8)
            stored[f"{name}{SCALE}"] = np.ones(values.shape[:2], np.float32)
        else:
            stored[name] = values.astype(np.float16) if bank == "fp16" else values
    return msgspec.structs.replace(bundle.manifest, schema_version=2, precision=precision), stored


@pytest.mark.parametrize("bank", ["fp16", "int8"])
def test_a_bank_in_fewer_bits_is_read(bank: Numbers) -> None:
    manifest, stored = of(bank)
    read = read_bank(save(stored), manifest)
    assert read.keys() == stored.keys()
    for spec in manifest.bank.inputs:
        assert floats(read, spec.name, slice(0, 2)).shape == (2, *spec.shape)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stored, name: stored.pop(f"{name}{SCALE}"), "scale' is missing"),
        (lambda stored, name: stored.update({name: stored[name].astype(np.float32)}), "is float32 .* expected int8"),
        (lambda stored, name: stored.update({f"{name}{SCALE}": stored[f"{name}{SCALE}"][:, :1]}), "expected float32"),
        (lambda stored, name: stored[f"{name}{SCALE}"].fill(np.nan), "not finite"),
    ],
    ids=["no scale", "no integers", "too few scales", "NaN"],
)
def test_integers_without_their_scales_are_refused(change, message: str) -> None:  # type: ignore[no-untyped-def]
    manifest, stored = of("int8")
    name = next(name for name, values in stored.items() if values.dtype == np.int8)
    change(stored, name)
    with pytest.raises(BundleError, match=message):
        read_bank(save(stored), manifest)


def test_a_bank_in_fp32_is_not_taken_for_one_in_fp16() -> None:
    manifest, _ = of("fp16")
    with pytest.raises(BundleError, match="expected float16"):
        read_bank(save(Bundle.open(WEIGHTS).bank()), manifest)
