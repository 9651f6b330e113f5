"""Which features tell strange camera frames from known ones, as Markdown: the density on a real car's drive.

    edge-bdl train --recipe rc_car --data FOLDER --out rc.safetensors
    .venv/bin/python tools/bench/density.py rc.safetensors --data FOLDER --other-car FOLDER

Each density is fitted on the recipe's selection block. Known frames are those of its test block, which comes last in
time, up to where somebody picks the car up: the rest of it are outsiders that nobody made up. Two numbers for each kind
of outsider: AUROC, and the share above what 99.9 % of the calibration block stay below. Then, what the input monitor
says of the same frames, and how long it takes.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor, nn

from edge_bdl.pictures import Pictures, level, sharpness
from edge_bdl_export.capture import capture
from edge_bdl_export.cut import cut
from edge_bdl_export.density import FeatureDensity, in_other_light
from edge_bdl_export.forms import mask_bank
from edge_bdl_firmware.frames.checks import FrameChecks
from edge_bdl_train.evaluation.ood import separation
from edge_bdl_train.models import SmallCnn
from edge_bdl_train.recipes.rc_car import RcCarRecipe

Frames = NDArray[np.uint8]
Look = Callable[[Tensor], Tensor]

# By eye: from here on the test block shows people and a wall, and so do a few frames of the calibration block.
HANDLED, HANDLED_IN_CALIBRATION = 1518, slice(880, 912)
SHIPPED = "**first convolution, mean at 60 places, in other light too (shipped)**"
EVERY = 6
BATCH = 64


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Feature density and input monitor on real frames.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="the recipe's folder")
    parser.add_argument("--other-car", type=Path, required=True, help="the same format: another car")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = RcCarRecipe(data=options.data)
    model = recipe.load(options.checkpoint).eval()
    assert isinstance(model, SmallCnn)
    _, selection, calibration, test = recipe.blocks()
    known = test.frames[:HANDLED]
    strange = {
        "picked up": test.frames[HANDLED:],
        "another car": other_car(options.other_car),
        **spoilt(known[::EVERY]),
    }
    calibrated = np.delete(calibration.frames, HANDLED_IN_CALIBRATION, 0)
    print(
        f"{len(selection)} frames to fit, {len(calibrated)} for the threshold, {len(known)} known ones; AUROC / share\n"
    )
    print(f"| features | known above | {' | '.join(strange)} |\n|{'---|' * (len(strange) + 2)}")
    for name, look in looks(model).items():
        fitted = selection.frames
        if name == SHIPPED:
            generator = np.random.default_rng(0)
            lit = [in_other_light({"frame": frame}, generator)["frame"] for frame in fitted]
            fitted = np.concatenate([fitted, np.stack(lit)])
        density = FeatureDensity(seen(look, fitted))
        limit = np.quantile(scores(density, look, calibrated), 0.999)
        ours = scores(density, look, known)
        cells = []
        for frames in strange.values():
            theirs = scores(density, look, frames)
            auroc = separation(torch.from_numpy(ours), torch.from_numpy(theirs)).auroc
            cells.append(f"{auroc:.2f} / {(theirs > limit).mean():.2f}")
        print(f"| {name} | {(ours > limit).mean():.3f} | {' | '.join(cells)} |")
    monitored(Pictures.of([*selection.frames, *calibrated]), {"known": known, **strange})


def looks(model: SmallCnn) -> dict[str, Look]:
    """Features [n, F] of frames, by what they are."""
    example = torch.zeros(1, 120, 160, 3, dtype=torch.uint8)
    captured = capture(model, (example,))
    picture = cut(captured, mask_bank.posterior(model, captured, ()).stochastic).picture
    assert picture is not None
    first, second, last = model.trunk[:2], model.trunk[:4], model.trunk[:-1]

    def at_places(frames: Tensor) -> Tensor:
        return torch.cat([picture(image[None]) for image in model.preprocess(frames)])

    def mean(part: nn.Module) -> Look:
        return lambda frames: part(model.preprocess(frames)).mean((2, 3))

    def mean_and_deviation(part: nn.Module) -> Look:
        def look(frames: Tensor) -> Tensor:
            maps = part(model.preprocess(frames))
            return torch.cat([maps.mean((2, 3)), maps.std((2, 3))], 1)

        return look

    return {
        "first hidden layer, which dropout reads": lambda frames: model.head[:2](model.trunk(model.preprocess(frames))),
        "last convolution, mean": mean(last),
        "second convolution, mean": mean(second),
        "first convolution, mean": mean(first),
        "first convolution, mean and deviation": mean_and_deviation(first),
        "first convolution, largest": lambda frames: first(model.preprocess(frames)).amax((2, 3)),
        "first convolution, 2 x 2 means": lambda frames: nn.functional.adaptive_avg_pool2d(
            first(model.preprocess(frames)), 2
        ).flatten(1),
        "first convolution, mean at 60 places": at_places,
        SHIPPED: at_places,
    }


@torch.no_grad()
def seen(look: Look, frames: Frames) -> Tensor:
    """What a look sees of all frames."""
    return torch.cat([look(torch.from_numpy(frames[i : i + BATCH].copy())) for i in range(0, len(frames), BATCH)])


def scores(density: FeatureDensity, look: Look, frames: Frames) -> NDArray[np.float64]:
    """Of all frames [n]; the module itself takes one at a time."""
    white = nn.functional.linear(seen(look, frames), density.whitening, density.offset)
    return (white * white).sum(1).double().numpy()


def other_car(folder: Path) -> Frames:
    """All its frames."""
    with tarfile.open(folder / "frames.tar") as archive:
        files = [archive.extractfile(member) for member in archive if member.isfile()]
        return np.stack([np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB")) for file in files if file])


def spoilt(frames: Frames) -> Mapping[str, Frames]:
    """The same frames with something wrong, and pure noise."""
    generator = np.random.default_rng(0)
    values = frames.astype(np.float32)

    def whole(changed: NDArray[np.floating]) -> Frames:
        return np.clip(np.rint(changed), 0, 255).astype(np.uint8)

    def filtered(radius: float) -> Frames:
        return np.stack([np.asarray(Image.fromarray(f).filter(ImageFilter.GaussianBlur(radius))) for f in frames])

    return {
        "dark, 15 %": whole(0.15 * values),
        "dark, 50 %": whole(0.5 * values),
        "bright": whole(1.8 * values + 20.0),
        "fog 0.5": whole(0.5 * values + 100.0),
        "fog 0.75": whole(0.25 * values + 150.0),
        "grain 10": whole(values + generator.normal(0.0, 10.0, values.shape)),
        "grain 25": whole(values + generator.normal(0.0, 25.0, values.shape)),
        "grain 50": whole(values + generator.normal(0.0, 50.0, values.shape)),
        "noise alone": whole(generator.normal(128.0, 50.0, (200, *values.shape[1:]))),
        "tinted": whole(values * (1.0, 0.6, 0.4)),
        "half covered": whole(values * (np.arange(values.shape[2]) < values.shape[2] // 2)[:, None]),
        "upside down": frames[:, ::-1],
        "blur 2": filtered(2.0),
        "blur 4": filtered(4.0),
    }


def monitored(known: Pictures, sets: Mapping[str, Frames]) -> None:
    """What the checks of pictures say, and what they cost."""
    checks = FrameChecks()
    checks.known = known
    print(f"\ncalibration frames: {known}\n\n| frames | refused | median sharpness | level |\n|---|---|---|---|")
    took: list[float] = []
    for name, frames in sets.items():
        refused = 0
        for frame in np.ascontiguousarray(frames):
            began = time.perf_counter()
            refused += checks._picture(frame) is not None
            took.append(time.perf_counter() - began)
        levels, sharp = zip(*((level(frame), sharpness(frame)) for frame in frames[::4]), strict=True)
        print(
            f"| {name} | {refused / len(frames):.3f} | {np.median(sharp):.3g} | {min(levels):.0f}-{max(levels):.0f} |"
        )
    print(
        f"\nall checks of one 160 x 120 picture: p50 {np.median(took) * 1e3:.3f} ms, p99 "
        f"{np.quantile(took, 0.99) * 1e3:.3f} ms (n = {len(took)})"
    )


if __name__ == "__main__":
    main()
