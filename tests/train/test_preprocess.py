"""Preprocess: its numbers against an independent reference, and in both graph formats."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from edge_bdl.errors import InputError
from edge_bdl_train.preprocess import Preprocess

MEAN, STD = (0.1, 0.2, 0.3), (0.2, 0.3, 0.4)


def frames(height: int, width: int, count: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear with half-pixel centres, axis by axis, in float64; image [H, W, C]."""
    for axis, length in enumerate(size):
        position = (np.arange(length) + 0.5) * image.shape[axis] / length - 0.5
        position = np.clip(position, 0, image.shape[axis] - 1)
        low = np.floor(position).astype(int)
        high = np.minimum(low + 1, image.shape[axis] - 1)
        share = (position - low).reshape([-1 if a == axis else 1 for a in range(3)])
        image = image.take(low, axis) * (1 - share) + image.take(high, axis) * share
    return image


def test_crops_normalises_and_moves_the_channels_first() -> None:
    given = frames(12, 8, count=2)
    got = Preprocess((7, 8), crop_top=3, crop_bottom=2, mean=MEAN, std=STD)(torch.from_numpy(given))
    expected = ((given[:, 3:10] / 255.0 - MEAN) / STD).transpose(0, 3, 1, 2)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [(6, 5), (30, 44), (15, 44)])
def test_resizes_bilinearly_with_half_pixel_centres(size: tuple[int, int]) -> None:
    given = frames(19, 23)
    got = Preprocess(size, crop_top=4, mean=MEAN, std=STD)(torch.from_numpy(given))[0]
    expected = ((bilinear(given[0, 4:].astype(float), size) / 255.0 - MEAN) / STD).transpose(2, 0, 1)
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=5e-5)


def test_leaves_no_resize_in_the_graph_where_the_size_is_right() -> None:
    example = (torch.from_numpy(frames(12, 8)),)

    def operations(size: tuple[int, int]) -> str:
        return str(torch.export.export(Preprocess(size, crop_top=3, crop_bottom=2), example).graph)

    assert "upsample" not in operations((7, 8))
    assert "upsample" in operations((6, 8))


def test_checkpoints_hold_none_of_its_constants() -> None:
    assert not Preprocess((7, 8)).state_dict()


@pytest.mark.parametrize(
    "arguments",
    [
        {"size": (0, 8)},
        {"size": (8, 8), "crop_top": -1},
        {"size": (8, 8), "std": (1.0, 0.0, 1.0)},
        {"size": (8, 8), "mean": (0.5,)},
        {"size": (8, 8), "std": (1.0, float("nan"), 1.0)},
    ],
)
def test_refuses_what_is_no_image(arguments: dict) -> None:
    with pytest.raises(InputError):
        Preprocess(**arguments)


def test_refuses_a_crop_that_leaves_nothing() -> None:
    with pytest.raises(InputError, match="10 rows"):
        Preprocess((4, 4), crop_top=8, crop_bottom=2)(torch.from_numpy(frames(10, 8)))


@pytest.mark.parametrize("size", [(77, 160), (60, 121), (150, 200)])
@pytest.mark.parametrize("convert", ["onnx", "tflite"])
def test_both_formats_compute_the_same(size: tuple[int, int], convert: str, tmp_path: Path) -> None:
    module = Preprocess(size, crop_top=40, crop_bottom=3, mean=MEAN, std=STD).eval()
    given = frames(120, 160)
    expected = module(torch.from_numpy(given)).numpy()
    got = {"onnx": through_onnx, "tflite": through_tflite}[convert](module, given, tmp_path)
    # Resizing by an odd ratio rounds its positions: 1.1e-5 of the range was measured.
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * np.ptp(expected))


def through_onnx(module: torch.nn.Module, given: np.ndarray, folder: Path) -> np.ndarray:
    onnxruntime = pytest.importorskip("onnxruntime")
    path = folder / "module.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        torch.onnx.export(module, (torch.from_numpy(given),), path, dynamo=True, opset_version=18, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: given})[0]


def through_tflite(module: torch.nn.Module, given: np.ndarray, folder: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own deprecations
        converter = pytest.importorskip("litert_torch")
        return converter.convert(module, (torch.from_numpy(given),))(torch.from_numpy(given))
