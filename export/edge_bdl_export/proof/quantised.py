"""Checks of what is stored in fewer bits: what the engines must give then, and what that costs on frames not seen.

The engines are held against torch computing with the same rounded weights, and they again against fp32: on held-out
frames, neither the order of the frames by epistemic uncertainty nor the prediction may suffer more than stated here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, fx, nn

from edge_bdl.engines import open_engine
from edge_bdl.findings import ParityCheck
from edge_bdl.manifest import DENSITY_OUTPUT, MEAN_OUTPUT, Manifest, Precision, schema_of
from edge_bdl.verification import DENSITY_TOLERANCE, TOLERANCE, moment_scales
from edge_bdl_export import scoring
from edge_bdl_export.choose import Chosen
from edge_bdl_export.fidelity import rank_correlation
from edge_bdl_export.forms.posterior import MomentReference, Reference
from edge_bdl_export.frames import FIGURES, CalibrationFrames
from edge_bdl_export.graphs import Network
from edge_bdl_export.precision import Numbering
from edge_bdl_export.proof.check import at_a_cost, at_most
from edge_bdl_export.proof.equality import largest
from edge_bdl_export.proof.subject import Arrays, Subject
from edge_bdl_export.quantise import HIGHEST, LOWEST, QUANTISE
from edge_bdl_export.torch_engine import TorchEngine

# Lost: of the epistemic score's rank correlation, of the share of right classes. Gained: by the mean absolute error.
SPEARMAN_LOST, ACCURACY_LOST, ERROR_GAINED = 0.02, 0.005, 0.01
# Without labels: frames whose class changes, and how far means move, in predictive standard deviations.
CLASSES_CHANGED, MEAN_MOVED = 0.005, 0.1
# Without frames, which only fp16 may be: how far members move, as a share of the outputs' range.
MEMBERS_MOVED = 0.01
# Machines round what lies between two integers differently: this share of all numbers, tried so often.
_ROUNDED_OTHERWISE, _TRIALS = 0.01, 8


def as_computed(subject: Subject, exact: TorchEngine, numbering: Numbering, seed: int) -> Subject:
    """The subject with, for its reference, torch computing in the numbers that the graphs have.

    Args:
        subject: Network and members as they are stored, and the fp32 model as its reference.
        exact: The same network and members in fp32.
        numbering: What was asked for.
        seed: Of what is rounded otherwise.
    """
    network, frames = subject.network, subject.frames
    lowered = TorchEngine(network, subject.members, subject.density)
    own = [lowered.run(frame) for frame in frames]
    scales = _scales(subject.manifest, own)
    moved = max(_apart(exact.run(frame), now, scales) for frame, now in zip(frames, own, strict=True))
    tolerance, density_tolerance = TOLERANCE, DENSITY_TOLERANCE
    if "int8" in (numbering.weights, numbering.bank):
        generator = torch.Generator().manual_seed(seed)
        for frame, now in zip([*frames] * _TRIALS, own * _TRIALS, strict=True):
            other = lowered.outputs(frame, lambda part, *given: _rounded_otherwise(part, generator, *given))
            tolerance = max(tolerance, _apart(other, now, scales))
            if DENSITY_OUTPUT in now:
                density = np.abs(other[DENSITY_OUTPUT] - now[DENSITY_OUTPUT]) / (np.abs(now[DENSITY_OUTPUT]) + 1.0)
                density_tolerance = max(density_tolerance, float(density.max()))
    precision = Precision(
        weights=numbering.weights, bank=numbering.bank, tolerance=tolerance, density_tolerance=density_tolerance
    )
    version = schema_of(subject.manifest.form, precision)
    return replace(
        subject,
        manifest=msgspec.structs.replace(subject.manifest, schema_version=version, precision=precision),
        model=network.parts.deterministic,
        reference=_members(network),
        closed=subject.closed and replace(subject.closed, reference=_moments(network)),
        moved=moved,
    )


def _members(network: Network) -> Reference:
    def answer(frame: tuple[Tensor, ...], member: Mapping[str, Tensor]) -> Tensor:
        boundary, _ = network.trunk(frame)
        alone = [member[name][None] for name in network.member_names]
        if network.built_in:
            with torch.no_grad():
                return network.holding(alone)(*boundary)[0]
        return network.members(boundary, alone)[0]

    return answer


def _moments(network: Network) -> MomentReference:
    def moments(frame: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        boundary, _ = network.trunk(frame)
        with torch.no_grad():
            mean, spread = network.head(*boundary)
        return mean.double(), spread.double()

    return moments


def _rounded_otherwise(part: nn.Module, generator: torch.Generator, *given: Tensor) -> Any:
    return _Jitter(part, generator).run(*given) if isinstance(part, fx.GraphModule) else part(*given)


class _Jitter(fx.Interpreter):
    """A part some of whose roundings come out otherwise, by one up or down."""

    def __init__(self, module: fx.GraphModule, generator: torch.Generator) -> None:
        super().__init__(module)
        self._generator = generator

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n.target is not QUANTISE:
            return value
        assert isinstance(value, Tensor)
        drawn = torch.rand(value.shape, generator=self._generator)
        step = (drawn < _ROUNDED_OTHERWISE / 2).int() - (drawn > 1.0 - _ROUNDED_OTHERWISE / 2).int()
        return (value.int() + step).clamp(LOWEST, HIGHEST).to(torch.int8)


def _scales(manifest: Manifest, outputs: list[Arrays]) -> dict[str, float]:
    """What differences of each output are held against; the density has a measure of its own."""
    stacked = {name: np.stack([row[name] for row in outputs]) for name in outputs[0] if name != DENSITY_OUTPUT}
    if MEAN_OUTPUT in stacked:
        named = moment_scales(manifest, {f"fused.{name}": values for name, values in stacked.items()})
        return {name.removeprefix("fused."): scale for name, scale in named.items()}
    return {name: float(np.ptp(values)) or 1.0 for name, values in stacked.items()}


def _apart(a: Arrays, b: Arrays, scales: Mapping[str, float]) -> float:
    return max(largest(a[name] - b[name]) / scale for name, scale in scales.items())


def network_equals_model(subject: Subject, exact: TorchEngine) -> list[ParityCheck]:
    """The fp32 network that the rounded one was made of is the model itself.

    Args:
        subject: With the fp32 model as its reference.
        exact: The cut network and the members in fp32.
    """
    subject = replace(subject, members=exact.members)
    if subject.closed is None:
        expected: Arrays = {"members": subject.expected}
        scales = {"members": subject.output_range}
    else:
        expected = {name.removeprefix("fused."): values for name, values in subject.expected_moments.items()}
        scales = _scales(subject.manifest, [exact.run(frame) for frame in subject.frames])
    rows = [exact.run(frame) for frame in subject.frames]
    worst = max(
        _apart(row, {name: values[i] for name, values in expected.items()}, scales) for i, row in enumerate(rows)
    )
    return [at_most("torch", "network_equals_model", worst, TOLERANCE)]


def losses(
    subject: Subject, exact: TorchEngine, kept: Chosen, given: Chosen, frames: CalibrationFrames | None, folder: Path
) -> list[ParityCheck]:
    """What fewer bits cost, per engine, on frames that nothing was fitted on.

    Args:
        subject: As it is computed.
        exact: Network and members in fp32.
        kept: The bank as it is stored.
        given: The bank in fp32.
        frames: Calibration frames, if any.
        folder: Where the graphs are staged.
    """
    manifest = subject.manifest
    if frames is None:
        return [at_most("torch", "precision_members_moved", subject.moved, MEMBERS_MOVED)]
    unseen = frames.part(FIGURES)
    before = scoring.score(manifest, exact, given.inputs, given.stored, unseen)
    checks = []
    for name in manifest.engines:
        engine = open_engine(name, folder, manifest)
        after = scoring.score(manifest, engine, kept.inputs, kept.stored, unseen)
        checks += _compared(name, manifest, before, after, unseen)
    return checks


def _compared(
    engine: str, manifest: Manifest, before: scoring.Scored, after: scoring.Scored, frames: CalibrationFrames
) -> list[ParityCheck]:
    count = max(before.uncertainty)
    ranks = [scored.scores()["epistemic"][count] for scored in (before, after)]
    checks = [at_most(engine, "precision_spearman_lost", 1.0 - rank_correlation(*ranks), SPEARMAN_LOST)]
    classes = manifest.task == "classification"
    if frames.labels is not None:
        alone = replace(frames, episodes=None)
        old, new = (scoring.figures(manifest, scored, alone).error[count] for scored in (before, after))
        if classes:
            return [*checks, at_most(engine, "precision_accuracy_lost", max(new - old, 0.0), ACCURACY_LOST)]
        return [*checks, at_most(engine, "precision_error_gained", max(new / old - 1.0, 0.0), ERROR_GAINED)]
    then, now = before.uncertainty[count], after.uncertainty[count]
    if classes:
        assert manifest.class_axis is not None
        axis = manifest.class_axis + 1
        changed = float((then.mean.argmax(axis) != now.mean.argmax(axis)).mean())
        return [*checks, at_most(engine, "precision_classes_changed", changed, CLASSES_CHANGED)]
    deviation = np.sqrt(np.maximum(then.total, np.finfo(np.float32).tiny))
    moved = float((np.abs(now.mean - then.mean) / deviation).mean())
    return [*checks, at_most(engine, "precision_mean_moved", moved, MEAN_MOVED)]


def accepted(manifest: Manifest, losses: Sequence[ParityCheck], accept_loss: bool) -> Manifest:
    """The manifest, with a warning where a loss beyond the limits is accepted.

    Raises:
        ProofError: There is one, and it is not.
    """
    failed = [
        f"{loss.check} under {loss.engine}: {loss.value:.3g}, allowed {loss.limit:.3g}"
        for loss in losses
        if not loss.passed
    ]
    if not failed:
        return manifest
    precision = manifest.precision
    assert isinstance(precision, Precision)
    cost = f"weights in {precision.weights} and a bank in {precision.bank} cost too much ({'; '.join(failed)})"
    remedy = "take fp16, give more calibration frames that are like the robot's own"
    return at_a_cost(manifest, cost, remedy, accept_loss)
