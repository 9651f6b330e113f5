"""Thresholds and calibration: what the shipped graphs score on frames they were not selected on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_bdl.calibration import fitted_at, interval_half_width
from edge_bdl.engines.base import Engine
from edge_bdl.errors import ExportError
from edge_bdl.findings import Figures
from edge_bdl.gaussian_head import Moments, closed_form, draw, read
from edge_bdl.manifest import DENSITY_OUTPUT, MEMBERS_OUTPUT, Calibration, Manifest
from edge_bdl.sampling import Members
from edge_bdl.uncertainty import Uncertainty, decompose
from edge_bdl_export import calibrate, thresholds
from edge_bdl_export.frames import CalibrationFrames

Array = NDArray[Any]
# Labelled frames that a temperature, an interval scale or a speed curve rests on.
_MINIMUM_LABELS = 100
_NOT_FINITE = "the model's outputs are not finite on the calibration frames; look for NaN in them"


@dataclass(frozen=True)
class Scored:
    """What the shipped graphs say of a set of frames.

    Attributes:
        uncertainty: Per number of samples, over all frames ([n, ...] each).
        density: [n], None where the bundle has none.
    """

    uncertainty: Mapping[int, Uncertainty]
    density: NDArray[np.float64] | None

    def scores(self) -> dict[str, dict[int, NDArray[np.float64]]]:
        """``[score][S]`` [n]: the largest element of each frame, which is how the manifest reduces them."""
        table: dict[str, dict[int, NDArray[np.float64]]] = {"epistemic": {}, "total": {}}
        if self.density is not None:
            table["density"] = dict.fromkeys(self.uncertainty, self.density)
        for samples, parts in self.uncertainty.items():
            table["epistemic"][samples] = parts.epistemic.reshape(len(parts.epistemic), -1).max(1).astype(np.float64)
            table["total"][samples] = parts.total.reshape(len(parts.total), -1).max(1).astype(np.float64)
        return table


def score(
    manifest: Manifest,
    engine: Engine,
    members: Mapping[str, Array],
    stored: Mapping[str, Array],
    frames: CalibrationFrames,
) -> Scored:
    """Run the fused graph over frames and decompose every prefix that thresholds are fitted for.

    Args:
        manifest: Of the staged bundle.
        engine: Has the staged graphs open.
        members: The bank as member inputs, or the draws of a Gaussian head.
        stored: The bank as it is stored.
        frames: In order.
    """
    graph = engine.graph("fused")
    closed = manifest.closed is not None
    held = graph.hold(members) if manifest.member_inputs else None
    runs = [graph.run(frame, held) for frame in frames]
    moments = [_finite(read(manifest, run)) for run in runs] if closed else []
    if manifest.bank.selection == "closed_form":
        uncertainty = {1: _stacked([closed_form(manifest, row) for row in moments])}
    else:
        if closed:
            (normals,) = members.values()
            outputs = np.stack([draw(row, normals) for row in moments])
        else:
            outputs = np.stack([run[MEMBERS_OUTPUT] for run in runs])
        weights = Members(manifest.form, manifest.bank, stored)
        uncertainty = {
            samples: _over_frames(manifest, outputs[:, :samples], weights.weights(samples))
            for samples in thresholds.calibrated_counts(manifest.bank)
        }
    return Scored(
        uncertainty=uncertainty,
        density=np.concatenate([run[DENSITY_OUTPUT] for run in runs]).astype(np.float64)
        if manifest.has_density
        else None,
    )


def _finite(moments: Moments) -> Moments:
    if not moments.finite:
        raise ExportError(_NOT_FINITE)
    return moments


def _stacked(frames: Sequence[Uncertainty]) -> Uncertainty:
    return Uncertainty(*(np.stack(values) for values in zip(*frames, strict=True)))


def _over_frames(manifest: Manifest, outputs: Array, weights: NDArray[np.float64]) -> Uncertainty:
    """As the runtime decomposes them, frame by frame: many at once might be worked in another dtype than one is."""
    if not np.isfinite(outputs).all():
        raise ExportError(_NOT_FINITE)
    unbiased, axis = manifest.bank.unbiased, manifest.class_axis
    return _stacked(
        [decompose(manifest.task, rows, weights=weights, unbiased=unbiased, class_axis=axis) for rows in outputs]
    )


def calibrated(manifest: Manifest, scored: Scored, frames: CalibrationFrames) -> Manifest:
    """The manifest with thresholds, and with temperature, interval scale and speed curves where there are labels."""
    scores = scored.scores()
    fit = thresholds.fit_thresholds(scores, frame_period_s=frames.period_s, episodes=frames.episodes)
    policy = fit.policy
    calibration = Calibration()
    warnings = fit.warnings
    if frames.labels is not None and len(frames) < _MINIMUM_LABELS:
        warnings += (
            f"{len(frames)} labelled frames are too few to fit a temperature, an interval scale or speed curves on "
            f"({_MINIMUM_LABELS} are not): give more calibration frames",
        )
    elif frames.labels is not None:
        errors = {samples: _errors(manifest, parts, frames.labels) for samples, parts in scored.uncertainty.items()}
        policy = calibrate.with_speed_curves(policy, scores, errors)
        calibration = _labelled(manifest, scored, frames.labels)
    return msgspec.structs.replace(
        manifest, policy=policy, calibration=calibration, warnings=(*manifest.warnings, *warnings)
    )


def figures(manifest: Manifest, scored: Scored, frames: CalibrationFrames) -> Figures:
    """What a calibrated manifest does on frames that nothing was fitted on."""
    error: dict[int, float] = {}
    coverage: dict[int, float] = {}
    if frames.labels is not None:
        for samples, parts in scored.uncertainty.items():
            if manifest.task == "classification":
                error[samples] = _wrong(manifest, parts, frames.labels)
            else:
                miss = np.abs(_targets(parts, frames.labels) - parts.mean)
                error[samples] = float(miss.mean())
                scale = fitted_at(manifest.calibration.interval_scale, samples)
                if scale is not None:
                    coverage[samples] = float((miss <= interval_half_width(parts.total, scale)).mean())
    held_back: dict[int, float] = {}
    handed_over: dict[int, int] = {}
    if frames.episodes is not None:
        held_back, handed_over = thresholds.replay(manifest.policy, scored.scores(), frames.episodes, frames.period_s)
    return Figures(frames=len(frames), error=error, coverage=coverage, held_back=held_back, handed_over=handed_over)


def _wrong(manifest: Manifest, parts: Uncertainty, labels: Array) -> float:
    assert manifest.class_axis is not None
    axis = manifest.class_axis + 1
    return float((parts.mean.argmax(axis) != _classes(parts, labels, axis)).mean())


def _labelled(manifest: Manifest, scored: Scored, labels: Array) -> Calibration:
    if manifest.task == "classification":
        assert manifest.class_axis is not None
        axis = manifest.class_axis + 1
        return Calibration(
            temperature={
                samples: calibrate.fit_temperature(parts.mean, _classes(parts, labels, axis), axis)
                for samples, parts in scored.uncertainty.items()
            }
        )
    return Calibration(
        interval_scale={
            samples: calibrate.fit_interval_scale(_targets(parts, labels) - parts.mean, parts.total)
            for samples, parts in scored.uncertainty.items()
        }
    )


def _errors(manifest: Manifest, parts: Uncertainty, labels: Array) -> NDArray[np.float64]:
    """One error per frame: the largest miss, or the probability that was not on the right class."""
    if manifest.task == "classification":
        assert manifest.class_axis is not None
        axis = manifest.class_axis + 1
        classes = np.expand_dims(_classes(parts, labels, axis), axis)
        right = np.take_along_axis(parts.mean, classes, axis)
        return 1.0 - right.reshape(len(right), -1).min(1)
    miss = np.abs(_targets(parts, labels) - parts.mean)
    return miss.reshape(len(miss), -1).max(1)


def _classes(parts: Uncertainty, labels: Array, axis: int) -> Array:
    shape = tuple(extent for i, extent in enumerate(parts.mean.shape) if i != axis)
    count = parts.mean.shape[axis]
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= count:
        raise ExportError(f"calibration: labels of {count} classes are integers from 0 to {count - 1}")
    return _reshaped(labels, shape)


def _targets(parts: Uncertainty, labels: Array) -> Array:
    return _reshaped(labels, parts.mean.shape)


def _reshaped(labels: Array, shape: tuple[int, ...]) -> Array:
    # Axes of 1 may be missing or more; as many numbers in another order would be a silent mistake.
    if [extent for extent in labels.shape if extent != 1] != [extent for extent in shape if extent != 1]:
        raise ExportError(
            f"calibration: labels have shape {labels.shape}, the predictions {shape}; give one per prediction"
        )
    return labels.reshape(shape)
