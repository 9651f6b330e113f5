"""Prove what is staged: fp32 graphs are the model; those with fewer bits are what was lowered, and that is near it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_bdl.errors import ProofError
from edge_bdl.findings import ParityCheck
from edge_bdl.manifest import MEAN_OUTPUT, Manifest, Propagation
from edge_bdl_export.arguments import Asked
from edge_bdl_export.contents import Contents
from edge_bdl_export.frames import FIGURES, CalibrationFrames
from edge_bdl_export.graphs import Network
from edge_bdl_export.proof import proof, propagation, quantised
from edge_bdl_export.proof.subject import Arrays, Subject
from edge_bdl_export.self_contained import equals_runtime
from edge_bdl_export.torch_engine import TorchEngine
from edge_bdl_export.understand import Understood


def prove_staged(
    manifest: Manifest,
    understood: Understood,
    contents: Contents,
    frames: CalibrationFrames | None,
    asked: Asked,
    staged: Path,
) -> tuple[Manifest, Subject]:
    """The whole proof of a bundle.

    Args:
        manifest: As far as it is known.
        understood: The model.
        contents: What was written.
        frames: For calibration.
        asked: See ``exporter.export``.
        staged: The folder with the graphs.

    Returns:
        The manifest with the checks, and the subject that its goldens are of.

    Raises:
        ProofError: A check failed, or there is no uncertainty to export.
    """
    subject = Subject(
        manifest=manifest,
        members=contents.chosen.inputs,
        frames=_frames(contents.network, frames, contents.golden_frames, asked.seed),
        model=understood.found.model,
        reference=understood.found.posterior.reference,
        sampler=understood.found.posterior.sampler,
        network=contents.network,
        density=contents.density,
        closed=understood.found.posterior.closed,
    )
    if asked.numbering.exact:
        checks = _prove(subject, contents.chosen.stored, staged, asked.seed)
    else:
        fp32 = TorchEngine(understood.network, contents.in_fp32.inputs, contents.density)
        manifest, subject, checks = _prove_lowered(subject, fp32, contents, frames, asked, staged)
    if isinstance(contents.propagation, Propagation):
        compared = propagation.checks(contents.propagation)
        manifest = propagation.accepted(manifest, compared, asked.accept_loss)
        checks = (*checks, *compared)
    return msgspec.structs.replace(manifest, parity=checks), subject


def _frames(network: Network, frames: CalibrationFrames | None, count: int, seed: int) -> list[Arrays]:
    """Real frames where there are some; the example, and variations of it, where not."""
    example = {key: tensor.numpy() for key, tensor in zip(network.input_names, network.frame, strict=True)}
    if frames is not None:
        return list(frames.part(FIGURES).thinned(count))
    generator = np.random.Generator(np.random.Philox(seed))
    varied = [{key: _variation(value, generator) for key, value in example.items()} for _ in range(count - 1)]
    return [example, *varied]


def _variation(value: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
    """The same values in other places: a frame of the same range, and integers may be indices."""
    return generator.permutation(value.ravel()).reshape(value.shape)


def _prove(subject: Subject, stored: Arrays, staged: Path, seed: int) -> tuple[ParityCheck, ...]:
    if subject.closed is not None:
        if not any(values.any() for name, values in subject.expected_moments.items() if name != f"fused.{MEAN_OUTPUT}"):
            raise ProofError("the posterior's covariance is zero on every frame: it has no uncertainty to export")
    elif not (np.ptp(subject.expected, axis=1) > 0.0).any():
        raise ProofError(
            f"all {subject.manifest.bank.members} members give the same output in torch itself: the rates are too "
            "small for so few samples, or the example input is not like a real frame (give one, or calibration frames)"
        )
    checks = proof.prove(subject, staged, subject.manifest.engines, seed)
    if subject.manifest.self_contained is not msgspec.UNSET:
        checks += equals_runtime(subject.manifest, stored, staged, subject.frames, subject.output_range)
    proof.insist(checks)
    return tuple(checks)


def _prove_lowered(
    subject: Subject,
    fp32: TorchEngine,
    contents: Contents,
    frames: CalibrationFrames | None,
    asked: Asked,
    staged: Path,
) -> tuple[Manifest, Subject, tuple[ParityCheck, ...]]:
    """The proof of graphs with fewer bits: they are what was lowered, and what was lowered is near the model.

    Returns:
        The manifest with what was lost, the subject that its goldens are of, and the checks.
    """
    equal = quantised.network_equals_model(subject, fp32)
    proof.insist(equal)
    subject = quantised.as_computed(subject, fp32, asked.numbering, asked.seed)
    losses = quantised.losses(subject, fp32, contents.chosen, contents.in_fp32, frames, staged)
    accepted = quantised.accepted(subject.manifest, losses, asked.accept_loss)
    checks = (*equal, *_prove(subject, contents.chosen.stored, staged, asked.seed), *losses)
    return accepted, subject, checks
